"""Counter-offers both ways, and who may decide (Protocol, decision hook; data products and terms; C4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter

from connector.access.front_door import Asked
from connector.control_plane.counter_offers import CounterOffers
from connector.control_plane.renewal import Renewals
from connector.dsp.catalog import Publisher, parse_dataset
from connector.errors import Conflict, NotPermitted, RequestInvalid
from connector.model.audit import AuditEvent
from connector.model.catalog import DatasetStatus
from connector.model.decision import Deny
from connector.model.json import JsonObject
from connector.model.negotiation import NegotiationState
from connector.model.participant import Participant
from connector.model.person import Person, PersonRole
from connector.web.app import App, create_app
from connector.web.client_api import ClientServices
from connector.web.contracts import add_contracts
from tests.pair import ConnectorPair, Side, connected, dataset, participant, terms

OWNER, OTHER = "register-owner", "other-owner"
FEWER = terms("manual", id="statistics", approver=OWNER, columns={"area": "clear"})
ALIEN = terms("manual", id="research", approver=OTHER)
STRICTER = {"leftOperand": "dsc:membership", "operator": "eq", "rightOperand": "active"}
"""A constraint that only narrows."""


def person(subject: str, *roles: PersonRole) -> Person:
    return Person(subject=subject, roles=frozenset(roles), purposes=frozenset())


APPROVER = person(OWNER, PersonRole.APPROVER)
OPERATOR = person("operator", PersonRole.OPERATOR)


def published(**changes: Any) -> Any:
    offers = (terms("manual", approver=OWNER), FEWER, ALIEN)
    return dataset(**{"offers": offers, **changes})


async def waiting(**changes: Any) -> ConnectorPair:
    """The consumer asked for the first offer, which waits for its approver."""
    pair = connected(datasets={"benefits": published(**changes)})
    await pair.ask()
    await pair.settle()
    return pair


def shown_offer(pair: ConnectorPair, offer_id: str) -> JsonObject:
    publisher = Publisher(participant_id="kela", dsp_url="http://kela.example/dsp/2025-1")
    shown = parse_dataset(publisher.dataset(pair.provider.datasets["benefits"])).offer(offer_id)
    assert shown is not None
    return shown.document


def counters(side: Side, pair: ConnectorPair) -> CounterOffers:
    async def offer(_provider: Participant, _dataset: str, offer_id: str) -> JsonObject:
        return shown_offer(pair, offer_id)

    return CounterOffers(
        negotiations=side.negotiations, catalogue=lambda: side.datasets, provider=participant, offer=offer
    )


async def countered(
    pair: ConnectorPair, offer_id: str = "benefits:statistics:1", by: Person = APPROVER
) -> None:
    pid = pair.provider.only_negotiation.pid
    await counters(pair.provider, pair).make(pid, offer_id, {}, by)
    await pair.settle()


async def answered(pair: ConnectorPair, offer_id: str = "", **rules: Any) -> None:
    await counters(pair.consumer, pair).make(pair.consumer.only_negotiation.pid, offer_id, rules, OPERATOR)
    await pair.settle()


def states(pair: ConnectorPair) -> set[NegotiationState]:
    return {pair.consumer.only_negotiation.state, pair.provider.only_negotiation.state}


def narrower() -> list[dict[str, Any]]:
    (permission,) = [dict(r) for r in rules_of(FEWER)["permission"]]
    return [{**permission, "constraint": [*permission["constraint"], STRICTER]}]


def rules_of(offer: Any) -> dict[str, Any]:
    from connector.dsp.policy import render_policy

    return dict(render_policy(offer.policy))


# --- the provider's -------------------------------------------------------------------------------------


async def test_the_approver_counters_and_the_consumers_person_accepts() -> None:
    """OFFERED waits for a person at the consumer; what the approver offered needs no second approval."""
    pair = await waiting()
    await countered(pair)
    assert states(pair) == {NegotiationState.OFFERED}
    assert AuditEvent.NEGOTIATION_COUNTERED in pair.provider.facts
    held = pair.consumer.only_negotiation
    assert (held.waiting_for, held.offer["@id"]) == ("approval", "benefits:statistics:1")
    assert held.answered_offer["@id"] == "benefits:planning:1"
    await pair.consumer.negotiations.approve(held.pid, by="somebody")
    await pair.settle()
    assert states(pair) == {NegotiationState.FINALIZED}
    (record,) = pair.provider.store.state.agreements.values()
    assert (record.offer_id, record.terms) == ("benefits:statistics:1", FEWER)


async def test_another_owners_offer_still_needs_that_owner() -> None:
    """Whoever counters with an offer that somebody else approves has not approved it."""
    pair = await waiting()
    await countered(pair, "benefits:research:1")
    await pair.consumer.negotiations.approve(pair.consumer.only_negotiation.pid, by="somebody")
    await pair.settle()
    held = pair.provider.only_negotiation
    assert (held.state, held.waiting_for) == (NegotiationState.ACCEPTED, "approval")
    with pytest.raises(NotPermitted, match=OTHER):
        await pair.provider.negotiations.approve(held.pid, by=OWNER)
    await pair.provider.negotiations.approve(held.pid, by=OTHER)
    await pair.settle()
    assert states(pair) == {NegotiationState.FINALIZED}


async def test_the_consumer_refuses_a_counter_offer() -> None:
    """Both sides read why."""
    pair = await waiting()
    await countered(pair)
    await pair.consumer.negotiations.refuse(pair.consumer.only_negotiation.pid, ["Too little."], by="x")
    await pair.settle()
    assert states(pair) == {NegotiationState.TERMINATED}
    assert pair.provider.only_negotiation.reasons == ("Too little.",)


async def test_a_provider_offers_only_what_it_publishes() -> None:
    """Exact: what is offered must be enforceable as it stands; then it still waits."""
    pair = await waiting()
    pid = pair.provider.only_negotiation.pid
    making = counters(pair.provider, pair)
    with pytest.raises(RequestInvalid, match="is no offer of this dataset"):
        await making.make(pid, "benefits:planning:2", {}, APPROVER)
    with pytest.raises(RequestInvalid, match="offers what it publishes"):
        await making.make(pid, "benefits:statistics:1", {"permission": narrower()}, APPROVER)
    altered = {**shown_offer(pair, "benefits:statistics:1"), "permission": narrower()}
    with pytest.raises(RequestInvalid, match="is not an offer that we publish"):
        await pair.provider.negotiations.counter(pid, altered, by=OWNER)
    with pytest.raises(Conflict, match="offer that waits"):
        await making.make(pid, "benefits:planning:1", {}, APPROVER)
    assert pair.provider.only_negotiation.waiting_for == "approval"
    assert states(pair) == {NegotiationState.REQUESTED}


async def test_a_provider_does_not_offer_what_policy_would_refuse() -> None:
    """Judged as if it had been accepted already."""
    pair = await waiting()
    pair.provider.decision = Deny(reasons=())
    with pytest.raises(NotPermitted):
        await countered(pair)
    pair.provider.datasets["benefits"] = published(status=DatasetStatus.DEPRECATED)
    with pytest.raises(NotPermitted, match="no new agreements"):
        await countered(pair)


# --- the consumer's -------------------------------------------------------------------------------------


async def test_the_consumer_counters_with_another_published_offer() -> None:
    """Back in REQUESTED, judged as any request; it waits for the approver again."""
    pair = await waiting()
    await countered(pair)
    await answered(pair, "benefits:planning:1")
    assert states(pair) == {NegotiationState.REQUESTED}
    held = pair.provider.only_negotiation
    assert (held.waiting_for, held.offer["@id"]) == ("approval", "benefits:planning:1")
    await pair.provider.negotiations.approve(held.pid, by=OWNER)
    await pair.settle()
    assert states(pair) == {NegotiationState.FINALIZED}


async def test_rules_that_narrow_wait_for_a_person_even_where_offers_are_automatic() -> None:
    """Never accepted without one; the agreement then carries exactly these rules, and is enforced by them."""
    automatic = terms("automatic", id="statistics", approver=OWNER)
    pair = await waiting(offers=(terms("manual", approver=OWNER), automatic))
    await countered(pair)
    await answered(pair, permission=narrower())
    held = pair.provider.only_negotiation
    assert (held.state, held.waiting_for) == (NegotiationState.REQUESTED, "approval")
    with pytest.raises(NotPermitted):
        await pair.provider.negotiations.approve(held.pid, by="somebody")
    await pair.provider.negotiations.approve(held.pid, by=OWNER)
    await pair.settle()
    assert states(pair) == {NegotiationState.FINALIZED}
    (record,) = pair.provider.store.state.agreements.values()
    assert record.terms is not None
    assert record.terms == replace(automatic, policy=record.agreement.policy)
    assert record.agreement.policy.values_of("dsc:membership") == {"active"}
    assert record.signed_by_both


WIDER: dict[str, dict[str, Any]] = {
    "no permission of ours": {"permission": [{"action": "use", "constraint": [STRICTER]}]},
    "no constraint": {"permission": [{"action": "use"}]},
    "another purpose": {
        "permission": [
            {
                "action": "use",
                "constraint": [
                    {"leftOperand": "purpose", "operator": "isAnyOf", "rightOperand": ["statistics"]}
                ],
            }
        ]
    },
    "no prohibition": {"prohibition": []},
    "no obligation": {"obligation": []},
    "a permission more": {"permission": [*rules_of(FEWER)["permission"], {"action": "use"}]},
}


@pytest.mark.parametrize("rules", WIDER.values(), ids=WIDER)
async def test_rules_that_ask_for_more_end_it(rules: dict[str, Any]) -> None:
    """Fail closed: what our terms cannot enforce is not even shown to a person."""
    pair = await waiting()
    await countered(pair)
    await answered(pair, **rules)
    assert states(pair) == {NegotiationState.TERMINATED}
    assert pair.consumer.only_negotiation.reasons == ("The offer is not the one we publish.",)


async def test_what_nobody_makes_hold_is_not_asked_for() -> None:
    """A constraint with no enforcement class is refused at our own door."""
    pair = await waiting()
    await countered(pair)
    unknown = {"leftOperand": "moonPhase", "operator": "eq", "rightOperand": "full"}
    with pytest.raises(RequestInvalid, match="moonPhase"):
        await answered(pair, permission=[{"action": "use", "constraint": [unknown]}])
    assert pair.consumer.only_negotiation.waiting_for == "approval"


async def test_a_first_request_must_be_exact() -> None:
    """Only an answer to an offer of ours may narrow it: a first request names an offer as it is published."""
    pair = connected(datasets={"benefits": published()})
    await pair.ask({**shown_offer(pair, "benefits:planning:1"), "permission": narrower()})
    await pair.settle()
    assert states(pair) == {NegotiationState.TERMINATED}


async def test_the_same_rules_under_another_offer_are_shown_to_a_person() -> None:
    """The consumer takes by itself only what it asked for: another offer may show other columns."""
    pair = await waiting()
    await countered(pair)
    assert pair.consumer.only_negotiation.waiting_for == "approval"


# --- through the client API -----------------------------------------------------------------------------


@pytest.fixture
async def pair() -> ConnectorPair:
    return await waiting()


def api(side: Side, pair: ConnectorPair) -> httpx.AsyncClient:
    """The side's own client API, whole."""

    async def shown(_provider: Participant, _dataset: str) -> Any:
        publisher = Publisher(participant_id="kela", dsp_url="http://kela.example/dsp/2025-1")
        return parse_dataset(publisher.dataset(pair.provider.datasets["benefits"]))

    services = SimpleNamespace(
        door=Door(),
        negotiations=side.negotiations,
        agreements=side.agreements,
        signatures=side.signatures,
        counter_offers=counters(side, pair),
        renewals=Renewals(
            agreements=side.agreements,
            negotiations=side.negotiations,
            provider=participant,
            dataset=shown,
        ),
    )
    router = APIRouter(prefix="/v1")
    add_contracts(router, cast(ClientServices, services))

    async def health() -> dict[str, str]:
        return {}

    app = create_app(App(routers=[router], health=health))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x")


