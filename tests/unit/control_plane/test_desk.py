"""What a connector commits it also does, at once; what it leaves undone is found by the lease (Protocol)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from connector.control_plane.desk import Task
from connector.control_plane.hooks import Hold
from connector.control_plane.process import Selective
from connector.control_plane.unit import AUDIT, DECISION
from connector.errors import Conflict, PeerRefused, PeerUnreachable, Unavailable
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.model.negotiation import NegotiationState
from connector.ports import OutboxMessage
from tests.fakes import LONG_AGO, MemoryTransaction, Row
from tests.pair import ConnectorPair, Side, connected


@asynccontextmanager
async def running(*sides: Side) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(side.worker.run()) for side in sides]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], Any]) -> None:
    """The clock stands still: what needs a poll does not happen."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0)


def rows(side: Side, kind: str = "") -> list[Row]:
    return [row for row in side.store.state.outbox if row.message.kind == kind or not kind]


def finalized(pair: ConnectorPair) -> bool:
    sides = (pair.consumer, pair.provider)
    found = [n for side in sides for n in side.store.state.negotiations.values()]
    return len(found) >= 2 and all(n.state is NegotiationState.FINALIZED for n in found)


def counted(side: Side, monkeypatch: Any) -> list[int]:
    """How many rows each look into the store gave."""
    looks: list[int] = []
    honest = MemoryTransaction.due_messages

    async def due_messages(self: MemoryTransaction, *args: Any, **kwargs: Any) -> Sequence[OutboxMessage]:
        found = await honest(self, *args, **kwargs)
        if kwargs["worker"] == side.environment.desk.worker:
            looks.append(len(found))
        return found

    monkeypatch.setattr(MemoryTransaction, "due_messages", due_messages)
    return looks


def attended(side: Side, take: Callable[[Sequence[Task]], None] = lambda _: None) -> None:
    """Somebody stands at the desk who takes everything, and dies of it."""
    side.environment.desk.open(take)


# --- at once -------------------------------------------------------------------------------------------


async def test_a_negotiation_asks_the_store_for_nothing(monkeypatch: Any) -> None:
    """Every step comes over the desk: the outbox is only looked into when workers start."""
    pair = connected()
    looks = counted(pair.consumer, monkeypatch)
    async with running(pair.consumer, pair.provider):
        await pair.ask()
        await until(lambda: finalized(pair) and not rows(pair.consumer) and not rows(pair.provider))
    assert sum(looks) == 0
    assert AuditEvent.AGREEMENT_FINALIZED in pair.consumer.facts


async def test_a_hook_that_knows_where_it_would_hold_is_not_asked_there() -> None:
    """No row, no commit: the product decides in five of the states (Protocol: decision hook)."""
    pair = connected()
    assert isinstance(pair.consumer._product_negotiation_hook(), Selective)
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    assert pair.consumer.only_negotiation.state is NegotiationState.REQUESTED
    assert rows(pair.consumer, DECISION) == []
    for state in NegotiationState:
        hook = pair.consumer._product_negotiation_hook()
        asked = replace(pair.consumer.only_negotiation, state=state)
        assert hook.concerns(asked) or await hook.decide(asked) == Hold()


async def test_a_hook_that_does_not_know_is_asked_after_every_transition() -> None:
    """A script of a test, or another product's hook."""
    pair = connected(consumer_script={}, provider_script={})
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    assert [row.message.body["state"] for row in rows(pair.consumer, DECISION)] == ["REQUESTED"]


# --- killed between commit and send ----------------------------------------------------------------------


async def test_what_a_dead_worker_was_handed_is_found_when_its_lease_runs_out() -> None:
    """Killed right after the commit: nothing is lost, and it is done as if nothing had been."""
    pair = connected()
    attended(pair.consumer)
    await pair.ask()
    assert {row.leased_to for row in rows(pair.consumer)} == {"city"}
    pair.consumer.environment.desk.close()
    await pair.settle()
    assert not pair.provider.store.state.negotiations, "leased still"
    await pair.clock.advance(31)
    await pair.settle()
    assert finalized(pair)


async def test_a_worker_that_stops_leaves_nothing_leased() -> None:
    """An orderly restart need not wait for leases."""
    pair = connected()
    stuck = asyncio.Event()

    async def deliver(_message: OutboxMessage) -> JsonObject | None:
        await stuck.wait()
        return None

    pair.consumer.outside = deliver
    async with running(pair.consumer):
        await pair.ask()
        await until(lambda: pair.consumer.sent)
    assert {row.leased_until for row in rows(pair.consumer)} == {LONG_AGO}
    pair.connect()
    await pair.settle()
    assert finalized(pair)


