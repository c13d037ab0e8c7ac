"""Transfers and agreements between two connectors with the product's hooks (DSP 2025-1 §9; Protocol)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connector.dsp import messages as m
from connector.errors import (
    Conflict,
    IllegalTransition,
    MessageInvalid,
    NotFound,
    NotPermitted,
    PeerRefused,
    RequestInvalid,
)
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.policy import AgreementState, Constraint, LogicalConstraint, Policy, Rule
from connector.model.transfer import DataAddress, GrantState, TransferState
from tests.clocks import START
from tests.pair import PURPOSE, ConnectorPair, connected, dataset, participant, receive_by_http, terms

PULL, PUSH = TransferFormat.FEDERATED_QUERY_PULL, TransferFormat.CLOUD_EVENTS_PUSH
GATEWAY = DataAddress(endpoint_type="CloudEvents", endpoint="http://city.example/events/v1")


def states(pair: ConnectorPair) -> tuple[TransferState, TransferState]:
    return pair.consumer.only_transfer.state, pair.provider.only_transfer.state


async def agreed(**changes: Any) -> tuple[ConnectorPair, str]:
    pair = connected(datasets={"benefits": dataset(**changes)})
    return pair, await pair.negotiated()


def asking(agreement_id: str, **changes: Any) -> m.TransferRequestMessage:
    values: dict[str, Any] = {
        "id": "urn:m:1",
        "consumer_pid": "urn:t",
        "agreement_id": agreement_id,
        "format": PULL.value,
        "callback_address": "http://city.example/dsp/2025-1",
    }
    return m.TransferRequestMessage(**{**values, **changes})


async def test_a_pull_starts_with_an_address_that_carries_no_token() -> None:
    """Architecture, tokens and purpose: the DataAddress names endpoint, token endpoint and resource."""
    pair = connected(receive=receive_by_http)
    transfer = await pair.started(await pair.negotiated())
    assert states(pair) == (TransferState.STARTED, TransferState.STARTED)
    address = pair.consumer.only_transfer.data_address
    assert address == transfer.data_address
    assert address == DataAddress(
        endpoint_type="FederatedQuery",
        endpoint="http://kela.example/data/v1/datasets/benefits",
        properties={
            "tokenEndpoint": "http://kela.example/oauth2/token",
            "resource": "http://kela.example/data/v1",
        },
    )
    assert AuditEvent.TRANSFER_STARTED in pair.provider.facts
    assert transfer.open


async def test_a_push_needs_an_address_of_the_consumers_own() -> None:
    """CloudEvents-PUSH: where to push is the consumer's to say, below its own base URL."""
    pair, agreement_id = await agreed()
    await pair.consumer.transfers.request(agreement_id, PUSH, data_address=GATEWAY)
    await pair.settle()
    assert states(pair) == (TransferState.STARTED, TransferState.STARTED)
    assert pair.provider.only_transfer.data_address == GATEWAY
    elsewhere = replace(GATEWAY, endpoint="http://127.0.0.1:1/events")
    with pytest.raises(RequestInvalid, match=r"dataAddress\.endpoint"):
        await pair.provider.transfers.receive_request(
            participant("city"), asking(agreement_id, format=PUSH.value, data_address=elsewhere)
        )


async def test_what_the_dataset_is_not_offered_in_is_refused_with_reasons() -> None:
    """Product hook on REQUESTED: format, address, agreement."""
    pair, agreement_id = await agreed(formats=(PULL, PUSH, TransferFormat.KAFKA_PULL))
    for format_, reason in (
        (TransferFormat.HTTP_DATA_PULL, "The dataset is not offered in this format."),
        (PUSH, "A push needs a dataAddress with an endpoint."),
        (TransferFormat.KAFKA_PULL, "This connector cannot serve Kafka-PULL."),
    ):
        asked = await pair.consumer.transfers.request(agreement_id, format_)
        await pair.settle()
        ended = pair.consumer.transfer(asked.pid)
        assert (ended.state, ended.reasons) == (TransferState.TERMINATED, (reason,))


async def test_an_agreement_is_of_use_to_its_consumer_only() -> None:
    """dsp.md 1.11: the agreement must be between the two; else it is unknown."""
    pair, agreement_id = await agreed()
    for peer, wanted in (("youth", agreement_id), ("city", "urn:nothing")):
        message = asking(wanted, callback_address=f"http://{peer}.example/dsp/2025-1")
        with pytest.raises(NotFound, match="no such agreement"):
            await pair.provider.transfers.receive_request(participant(peer), message)
    with pytest.raises(NotFound):
        await pair.provider.transfers.request(agreement_id, PULL)  # the provider is no consumer of it
    with pytest.raises(MessageInvalid, match="format"):
        await pair.provider.transfers.receive_request(
            participant("city"), asking(agreement_id, format="Carrier-Pigeon")
        )


