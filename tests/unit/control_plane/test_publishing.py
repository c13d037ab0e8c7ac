"""Events of our own registers, and their way from the store's log to the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from connector.control_plane.consent import EVENT_GIVEN, EVENT_WITHDRAWN
from connector.control_plane.publishing import NewEvent, Publishing
from connector.control_plane.relay import Relay
from connector.errors import Conflict, NotFound, RequestInvalid, Unavailable
from connector.model.event import CloudEvent, Delivered
from tests.agreed import PERSONS, STATUS_CHANGED, Agreed, benefits, until
from tests.clocks import START, ManualClock
from tests.ports.examples import event

ANNA, BEN, *_ = PERSONS


class MemoryBus:
    """Topics as lists. `fails` are raised, in order, by the next calls that need the bus."""

    def __init__(self) -> None:
        self.topics: dict[str, list[CloudEvent]] = {}
        self.committed: dict[tuple[str, str], int] = {}
        self.fails: list[Exception] = []

    async def publish(self, topic: str, events: Sequence[CloudEvent]) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.topics.setdefault(topic, []).extend(events)

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str) -> AsyncIterator[MemorySubscription]:
        yield MemorySubscription(self, topic, group)


class MemorySubscription:
    def __init__(self, bus: MemoryBus, topic: str, group: str) -> None:
        self._bus, self._topic, self._group = bus, topic, group
        self._next = bus.committed.get((topic, group), -1) + 1

    async def poll(self, *, max_events: int = 100, timeout_seconds: float = 1.0) -> Sequence[Delivered]:
        start = self._next
        await until(lambda: len(self._bus.topics.get(self._topic, [])) > start)
        found = self._bus.topics[self._topic][start : start + max_events]
        self._next += len(found)
        return [Delivered(offset=start + i, event=e) for i, e in enumerate(found)]

    async def commit(self, offset: int) -> None:
        if self._bus.fails:
            raise self._bus.fails.pop(0)
        self._bus.committed[self._topic, self._group] = offset


# --- publishing -----------------------------------------------------------------------------------------


class Register:
    def __init__(self) -> None:
        self.agreed, self.bus = Agreed(), MemoryBus()
        self.publishing = Publishing(
            participant_id="kela",
            bus=self.bus,  # type: ignore[arg-type]
            clock=self.agreed.clock,
            new_id=self.agreed.new_id,
            catalogue=lambda: self.agreed.datasets,
            subjects=self.agreed.subjects,
        )

    async def publish(self, *events: NewEvent, dataset: str = "benefits") -> int:
        return await self.publishing.publish(dataset, events)


async def test_a_person_is_on_the_topic_as_a_token_only() -> None:
    """A raw personal id enters here and goes no further, not even onto our own bus."""
    register = Register()
    made = NewEvent(type=STATUS_CHANGED, person=ANNA)
    assert await register.publish(made, NewEvent(type=STATUS_CHANGED, person=BEN, id="b-1")) == 2
    first, second = register.bus.topics["dataset.benefits"]
    assert first.subject == register.agreed.subjects.token(ANNA)
    assert (first.source, first.time, first.data) == ("urn:participant:kela", START, {})
    assert (first.id, second.id) == ("id-000001", "b-1")
    assert ANNA not in repr(register.bus.topics)


INVALID = {
    "a type that the contract does not name": (NewEvent(type="fi.kela.other.v1", person=ANNA), "type"),
    "about nobody": (NewEvent(type=STATUS_CHANGED), "person"),
    "a consent given": (NewEvent(type=EVENT_GIVEN, person=ANNA), "type"),
    "a consent withdrawn": (NewEvent(type=EVENT_WITHDRAWN, person=ANNA), "type"),
}


@pytest.mark.parametrize(("wrong", "member"), INVALID.values(), ids=INVALID)
async def test_a_batch_with_a_wrong_event_is_refused_whole(wrong: NewEvent, member: str) -> None:
    """Named by its place. Consents are announced by the register alone: a withdrawal passes every filter."""
    register = Register()
    with pytest.raises(RequestInvalid) as refused:
        await register.publish(NewEvent(type=STATUS_CHANGED, person=ANNA), wrong)
    assert refused.value.where == f"events[1].{member}"
    assert ANNA not in str(refused.value)
    assert register.bus.topics == {}


async def test_a_dataset_about_nobody_takes_no_person() -> None:
    """Its events travel without a pseudonym: a person in them would travel in no form at all."""
    register = Register()
    register.agreed.datasets["benefits"] = benefits(subject_key="")
    with pytest.raises(RequestInvalid):
        await register.publish(NewEvent(type=STATUS_CHANGED, person=ANNA))
    assert await register.publish(NewEvent(type=STATUS_CHANGED)) == 1


async def test_an_unknown_dataset_has_no_topic() -> None:
    """NotFound, and nothing is made."""
    with pytest.raises(NotFound):
        await Register().publish(dataset="nothing")


# --- relay ----------------------------------------------------------------------------------------------


class Relaying:
    def __init__(self, topics: Sequence[str] = ("t1", "t2")) -> None:
        self.log, self.bus, self.clock = MemoryBus(), MemoryBus(), ManualClock()
        log: Any = self.log
        bus: Any = self.bus
        relay = Relay(log=log, bus=bus, clock=self.clock, topics=lambda: topics)
        self.task = asyncio.create_task(relay.run())

    async def on_bus(self, topic: str, count: int) -> list[str]:
        await until(lambda: len(self.bus.topics.get(topic, [])) >= count)
        return [e.id for e in self.bus.topics[topic]]

    async def paused(self) -> None:
        await until(lambda: self.clock.sleepers > 0)

    async def close(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@pytest.fixture
async def relaying() -> AsyncIterator[Relaying]:
    made = Relaying()
    yield made
    await made.close()


async def test_what_transactions_logged_reaches_the_bus_in_order(relaying: Relaying) -> None:
    """The transactional outbox of events: each topic in its own order."""
    await relaying.log.publish("t1", [event("e1"), event("e2")])
    await relaying.log.publish("t2", [event("x1")])
    await relaying.log.publish("t1", [event("e3")])
    assert await relaying.on_bus("t1", 3) == ["e1", "e2", "e3"]
    assert await relaying.on_bus("t2", 1) == ["x1"]


async def test_a_broker_that_is_away_loses_nothing(relaying: Relaying) -> None:
    """The offset is committed after the broker took the events: they wait in the log, and come in order."""
    relaying.bus.fails = [Unavailable("no broker"), Unavailable("no broker")]
    await relaying.log.publish("t1", [event("e1"), event("e2")])
    for _ in range(2):
        await relaying.paused()
        await relaying.clock.advance(1)
    assert await relaying.on_bus("t1", 2) == ["e1", "e2"]


async def test_a_replica_that_took_over_ends_nothing(relaying: Relaying) -> None:
    """A lost lease is a Conflict at the commit: begin anew from what is committed. The other topics go on."""
    relaying.log.fails = [Conflict("another member of the group took over")]
    relaying.log.topics["t1"] = [event("e1")]
    await relaying.paused()
    relaying.log.topics["t2"] = [event("x1")]
    assert await relaying.on_bus("t2", 1) == ["x1"]
    await relaying.clock.advance(1)
    assert await relaying.on_bus("t1", 2) == ["e1", "e1"]  # at least once
    assert not relaying.task.done()