class Door:
    """Takes everybody at their word."""

    async def person(self, asked: Asked) -> Person:
        subject, *roles = str(asked.authorization).split()
        return person(subject, *map(PersonRole, roles))


def as_(subject: str, *roles: PersonRole) -> dict[str, str]:
    return {"Authorization": " ".join((subject, *roles))}


@pytest.fixture
async def kela(pair: ConnectorPair) -> AsyncIterator[httpx.AsyncClient]:
    async with api(pair.provider, pair) as client:
        yield client


@pytest.fixture
async def city(pair: ConnectorPair) -> AsyncIterator[httpx.AsyncClient]:
    async with api(pair.consumer, pair) as client:
        yield client


async def test_the_waiting_list_says_who_decides_and_only_they_may(
    pair: ConnectorPair, kela: httpx.AsyncClient
) -> None:
    """The named register owner approves; whoever runs the connector need not be the one."""
    admin = as_("admin", PersonRole.ADMIN, PersonRole.APPROVER)
    (listed,) = (await kela.get("/v1/negotiations?waiting=true", headers=admin)).json()["negotiations"]
    assert (listed["waitingFor"], listed["approver"]) == ("approval", OWNER)
    path = f"/v1/negotiations/{listed['pid']}"
    for step, body in (
        ("approve", {}),
        ("refuse", {"reason": "no"}),
        ("counter", {"offer": "benefits:statistics:1"}),
    ):
        answer = await kela.post(f"{path}/{step}", json=body, headers=admin)
        assert answer.status_code == 403, step
        (reason,) = answer.json()["deniedBy"]
        assert (reason["code"], OWNER in reason["text"]) == ("not_the_approver", True)
    owner_without_role = as_(OWNER, PersonRole.OPERATOR)
    for step, body in (("approve", {}), ("counter", {"offer": "benefits:statistics:1"})):
        answer = await kela.post(f"{path}/{step}", json=body, headers=owner_without_role)
        assert (answer.status_code, answer.json()["deniedBy"][0]["code"]) == (403, "role_missing")
    owner = as_(OWNER, PersonRole.APPROVER)
    assert (await kela.post(f"{path}/approve", headers=owner)).status_code == 200
    await pair.settle()
    assert states(pair) == {NegotiationState.FINALIZED}


