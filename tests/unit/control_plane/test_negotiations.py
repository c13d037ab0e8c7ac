"""Contract negotiations between two connectors with the product's hooks (DSP 2025-1 §7; Protocol; C4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.control_plane import hooks as h
from connector.dsp import messages as m
from connector.dsp import policy
from connector.dsp.wire import Fields, canonical
from connector.errors import (
    Conflict,
    IllegalTransition,
    MessageInvalid,
    NotFound,
    NotPermitted,
    PeerUnreachable,
    PolicyUnavailable,
    Reason,
    RequestInvalid,
)
from connector.model.audit import AuditEvent
from connector.model.catalog import DatasetStatus
from connector.model.decision import Deny, Permit
from connector.model.json import JsonObject
from connector.model.negotiation import NegotiationState, Role
from connector.model.policy import AgreementState, Policy, Rule
from connector.ports import OutboxMessage
from tests.pair import (
    ConnectorPair,
    Side,
    connected,
    dataset,
    first_offer,
    participant,
    published_offer,
    receive_by_http,
    terms,
)

DENIED = Deny(reasons=(Reason(code="not_member", text="You are not in the collaboration."),))


def states(pair: ConnectorPair) -> tuple[NegotiationState, NegotiationState]:
    return pair.consumer.only_negotiation.state, pair.provider.only_negotiation.state


def opening(offer: JsonObject, **changes: Any) -> m.ContractRequestMessage:
    wire = policy.offer_for(offer, "benefits")
    values: dict[str, Any] = {
        "id": "urn:m:1",
        "consumer_pid": "urn:c",
        "offer": policy.parse_offer(Fields(wire)),
        "callback_address": "http://city.example/dsp/2025-1",
    }
    return m.ContractRequestMessage(**{**values, **changes})


async def test_an_exact_offer_ends_in_one_agreement_that_both_hold() -> None:
    """DSP §7; C4: the same bytes, hashes, the provider's terms; evidence and event on both sides."""
    pair = connected(receive=receive_by_http)
    agreement_id = await pair.negotiated()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)
    theirs = pair.consumer.store.state.agreements[agreement_id]
    ours = pair.provider.store.state.agreements[agreement_id]
    assert canonical(ours.agreement.document) == canonical(theirs.agreement.document)
    assert ours.policy_hash == theirs.policy_hash
    assert (ours.state, theirs.state) == (AgreementState.ACTIVE, AgreementState.ACTIVE)
    assert (ours.counter_party, theirs.counter_party) == ("city", "kela")
    assert (ours.terms, ours.terms_version, ours.contract_hash) == (terms(), "1", "c0ffee")
    assert (theirs.terms, theirs.offer_id) == (None, "benefits:planning:1")
    for side in (pair.consumer, pair.provider):
        assert side.facts == [
            AuditEvent.NEGOTIATION_REQUESTED,
            AuditEvent.AGREEMENT_AGREED,
            AuditEvent.AGREEMENT_VERIFIED,
            AuditEvent.AGREEMENT_FINALIZED,
        ]
        assert [e.type for _, e in side.store.state.events] == ["fi.dataspace.agreement.finalized.v1"]
        assert side.store.state.outbox == []


async def test_nothing_leaves_before_the_answer() -> None:
    """Protocol: answer first, act later: receiving only writes rows."""
    pair = connected()
    await pair.ask()
    await pair.consumer.worker.step(limit=10)
    assert pair.provider.only_negotiation.state is NegotiationState.REQUESTED
    assert pair.provider.sent == []
    assert len(pair.provider.store.state.outbox) == 2, "a decision and a fact are due"


# --- approval -------------------------------------------------------------------------------------------


async def waiting(**changes: Any) -> ConnectorPair:
    pair = connected(datasets={"benefits": dataset(offers=(terms("manual"),), **changes)})
    await pair.ask()
    await pair.settle()
    return pair


