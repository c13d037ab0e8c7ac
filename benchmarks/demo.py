"""The whole demo, as the second `make demo` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.report import row

TITLE = "The demo, installed"
MOST_SECONDS = 45.0


def run() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "connector", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    facts = found["facts"]
    passed = sum(c["ok"] for c in found["checks"])
    rows = [
        row(
            "the whole demo", facts["seconds"], "s", f"≤ {MOST_SECONDS:g} s", facts["seconds"] <= MOST_SECONDS
        ),
        row(f"checks passed of {len(found['checks'])}", passed, "", "all", found["ok"]),
    ]
    units = {"seconds": "s", "milliseconds": "ms"}
    for name, value in facts.items():
        if isinstance(value, float) and name != "seconds":
            text, _, unit = name.rpartition(", ")
            rows.append(row(text or name, value, units.get(unit, "MB" if name.startswith("rss") else "")))
    return rows
