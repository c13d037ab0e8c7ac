"""request, negotiate, approve, refuse, counter, renew, terminate: to an agreement, and to its end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from connector.cli.output import AsJson, Folder, client, show, table
from connector.errors import NotFound, RequestInvalid
from connector.model.person import PersonRole

if TYPE_CHECKING:
    from connector.local_api import Api

Here = Path()
Subject = Annotated[str, typer.Option("--as", help="Who decides; an offer may name the only one who may.")]
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


def request(
    dataset: Annotated[str, typer.Argument(help="participant.dataset, as queries name it.")],
    purpose: Annotated[str, typer.Option("--purpose", "-p", help="What it is wanted for.")],
    folder: Folder = Here,
    offer: Annotated[str, typer.Option(help="The offer's name, where several are for this purpose.")] = "",
    wait_seconds: Annotated[float, typer.Option(help="How long to wait for the other side.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Ask for access to a dataset; said again, it goes on from where it stands."""
    asked = {"dataset": dataset, "purpose": purpose, "offer": offer}
    deadline = time.monotonic() + wait_seconds
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        while True:
            found = api.post("/v1/access-requests", asked)
            if found["state"] == "READY" or time.monotonic() > deadline:
                break
            if found["negotiation"]:
                left = max(deadline - time.monotonic(), 0.0)
                ended = _wait(api, f"/v1/negotiations/{found['negotiation']}", left)
                if ended["state"] == "TERMINATED":
                    show(ended, as_json=as_json, text=f"TERMINATED  {'; '.join(ended['reasons'])}")
                    raise typer.Exit(1)
            time.sleep(POLL_SECONDS)
    text = f"{found['state']}  {found['agreement'] or found['negotiation']}  {found['nextStep'] or ''}"
    show(found, as_json=as_json, text=text.rstrip())


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
    columns = ("pid", "role", "counterParty", "dataset", "state", "waitingFor", "approver")
    table(columns, [[n[c] for c in columns] for n in found["negotiations"]])


def approve(
    pid: Annotated[str, typer.Argument(help="The negotiation that waits.")],
    folder: Folder = Here,
    subject: Subject = "cli",
    as_json: AsJson = False,
) -> None:
    """Approve a negotiation, for the register's owner."""
    with client(folder, roles=[PersonRole.APPROVER], subject=subject) as api:
        done = api.post(f"/v1/negotiations/{pid}/approve")
    show(done, as_json=as_json, text=done["state"])


def refuse(
    pid: Annotated[str, typer.Argument(help="The negotiation that waits.")],
    reason: Annotated[str, typer.Option(help="Told to the other side.")],
    folder: Folder = Here,
    subject: Subject = "cli",
    as_json: AsJson = False,
) -> None:
    """Refuse a negotiation, with a reason."""
    with client(folder, roles=[PersonRole.APPROVER], subject=subject) as api:
        done = api.post(f"/v1/negotiations/{pid}/refuse", {"reason": reason})
    show(done, as_json=as_json, text=done["state"])


def counter(
    pid: Annotated[str, typer.Argument(help="The negotiation that waits.")],
    offer: Annotated[str, typer.Argument(help="The whole id of the offer to answer with.")],
    folder: Folder = Here,
    subject: Subject = "cli",
    as_json: AsJson = False,
) -> None:
    """Answer a negotiation that waits with another offer."""
    with client(folder, roles=[PersonRole.APPROVER, PersonRole.OPERATOR], subject=subject) as api:
        done = api.post(f"/v1/negotiations/{pid}/counter", {"offer": offer})
    show(done, as_json=as_json, text=done["state"])


def renew(
    agreement: Annotated[str, typer.Argument(help="The agreement's id.")],
    folder: Folder = Here,
    wait_seconds: Annotated[float, typer.Option(help="How long to wait for the end.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Accept the newest terms of the offer that an agreement was made on."""
    with client(folder, roles=[PersonRole.OPERATOR]) as api:
        made = api.post(f"/v1/agreements/{quote(agreement, safe='')}/renew")
        done = _wait(api, f"/v1/negotiations/{made['pid']}", wait_seconds)
    show(done, as_json=as_json, text=f"{done['state']}  {done['agreement'] or done['pid']}")
    if done["state"] == "TERMINATED":
        raise typer.Exit(1)


def verify_agreement(
    file: Annotated[Path, typer.Argument(help="What GET /v1/agreements/{id}/signatures answered.")],
    jwks: Annotated[
        list[str] | None,
        typer.Option(help="A party's public keys, as participant=FILE; audit.jwks.json will do."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check offline that both parties signed an agreement, exactly as it stands there."""
    from connector.access.agreement_signature import problem_offline

    keys = {name: _jwks(Path(path)) for name, _, path in (item.partition("=") for item in jwks or [])}
    try:
        found = problem_offline(json.loads(file.read_text(encoding="utf-8")), keys)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RequestInvalid(
            "is no agreement with its signatures",
            where=str(file),
            mend="Save what GET /v1/agreements/{id}/signatures answers.",
        ) from None
    whose = "keys of your own" if keys else "the keys in the file: give --jwks to know whose they are"
    text = "; ".join(found) or f"signed by both, checked with {whose}"
    show({"valid": not found, "problems": found, "trusted": sorted(keys)}, as_json=as_json, text=text)
    if found:
        raise typer.Exit(1)


def _jwks(file: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["keys"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestInvalid("is not a JWKS file", where=str(file), mend="Write participant=FILE.") from None


def agreements(folder: Folder = Here, as_json: AsJson = False) -> None:
    """List agreements."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/agreements")
    if as_json:
        show(found, as_json=True, text="")
        return
    columns = ("id", "role", "counterParty", "dataset", "offer", "state", "inForce", "endsAt")
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