async def test_counter_offers_through_both_apis(
    pair: ConnectorPair, kela: httpx.AsyncClient, city: httpx.AsyncClient
) -> None:
    """Protocol: the operator's API lists what waits and approves, counters or refuses, on both sides."""
    owner = as_(OWNER, PersonRole.APPROVER)
    ours = f"/v1/negotiations/{pair.provider.only_negotiation.pid}"
    theirs = f"/v1/negotiations/{pair.consumer.only_negotiation.pid}"
    done = await kela.post(f"{ours}/counter", json={"offer": "benefits:statistics:1"}, headers=owner)
    assert (done.status_code, done.json()["waitingFor"]) == (200, "")
    await pair.settle()
    operator = as_("operator", PersonRole.OPERATOR)
    shown = (await city.get(theirs, headers=operator)).json()
    assert shown["document"]["@id"] == "benefits:statistics:1"
    assert shown["answers"]["@id"] == "benefits:planning:1"
    assert shown["approver"] is None
    answer = await city.post(f"{theirs}/counter", json={"permission": narrower()}, headers=operator)
    assert answer.status_code == 200, answer.text
    await pair.settle()
    assert (await kela.post(f"{ours}/approve", headers=owner)).status_code == 200
    await pair.settle()
    (record,) = pair.consumer.store.state.agreements.values()
    path = f"/v1/agreements/{record.agreement.id}"
    about = (await city.get(path, headers=operator)).json()
    assert (about["inForce"], about["signatures"], about["notInForce"]) == (True, "both", None)
    assert (about["termsVersion"], about["hashes"]["contract"]) == ("1", "c0ffee")
    signed = (await city.get(f"{path}/signatures", headers=operator)).json()
    assert [(s["valid"], s["keyListed"]) for s in signed["signatures"]] == [(True, True)] * 2
    assert (signed["missing"], signed["problem"]) == ([], None)
    again = await city.post(f"{path}/signatures", headers=operator)
    assert again.json()["missing"] == []


BAD: dict[str, tuple[Any, str]] = {
    "no rule": ({"permission": ["use"]}, "request_invalid"),
    "an unknown member": ({"rules": []}, "request_invalid"),
    "no action": ({"permission": [{}]}, "message_invalid"),
    "nothing permitted": ({"permission": []}, "policy_not_enforceable"),
    "nothing said": ({}, "same_offer"),
}


@pytest.mark.parametrize(("body", "code"), BAD.values(), ids=BAD)
async def test_a_malformed_counter_offer_changes_nothing(
    pair: ConnectorPair, city: httpx.AsyncClient, body: Any, code: str
) -> None:
    """Bad input: a typed error that names the field."""
    await countered(pair)
    before = pair.consumer.only_negotiation
    answer = await city.post(
        f"/v1/negotiations/{before.pid}/counter",
        json=body,
        headers=as_("operator", PersonRole.OPERATOR),
    )
    assert (answer.status_code in (400, 409), answer.json()["code"]) == (True, code)
    assert pair.consumer.only_negotiation == before
