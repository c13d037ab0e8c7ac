"""Events that others push to us: taken once, from whom they should come, under a transfer that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connector.adapters.event_log import EventLog
from connector.adapters.sqlite_store import SqliteStore
from connector.control_plane.inbox import INBOX, Inbox
from connector.errors import NotFound, NotPermitted, Unavailable
from connector.model.audit import AuditEvent
from connector.model.event import CloudEvent
from connector.model.negotiation import Role
from connector.model.participant import Participant
from connector.model.transfer import TransferState
from connector.ports import EventBus
from tests.agreed import PUSH, QUERY, Agreed, transfer
from tests.ports.examples import event


class FailingBus:
    """Publishes, or fails, before or after the event is on the bus."""

    def __init__(self, bus: EventLog) -> None:
        self._bus = bus
        self.fails = ""

    async def publish(self, topic: str, events: Any) -> None:
        if self.fails == "before":
            raise Unavailable("the bus does not answer")
        await asyncio.sleep(0.005)  # long enough for a repeat to come in between
        await self._bus.publish(topic, events)
        if self.fails == "after":
            raise Unavailable("the answer was lost")


class Gateway:
    """youth's inbox over the real embedded store and event log."""

    def __init__(self, agreed: Agreed, store: SqliteStore) -> None:
        self.agreed = agreed
        self.log = EventLog(store.database, new_id=agreed.new_id)
        self.bus = FailingBus(self.log)
        bus: EventBus = self.bus  # type: ignore[assignment]
        self.inbox = Inbox(store=store, bus=bus, record=agreed.auditor.record)
        self.kela = agreed.registry.participants["kela"]
        self.city = agreed.registry.participants["city"]

    async def receive(self, *events: CloudEvent, sender: Participant | None = None, pid: str = "t1") -> int:
        return await self.inbox.receive(sender or self.kela, pid, events)

    async def on_bus(self) -> list[CloudEvent]:
        async with self.log.subscribe(INBOX, self.agreed.new_id()) as subscription:
            return [d.event for d in await subscription.poll(max_events=1_000, timeout_seconds=0)]

    async def ids(self) -> list[str]:
        return [e.id for e in await self.on_bus()]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    store = SqliteStore(tmp_path / "connector.sqlite")
    await store.open()
    made = Gateway(Agreed(store), store)
    ours = transfer("t1", PUSH, role=Role.CONSUMER, counter_party="kela")
    await made.agreed.write(lambda tx: tx.save_transfer(ours))
    try:
        yield made
    finally:
        await store.close()


async def test_a_batch_is_on_our_bus_when_it_is_answered(gateway: Gateway) -> None:
    """In order, with what is ours to say: who pushed it, under which agreement; and on record."""
    lying = event("e2", extensions={"provider": "city", "agreementid": "a9", "purpose": "outreach"})
    assert await gateway.receive(event("e1"), lying, event("e3")) == 3
    first, second, third = await gateway.on_bus()
    assert [first.id, second.id, third.id] == ["e1", "e2", "e3"]
    assert second.extensions == {"provider": "kela", "agreementid": "a1", "purpose": "outreach"}
    assert replace(first, extensions={}) == event("e1")
    (leaf,) = gateway.agreed.audit.of(AuditEvent.EVENTS_RECEIVED)
    assert (leaf.actor, leaf.agreement, leaf.transfer, leaf.rows) == ("kela", "a1", "t1", 3)


async def test_repeats_are_dropped(gateway: Gateway) -> None:
    """CloudEvents 1.0.2 §3.1.1: source and id name an event; at least once becomes once."""
    assert await gateway.receive(event("e1"), event("e2"), event("e1")) == 2
    assert await gateway.receive(event("e1"), event("e2"), event("e3")) == 1
    other_source = event("e1", source="urn:participant:kela:archive")
    assert await gateway.receive(other_source) == 1
    assert await gateway.ids() == ["e1", "e2", "e3", "e1"]


