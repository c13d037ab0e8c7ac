"""query, explain: what others answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.output import AsJson, Folder, client, show, table
from connector.errors import RequestInvalid
from connector.model.person import PersonRole

Here = Path()


class Format(StrEnum):
    CSV = "csv"
    ARROW = "arrow"
    JSON = "json"


Purpose = Annotated[str, typer.Option("--purpose", "-p", help="What the answer is for; it must be agreed.")]
Sql = Annotated[str, typer.Argument(help="One SELECT over participant.dataset names.")]


def query(
    sql: Sql,
    purpose: Purpose,
    folder: Folder = Here,
    case_worker: Annotated[bool, typer.Option(help="Act in the role of a case worker.")] = False,
    parameter: Annotated[
        list[str] | None, typer.Option(help="name=value for `$name` in the statement; a text.")
    ] = None,
    format: Annotated[Format, typer.Option(help="Of the file written to --output.")] = Format.CSV,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file for the rows.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one SQL statement over datasets of several participants."""
    role = PersonRole.CASE_WORKER if case_worker else PersonRole.ANALYST
    asked = {"sql": sql, "purpose": purpose, "parameters": _named(parameter or [])}
    with client(folder, roles=[role], purposes=[purpose]) as api:
        if output is not None:
            answer = api.save("/v1/queries", {**asked, "format": format.value}, output)
        else:
            answer = api.post("/v1/queries", asked)
    if as_json:
        show(answer, as_json=True, text="")
        return
    if output is None:
        table(answer["columns"], answer["rows"])
    _say(answer)


def explain(sql: Sql, purpose: Purpose, folder: Folder = Here, as_json: AsJson = False) -> None:
    """Say which participant would run what, and what would be hidden; nothing is run."""
    with client(folder, roles=[PersonRole.ANALYST], purposes=[purpose]) as api:
        found = api.post("/v1/queries/explain", {"sql": sql, "purpose": purpose})
    if as_json:
        show(found, as_json=True, text="")
        return
    table(("participant", "runs"), [(f["participant"], f["sql"]) for f in found["fragments"]])
    _hidden(found)


def _named(given: list[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in given]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise RequestInvalid(f"{wrong[0]!r} is not name=value", where="--parameter")
    return {name: value for name, _, value in pairs}


def _say(answer: dict[str, Any]) -> None:
    if answer["identified"]:
        typer.echo("This is an identified disclosure.")
    for part in answer["provenance"]:
        typer.echo(
            f"{part['participant']}.{part['dataset']}: agreement {part['agreement']}, audit {part['auditId']}"
        )
    _hidden(answer)


def _hidden(answer: dict[str, Any]) -> None:
    for part in answer["hidden"]:
        typer.echo(f"hidden by {part['enforcedBy']}: {part['what']}: {part['why']}")
