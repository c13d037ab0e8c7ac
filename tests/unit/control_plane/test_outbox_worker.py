"""The outbox worker: same `@id` on retry, order per process, backoff, giving up loudly (Protocol)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from connector.control_plane.outbox import UNTIMELY_ATTEMPTS, Backoff, OutboxWorker
from connector.control_plane.unit import AUDIT, DECISION, DIGESTION
from connector.errors import PeerRefused, PeerUnreachable, Reason, Unavailable
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.model.negotiation import NegotiationState
from connector.ports import OutboxMessage
from tests.pair import ConnectorPair, Side, connected


def test_pauses_double_up_to_a_limit_and_are_spread() -> None:
    """Exponential backoff with jitter; a number of failures too large for floats does no harm."""
    backoff = Backoff(first_seconds=0.5, longest_seconds=300)
    assert [backoff.pause(n, 1.0).total_seconds() for n in (1, 2, 3, 11, 5000)] == [0.5, 1, 2, 300, 300]
    assert backoff.pause(2, 0.0).total_seconds() == 0.5


async def asked() -> tuple[ConnectorPair, list[OutboxMessage]]:
    """A consumer whose request is due, and everything that it tries to send."""
    pair = connected()
    tried: list[OutboxMessage] = []
    await pair.ask()
    return pair, tried


def unreachable(tried: list[OutboxMessage]) -> Any:
    async def deliver(message: OutboxMessage) -> JsonObject | None:
        tried.append(message)
        raise PeerUnreachable("no answer", participant="kela")

    return deliver


def refusing(tried: list[OutboxMessage], *types: str) -> Any:
    async def deliver(message: OutboxMessage) -> JsonObject | None:
        tried.append(message)
        if not types or message.body["@type"] in types:
            raise PeerRefused(
                "no", participant="kela", status=400, reasons=[Reason(code="x", text="Not so.")]
            )
        return None

    return deliver


async def work(side: Side) -> None:
    while await side.worker.step():
        pass


async def test_a_retry_says_the_same_under_the_same_id() -> None:
    """dsp.md 1.14: 5xx and I/O errors are retried with the same message; pauses grow."""
    pair, tried = await asked()
    pair.consumer.outside = unreachable(tried)
    await work(pair.consumer)
    assert len(tried) == 1
    await pair.clock.advance(0.4)
    await work(pair.consumer)
    assert len(tried) == 1, "not due yet"
    await pair.clock.advance(0.2)
    await work(pair.consumer)
    assert [t.body for t in tried] == [tried[0].body] * 2
    assert tried[1].attempts == 1
    pair.connect()
    await pair.clock.advance(60)
    await pair.settle()
    assert pair.provider.only_negotiation.state is NegotiationState.FINALIZED


async def test_after_the_last_attempt_the_process_ends_and_the_operator_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Gives up loudly: terminated with a reason, an error in the log, the message kept."""
    pair, tried = await asked()
    pair.consumer.outside = unreachable(tried)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            await work(pair.consumer)
            await pair.clock.advance(600)
    ended = pair.consumer.only_negotiation
    assert len(tried) == 3
    assert ended.state is NegotiationState.TERMINATED
    assert ended.reasons == ("kela could not be reached for ContractRequestMessage: peer_unreachable",)
    assert "could not be reached" in caplog.text
    assert [row.message.id for row in pair.consumer.store.state.outbox if row.abandoned] == [tried[0].id]
    assert AuditEvent.NEGOTIATION_TERMINATED in pair.consumer.facts


async def test_a_refused_message_ends_the_process_and_the_peer_is_told() -> None:
    """dsp.md 1.14: on 4xx give up: the two disagree, so the process is terminated on both sides."""
    pair, tried = await asked()
    pair.consumer.outside, honest = (
        refusing(tried, "ContractAgreementVerificationMessage"),
        pair.consumer.outside,
    )

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        await refusing(tried, "ContractAgreementVerificationMessage")(message)
        return await honest(message)

    pair.consumer.outside = deliver
    await pair.settle()
    for side in (pair.consumer, pair.provider):
        assert side.only_negotiation.state is NegotiationState.TERMINATED
        assert "kela refused ContractAgreementVerificationMessage: Not so." in side.only_negotiation.reasons


