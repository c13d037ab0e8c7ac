"""Several replicas of one connector over one store: leases (Protocol)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connector.adapters.postgres_store import PostgresStore
from connector.adapters.sql.store import SqlStore
from connector.adapters.sqlite_store import SqliteStore
from connector.errors import PeerUnreachable
from connector.model.json import JsonObject
from connector.model.negotiation import NegotiationState
from connector.ports import OutboxMessage
from tests.clocks import ManualClock
from tests.pair import Side, dataset, first_offer, receive_directly
from tests.parts.postgres import fresh_database

NEGOTIATIONS = 12
SECONDS = 60


@pytest.fixture(params=["sqlite", "postgresql"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SqlStore]:
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "store.sqlite")
    dsn = fresh_database(request.getfixturevalue("postgres_server"))
    return lambda: PostgresStore(dsn, connections=4)


class Estate:
    """A provider in memory, and two replicas of one consumer over one store."""

    def __init__(self, new_store: Callable[[], SqlStore]) -> None:
        self.clock = ManualClock()
        self.provider = Side("kela", self.clock, datasets={"benefits": dataset()})
        self.stores = [new_store(), new_store()]
        self.replicas = [
            Side("city", self.clock, store=store, replica=f"-{n}") for n, store in enumerate(self.stores)
        ]
        self.told: list[str] = []
        self.order: dict[str, list[str]] = {}
        self.flaky = False
        for n, replica in enumerate(self.replicas):
            replica.outside = self._deliver
            replica.get = self._nothing
            assert replica.environment.desk.worker == f"city-{n}"
        self.provider.outside = self._answer

    async def _nothing(self, _caller: str, _url: str) -> JsonObject:
        return {}

    async def _deliver(self, message: OutboxMessage) -> JsonObject | None:
        self.told.append(message.id)
        self.order.setdefault(message.process_pid, []).append(message.id)
        await asyncio.sleep(0.001)
        if self.flaky and len(self.told) % 3 == 0:
            raise PeerUnreachable("a bad line")
        return await receive_directly(self.provider, self.replicas[0].participant, message)

    async def _answer(self, message: OutboxMessage) -> JsonObject | None:
        """The provider's messages arrive at either replica, as behind a load balancer."""
        chosen = self.replicas[len(self.provider.sent) % 2]
        return await receive_directly(chosen, self.provider.participant, message)

    async def ask(self, replica: Side) -> None:
        offer = first_offer(self.provider)
        await replica.negotiations.request(self.provider.participant, "benefits", offer)

    async def finalized(self) -> int:
        async with self.stores[0].transaction(read_only=True) as tx:
            found = await tx.negotiations(limit=1_000)
        assert all(n.state is not NegotiationState.TERMINATED for n in found), found
        return sum(n.state is NegotiationState.FINALIZED for n in found)

    async def run(self, meanwhile: Any) -> None:
        sides = (*self.replicas, self.provider)
        workers = [asyncio.create_task(side.worker.run()) for side in sides]
        try:
            async with asyncio.timeout(SECONDS):
                await meanwhile()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def played(new_store: Callable[[], SqlStore], *, flaky: bool) -> Estate:
    estate = Estate(new_store)
    for store in estate.stores:
        await store.open()
    try:
        for n in range(NEGOTIATIONS // 2):  # before anybody works: both workers go for the same rows
            await estate.ask(estate.replicas[n % 2])
        estate.flaky = flaky

        async def meanwhile() -> None:
            for n in range(NEGOTIATIONS // 2):
                await estate.ask(estate.replicas[n % 2])
            while await estate.finalized() < NEGOTIATIONS:
                await asyncio.sleep(0.02)
                await estate.clock.advance(1)

        await estate.run(meanwhile)
    finally:
        for store in estate.stores:
            await store.close()
    return estate


async def test_nothing_is_sent_twice_while_both_live(new_store: Callable[[], SqlStore]) -> None:
    """Rows that both find in the store, and rows that each hands itself: one of them sends each, once."""
    estate = await played(new_store, flaky=False)
    assert Counter(estate.told).most_common(1)[0][1] == 1
    facts = Counter(f["fact"] for side in estate.replicas for _, f in side.audited)
    assert facts.most_common(1)[0][1] == 1
    assert len(facts) >= 3 * NEGOTIATIONS


async def test_retries_keep_the_order_of_each_process_over_both(new_store: Callable[[], SqlStore]) -> None:
    """A message that failed at one replica may be retried by the other, never after a later one."""
    estate = await played(new_store, flaky=True)
    assert len(estate.told) > len(set(estate.told)), "some were tried again"
    for messages in estate.order.values():
        first_seen = list(dict.fromkeys(messages))
        assert messages == sorted(messages, key=first_seen.index)
