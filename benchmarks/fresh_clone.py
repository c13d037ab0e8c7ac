"""What a newcomer waits for: a clone in an empty folder, then the README's first command, twice."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import row

TITLE = "A fresh clone, as a newcomer types it"
FIRST_SECONDS, SECOND_SECONDS = 180.0, 45.0


def run() -> list[dict[str, Any]]:
    project = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "connector"
        subprocess.run(["git", "clone", "--quiet", str(project), str(clone)], check=True)
        first, second = _demo(clone), _demo(clone)
    return [
        row(
            "git clone, then `make demo`, installation included",
            first,
            "s",
            f"≤ {FIRST_SECONDS:g} s",
            first <= FIRST_SECONDS,
        ),
        row("`make demo` the second time", second, "s", f"≤ {SECOND_SECONDS:g} s", second <= SECOND_SECONDS),
    ]


def _demo(clone: Path) -> float:
    started = time.monotonic()
    subprocess.run(["make", "demo"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started
