"""State machines under arbitrary conversations: illegal moves change nothing, ends are for good."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.dsp import messages as m
from connector.dsp import negotiation, transfer
from connector.dsp.machine import MAX_REMEMBERED
from connector.dsp.policy import parse_offer
from connector.dsp.wire import Fields
from connector.errors import Conflict, IllegalTransition, MessageInvalid
from connector.model.catalog import TransferFormat
from connector.model.negotiation import ContractNegotiation, NegotiationState, Role
from connector.model.transfer import DataAddress, TransferProcess, TransferState
from tests.spec.samples import ADDRESS, AGREEMENT, OFFER, PIDS

NOW = datetime(2026, 11, 22, tzinfo=UTC)
C, P = Role.CONSUMER, Role.PROVIDER
ROLES = st.sampled_from(Role)

NEGOTIATION_MESSAGES: tuple[m.NegotiationMessage, ...] = (
    m.ContractRequestMessage(**PIDS, offer=OFFER),
    m.ContractOfferMessage(**PIDS, offer=OFFER),
    m.ContractAgreementMessage(**PIDS, agreement=AGREEMENT),
    m.ContractAgreementVerificationMessage(**PIDS),
    m.ContractNegotiationEventMessage(**PIDS, event_type=m.NegotiationEvent.ACCEPTED),
    m.ContractNegotiationEventMessage(**PIDS, event_type=m.NegotiationEvent.FINALIZED),
    m.ContractNegotiationTerminationMessage(**PIDS, code="x", reason=("because",)),
)
TRANSFER_MESSAGES: tuple[m.TransferMessage, ...] = (
    m.TransferStartMessage(**PIDS, data_address=ADDRESS),
    m.TransferSuspensionMessage(**PIDS, reason=("because",)),
    m.TransferCompletionMessage(**PIDS),
    m.TransferTerminationMessage(**PIDS),
)


def a_negotiation(role: Role, state: NegotiationState, **changes: Any) -> ContractNegotiation:
    values: dict[str, Any] = {
        "pid": PIDS[f"{role}_pid"],
        "peer_pid": PIDS[f"{role.other}_pid"],
        "role": role,
        "state": state,
        "counter_party": "peer",
        "peer_address": "http://peer.example/dsp/2025-1",
        "dataset_id": "benefits",
        "offer": OFFER.document,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return ContractNegotiation(**{**values, **changes})


def a_transfer(role: Role, state: TransferState, **changes: Any) -> TransferProcess:
    values: dict[str, Any] = {
        "pid": PIDS[f"{role}_pid"],
        "peer_pid": PIDS[f"{role.other}_pid"],
        "role": role,
        "state": state,
        "counter_party": "peer",
        "peer_address": "http://peer.example/dsp/2025-1",
        "agreement_id": "urn:uuid:a",
        "format": TransferFormat.FEDERATED_QUERY_PULL,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return TransferProcess(**{**values, **changes})


MACHINES: tuple[tuple[Any, Any, list[Any], tuple[Any, ...]], ...] = (
    (negotiation, a_negotiation, list(NegotiationState), NEGOTIATION_MESSAGES),
    (transfer, a_transfer, list(TransferState), TRANSFER_MESSAGES),
)


@given(st.data())
def test_only_the_table_moves_a_process(data: st.DataObject) -> None:
    """Protocol: illegal moves change nothing, roles cannot be swapped, final states stay; both protocols."""
    rules, make, states, messages = data.draw(st.sampled_from(MACHINES))
    process: Any = make(data.draw(ROLES), data.draw(st.sampled_from(states)))
    for _ in range(data.draw(st.integers(1, 8))):
        sender, message = data.draw(ROLES), data.draw(st.sampled_from(messages))
        expected = rules.TABLE[process.state].get((sender, message.kind))
        before = process
        try:
            process = rules.apply(process, sender, message, at=NOW)
        except IllegalTransition:
            assert process is before
            assert expected is None or process.suspended_by is P
        else:
            assert process.state is expected
            assert not before.state.final


@given(ROLES, st.sampled_from(range(2)), st.data())
def test_the_same_rules_bind_both_roles(role: Role, which: int, data: st.DataObject) -> None:
    """The table does not know whose copy it moves: sender and receiver end in the same state."""
    rules, make, states, messages = MACHINES[which]
    state, message = data.draw(st.sampled_from(states)), data.draw(st.sampled_from(messages))
    ours: Any = make(role, state)
    theirs: Any = make(role.other, state)
    try:
        decided = rules.decide(ours, message, at=NOW)
    except IllegalTransition:
        with pytest.raises(IllegalTransition):
            rules.receive(theirs, message, at=NOW)
        return
    assert decided.state is state, "decided is not acknowledged"
    assert decided.sending == message.kind
    sent = rules.acknowledge(decided, at=NOW)
    received = rules.receive(theirs, message, at=NOW)
    assert sent.state is received.state is rules.TABLE[state][role, message.kind]
    assert sent.sending == ""


def test_one_message_at_a_time_but_a_termination_need_not_wait() -> None:
    """dsp.md 1.14: what is decided and not acknowledged yet blocks the next step, not the end."""
    verifying = negotiation.decide(a_negotiation(C, NegotiationState.AGREED), NEGOTIATION_MESSAGES[3], at=NOW)
    with pytest.raises(Conflict, match="not been acknowledged"):
        negotiation.decide(verifying, NEGOTIATION_MESSAGES[3], at=NOW)
    ending = negotiation.decide(verifying, NEGOTIATION_MESSAGES[6], at=NOW)
    assert ending.sending == negotiation.TERMINATION
    with pytest.raises(Conflict):
        negotiation.decide(ending, NEGOTIATION_MESSAGES[6], at=NOW)


def test_an_end_that_is_on_its_way_is_not_overtaken_by_another() -> None:
    """The peer may hold FINALIZED already, where a termination would be refused: the two would differ."""
    finalizing = negotiation.decide(
        a_negotiation(P, NegotiationState.VERIFIED), NEGOTIATION_MESSAGES[5], at=NOW
    )
    with pytest.raises(Conflict, match="not been acknowledged"):
        negotiation.decide(finalizing, NEGOTIATION_MESSAGES[6], at=NOW)


def test_an_answer_tells_that_ours_arrived() -> None:
    """dsp.md 7.6: the peer may react before our HTTP call returns."""
    agreeing = negotiation.decide(
        a_negotiation(P, NegotiationState.REQUESTED), NEGOTIATION_MESSAGES[2], at=NOW
    )
    verified = negotiation.receive(agreeing, NEGOTIATION_MESSAGES[3], at=NOW)
    assert (verified.state, verified.sending) == (NegotiationState.VERIFIED, "")


def test_the_peer_may_answer_a_first_message_that_is_still_in_flight() -> None:
    """dsp.md 7.6: accept the peer's offer while our own request is in flight, and learn its pid from it."""
    asked = a_negotiation(C, NegotiationState.REQUESTED, peer_pid="", sending=negotiation.REQUEST)
    offered = negotiation.receive(asked, NEGOTIATION_MESSAGES[1], at=NOW)
    assert (offered.state, offered.peer_pid) == (NegotiationState.OFFERED, "urn:uuid:p")