async def test_a_repeated_request_makes_one_process() -> None:
    """dsp.md 1.11: a known consumerPid changes nothing and is answered with what there is."""
    pair, agreement_id = await agreed()
    city, kela = participant("city"), pair.provider.transfers
    first, created = await kela.receive_request(city, asking(agreement_id))
    again, created_again = await kela.receive_request(city, asking(agreement_id, id="urn:m:2"))
    assert (created, created_again, again) == (True, False, first)
    with pytest.raises(IllegalTransition):
        await kela.receive_request(city, asking(agreement_id, format=PUSH.value))


# --- stopping -------------------------------------------------------------------------------------------


async def test_a_suspension_holds_before_the_consumer_has_heard_of_it() -> None:
    """Architecture, idea 3: the grant ends in the same commit, and its streams are told right after it."""
    pair, agreement_id = await agreed()
    transfer = await pair.started(agreement_id)
    await pair.provider.grant(transfer)
    suspended = await pair.provider.transfers.suspend(transfer.pid, "maintenance", by="operator")
    assert not suspended.open
    (stopped,) = pair.provider.stopped
    assert (stopped.state, stopped.ended_reason, stopped.epoch) == (GrantState.ENDED, "transfer_suspended", 2)
    assert pair.consumer.only_transfer.state is TransferState.STARTED
    await pair.settle()
    assert states(pair) == (TransferState.SUSPENDED, TransferState.SUSPENDED)


async def test_the_provider_resumes_what_it_suspended_and_the_consumer_cannot() -> None:
    """A provider's suspension binds the consumer, on its own side and at the provider's door."""
    pair, agreement_id = await agreed()
    transfer = await pair.started(agreement_id)
    await pair.provider.transfers.suspend(transfer.pid)
    await pair.settle()
    with pytest.raises(IllegalTransition, match="only the provider"):
        await pair.consumer.transfers.resume(pair.consumer.only_transfer.pid)
    forced = m.TransferStartMessage(provider_pid=transfer.pid, consumer_pid=transfer.peer_pid)
    with pytest.raises(IllegalTransition):
        await pair.provider.transfers.receive(pair.consumer.participant, transfer.pid, forced)
    await pair.provider.transfers.resume(transfer.pid)
    await pair.settle()
    assert states(pair) == (TransferState.STARTED, TransferState.STARTED)
    assert pair.provider.only_transfer.open


async def test_the_consumer_suspends_resumes_and_completes() -> None:
    """DSP §9: either side may; the provider's grants end on arrival."""
    pair, agreement_id = await agreed()
    transfer = await pair.started(agreement_id)
    ours = pair.consumer.only_transfer.pid
    for number, (act, end, reason) in enumerate((
        (pair.consumer.transfers.suspend, TransferState.SUSPENDED, "transfer_suspended"),
        (pair.consumer.transfers.resume, TransferState.STARTED, ""),
        (pair.consumer.transfers.complete, TransferState.COMPLETED, "transfer_ended"),
    )):  # fmt: skip
        if reason:
            await pair.provider.grant(transfer, f"grant-{number}")
        await act(ours)
        await pair.settle()
        assert states(pair) == (end, end)
        if reason:
            assert pair.provider.stopped[-1].ended_reason == reason
    with pytest.raises(IllegalTransition):
        await pair.provider.transfers.terminate(transfer.pid, "late")


async def test_both_sides_stop_at_once() -> None:
    """Crossing messages: the consumer completes while the provider terminates; both end TERMINATED."""
    pair, agreement_id = await agreed()
    transfer = await pair.started(agreement_id)
    await pair.consumer.transfers.complete(pair.consumer.only_transfer.pid)
    await pair.provider.transfers.terminate(transfer.pid, "operator")
    await pair.settle()
    assert states(pair) == (TransferState.TERMINATED, TransferState.TERMINATED)
    for side in (pair.consumer, pair.provider):
        assert [r for r in side.store.state.outbox if not r.abandoned] == []


# --- agreements -----------------------------------------------------------------------------------------


async def test_ending_an_agreement_ends_everything_under_it_on_both_sides() -> None:
    """DSP has no message for it: transfers are terminated with a code; records, grants, events follow."""
    pair, agreement_id = await agreed()
    transfer = await pair.started(agreement_id)
    await pair.provider.grant(transfer)
    ended = await pair.provider.agreements.terminate(agreement_id, "The purpose is served.", by="registrar")
    assert (ended.state, ended.ended_reason) == (AgreementState.TERMINATED, "The purpose is served.")
    assert [g.ended_reason for g in pair.provider.stopped] == ["agreement_terminated"]
    with pytest.raises(NotPermitted, match="has ended"):
        await pair.provider.agreements.valid(agreement_id)
    await pair.settle()
    assert states(pair) == (TransferState.TERMINATED, TransferState.TERMINATED)
    theirs = await pair.consumer.agreements.get(agreement_id)
    assert (theirs.state, theirs.ended_reason) == (AgreementState.TERMINATED, "The purpose is served.")
    for side in (pair.consumer, pair.provider):
        assert side.facts.count(AuditEvent.AGREEMENT_TERMINATED) == 1
        assert [e.type for _, e in side.store.state.events][-1] == "fi.dataspace.agreement.terminated.v1"
    with pytest.raises(NotPermitted):
        await pair.consumer.transfers.request(agreement_id, PULL)


