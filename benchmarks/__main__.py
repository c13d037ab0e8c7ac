"""`python -m benchmarks [--quick] [NAME ...]`: run all or some, then write REPORT.md of every result.

`--quick`: a few seconds of each, to see that it works; the figures are shown and not kept.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable

from benchmarks import report

NAMES = ("startup", "demo", "fresh_clone", "test_suite", "control_plane")
ON_REQUEST = frozenset({"fresh_clone", "test_suite", "control_plane"})  # minutes; the first installs all anew
QUICK = "--quick"


def main(arguments: list[str]) -> int:
    quick = QUICK in arguments
    chosen = [name for name in arguments if name != QUICK]
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in chosen or [n for n in NAMES if n not in ON_REQUEST]:
        print(f"{name} ...", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        if quick:
            report.show(module.run(**_quickly(module.run)))
        else:
            report.save(name, module.TITLE, module.run())
    if not quick:
        report.write()
    return 0


def _quickly(run: Callable[..., object]) -> dict[str, bool]:
    """Those that take long have a quick form; the others are quick."""
    return {"quick": True} if "quick" in inspect.signature(run).parameters else {}


sys.exit(main(sys.argv[1:]))