CROSSINGS = [
    (transfer.SUSPENSION, transfer.SUSPENSION, TransferState.SUSPENDED),
    (transfer.SUSPENSION, transfer.COMPLETION, TransferState.COMPLETED),
    (transfer.SUSPENSION, transfer.TERMINATION, TransferState.TERMINATED),
    (transfer.COMPLETION, transfer.COMPLETION, TransferState.COMPLETED),
    (transfer.COMPLETION, transfer.TERMINATION, TransferState.TERMINATED),
    (transfer.TERMINATION, transfer.TERMINATION, TransferState.TERMINATED),
]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("weaker", "stronger", "end"), CROSSINGS)
def test_messages_that_cross_leave_both_sides_alike(
    weaker: str, stronger: str, end: TransferState, swapped: bool
) -> None:
    """Both speak at once in STARTED: the stronger message stands on both sides, whoever sent it."""
    by_kind = {message.kind: message for message in TRANSFER_MESSAGES}
    one_role, other_role = (P, C) if swapped else (C, P)
    one = transfer.decide(a_transfer(one_role, TransferState.STARTED), by_kind[weaker], at=NOW)
    other = transfer.decide(a_transfer(other_role, TransferState.STARTED), by_kind[stronger], at=NOW)
    one = transfer.receive(one, by_kind[stronger], at=NOW)
    assert (one.state, one.sending) == (end, "")
    if weaker == stronger:
        other = transfer.receive(other, by_kind[weaker], at=NOW)
    else:
        with pytest.raises(IllegalTransition):
            transfer.receive(other, by_kind[weaker], at=NOW)
        other = transfer.acknowledge(other, at=NOW)
    assert other.state is end