async def test_a_person_approves() -> None:
    """C4: a negotiation waits for a human; the record says who approved."""
    pair = await waiting()
    (held,) = await pair.provider.negotiations.list(waiting=True)
    assert (held.waiting_for, held.state) == ("approval", NegotiationState.REQUESTED)
    assert AuditEvent.NEGOTIATION_HELD in pair.provider.facts
    await pair.provider.negotiations.approve(held.pid, by="registrar")
    await pair.settle()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)
    assert await pair.provider.negotiations.list(waiting=True) == []
    approvals = [f for e, f in pair.provider.audited if e is AuditEvent.NEGOTIATION_APPROVED]
    assert [f["actor"] for f in approvals] == ["registrar"]


async def test_a_person_refuses_with_reasons_that_the_other_side_reads() -> None:
    """C4: refuse with reasons."""
    pair = await waiting()
    await pair.provider.negotiations.refuse(
        pair.provider.only_negotiation.pid, ["Ask for less."], by="registrar"
    )
    await pair.settle()
    assert states(pair) == (NegotiationState.TERMINATED, NegotiationState.TERMINATED)
    assert pair.consumer.only_negotiation.reasons == ("Ask for less.",)
    assert AuditEvent.NEGOTIATION_REFUSED in pair.provider.facts


async def test_an_approval_does_not_override_policy() -> None:
    """Fail closed: what was permitted when it was asked for may not be now; then it still waits."""
    pair = await waiting()
    pid = pair.provider.only_negotiation.pid
    pair.provider.decision = DENIED
    with pytest.raises(NotPermitted, match="not in the collaboration"):
        await pair.provider.negotiations.approve(pid, by="registrar")
    pair.provider.decision = Permit(columns=frozenset())
    assert pair.provider.only_negotiation.waiting_for == "approval"
    await pair.provider.negotiations.approve(pid, by="registrar")
    with pytest.raises(Conflict, match="does not wait"):
        await pair.provider.negotiations.approve(pid, by="registrar")


async def test_only_what_waits_can_be_approved() -> None:
    """Skeleton, bad input: typed errors, nothing changed."""
    pair = connected()
    asked = await pair.ask()
    with pytest.raises(Conflict):
        await pair.consumer.negotiations.approve(asked.pid, by="somebody")
    with pytest.raises(NotFound):
        await pair.consumer.negotiations.refuse("urn:unknown", [], by="somebody")


async def test_the_peer_ends_it_while_it_waits() -> None:
    """A late approval finds it ended and changes nothing."""
    pair = await waiting()
    await pair.consumer.negotiations.terminate(pair.consumer.only_negotiation.pid, "changed_mind")
    await pair.settle()
    with pytest.raises(Conflict):
        await pair.provider.negotiations.approve(pair.provider.only_negotiation.pid, by="registrar")
    assert states(pair) == (NegotiationState.TERMINATED, NegotiationState.TERMINATED)


# --- what the provider refuses --------------------------------------------------------------------------

NO_SUCH_OFFER = "There is no such offer."


def _hide(side: Side) -> None:
    side.visible = False


def _deny(side: Side) -> None:
    side.decision = DENIED


def _status(status: DatasetStatus) -> Any:
    def change(side: Side) -> None:
        side.datasets["benefits"] = replace(side.datasets["benefits"], status=status)

    return change


def _withdraw(side: Side) -> None:
    side.datasets.clear()


REFUSALS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "unknown offer": ({"@id": "benefits:planning:2"}, None, NO_SUCH_OFFER),
    "dataset not for this consumer": ({}, _hide, NO_SUCH_OFFER),
    "dataset gone": ({}, _withdraw, NO_SUCH_OFFER),
    "a draft": ({}, _status(DatasetStatus.DRAFT), NO_SUCH_OFFER),
    "no new agreements": ({}, _status(DatasetStatus.DEPRECATED), "The dataset takes no new agreements."),
    "rules left out": ({"prohibition": [{"action": "x"}]}, None, "The offer is not the one we publish."),
    "rules added": ({"inheritFrom": "urn:x"}, None, "The offer is not the one we publish."),
    "somebody else assigns": ({"assigner": "school"}, None, "The offer is not the one we publish."),
    "policy": ({}, _deny, "You are not in the collaboration."),
}


