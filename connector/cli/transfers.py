"""transfers: what is under way under our agreements; start, stop, go on, and read what it gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from connector.cli.output import AsJson, Folder, client, guarded, show, table
from connector.model.person import PersonRole

app = typer.Typer(help="Transfers: list, start, suspend, resume, complete, terminate, read.")
Here = Path()
Pid = Annotated[str, typer.Argument(help="The transfer's pid at our side.")]
Reason = Annotated[str, typer.Option(help="Told to the other side, and recorded.")]
PARTIAL = ".partial"


@app.command("list")
@guarded
def list_(
    folder: Folder = Here,
    agreement: Annotated[str, typer.Option(help="Only those under this agreement.")] = "",
    state: Annotated[str, typer.Option(help="Only those in this state, as STARTED.")] = "",
    as_json: AsJson = False,
) -> None:
    """List transfers."""
    wanted = {name: value for name, value in (("agreement", agreement), ("state", state)) if value}
    found = []
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        after = ""
        while after is not None:
            page = api.get("/v1/transfers", limit="1000", after=after, **wanted)
            found += page["transfers"]
            after = page["next"]
    if as_json:
        show({"transfers": found}, as_json=True, text="")
        return
    columns = ("pid", "role", "counterParty", "format", "state", "agreement")
    table(columns, [[t[c] for c in columns] for t in found])


@app.command("start")
@guarded
def start(
    agreement: Annotated[str, typer.Argument(help="The agreement's id.")],
    format_: Annotated[str, typer.Option("--format", help="One of the dataset's formats.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Ask the provider for the data of an agreement."""
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        made = api.post("/v1/transfers", {"agreement": agreement, "format": format_})
    show(made, as_json=as_json, text=f"{made['state']}  {made['pid']}")


@app.command("suspend")
@guarded
def suspend(pid: Pid, reason: Reason, folder: Folder = Here, as_json: AsJson = False) -> None:
    """Stop it for now. Whoever suspended it resumes it."""
    _act(folder, pid, "suspend", {"reason": reason}, as_json)


@app.command("resume")
@guarded
def resume(pid: Pid, folder: Folder = Here, as_json: AsJson = False) -> None:
    """Go on with one that is suspended."""
    _act(folder, pid, "resume", {}, as_json)


@app.command("complete")
@guarded
def complete(pid: Pid, folder: Folder = Here, as_json: AsJson = False) -> None:
    """End it: all is done."""
    _act(folder, pid, "complete", {}, as_json)


@app.command("terminate")
@guarded
def terminate(pid: Pid, reason: Reason, folder: Folder = Here, as_json: AsJson = False) -> None:
    """End it: something is wrong."""
    _act(folder, pid, "terminate", {"reason": reason}, as_json)


@app.command("read")
@guarded
def read(
    pid: Pid,
    purpose: Annotated[str, typer.Option("--purpose", "-p", help="What the data is for; it must be agreed.")],
    folder: Folder = Here,
    accept: Annotated[str, typer.Option(help="The media type asked for, as text/csv.")] = "",
    out: Annotated[Path | None, typer.Option(help="A file to write; standard output without one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read the data of an HttpData-PULL. A file is there only once it is whole."""
    size = 0
    with (
        client(folder, roles=[PersonRole.ANALYST], purposes=[purpose]) as api,
        api.download(f"/v1/transfers/{pid}/data", accept=accept, purpose=purpose) as chunks,
        _written(out) as file,
    ):
        for chunk in chunks:
            size += file.write(chunk)
    if out is not None:
        show({"file": str(out), "bytes": size}, as_json=as_json, text=f"{size} bytes in {out}")


@contextmanager
def _written(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        yield sys.stdout.buffer
        return
    partial = out.with_name(out.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _act(folder: Path, pid: str, act: str, body: dict[str, str], as_json: bool) -> None:
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        done = api.post(f"/v1/transfers/{pid}/{act}", body)
    show(done, as_json=as_json, text=f"{done['state']}  {done['pid']}")
