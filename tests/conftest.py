"""What every test may ask for: the real parts (OPA, Kafka, PostgreSQL) as fixtures."""

pytest_plugins = ["tests.parts.plugin", "tests.system.demo_run"]
