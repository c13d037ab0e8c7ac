"""policy: which policies are in force, and the approval of new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.output import AsJson, Folder, client, guarded, show
from connector.model.person import PersonRole

app = typer.Typer(no_args_is_help=True, help="Our policies: what is in force, and who approved it.")
Here = Path()
Who = Annotated[str, typer.Option("--as", help="Who does it: goes on record.")]
Revision = Annotated[str, typer.Argument(help="The waiting revision, as `policy status` shows it.")]


@app.command("status")
@guarded
def status(folder: Folder = Here, as_json: AsJson = False) -> None:
    """The revision in force and the one that waits, with who submitted and approved them."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/policies")
    show(found, as_json=as_json, text=_in_words(found))


@app.command("show")
@guarded
def show_revision(revision: Revision, folder: Folder = Here, as_json: AsJson = False) -> None:
    """Its modules, word for word: what an approval is an approval of."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get(f"/v1/policies/{revision}")
    text = "\n".join(f"# --- {path}\n{module}" for path, module in sorted(found["modules"].items()))
    show(found, as_json=as_json, text=text)


@app.command("submit")
@guarded
def submit(revision: Revision, who: Who, folder: Folder = Here, as_json: AsJson = False) -> None:
    """Say that the waiting revision is one's own work: others approve it."""
    with client(folder, roles=[PersonRole.OPERATOR], subject=who) as api:
        found = api.post(f"/v1/policies/{revision}/submit")
    show(found, as_json=as_json, text=_in_words(found))


@app.command("approve")
@guarded
def approve(revision: Revision, who: Who, folder: Folder = Here, as_json: AsJson = False) -> None:
    """Approve the waiting revision. This folder's key vouches for who it is, so keep it as such."""
    with client(folder, roles=[PersonRole.APPROVER], subject=who) as api:
        found = api.post(f"/v1/policies/{revision}/approve")
    show(found, as_json=as_json, text=_in_words(found))


def _in_words(found: dict[str, Any]) -> str:
    active, waiting, needed = found["active"], found["waiting"], found["approvalsNeeded"]
    lines = [f"in force: {_revision(active)}" if active else "in force: nothing, so everything is denied"]
    if waiting:
        lines.append(f"waiting:  {_revision(waiting)}; {len(waiting['approvedBy'])} of {needed} approvals")
    if found["problem"]:
        lines.append(f"not taken up: {found['problem']}")
    return "\n".join(lines)


def _revision(revision: dict[str, Any]) -> str:
    approved = ", ".join(s["by"] for s in revision["approvedBy"])
    return f"{revision['revision']}{f', approved by {approved}' if approved else ''}"
