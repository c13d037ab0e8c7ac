"""Contract tests: one class per port, run against every adapter of it."""
