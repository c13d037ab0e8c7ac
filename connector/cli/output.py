"""What commands print: tables for people, one JSON document with --json, errors to standard error."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from connector.errors import ConnectorError
from connector.model.person import PersonRole

if TYPE_CHECKING:
    from connector.local_api import Api

P = ParamSpec("P")

Folder = Annotated[Path, typer.Option("--folder", "-f", help="The participant's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def client(
    folder: Path, *, roles: Iterable[PersonRole], purposes: Iterable[str] = (), subject: str = "cli"
) -> Api:
    """The folder's connector, asked in these roles. Loaded here: what asks nobody starts fast."""
    from connector.local_api import Api

    return Api(folder, roles=roles, purposes=purposes, subject=subject)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Our own errors become a sentence and exit code 1; anything else is a bug and shows itself."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConnectorError as error:
            fail(error, as_json=bool(kwargs.get("as_json")))

    return run


def fail(error: ConnectorError, *, as_json: bool) -> None:
    from rich.console import Console  # loaded where something is printed for people

    reasons = [{"code": r.code, "text": r.text, "source": r.source} for r in getattr(error, "reasons", ())]
    if as_json:
        body = {"error": error.code, "message": error.message, "mend": error.mend, "deniedBy": reasons}
        typer.echo(json.dumps(body), err=True)
    else:
        people = Console(stderr=True, highlight=False)
        people.print(f"[red]{error.code}[/]: {error.message}", soft_wrap=True, markup=True)
        for reason in reasons:
            people.print(
                f"  - {reason['text']} [dim]({reason['source'] or reason['code']})[/]", soft_wrap=True
            )
        if error.mend:
            people.print(f"  {error.mend}", soft_wrap=True)
    raise typer.Exit(1)


def show(value: Any, *, as_json: bool, text: str) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False) if as_json else text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")  # an id that is cut short cannot be copied
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(highlight=False).print(made)