@pytest.mark.parametrize(("change", "prepare", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_the_provider_refuses_with_reasons(change: JsonObject, prepare: Any, reason: str) -> None:
    """Product hook on REQUESTED: whatever is unknown or differs ends it; unknown and hidden read alike."""
    pair = connected()
    offer = {**first_offer(pair.provider), **change}
    await pair.ask(offer)
    if prepare:
        prepare(pair.provider)
    await pair.settle()
    assert states(pair) == (NegotiationState.TERMINATED, NegotiationState.TERMINATED)
    assert pair.consumer.only_negotiation.reasons == (reason,)
    assert pair.provider.store.state.agreements == {}


# --- what the consumer refuses --------------------------------------------------------------------------

TAMPERED: dict[str, JsonObject] = {
    "a right left out": {"permission": [{"action": "read"}]},
    "a duty added": {"obligation": [{"action": "delete"}, {"action": "pay"}]},
    "somebody else's data": {"assigner": "school"},
    "somebody else's right": {"assignee": "youth"},
    "another dataset": {"target": "clients"},
    "terms by reference": {"inheritFrom": "urn:x"},
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
async def test_the_consumer_takes_only_the_agreement_it_asked_for(change: JsonObject) -> None:
    """Product hook on AGREED: it must echo the last offer, between these two, about this dataset."""
    pair = connected()
    await pair.ask()
    honest = pair.provider.outside

    async def tampering(message: OutboxMessage) -> JsonObject | None:
        body = message.body
        if body["@type"] == "ContractAgreementMessage":
            body = {**body, "agreement": {**body["agreement"], **change}}
        return await honest(replace(message, body=body))

    pair.provider.outside = tampering
    await pair.settle()
    assert states(pair) == (NegotiationState.TERMINATED, NegotiationState.TERMINATED)
    (record,) = pair.consumer.store.state.agreements.values()
    assert record.state is AgreementState.TERMINATED
    (kept,) = pair.provider.store.state.agreements.values()
    assert kept.state is AgreementState.TERMINATED


async def test_a_provider_cannot_replace_another_providers_agreement() -> None:
    """Agreement ids are never reused: one that we hold already is refused, and ours stays as it is."""
    pair = connected()
    agreement_id = await pair.negotiated()
    held = pair.consumer.store.state.agreements[agreement_id]
    await pair.ask()
    honest = pair.provider.outside

    async def reusing(message: OutboxMessage) -> JsonObject | None:
        body = message.body
        if body["@type"] == "ContractAgreementMessage":
            body = {**body, "agreement": {**body["agreement"], "@id": agreement_id}}
        return await honest(replace(message, body=body))

    pair.provider.outside = reusing
    await pair.settle()
    assert pair.consumer.store.state.agreements == {agreement_id: held}


# --- offers of the provider -----------------------------------------------------------------------------


async def test_an_offer_that_is_what_we_asked_for_is_accepted() -> None:
    """Product hook on OFFERED; counter-offers work: here the provider repeats the consumer's offer."""
    repeated = h.Offer(document=published_offer(dataset()))
    pair = connected(provider_script={"REQUESTED": repeated, "ACCEPTED": h.Agree(), "VERIFIED": h.Finalize()})
    await pair.ask()
    await pair.settle()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)


async def test_another_offer_waits_for_a_person_and_is_accepted_by_one() -> None:
    """Product hook on OFFERED: a counter-offer is shown to a person."""
    other = policy.render_offer("benefits:other:1", Policy(permissions=(Rule(action="read"),)))
    pair = connected(
        provider_script={
            "REQUESTED": h.Offer(document=other),
            "ACCEPTED": h.Agree(),
            "VERIFIED": h.Finalize(),
        }
    )
    await pair.ask()
    await pair.settle()
    held = pair.consumer.only_negotiation
    assert (held.state, held.waiting_for) == (NegotiationState.OFFERED, "approval")
    assert held.offer["@id"] == "benefits:other:1"
    await pair.consumer.negotiations.approve(held.pid, by="planner")
    await pair.settle()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)


async def test_an_unasked_offer_waits_for_a_person() -> None:
    """DSP §7.2.2: the provider may begin; nothing is accepted that nobody asked for."""
    pair = connected(receive=receive_by_http)
    await pair.provider.negotiations.propose(
        pair.consumer.participant, "benefits", first_offer(pair.provider)
    )
    await pair.settle()
    held = pair.consumer.only_negotiation
    assert (held.role, held.state, held.waiting_for) == (Role.CONSUMER, NegotiationState.OFFERED, "approval")
    await pair.consumer.negotiations.approve(held.pid, by="planner")
    await pair.settle()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)


