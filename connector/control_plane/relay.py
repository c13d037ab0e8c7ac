"""Moves what transactions put into the store's event log on to the real bus, in order, at least once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from connector.errors import ConnectorError
from connector.ports import Clock, EventBus

_log = logging.getLogger(__name__)

GROUP = "relay"
RETRY_SECONDS = 1.0


class Relay:
    """`log` is the store's own event log, `bus` where applications and deliveries read."""

    def __init__(
        self, *, log: EventBus, bus: EventBus, clock: Clock, topics: Callable[[], Sequence[str]]
    ) -> None:
        self._log = log
        self._bus = bus
        self._clock = clock
        self._topics = topics

    async def run(self) -> None:
        async with asyncio.TaskGroup() as following:
            for topic in self._topics():
                following.create_task(self._follow(topic))

    async def _follow(self, topic: str) -> None:
        while True:
            try:
                await self._move(topic)
            except ConnectorError as error:  # out of reach, or another replica took over
                _log.warning("events of %s wait in the log: %s", topic, error.code)
                await self._clock.sleep(RETRY_SECONDS)

    async def _move(self, topic: str) -> None:
        async with self._log.subscribe(topic, GROUP) as subscription:
            while True:
                batch = await subscription.poll()
                if batch:
                    await self._bus.publish(topic, [d.event for d in batch])
                    await subscription.commit(batch[-1].offset)
