"""Results as JSON, and REPORT.md made of them."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def row(what: str, value: float, unit: str, target: str = "", met: bool | None = None) -> dict[str, Any]:
    """One line: what was measured; the target as text; whether it was met."""
    return {"what": what, "value": round(value, 3), "unit": unit, "target": target, "met": met}


def save(name: str, title: str, rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    result = {
        "title": title,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    print("\n".join(_line(r) for r in rows))


def write() -> None:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` from `benchmarks/results/*.json`; do not edit.",
        "",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        lines += [
            f"## {result['title']}",
            "",
            f"{result['at']}, {result['machine']}",
            "",
            "| what | measured | target | met |",
            "|---|---|---|---|",
            *(_line(r) for r in result["rows"]),
            "",
        ]
    (HERE / "REPORT.md").write_text("\n".join(lines), encoding="utf-8")


def _line(found: dict[str, Any]) -> str:
    met = {True: "yes", False: "**no**", None: ""}[found["met"]]
    return f"| {found['what']} | {found['value']:g} {found['unit']} | {found['target']} | {met} |"
