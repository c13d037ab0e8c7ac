"""One run of the demo for all tests of this folder: every connector is killed and restarted on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PERSONS = 30_000
SEED = 2026


@dataclass(frozen=True)
class DemoRun:
    folder: Path
    exit_code: int
    checks: list[dict[str, Any]]
    facts: dict[str, Any]
    stderr: str


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    folder = tmp_path_factory.mktemp("demo") / "ecosystem"
    command = [sys.executable, "-m", "connector", "demo", "--json", "--kill-between"]
    command += ["--folder", str(folder), "--persons", str(PERSONS), "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = json.loads(done.stdout) if done.stdout else {"checks": [], "facts": {}}
    return DemoRun(
        folder=folder,
        exit_code=done.returncode,
        checks=found["checks"],
        facts=found["facts"],
        stderr=done.stderr,
    )