# --- repeats, strangers, wrong pids ---------------------------------------------------------------------


async def test_a_repeated_request_makes_one_process() -> None:
    """dsp.md 1.14: the same message again is answered alike; another one under the same pid is refused."""
    provider = connected().provider
    message = opening(first_offer(provider))
    city = participant("city")
    first, created = await provider.negotiations.receive_request(city, message)
    again, created_again = await provider.negotiations.receive_request(city, message)
    assert (created, created_again, first) == (True, False, again)
    with pytest.raises(IllegalTransition):
        await provider.negotiations.receive_request(city, replace(message, id="urn:m:2"))
    await provider.negotiations.receive_request(participant("youth"), replace(
        message, callback_address="http://youth.example/dsp/2025-1"))  # fmt: skip
    assert len(provider.store.state.negotiations) == 2


async def test_a_process_exists_for_its_two_parties_only() -> None:
    """dsp.md 1.2: for anybody else it is unknown, never forbidden."""
    pair = connected()
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    pid = pair.provider.only_negotiation.pid
    end = m.ContractNegotiationTerminationMessage(provider_pid=pid, consumer_pid="urn:city:2")
    for known in (pid, "urn:nothing"):
        with pytest.raises(NotFound, match="no such contract negotiation"):
            await pair.provider.negotiations.receive(participant("youth"), known, end)
        with pytest.raises(NotFound):
            await pair.provider.negotiations.get_for(participant("youth"), known)


@pytest.mark.parametrize("pids", [{"provider_pid": "urn:other"}, {"consumer_pid": "urn:other"}])
async def test_pids_must_be_those_of_the_process(pids: dict[str, str]) -> None:
    """dsp.md 1.13: a pid that does not fit the path is a malformed message."""
    pair = connected()
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    held = pair.provider.only_negotiation
    fitting: dict[str, Any] = {"provider_pid": held.provider_pid, "consumer_pid": held.consumer_pid}
    message = m.ContractNegotiationTerminationMessage(**{**fitting, **pids})
    with pytest.raises(MessageInvalid):
        await pair.provider.negotiations.receive(pair.consumer.participant, held.pid, message)
    assert pair.provider.only_negotiation == held


ELSEWHERE = [
    "http://127.0.0.1:8000/dsp",
    "http://city.example.evil.example/dsp",
    "http://city.example@evil.example/dsp",
    "https://city.example/dsp",
    "http://city.example/../admin",
    "http://city.example/dsp?x=1",
    "http://city.example/dsp#x",
    "http://city.example/%2e%2e/admin",
    "ftp://city.example",
]


