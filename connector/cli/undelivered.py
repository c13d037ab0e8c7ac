"""undelivered: messages to other participants that were given up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from connector.cli.output import AsJson, Folder, client, show, table
from connector.model.person import PersonRole

Here = Path()


def undelivered(
    folder: Folder = Here,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, the latest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List messages that were given up, and why."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/outbox/abandoned", limit=str(limit))
    if as_json:
        show(found, as_json=True, text="")
        return
    columns = ("decidedAt", "recipient", "message", "process", "reason")
    table(columns, [[m[c] for c in columns] for m in found["messages"]])