async def test_what_does_not_fit_the_peers_state_yet_is_sent_again() -> None:
    """dsp.md 7.5, 7.10e: EDC has our answer to its verification before its own step is on record, and refuses
    with 409 the FINALIZED that follows at once. A moment later it takes it."""
    pair = connected(attempts=UNTIMELY_ATTEMPTS + 1)
    tried: list[OutboxMessage] = []
    await pair.ask()
    honest = pair.provider.outside

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        if message.body["@type"] == "ContractNegotiationEventMessage":
            tried.append(message)
            if len(tried) < UNTIMELY_ATTEMPTS:
                raise PeerRefused("cannot be finalized", participant="city", status=409)
        return await honest(message)

    pair.provider.outside = deliver
    for _ in range(UNTIMELY_ATTEMPTS):
        await pair.settle()
        await pair.clock.advance(600)
    assert len({message.id for message in tried}) == 1
    for side in (pair.consumer, pair.provider):
        assert side.only_negotiation.state is NegotiationState.FINALIZED


async def test_a_slow_peer_gets_a_moment_before_our_next_message() -> None:
    """dsp.md 7.5: EDC's own step overwrites what a message did that came before it: answer, then wait."""
    pair, _ = await asked()
    provider = pair.provider
    provider.negotiations._environment = replace(provider.environment, slow_peers={"city"})
    await work(pair.consumer)
    await work(provider)
    assert provider.only_negotiation.state is NegotiationState.REQUESTED
    assert not provider.sent
    await pair.clock.advance(DIGESTION.total_seconds())
    await work(provider)
    assert [message["@type"] for message in provider.sent] == ["ContractAgreementMessage"]


async def test_what_never_fits_the_peers_state_is_given_up() -> None:
    pair = connected(attempts=100)
    tried: list[OutboxMessage] = []
    await pair.ask()

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        tried.append(message)
        raise PeerRefused("cannot be requested", participant="kela", status=409)

    pair.consumer.outside = deliver
    for _ in range(UNTIMELY_ATTEMPTS + 1):
        await work(pair.consumer)
        await pair.clock.advance(600)
    assert len(tried) == UNTIMELY_ATTEMPTS + 1
    assert pair.consumer.only_negotiation.state is NegotiationState.TERMINATED


async def test_a_refused_termination_ends_it_here_all_the_same() -> None:
    """No loop: whatever the peer says, we are done with it."""
    pair, tried = await asked()
    await pair.consumer.worker.step(limit=9)
    await pair.consumer.negotiations.terminate(pair.consumer.only_negotiation.pid, "enough")
    pair.consumer.outside = refusing(tried)
    await work(pair.consumer)
    assert pair.consumer.only_negotiation.state is NegotiationState.TERMINATED
    assert [t.body["@type"] for t in tried] == ["ContractNegotiationTerminationMessage"]


async def test_messages_of_one_process_keep_their_order() -> None:
    """A later message never overtakes an earlier one that is being retried."""
    pair, tried = await asked()
    pair.provider.outside = unreachable(tried)
    while not tried:
        await pair.consumer.worker.step()
        await pair.provider.worker.step()
    await pair.provider.negotiations.terminate(pair.provider.only_negotiation.pid, "operator")
    await work(pair.provider)
    assert [t.body["@type"] for t in tried] == ["ContractAgreementMessage"]
    pair.connect()
    await pair.clock.advance(600)
    await pair.settle()
    assert [b["@type"] for b in pair.provider.sent[-2:]] == [
        "ContractAgreementMessage",
        "ContractNegotiationTerminationMessage",
    ]
    assert pair.consumer.only_negotiation.state is NegotiationState.TERMINATED


async def test_a_first_answer_of_garbage_is_lived_with() -> None:
    """dsp.md 7.7: any 2xx with any body counts; the peer's pid is learned from its next message."""
    pair, _ = await asked()
    honest = pair.consumer.outside

    async def garbled(message: OutboxMessage) -> JsonObject | None:
        await honest(message)
        return {"providerPid": 7, "consumerPid": "urn:somebody"}

    pair.consumer.outside = garbled
    await pair.settle()
    assert pair.consumer.only_negotiation.state is NegotiationState.FINALIZED
    assert pair.consumer.only_negotiation.peer_pid == pair.provider.only_negotiation.pid


