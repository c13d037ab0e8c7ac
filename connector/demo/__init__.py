"""A made-up city for demonstrations and tests: its people, its registers and the answers they must give."""