def test_a_termination_overtakes_the_finalization_it_crossed() -> None:
    """Both sides end in TERMINATED: an agreement that one side gave up is in force for nobody."""
    finalize, end = NEGOTIATION_MESSAGES[5], NEGOTIATION_MESSAGES[6]
    provider = negotiation.decide(a_negotiation(P, NegotiationState.VERIFIED), finalize, at=NOW)
    consumer = negotiation.decide(a_negotiation(C, NegotiationState.VERIFIED), end, at=NOW)
    with pytest.raises(IllegalTransition, match="crossed"):
        negotiation.receive(consumer, finalize, at=NOW)
    assert negotiation.receive(provider, end, at=NOW).state is NegotiationState.TERMINATED
    assert negotiation.acknowledge(consumer, at=NOW).state is NegotiationState.TERMINATED


def test_a_consumer_cannot_resume_what_the_provider_suspended() -> None:
    """Beside the table: a provider's suspension binds; its own resumption, or the consumer's own, is free."""
    start, suspend = TRANSFER_MESSAGES[:2]
    started = a_transfer(P, TransferState.STARTED)
    by_provider = transfer.apply(started, P, suspend, at=NOW)
    with pytest.raises(IllegalTransition, match="only the provider"):
        transfer.receive(by_provider, start, at=NOW)
    assert transfer.apply(by_provider, P, start, at=NOW).state is TransferState.STARTED
    by_consumer = transfer.apply(started, C, suspend, at=NOW)
    assert transfer.receive(by_consumer, start, at=NOW).state is TransferState.STARTED
    both = transfer.receive(transfer.decide(started, suspend, at=NOW), suspend, at=NOW)
    assert both.suspended_by is P


def test_data_flows_only_while_neither_side_has_stopped_it() -> None:
    """TransferProcess.open: a stop that we decided on holds before the peer has heard of it."""
    requested = a_transfer(P, TransferState.REQUESTED)
    starting = transfer.decide(requested, TRANSFER_MESSAGES[0], at=NOW)
    started = transfer.acknowledge(starting, at=NOW)
    stopping = transfer.decide(started, TRANSFER_MESSAGES[1], at=NOW)
    assert [t.open for t in (requested, starting, started, stopping)] == [False, True, True, False]


@pytest.mark.parametrize("message_id", ["urn:m:1", ""])
def test_a_repeat_is_recognised_and_the_same_words_said_anew_are_not(message_id: str) -> None:
    """dsp.md 1.14: by `@id`; without one, only the very last message, while its state still stands."""
    suspend = m.TransferSuspensionMessage(**PIDS, id=message_id)
    suspended = transfer.receive(a_transfer(P, TransferState.STARTED), suspend, at=NOW)
    assert transfer.is_repeat(suspended, suspend)
    resumed = transfer.apply(suspended, C, TRANSFER_MESSAGES[0], at=NOW)
    assert transfer.is_repeat(resumed, suspend) is bool(message_id)
    assert not transfer.is_repeat(resumed, m.TransferSuspensionMessage(**PIDS, id="urn:m:2"))


def test_memory_of_messages_is_bounded() -> None:
    """A peer that suspends and resumes all day does not make the process grow."""
    process = a_transfer(P, TransferState.STARTED)
    for n in range(40):
        message = (
            m.TransferSuspensionMessage(**PIDS, id=f"m{n}")
            if n % 2 == 0
            else m.TransferStartMessage(**PIDS, id=f"m{n}")
        )
        process = transfer.receive(process, message, at=NOW + timedelta(seconds=n))
    assert len(process.received) == MAX_REMEMBERED
    assert process.received[-1] == "m39"