async def test_what_could_not_be_committed_is_not_handed_over() -> None:
    pair = connected()
    taken: list[Task] = []
    attended(pair.consumer, taken.extend)

    async def fail(_unit: Any) -> None:
        raise Conflict("no")

    try:
        async with pair.consumer.environment.unit() as unit:
            await unit.record(AuditEvent.NEGOTIATION_HELD, "urn:x", actor="a")
            await fail(unit)
    except Conflict:
        pass
    assert taken == []
    assert rows(pair.consumer) == []


async def test_later_work_is_left_in_the_store_and_remembered() -> None:
    """`decision_delay`: the worker looks again when it is due, not a poll later."""
    pair = connected()
    later = replace(pair.provider.environment, decision_delay=timedelta(milliseconds=200))
    pair.provider.negotiations._environment = later
    async with running(pair.consumer, pair.provider):
        await pair.ask()
        await until(lambda: rows(pair.provider, DECISION))
        (decision,) = rows(pair.provider, DECISION)
        assert decision.leased_to == ""
        await pair.clock.advance(0.25)
        await until(lambda: not rows(pair.provider, DECISION))


# --- order -----------------------------------------------------------------------------------------------


async def test_a_message_that_is_retried_is_not_overtaken_by_one_over_the_desk() -> None:
    """Per-process order: the second stays behind the first, in memory as in the store."""
    pair = connected()
    seen: list[str] = []
    honest, down = pair.provider.outside, True

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        seen.append(str(message.body.get("@type", message.kind)))
        if down and message.body.get("@type") == "ContractAgreementMessage":
            raise PeerUnreachable("down")
        return await honest(message)

    pair.provider.outside = deliver
    async with running(pair.consumer, pair.provider):
        await pair.ask()
        await until(lambda: "ContractAgreementMessage" in seen)
        await pair.provider.negotiations.terminate(pair.provider.only_negotiation.pid, "operator")
        for _ in range(50):
            await asyncio.sleep(0)
        assert "ContractNegotiationTerminationMessage" not in seen
        down = False
        await pair.clock.advance(600)
        await until(lambda: "ContractNegotiationTerminationMessage" in seen)
        await until(lambda: pair.consumer.only_negotiation.state is NegotiationState.TERMINATED)
    assert seen.index("ContractNegotiationTerminationMessage") == len(seen) - 1


async def test_a_termination_behind_a_message_under_way_waits_for_it() -> None:
    """Both are in hand: the second is sent when the first has been answered, the store unasked."""
    pair = connected()
    let_go = asyncio.Event()
    honest = pair.provider.outside

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        answer = await honest(message)
        if message.body.get("@type") == "ContractAgreementMessage":
            await let_go.wait()
        return answer

    pair.provider.outside = deliver
    pair.consumer.negotiations._hook = Holding()
    async with running(pair.consumer, pair.provider):
        await pair.ask()
        await until(
            lambda: pair.consumer.store.state.negotiations and pair.consumer.only_negotiation.agreement_id
        )
        await pair.provider.negotiations.terminate(pair.provider.only_negotiation.pid, "operator")
        for _ in range(50):
            await asyncio.sleep(0)
        assert pair.consumer.only_negotiation.state is NegotiationState.AGREED
        let_go.set()
        await until(lambda: pair.consumer.only_negotiation.state is NegotiationState.TERMINATED)


class Holding:
    async def decide(self, _process: Any) -> Hold:
        return Hold()


async def test_what_stands_behind_a_row_of_somebody_else_is_given_back() -> None:
    """Another replica works on the queue's head: ours must not be done first."""
    pair = connected()
    asked = await pair.ask()
    async with pair.consumer.store.transaction() as tx:
        await tx.due_messages(pair.clock.now(), worker="other", lease_seconds=30, limit=9)
    taken: list[Task] = []
    attended(pair.consumer, taken.extend)
    await pair.consumer.negotiations.terminate(asked.pid, "enough")
    assert [t.row.kind for t in taken] == [], "its evidence stands behind the other replica's"


# --- evidence, many at once ------------------------------------------------------------------------------


async def test_one_fact_that_cannot_be_written_takes_no_other_along() -> None:
    """Batches: each row of evidence succeeds or is retried by itself, in the order of its process."""
    pair = connected()
    for _ in range(5):
        await pair.ask()
    bad = rows(pair.consumer, AUDIT)[2].message.id
    written: list[str] = []

    async def audit(_event: AuditEvent, *, fact: str, **_fields: Any) -> None:
        if broken and fact == facts[bad]:
            raise Unavailable("disk full")
        written.append(fact)

    facts = {row.message.id: row.message.body["facts"][0]["id"] for row in rows(pair.consumer, AUDIT)}
    broken = True
    pair.consumer.worker._audit = audit
    await pair.consumer.worker.step(limit=20)
    assert sorted(written) == sorted(f for row_id, f in facts.items() if row_id != bad)
    assert [row.message.id for row in rows(pair.consumer, AUDIT)] == [bad]
    broken = False
    await pair.clock.advance(600)
    await pair.consumer.worker.step(limit=20)
    assert sorted(written) == sorted(facts.values())


