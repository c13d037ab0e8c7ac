"""consent: record, search, withdraw."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from connector.cli.output import AsJson, Folder, client, guarded, show, table
from connector.errors import RequestInvalid
from connector.model.person import PersonRole

app = typer.Typer(no_args_is_help=True, help="The consent register: give, show, withdraw, import.")
Here = Path()
BATCH = 1_000
ROLES = [PersonRole.CONSENT_DESK]
COLUMNS = {"hetu", "purpose", "recipient", "state", "given_at", "valid_until"}


@app.command("give")
@guarded
def give(
    person: Annotated[str, typer.Option(prompt=True, help="Personal id; asked for where it is left out.")],
    purpose: Annotated[str, typer.Option(help="What the consent is for.")],
    recipient: Annotated[str, typer.Option(help="The participant that may be shown the data.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Record a person's yes."""
    answer = {"person": person, "purpose": purpose, "recipient": recipient, "state": "given", "method": "cli"}
    with client(folder, roles=ROLES) as api:
        made = api.post("/v1/consents", answer)
    show(made, as_json=as_json, text=f"{made['id']}  {made['state']}")


@app.command("show")
@guarded
def show_records(
    person: Annotated[str, typer.Option(prompt=True, help="Personal id; asked for where it is left out.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """List a person's consents."""
    with client(folder, roles=ROLES) as api:
        found = api.post("/v1/consents/search", {"person": person})
    if as_json:
        show(found, as_json=True, text="")
        return
    columns = ("id", "purpose", "recipient", "state", "at", "validUntil")
    table(columns, [[c[k] for k in columns] for c in found["consents"]])


@app.command("withdraw")
@guarded
def withdraw(
    record: Annotated[str, typer.Argument(help="The consent record's id.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Withdraw a consent; it holds when this returns."""
    with client(folder, roles=ROLES) as api:
        done = api.post(f"/v1/consents/{record}/withdraw")
    show(done, as_json=as_json, text=done["state"])


@app.command("import")
@guarded
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV: hetu,purpose,recipient,state,given_at,valid_until.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Take in answers that people gave before; each 1,000 lines are all or nothing."""
    count = 0
    with client(folder, roles=ROLES) as api, file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        missing = COLUMNS - set(rows.fieldnames or ())
        if missing:
            raise RequestInvalid(f"columns are missing: {', '.join(sorted(missing))}", where=f"{file}:1")
        while batch := list(islice(rows, BATCH)):
            answers = [
                {
                    "person": row["hetu"],
                    "purpose": row["purpose"],
                    "recipient": row["recipient"],
                    "state": row["state"],
                    "at": row["given_at"],
                    "validUntil": row["valid_until"],
                    "method": "import",
                }
                for row in batch
            ]
            count += api.post("/v1/consents/import", {"answers": answers})["imported"]
    show({"imported": count}, as_json=as_json, text=f"{count} consents imported")
