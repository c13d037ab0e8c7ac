"""The transactional outbox, as port Transaction has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from connector.adapters.sql.connection import Connection, Row
from connector.adapters.sql.documents import decode, encode, from_micros, to_micros
from connector.ports import Enqueued, OutboxMessage


class Outbox:
    """Messages of one process leave in the order of their transactions, one at a time.

    A lease runs by the database's clock, whose replicas share one; `due_at` by the caller's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def enqueue(
        self, *messages: OutboxMessage, worker: str = "", lease_seconds: float = 0.0
    ) -> Enqueued:
        """Raises Conflict when an id was used before."""
        enqueued = Enqueued()
        for message in messages:
            await self._connection.post(
                "enqueue",
                message.id,
                message.process_pid,
                to_micros(message.due_at),
                message.attempts,
                message.last_error,
                encode(message),
                worker,
                round(lease_seconds * 1_000_000),
                tell=partial(_note, enqueued, message.id) if worker else None,
            )
        return enqueued

    async def due_messages(
        self, now: datetime, *, worker: str, lease_seconds: float, limit: int = 20
    ) -> Sequence[OutboxMessage]:
        """A leased message is handed to nobody else, `worker` itself included, until it is sent,
        postponed or its lease has run out."""
        rows = await self._connection.fetch(
            "lease_due_messages", to_micros(now), worker, round(lease_seconds * 1_000_000), limit
        )
        return [_message(row) for row in sorted(rows, key=lambda row: int(row[0]))]

    async def sent(self, *message_ids: str) -> None:
        await self._connection.execute_many("message_sent", [(each,) for each in message_ids])

    async def release(self, worker: str, *message_ids: str) -> None:
        if message_ids:
            await self._connection.execute_many("release_message", [(worker, each) for each in message_ids])
        else:
            await self._connection.post("release_messages", worker)

    async def postpone(self, message_id: str, *, due_at: datetime, error: str) -> None:
        """Counts as one more attempt."""
        await self._connection.post("postpone_message", message_id, to_micros(due_at), error)

    async def abandon(self, message_id: str, *, error: str) -> None:
        await self._connection.post("abandon_message", message_id, error)

    async def abandoned_messages(self, *, limit: int = 100, before: str = "") -> Sequence[OutboxMessage]:
        rows = await self._connection.fetch("abandoned_messages", before, limit)
        return [_message(row) for row in rows]


def _message(row: Row) -> OutboxMessage:
    _, document, due_at, attempts, last_error = row
    return replace(
        decode(OutboxMessage, document), due_at=from_micros(due_at), attempts=attempts, last_error=last_error
    )


def _note(enqueued: Enqueued, message_id: str, row: Row | None) -> None:
    if row is not None and row[0]:
        enqueued.leased[message_id] = row[1] or ""
