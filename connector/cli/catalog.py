"""catalog: what others offer, asked for now or searched in what was last read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.output import AsJson, Folder, client, guarded, show, table
from connector.model.person import PersonRole

app = typer.Typer(
    help="What other participants offer us: list it live, or search the index.", invoke_without_command=True
)
Here = Path()
Participant = Annotated[str, typer.Option(help="Only this participant.")]


@app.callback()
@guarded
def catalog(
    context: typer.Context, folder: Folder = Here, participant: Participant = "", as_json: AsJson = False
) -> None:
    """List the datasets that other participants offer us, asking each of them now."""
    if context.invoked_subcommand:
        return
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/catalog", **({"participant": participant} if participant else {}))
    if as_json:
        show(found, as_json=True, text="")
        return
    rows = [
        (p["id"], d["id"], d["title"], ", ".join(o["id"] for o in d["offers"]))
        for p in found["participants"]
        for d in p["datasets"]
    ]
    table(("participant", "dataset", "title", "offers"), rows)
    for silent in (p for p in found["participants"] if p["error"]):
        typer.echo(f"{silent['id']}: {silent['error']}", err=True)


@app.command("search")
@guarded
def search(
    text: Annotated[str, typer.Argument(help="Words, or beginnings of words; all must be there.")] = "",
    theme: Annotated[str, typer.Option(help="A theme, e.g. SOCI.")] = "",
    keyword: Annotated[str, typer.Option(help="A keyword, whole.")] = "",
    participant: Participant = "",
    format: Annotated[str, typer.Option(help="A transfer format, e.g. HttpData-PULL.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many.")] = 20,
    after: Annotated[str, typer.Option(help="Go on where the last answer ended.")] = "",
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Search what all participants offered when their catalogues were last read; nobody is asked."""
    narrowed = {
        "q": text,
        "theme": theme,
        "keyword": keyword,
        "participant": participant,
        "format": format,
        "limit": str(limit),
        "after": after,
    }
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/catalog/search", **{k: v for k, v in narrowed.items() if v})
    if as_json:
        show(found, as_json=True, text="")
        return
    rows = [
        (d["participant"], d["id"], d["title"], ", ".join(o["id"] for o in d["offers"]), d["seenAt"])
        for d in found["datasets"]
    ]
    table(("participant", "dataset", "title", "offers", "seen at"), rows)
    typer.echo(f"{len(rows)} of {found['total']}")
    if found["next"]:
        typer.echo(f"more: --after {found['next']}")
    for source in found["participants"]:
        for remark in _remarks(source):
            typer.echo(f"{source['id']}: {remark}", err=True)


@app.command("refresh")
@guarded
def refresh(
    participant: Annotated[str, typer.Argument(help="Whose catalogue.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Have one participant's catalogue read anew as soon as politeness allows."""
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        due = api.post("/v1/catalog/refresh", {"participant": participant})
    show(due, as_json=as_json, text=f"{participant} is read at {due['nextAttempt']}")


def _remarks(source: dict[str, Any]) -> list[str]:
    """What a reader must know of a part that is not as it should be."""
    if not source.get("lastAttempt"):
        return ["not read yet"]
    found = []
    if source["error"]:
        last = f"as of {source['lastSuccess']}" if source["lastSuccess"] else "never read"
        found.append(f"{last}; failing since {source['failingSince']}: {source['error']['message']}")
    if source["truncated"]:
        found.append(f"not read to its end ({source['truncated']})")
    if source["rejected"]:
        named = ", ".join(p["dataset"] for p in source["problems"])
        found.append(f"{source['rejected']} datasets could not be read: {named}")
    return found