async def test_ending_an_agreement_does_not_wait_for_a_peer_that_is_down() -> None:
    """The stop holds here at once; the peer hears of it when it is back."""
    pair, agreement_id = await agreed()
    transfer = await pair.started(agreement_id)

    async def down(_message: Any) -> Any:
        raise PeerRefused("gone", status=410)

    pair.provider.outside = down
    await pair.provider.agreements.terminate(agreement_id, "Over.")
    assert not pair.provider.transfer(transfer.pid).open
    while await pair.provider.worker.step():
        pass
    ended = pair.provider.transfer(transfer.pid)
    assert ended.state is TransferState.TERMINATED
    assert ended.reasons == ("Over.", "city refused TransferTerminationMessage: 410")


async def test_the_consumer_may_end_it_as_well() -> None:
    """The provider's grants end when the consumer's word arrives."""
    pair, agreement_id = await agreed()
    await pair.provider.grant(await pair.started(agreement_id))
    await pair.consumer.agreements.terminate(agreement_id, "No longer needed.")
    await pair.settle()
    assert pair.provider.stopped[-1].state is GrantState.ENDED
    assert (await pair.provider.agreements.get(agreement_id)).state is AgreementState.TERMINATED


async def test_an_end_is_for_good_and_said_once() -> None:
    """Skeleton, bad input: typed errors."""
    pair, agreement_id = await agreed()
    await pair.provider.agreements.terminate(agreement_id, "Over.")
    with pytest.raises(Conflict, match="ended already"):
        await pair.provider.agreements.terminate(agreement_id, "Over.")
    with pytest.raises(NotFound):
        await pair.provider.agreements.terminate("urn:nothing", "Over.")
    assert await pair.provider.agreements.list(counter_party="city")
    assert not await pair.provider.agreements.list(counter_party="youth")


async def test_an_agreement_that_is_not_final_gives_nothing() -> None:
    """Signed is not in force: the consumer has still to verify."""
    pair = connected()
    await pair.ask()
    while not pair.provider.store.state.agreements:
        await pair.consumer.worker.step()
        await pair.provider.worker.step()
    (record,) = pair.provider.store.state.agreements.values()
    with pytest.raises(NotPermitted, match="not in force yet"):
        await pair.provider.agreements.valid(record.agreement.id)


def until(date: Any, operator: str = "lteq") -> Constraint:
    return Constraint(left_operand="dateTime", operator=operator, right_operand=date)


SOON, LATER = "2026-11-23T00:00:00Z", "2027-11-22T00:00:00Z"
WINDOWS: dict[str, tuple[tuple[Any, ...], bool, bool]] = {
    "no date": ((PURPOSE,), True, True),
    "until soon": ((until(SOON),), True, False),
    "typed literal": ((until({"@value": SOON, "@type": "xsd:dateTime"}),), True, False),
    "until later": ((until(LATER, "lt"),), True, True),
    "from soon": ((until(SOON, "gteq"),), False, True),
    "both ends": ((until(SOON, "gt"), until(LATER)), False, True),
    "inside and": ((LogicalConstraint(operator="and", constraints=(until(SOON),)),), True, False),
    "unreadable date": ((until("next year"),), False, False),
    "no date at all": ((until(["x"]),), False, False),
    "unknown operator": ((until(SOON, "isA"),), False, False),
}  # fmt: skip


@pytest.mark.parametrize(("constraints", "today", "in_two_days"), WINDOWS.values(), ids=WINDOWS)
async def test_dates_are_checked_at_use(constraints: tuple[Any, ...], today: bool, in_two_days: bool) -> None:
    """Protocol: validity is checked at use; a date that cannot be read opens nothing."""
    dated = Policy(permissions=(Rule(action="use", constraints=constraints),))
    pair, agreement_id = await agreed(offers=(terms(policy=dated),))
    assert pair.clock.now() == START
    for fine in (today, in_two_days):
        if fine:
            assert await pair.provider.agreements.valid(agreement_id)
        else:
            with pytest.raises(NotPermitted, match="time"):
                await pair.provider.agreements.valid(agreement_id)
        await pair.clock.advance(timedelta(days=2).total_seconds())


async def test_one_open_permission_of_several_is_enough() -> None:
    """Permissions are alternatives; each has its own dates."""
    rules = (Rule(action="use", constraints=(until(SOON, "gt"),)), Rule(action="use", constraints=(PURPOSE,)))
    pair, agreement_id = await agreed(offers=(terms(policy=Policy(permissions=rules)),))
    assert await pair.provider.agreements.valid(agreement_id)