@pytest.mark.parametrize("address", ELSEWHERE)
async def test_we_call_a_participant_back_only_where_the_registry_says_it_is(address: str) -> None:
    """Protocol, bad input: callbackAddress to other hosts (SSRF)."""
    provider = connected().provider
    with pytest.raises(RequestInvalid, match="callbackAddress"):
        await provider.negotiations.receive_request(
            participant("city"), opening(first_offer(provider), callback_address=address)
        )
    assert provider.store.state.negotiations == {}


async def test_a_first_message_is_no_later_one() -> None:
    """A counter-offer cannot open, and an opening offer must name its dataset."""
    provider = connected().provider
    with pytest.raises(MessageInvalid, match="providerPid"):
        await provider.negotiations.receive_request(
            participant("city"), opening(first_offer(provider), provider_pid="urn:p", callback_address="")
        )
    bare = policy.parse_offer(Fields({**first_offer(provider), "@type": "Offer"}))
    with pytest.raises(MessageInvalid, match=r"offer\.target"):
        await provider.negotiations.receive_request(
            participant("city"), replace(opening(first_offer(provider)), offer=bare)
        )


# --- trouble on the way ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ok", "lost", "answer lost"]), max_size=12))
async def test_lost_messages_and_lost_answers_do_no_harm(weather: list[str]) -> None:
    """Protocol: at-least-once with the same `@id` is exactly once: one agreement, one state, no doubles."""
    pair = connected(attempts=20)
    pending = iter(weather)

    def stormy(calm: Any) -> Any:
        async def deliver(message: OutboxMessage) -> JsonObject | None:
            now = next(pending, "ok")
            if now == "lost":
                raise PeerUnreachable("lost")
            answer: JsonObject | None = await calm(message)
            if now == "answer lost":
                raise PeerUnreachable("answer lost")
            return answer

        return deliver

    pair.consumer.outside = stormy(pair.consumer.outside)
    pair.provider.outside = stormy(pair.provider.outside)
    await pair.ask()
    for _ in range(30):
        await pair.settle()
        await pair.clock.advance(300)
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)
    assert len(pair.provider.store.state.agreements) == 1
    for side in (pair.consumer, pair.provider):
        ids = [body["@id"] for body in side.sent]
        assert len(set(ids)) == len({body["@type"] for body in side.sent}), "one id per message"
        assert side.store.state.outbox == []


async def test_a_policy_engine_that_is_down_decides_nothing_until_it_is_back() -> None:
    """Fail closed, and nothing is lost: the decision is asked for again, later."""
    pair = connected()
    permit = pair.provider.decision
    pair.provider.decision = PolicyUnavailable("the engine is down")
    await pair.ask()
    for _ in range(5):
        await pair.settle()
        await pair.clock.advance(400)
    assert pair.provider.only_negotiation.state is NegotiationState.REQUESTED
    pair.provider.decision = permit
    await pair.settle()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)


async def test_a_consumer_that_is_quicker_than_our_bookkeeping() -> None:
    """dsp.md 7.6: the verification arrives while our agreement is still in flight; and with FINALIZED on its
    way, the agreement is in force already for a transfer request."""
    pair = connected()
    await pair.ask()
    calm = pair.provider.outside

    async def slow(message: OutboxMessage) -> JsonObject | None:
        answer = await calm(message)
        while await pair.consumer.worker.step():  # the consumer answers before our call returns
            pass
        return answer

    pair.provider.outside = slow
    await pair.settle()
    assert states(pair) == (NegotiationState.FINALIZED, NegotiationState.FINALIZED)
    assert pair.provider.store.state.outbox == []


async def test_terminating_before_the_first_answer_ends_it_here() -> None:
    """Nobody can be told: the request is not sent any more, and what still comes is refused."""
    pair = connected()
    asked = await pair.ask()
    ended = await pair.consumer.negotiations.terminate(asked.pid, "changed_mind", by="planner")
    assert ended.state is NegotiationState.TERMINATED
    await pair.settle()
    assert pair.provider.store.state.negotiations == {}
