"""negotiate, approve, refuse, terminate: from an offer to an agreement, and its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli.output import AsJson, Folder, client, show, table
from connector.errors import NotFound
from connector.model.person import PersonRole

if TYPE_CHECKING:
    from connector.client import Api

Here = Path()
FINAL = ("FINALIZED", "TERMINATED")
POLL_SECONDS = 0.1


def negotiate(
    provider: Annotated[str, typer.Argument(help="The participant that offers.")],
    dataset: Annotated[str, typer.Argument(help="The dataset's id.")],
    offer: Annotated[str, typer.Argument(help="The offer's id, whole or its middle part.")],
    folder: Folder = Here,
    transfer: Annotated[list[str] | None, typer.Option(help="Formats to start once agreed.")] = None,
    wait_seconds: Annotated[float, typer.Option(help="How long to wait for the end.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Ask for an agreement on an offer, and start using it once it is there."""
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        wire_id = _wire_id(api, provider, dataset, offer)
        made = api.post("/v1/negotiations", {"provider": provider, "dataset": dataset, "offer": wire_id})
        done = _wait(api, f"/v1/negotiations/{made['pid']}", wait_seconds)
        if done["state"] == "FINALIZED":
            for format_ in transfer or ["FederatedQuery-PULL"]:
                api.post("/v1/transfers", {"agreement": done["agreement"], "format": format_})
    text = f"{done['state']}  {done['agreement'] or done['pid']}  {'; '.join(done['reasons'])}".rstrip()
    show(done, as_json=as_json, text=text)
    if done["state"] == "TERMINATED":
        raise typer.Exit(1)


def negotiations(
    folder: Folder = Here,
    waiting: Annotated[bool, typer.Option(help="Only those that wait for a person.")] = False,
    as_json: AsJson = False,
) -> None:
    """List negotiations."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/negotiations", **({"waiting": "true"} if waiting else {}))
    if as_json:
        show(found, as_json=True, text="")
        return
    columns = ("pid", "role", "counterParty", "dataset", "state", "waitingFor")
    table(columns, [[n[c] for c in columns] for n in found["negotiations"]])


def approve(
    pid: Annotated[str, typer.Argument(help="The negotiation that waits.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Approve a negotiation, for the register's owner."""
    with client(folder, roles=[PersonRole.APPROVER]) as api:
        done = api.post(f"/v1/negotiations/{pid}/approve")
    show(done, as_json=as_json, text=done["state"])


def refuse(
    pid: Annotated[str, typer.Argument(help="The negotiation that waits.")],
    reason: Annotated[str, typer.Option(help="Told to the other side.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Refuse a negotiation, with a reason."""
    with client(folder, roles=[PersonRole.APPROVER]) as api:
        done = api.post(f"/v1/negotiations/{pid}/refuse", {"reason": reason})
    show(done, as_json=as_json, text=done["state"])


def agreements(folder: Folder = Here, as_json: AsJson = False) -> None:
    """List agreements."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/agreements")
    if as_json:
        show(found, as_json=True, text="")
        return
    columns = ("id", "role", "counterParty", "dataset", "offer", "state")
    table(columns, [[a[c] for c in columns] for a in found["agreements"]])


def terminate(
    agreement: Annotated[str, typer.Argument(help="The agreement's id.")],
    reason: Annotated[str, typer.Option(help="Told to the other side, and recorded.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """End an agreement: its transfers and grants end at once."""
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        done = api.post(f"/v1/agreements/{agreement}/terminate", {"reason": reason})
    show(done, as_json=as_json, text=done["state"])


def _wire_id(api: Api, provider: str, dataset: str, offer: str) -> str:
    found = api.get("/v1/catalog", participant=provider)["participants"]
    offers = [o["id"] for p in found for d in p["datasets"] if d["id"] == dataset for o in d["offers"]]
    for wire_id in offers:
        if offer in (wire_id, wire_id.split(":")[1]):
            return str(wire_id)
    raise NotFound(
        f"{provider} offers us no {offer!r} of {dataset!r}.",
        mend=f"Offers seen: {', '.join(offers) or 'none'}.",
    )


def _wait(api: Api, path: str, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = api.get(path)
        if found["state"] in FINAL or time.monotonic() > deadline:
            return found
        time.sleep(POLL_SECONDS)
