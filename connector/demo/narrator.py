"""Tells the demo to a person, and keeps score: every claim is checked, and a failed one fails the run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


@dataclass(slots=True)
class Narrator:
    """With `as_json` it says nothing until the end, and then one JSON document."""

    as_json: bool = False
    console: Console = field(default_factory=lambda: Console(highlight=False))
    checks: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        return sum(not c["ok"] for c in self.checks)

    def step(self, title: str) -> None:
        if not self.as_json:
            self.console.print()
            self.console.rule(f"[bold]{title}", align="left")

    def say(self, text: str) -> None:
        if not self.as_json:
            self.console.print(f"  {text}")

    def check(self, ok: bool, claim: str, found: object = None) -> None:
        """`found` is printed where the claim does not hold."""
        self.checks.append({"claim": claim, "ok": bool(ok), **({} if ok else {"found": repr(found)})})
        if not self.as_json:
            mark = "[green]✓[/]" if ok else "[bold red]✗[/]"
            self.console.print(f"  {mark} {claim}" + ("" if ok else f"  [red]found: {found!r}[/]"))

    def fact(self, name: str, value: object, unit: str = "") -> None:
        """A measured number, printed and kept."""
        self.facts[name] = value
        shown = f"{value:,.3f}" if isinstance(value, float) else f"{value}"
        self.say(f"[cyan]{name}: {shown} {unit}[/]".rstrip())

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        if self.as_json:
            return
        table = Table(*columns, title=title, title_justify="left", pad_edge=False)
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.console.print(table)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A spinner with the elapsed time, where something takes a while."""
        if self.as_json:
            yield
            return
        with Progress(
            TextColumn(" "), SpinnerColumn(), TextColumn(text), TimeElapsedColumn(), console=self.console
        ) as progress:
            progress.add_task(text, total=None)
            yield

    def close(self) -> None:
        seconds = time.monotonic() - self._started
        self.facts["seconds"] = round(seconds, 1)
        if self.as_json:
            print(json.dumps({"ok": not self.failed, "checks": self.checks, "facts": self.facts}))  # noqa: T201
            return
        self.console.print()
        passed = len(self.checks) - self.failed
        colour = "red" if self.failed else "green"
        self.console.print(
            f"[bold {colour}]{passed} of {len(self.checks)} checks passed in {seconds:.1f} s[/]"
        )
