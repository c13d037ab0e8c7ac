"""How fast one connector is ready, and what it weighs before its first query."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import row
from connector.demo.ecosystem import Ecosystem, examples_folder
from connector.demo.population import generate

TITLE = "One connector: start and idle"
RUNS = 5
READY_SECONDS = 2.0
IDLE_MB = 150.0
SETTLE_SECONDS = 2.0


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        ecosystem = Ecosystem(Path(scratch) / "e", examples_folder())
        ecosystem.create(generate(persons=2_000))
        try:
            ecosystem.processes["registry"].start()
            ecosystem.processes["registry"].wait_ready()
            seconds, megabytes = zip(*(_once(ecosystem) for _ in range(RUNS)), strict=True)
        finally:
            ecosystem.stop()
    ready, idle = statistics.median(seconds), max(megabytes)
    return [
        row(
            f"ready after start, median of {RUNS}",
            ready,
            "s",
            f"≤ {READY_SECONDS:g} s",
            ready <= READY_SECONDS,
        ),
        row("ready after start, slowest", max(seconds), "s"),
        row("resident memory, idle, largest", idle, "MB", f"≤ {IDLE_MB:g} MB", idle <= IDLE_MB),
    ]


def _once(ecosystem: Ecosystem) -> tuple[float, float]:
    process = ecosystem.processes["kela"]
    started = time.monotonic()
    process.start()
    process.wait_ready()
    ready = time.monotonic() - started
    time.sleep(SETTLE_SECONDS)
    resident = process.resident_mb()
    process.stop()
    return ready, resident
