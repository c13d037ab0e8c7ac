"""`python -m benchmarks [NAME ...]`: run all or some, then write REPORT.md from every result there is."""

from __future__ import annotations

import importlib
import sys

from benchmarks import report

NAMES = ("startup", "demo", "fresh_clone", "test_suite")
ON_REQUEST = frozenset({"fresh_clone", "test_suite"})  # minutes; the first installs everything anew


def main(chosen: list[str]) -> int:
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in chosen or [n for n in NAMES if n not in ON_REQUEST]:
        print(f"{name} ...", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        report.save(name, module.TITLE, module.run())
    report.write()
    return 0


sys.exit(main(sys.argv[1:]))
