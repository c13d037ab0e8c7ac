"""Appending to the event log: by port Transaction, and by the event bus over the same database."""

from __future__ import annotations

from collections.abc import Sequence

from connector.adapters.sql.connection import Connection
from connector.adapters.sql.documents import encode, to_micros
from connector.errors import RequestInvalid
from connector.model.event import CloudEvent

_MOST_PER_TRANSACTION = 2**20  # what a position leaves for the ordinal (queries.sql, piece next_position)


class Events:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def append_events(self, topic: str, events: Sequence[CloudEvent]) -> None:
        """In order; subscribers see them after the commit. At most 2^20 in one transaction."""
        appended = self._connection.appended
        first = appended.count
        if first + len(events) > _MOST_PER_TRANSACTION:
            raise RequestInvalid("Too many events for one transaction.", mend="Append them in parts.")
        rows = [
            (topic, to_micros(event.time), encode(event), ordinal)
            for ordinal, event in enumerate(events, start=first)
        ]
        await self._connection.execute_many("append_event", rows)
        appended.count += len(rows)
        appended.topics.add(topic)
