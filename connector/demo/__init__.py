"""A made-up city for demonstrations and tests: its people, its registers and the answers they must give."""

DEFAULT_SEED = 2026
DEFAULT_PERSONS = 30_000
