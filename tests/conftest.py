"""What every test may ask for: the real parts (OPA, Kafka, PostgreSQL), and one run of the demo."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.parts.plugin", "tests.system.demo_run"]

# In CI the same examples every time, and no clock: a change is judged, not the day's luck or load.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