async def test_facts_of_one_process_are_never_written_out_of_order() -> None:
    """The first fails: what comes after it, in memory already, waits in the store behind it."""
    pair = connected()
    written: list[str] = []
    broken = True

    async def audit(event: AuditEvent, **_fields: Any) -> None:
        if broken and event is AuditEvent.NEGOTIATION_REQUESTED:
            await asyncio.sleep(0)
            raise Unavailable("disk full")
        written.append(event.value)

    pair.provider.worker._audit = audit
    async with running(pair.consumer, pair.provider):
        await pair.ask()
        await until(lambda: finalized(pair))
        for _ in range(50):
            await asyncio.sleep(0)
        assert AuditEvent.AGREEMENT_VERIFIED.value not in written
        broken = False
        await pair.clock.advance(600)
        await until(lambda: not rows(pair.provider, AUDIT))
    pid = pair.provider.only_negotiation.pid
    told = [e for e in written if e.startswith("negotiation") or e == AuditEvent.AGREEMENT_VERIFIED.value]
    assert told.index(AuditEvent.NEGOTIATION_REQUESTED.value) < told.index(
        AuditEvent.AGREEMENT_VERIFIED.value
    )
    assert pid


# --- known beforehand, and overtaken ----------------------------------------------------------------------


async def test_a_decision_about_a_state_that_has_passed_is_dropped() -> None:
    """The process as it was when it asked is a guess: the version tells at the commit."""
    pair = connected()
    taken: list[Task] = []
    await pair.ask()
    attended(pair.provider, taken.extend)
    await pair.consumer.worker.step(limit=9)
    (decision,) = [t for t in taken if t.row.kind == DECISION]
    await pair.provider.negotiations.terminate(pair.provider.only_negotiation.pid, "operator")
    await pair.provider.negotiations.consider(decision.row, decision.process)
    assert pair.provider.only_negotiation.sending == "ContractNegotiationTerminationMessage"
    assert decision.row.id not in {row.message.id for row in rows(pair.provider)}


async def test_a_decision_is_taken_anew_where_the_process_changed_but_not_its_state() -> None:
    """Somebody noted something with it meanwhile; nobody asked anew, so the question stands."""
    pair = connected()
    taken: list[Task] = []
    await pair.ask()
    attended(pair.provider, taken.extend)
    await pair.consumer.worker.step(limit=9)
    (decision,) = [t for t in taken if t.row.kind == DECISION]
    async with pair.provider.store.transaction() as tx:
        await tx.save_negotiation(replace(pair.provider.only_negotiation, reasons=("noted",)))
    await pair.provider.negotiations.consider(decision.row, decision.process)
    assert pair.provider.only_negotiation.sending == "ContractAgreementMessage"
    assert pair.provider.only_negotiation.reasons == ("noted",)


async def test_an_acknowledgement_that_the_peers_next_message_overtook_changes_nothing() -> None:
    pair = connected()
    taken: list[Task] = []
    attended(pair.consumer, taken.extend)
    await pair.ask()
    (request,) = [t for t in taken if t.row.kind == "negotiation"]
    answer = await pair.consumer.outside(request.row)
    await pair.provider.worker.step(limit=9)
    await pair.provider.worker.step(limit=9)
    agreed = pair.consumer.only_negotiation
    assert agreed.state is NegotiationState.AGREED
    await pair.consumer.negotiations.acknowledged(request.row, answer, request.process)
    assert pair.consumer.only_negotiation == agreed


async def test_what_was_given_up_can_be_listed() -> None:
    """Protocol: gives up loudly: the operator finds message, recipient and reason."""
    from connector.control_plane.undelivered import Undelivered

    pair = connected()
    await pair.ask()

    async def deliver(_message: OutboxMessage) -> JsonObject | None:
        raise PeerRefused("no", participant="kela", status=400)

    pair.consumer.outside = deliver
    while await pair.consumer.worker.step(limit=9):
        pass
    (given_up,) = await Undelivered(pair.consumer.store).list()
    assert given_up.recipient == "kela"
    assert given_up.last_error == "kela refused ContractRequestMessage: 400"