def worker(side: Side, **changes: Any) -> OutboxWorker:
    values: dict[str, Any] = {
        "store": side.store,
        "clock": side.clock,
        "wake": side.environment.wake,
        "senders": {"negotiation": side.negotiations, "transfer": side.transfers},
        "deliver": side.outside,
        "audit": _recorded,
        "chance": lambda: 0.0,
        "name": "w",
    }
    return OutboxWorker(**{**values, **changes})


async def _recorded(_event: AuditEvent, **_fields: Any) -> None:
    pass


async def test_evidence_is_never_given_up() -> None:
    """An audit log that fails delays the record; nothing is dropped, and nothing else waits for it."""
    pair, _ = await asked()
    down, written = True, []

    async def audit(event: AuditEvent, **fields: Any) -> None:
        if down:
            raise Unavailable("disk full")
        written.append((event, fields["actor"]))

    flaky = worker(pair.consumer, audit=audit, backoff=Backoff(attempts=2))
    for _ in range(6):
        await flaky.step(limit=9)
        await pair.clock.advance(600)
    assert pair.provider.only_negotiation.state is NegotiationState.REQUESTED, "the message left"
    down = False
    await flaky.step(limit=9)
    assert written == [(AuditEvent.NEGOTIATION_REQUESTED, "city")]


async def test_a_broken_hook_is_loud_and_decides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Our own fault: type and place in the log, the decision stays due."""
    pair = connected(provider_script={"REQUESTED": object()})
    await pair.ask()
    await pair.settle()
    assert pair.provider.only_negotiation.state is NegotiationState.REQUESTED
    kinds = [row.message.kind for row in pair.provider.store.state.outbox]
    assert kinds == [DECISION]
    assert "failed" in caplog.text


async def test_a_store_that_is_down_does_not_end_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Unavailable is waited out."""
    pair, _ = await asked()

    class Down:
        def transaction(self, **_: Any) -> Any:
            raise Unavailable("no database")

    running = asyncio.create_task(worker(pair.consumer, store=Down()).run())
    await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "the outbox cannot be read" in caplog.text


async def test_a_slow_peer_holds_up_nobody_else() -> None:
    """Slow-loris peer: others' messages go on; stopping the worker leaves the row to its lease."""
    pair, _ = await asked()
    await pair.ask()
    slow = min(pair.consumer.store.state.negotiations)
    honest, stuck = pair.consumer.outside, asyncio.Event()

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        if message.process_pid == slow:
            await stuck.wait()
        return await honest(message)

    running = asyncio.create_task(worker(pair.consumer, deliver=deliver).run())
    for _ in range(200):
        await asyncio.sleep(0)
        if pair.provider.store.state.negotiations:
            break
    assert len(pair.provider.store.state.negotiations) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await pair.clock.advance(60)
    await pair.settle()
    assert all(n.state is NegotiationState.FINALIZED for n in pair.consumer.store.state.negotiations.values())


async def test_running_workers_finish_a_negotiation_without_a_poll() -> None:
    """Woken by commits, not by the clock, which stands still here."""
    pair, _ = await asked()
    tasks = [asyncio.create_task(side.worker.run()) for side in (pair.consumer, pair.provider)]
    for _ in range(10_000):
        await asyncio.sleep(0)
        if AuditEvent.AGREEMENT_FINALIZED in pair.consumer.facts:
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pair.assert_same()
    assert pair.provider.only_negotiation.state is NegotiationState.FINALIZED


async def test_facts_reach_the_log_in_the_order_of_commits() -> None:
    """The audit queue of a process is in order and apart from its messages."""
    pair, _ = await asked()
    rows = pair.consumer.store.state.outbox
    assert {row.message.kind for row in rows} == {AUDIT, "negotiation"}
    assert len({row.message.process_pid for row in rows}) == 2
