"""The relay moves the store's own events on to the real bus: in order, at least once, through outages."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from connector.adapters.clock import SystemClock
from connector.adapters.event_log import EventLog
from connector.adapters.sqlite_store import SqliteStore
from connector.control_plane.relay import Relay
from connector.errors import Unavailable
from connector.model.event import CloudEvent

TOPIC = "control"


class Bus:
    """A bus that is away for its first calls."""

    def __init__(self, outages: int) -> None:
        self.outages = outages
        self.published: list[str] = []
        self.news = asyncio.Event()

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.published) < count:
                self.news.clear()
                await self.news.wait()

    async def publish(self, topic: str, events: Sequence[CloudEvent]) -> None:
        assert topic == TOPIC
        if self.outages:
            self.outages -= 1
            raise Unavailable("The bus is away.")
        self.published += [e.id for e in events]
        self.news.set()


def event(number: int) -> CloudEvent:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    return CloudEvent(id=str(number), source="urn:participant:kela", type="fi.test.v1", time=at)


async def test_what_transactions_wrote_reaches_the_bus_in_order(tmp_path: Path) -> None:
    """Architecture, store: the event log commits with the state; a relay moves it on. Nothing is lost."""
    store = SqliteStore(tmp_path / "store.sqlite")
    await store.open()
    log, bus = EventLog(store.database, new_id=lambda: uuid.uuid4().hex), Bus(outages=1)
    relay = Relay(log=log, bus=bus, clock=SystemClock(), topics=lambda: [TOPIC])  # type: ignore[arg-type]
    async with store.transaction() as tx:
        await tx.append_events(TOPIC, [event(n) for n in range(5)])
    running = asyncio.create_task(relay.run())
    try:
        await bus.reached(5)
        async with store.transaction() as tx:
            await tx.append_events(TOPIC, [event(5)])
        await bus.reached(6)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
    assert bus.published == [str(n) for n in range(6)]