async def test_of_a_repeat_within_a_batch_the_first_counts(gateway: Gateway) -> None:
    """And the order stays."""
    assert await gateway.receive(event("e1", data={"n": 1}), event("e2"), event("e1", data={"n": 2})) == 2
    first, second = await gateway.on_bus()
    assert (first.id, first.data, second.id) == ("e1", {"n": 1}, "e2")


async def test_a_repeat_while_the_first_is_under_way(gateway: Gateway) -> None:
    """The sender gave up waiting and sends again: both are answered, the events are there once."""
    batch = [event(f"e{i}") for i in range(5)]
    taken = await asyncio.gather(*(gateway.receive(*batch) for _ in range(4)))
    assert sorted(taken) == [0, 0, 0, 5]
    assert len(await gateway.ids()) == 5


async def test_source_and_id_are_told_apart(gateway: Gateway) -> None:
    """No separator that a sender could put into either."""
    assert await gateway.receive(event("b:c", source="a"), event("c", source="a:b")) == 2


async def test_nobody_can_have_anothers_events_taken_for_repeats(gateway: Gateway) -> None:
    """A participant that sends events in another's name, with guessed ids, before they come."""
    theirs = transfer("t2", PUSH, role=Role.CONSUMER, counter_party="city")
    await gateway.agreed.write(lambda tx: tx.save_transfer(theirs))
    forged = event("withdrawal-17", source="urn:participant:kela")
    await gateway.receive(forged, sender=gateway.city, pid="t2")
    assert await gateway.receive(event("withdrawal-17", source="urn:participant:kela")) == 1
    providers = [e.extensions["provider"] for e in await gateway.on_bus()]
    assert providers == ["city", "kela"]


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_what_is_not_answered_can_be_sent_again(gateway: Gateway, fails: str) -> None:
    """An event is marked only once it is on the bus: a failure may repeat, never lose."""
    gateway.bus.fails = fails
    with pytest.raises(Unavailable):
        await gateway.receive(event("e1"))
    assert gateway.agreed.audit.kept == []
    gateway.bus.fails = ""
    assert await gateway.receive(event("e1")) == 1
    assert set(await gateway.ids()) == {"e1"}


UNKNOWN = {
    "no such transfer": {"pid": "t9"},
    "another participant's": {"counter_party": "city"},
    "ours as provider": {"role": Role.PROVIDER},
    "a pull": {"format": QUERY},
}


@pytest.mark.parametrize("changes", UNKNOWN.values(), ids=UNKNOWN)
async def test_a_transfer_that_is_not_theirs_does_not_exist(
    gateway: Gateway, changes: dict[str, Any]
) -> None:
    """Unknown and foreign read alike; nothing is taken."""
    pid = changes.get("pid", "t1")
    if pid == "t1":
        await gateway.agreed.change_transfer("t1", **changes)
    with pytest.raises(NotFound) as refused:
        await gateway.receive(event("e1"), pid=pid)
    assert str(refused.value) == "There is no such transfer."
    assert await gateway.ids() == []


STOPPED = {
    "not started yet": {"state": TransferState.REQUESTED},
    "suspended": {"state": TransferState.SUSPENDED},
    "ended": {"state": TransferState.TERMINATED},
    "we decided to stop": {"sending": "TransferTerminationMessage"},
}


@pytest.mark.parametrize("changes", STOPPED.values(), ids=STOPPED)
async def test_a_transfer_that_does_not_run_takes_nothing(gateway: Gateway, changes: dict[str, Any]) -> None:
    """What we no longer want does not reach our bus, even before the peer has heard of it."""
    await gateway.agreed.change_transfer("t1", **changes)
    with pytest.raises(NotPermitted) as refused:
        await gateway.receive(event("e1"))
    assert refused.value.reasons[0].code == "transfer_not_started"
    assert await gateway.ids() == []
