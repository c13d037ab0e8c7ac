"""Frozen values, one file per noun. No I/O, no clock, no randomness."""
