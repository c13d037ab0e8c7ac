"""2: negotiations to FINALIZED agreements; one waits for a person. Then a transfer for each way of use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from connector.demo.stage import CONTRACTS, Contract, Stage
from connector.local_api import Api
from connector.model.person import PersonRole

FINAL = ("FINALIZED", "TERMINATED")


def run(stage: Stage) -> None:
    for contract in CONTRACTS:
        agree(stage, contract)


def agree(stage: Stage, contract: Contract) -> str:
    """Negotiate, approve where a person is wanted, start the transfers. Returns the agreement's id."""
    with stage.ecosystem.api(contract.consumer, PersonRole.OPERATOR) as consumer:
        asked = consumer.post(
            "/v1/negotiations",
            {
                "provider": contract.provider,
                "dataset": contract.dataset,
                "offer": _offer(consumer, contract),
            },
        )
        if contract.needs_approval:
            _approve(stage, contract, asked)
        done = stage.until(
            lambda: consumer.get(f"/v1/negotiations/{asked['pid']}"), lambda n: n["state"] in FINAL
        )
        claim = f"{contract.name}, offer {contract.offer}: {done['state']}"
        stage.narrator.check(done["state"] == "FINALIZED", claim, done)
        agreement = str(done["agreement"])
        ours = consumer.get(f"/v1/agreements/{agreement}")["document"]
        for format_ in contract.formats:
            _start_transfer(stage, consumer, agreement, format_)
    with stage.ecosystem.api(contract.provider, PersonRole.VIEWER) as provider:
        theirs = provider.get(f"/v1/agreements/{agreement}")["document"]
    stage.narrator.check(ours == theirs, "  both sides hold the same agreement", theirs)
    _check_signatures(stage, contract, agreement)
    return agreement


def _offer(consumer: Api, contract: Contract) -> str:
    (participant,) = consumer.get("/v1/catalog", participant=contract.provider)["participants"]
    offers = [o["id"] for d in participant["datasets"] if d["id"] == contract.dataset for o in d["offers"]]
    return next(str(o) for o in offers if o.split(":")[1] == contract.offer)


def _approve(stage: Stage, contract: Contract, asked: Mapping[str, Any]) -> None:
    with stage.ecosystem.api(contract.provider, PersonRole.APPROVER, subject="somebody-else") as other:
        waiting = stage.until(
            lambda: other.get("/v1/negotiations", waiting="true")["negotiations"],
            lambda found: any(n["peerPid"] == asked["pid"] for n in found),
        )
        held = next(n for n in waiting if n["peerPid"] == asked["pid"])
        stage.narrator.check(
            held["state"] == "REQUESTED", f"{contract.name} waits for the register's owner", held
        )
        stage.refused("approval by somebody else", lambda: other.post(f"{_path(held)}/approve"))
    with stage.ecosystem.api(contract.provider, PersonRole.APPROVER, subject=held["approver"]) as owner:
        owner.post(f"{_path(held)}/approve")
        stage.narrator.say(f"{held['approver']} approves through the operator's API")


def _path(negotiation: Mapping[str, Any]) -> str:
    return f"/v1/negotiations/{negotiation['pid']}"


def _check_signatures(stage: Stage, contract: Contract, agreement: str) -> None:
    """The transfers started: so the consumer holds both signatures. The provider may be a moment behind."""
    for side in (contract.consumer, contract.provider):
        with stage.ecosystem.api(side, PersonRole.VIEWER) as api:
            shown = stage.until(
                partial(api.get, f"/v1/agreements/{agreement}/signatures"),
                lambda found: not found["missing"],
            )
            valid = [s["participant"] for s in shown["signatures"] if s["valid"] and s["keyListed"]]
            ok = sorted(valid) == sorted([contract.consumer, contract.provider])
            stage.narrator.check(ok, f"  {side} holds both signatures over it, and they verify", shown)


def _start_transfer(stage: Stage, consumer: Api, agreement: str, format_: str) -> None:
    transfer = consumer.post("/v1/transfers", {"agreement": agreement, "format": format_})
    done = stage.until(
        lambda: consumer.get(f"/v1/transfers/{transfer['pid']}"), lambda t: t["state"] != "REQUESTED"
    )
    address = str(done.get("dataAddress"))
    ok = done["state"] == "STARTED" and "eyJ" not in address
    stage.narrator.check(
        ok, f"  transfer {format_}: {done['state']}, its data address carries no token", done
    )