def test_messages_leave_their_content() -> None:
    """Offers, agreement id, reasons and addresses are kept with the process."""
    requested = a_negotiation(P, NegotiationState.OFFERED)
    other = {**OFFER.document, "@id": "benefits:other:1"}
    counter = m.ContractRequestMessage(**PIDS, offer=parse_offer(Fields(other)))
    countered = negotiation.receive(requested, counter, at=NOW)
    assert (countered.offer["@id"], countered.answered_offer) == ("benefits:other:1", OFFER.document)
    agreed = negotiation.receive(
        a_negotiation(C, NegotiationState.REQUESTED), NEGOTIATION_MESSAGES[2], at=NOW
    )
    assert agreed.agreement_id == "urn:uuid:a"
    ended = negotiation.receive(agreed, NEGOTIATION_MESSAGES[6], at=NOW)
    assert ended.reasons == ("because",)
    started = transfer.receive(a_transfer(C, TransferState.REQUESTED), TRANSFER_MESSAGES[0], at=NOW)
    assert started.data_address == ADDRESS


def test_an_offer_about_another_dataset_is_refused() -> None:
    """A negotiation is about one dataset from beginning to end."""
    elsewhere = parse_offer(Fields({**OFFER.document, "target": "clients"}))
    with pytest.raises(MessageInvalid, match=r"offer\.target"):
        negotiation.receive(
            a_negotiation(P, NegotiationState.OFFERED),
            m.ContractRequestMessage(**PIDS, offer=elsewhere),
            at=NOW,
        )


def test_a_provider_may_tell_a_new_address_for_what_is_started() -> None:
    """Beside the table: tokens die with a suspension, and whoever resumed needs another. Nothing moves."""
    start = TRANSFER_MESSAGES[0]
    assert isinstance(start, m.TransferStartMessage)
    started = a_transfer(C, TransferState.STARTED, received=("before",))
    told = transfer.with_new_address(started, start, at=NOW)
    assert told is not None
    assert (told.state, told.data_address) == (TransferState.STARTED, start.data_address)
    assert told.received == ("before", start.key)
    no_address = replace(start, data_address=None)
    for other, message in (
        (a_transfer(P, TransferState.STARTED), start),
        (a_transfer(C, TransferState.REQUESTED), start),
        (a_transfer(C, TransferState.SUSPENDED), start),
        (a_transfer(C, TransferState.TERMINATED), start),
        (a_transfer(C, TransferState.STARTED, sending=transfer.SUSPENSION), start),
        (a_transfer(C, TransferState.STARTED), no_address),
        (a_transfer(C, TransferState.STARTED), TRANSFER_MESSAGES[1]),
    ):
        assert transfer.with_new_address(other, message, at=NOW) is None


def test_no_token_outlives_its_transfer() -> None:
    """What an address may show stays, for whoever looks back."""
    secret = DataAddress(
        endpoint_type="HttpData",
        endpoint="http://kela.example/x",
        properties={"authorization": "t", "authType": "bearer", "refreshToken": "r", "tokenEndpoint": "u"},
    )
    by_kind = {message.kind: message for message in TRANSFER_MESSAGES}
    for role in (C, P):
        held = a_transfer(role, TransferState.STARTED, data_address=secret)
        suspended = transfer.decide(held, by_kind[transfer.SUSPENSION], at=NOW)
        assert suspended.data_address == secret
        for kind in (transfer.COMPLETION, transfer.TERMINATION):
            for ended in (
                transfer.decide(held, by_kind[kind], at=NOW),
                transfer.receive(held, by_kind[kind], at=NOW),
                transfer.apply(held, role, by_kind[kind], at=NOW),
            ):
                kept = ended.data_address
                assert kept is not None
                assert (kept.endpoint, kept.properties) == (
                    secret.endpoint,
                    {"authType": "bearer", "tokenEndpoint": "u"},
                )
