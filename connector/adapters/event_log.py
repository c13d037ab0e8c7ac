"""Port EventBus as a durable log in the store's own database: no broker needed.

Events that a store transaction appends (`Transaction.append_events`) and events that are published here
are one log. A topic has one order; its groups have a committed offset each.

Of several members of one group, in one process or in many, one receives at a time: it holds a lease on the
group, renewed in the background by the database's clock. The others' polls stay empty. When it leaves, the
next one takes over at once, when it dies, after the lease; in both cases from the committed offset, so what
was delivered and not committed is delivered again. A member that lost its lease cannot commit (Conflict).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from connector.adapters.sql.connection import Database
from connector.adapters.sql.documents import decode, to_micros
from connector.adapters.sql.events import Events
from connector.errors import Conflict, ConnectorError, RequestInvalid
from connector.model.event import CloudEvent, Delivered

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
"""How late an event of another process can be noticed; those of this process wake the reader."""


class EventLog:
    """`database` is the store's (`SqlStore.database`), opened and closed by the store.

    `new_id` names the members of a group.
    """

    def __init__(self, database: Database, *, new_id: Callable[[], str], lease_seconds: float = 10.0) -> None:
        self._database = database
        self._new_id = new_id
        self._lease_seconds = lease_seconds

    async def publish(self, topic: str, events: Sequence[CloudEvent]) -> None:
        async with self._database.connect() as connection:
            await Events(connection).append_events(topic, events)

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str) -> AsyncIterator[LogSubscription]:
        """A group that is new begins at the start of the topic."""
        async with self._database.connect() as connection:
            await connection.execute("join_group", topic, group)
        subscription = LogSubscription(self._database, topic, group, self._new_id(), self._lease_seconds)
        renewing = asyncio.create_task(subscription.keep_lease())
        try:
            yield subscription
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
            await subscription.leave()

    async def prune(self, *, before: datetime) -> int:
        """Forget the events whose time is before that, handled or not; return how many."""
        async with self._database.connect() as connection:
            return await connection.execute("prune_events", to_micros(before))

    async def ping(self) -> None:
        await self._database.ping()

    async def close(self) -> None:
        """Nothing to do: the database belongs to the store."""


class LogSubscription:
    """One member of a group. `subscribe` makes it."""

    def __init__(self, database: Database, topic: str, group: str, member: str, lease_seconds: float) -> None:
        self._database = database
        self._topic = topic
        self._group = group
        self._member = member
        self._lease_seconds = lease_seconds
        self._lease_micros = round(lease_seconds * 1_000_000)
        self._read_up_to = -1
        self._held_until = 0.0  # on the loop's clock, never later than the lease itself ends

    async def poll(self, *, max_events: int = 100, timeout_seconds: float = 1.0) -> Sequence[Delivered]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            grown = self._database.wakes.next(self._topic)
            if (self._receiving() or await self._claim()) and (found := await self._read(max_events)):
                return found
            remaining = deadline - loop.time()
            if remaining <= 0:
                return ()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(remaining, _POLL_SECONDS)):
                    await grown.wait()

    async def commit(self, offset: int) -> None:
        """Raises Conflict when another member took over, RequestInvalid for what was not delivered here."""
        if offset > self._read_up_to:
            raise RequestInvalid("An offset was committed that was not delivered.")
        async with self._database.connect() as connection:
            kept = await connection.execute(
                "commit_group", self._topic, self._group, self._member, offset, self._lease_micros
            )
        if not kept:
            self._held_until = 0.0
            raise Conflict("Another member of the group took over; what it is given includes these events.")

    async def keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            if self._receiving():
                try:
                    await self._claim()
                except ConnectorError as error:
                    # the lease may run out; `poll` meets the same trouble and raises it
                    _log.warning("lease on %s for %s not renewed: %s", self._topic, self._group, error)

    async def leave(self) -> None:
        try:
            async with self._database.connect() as connection:
                await connection.execute("leave_group", self._topic, self._group, self._member)
        except ConnectorError as error:
            _log.warning("lease on %s for %s left to run out: %s", self._topic, self._group, error)

    def _receiving(self) -> bool:
        return asyncio.get_running_loop().time() < self._held_until

    async def _claim(self) -> bool:
        """Take or renew the lease. Whoever had lost it begins behind what was committed meanwhile."""
        asked_at, resuming = asyncio.get_running_loop().time(), not self._receiving()
        async with self._database.connect() as connection:
            row = await connection.fetchone(
                "claim_group", self._topic, self._group, self._member, self._lease_micros
            )
        if row is None:
            self._held_until = 0.0
            return False
        self._held_until = asked_at + self._lease_seconds
        if resuming:
            self._read_up_to = int(row[0])
        return True

    async def _read(self, max_events: int) -> Sequence[Delivered]:
        async with self._database.connect(read_only=True) as connection:
            rows = await connection.fetch(
                "read_events", self._topic, self._read_up_to, max_events, self._group, self._member
            )
        delivered = [Delivered(offset=row[0], event=decode(CloudEvent, row[1])) for row in rows]
        if delivered:
            self._read_up_to = delivered[-1].offset
        return delivered
