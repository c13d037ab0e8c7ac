"""The transactional outbox, as port Transaction has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from connector.adapters.sql.connection import Connection, Row
from connector.adapters.sql.documents import decode, encode, from_micros, to_micros
from connector.ports import OutboxMessage


class Outbox:
    """Messages of one process leave in the order of their transactions, one at a time.

    A lease runs by the database's clock, whose replicas share one; `due_at` by the caller's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def enqueue(self, message: OutboxMessage) -> None:
        """Raises Conflict when the id was used before."""
        await self._connection.execute(
            "enqueue",
            message.id,
            message.process_pid,
            to_micros(message.due_at),
            message.attempts,
            message.last_error,
            encode(message),
        )

    async def due_messages(
        self, now: datetime, *, worker: str, lease_seconds: float, limit: int = 20
    ) -> Sequence[OutboxMessage]:
        """A leased message is handed to nobody else, `worker` itself included, until it is sent,
        postponed or its lease has run out."""
        rows = await self._connection.fetch(
            "lease_due_messages", to_micros(now), worker, round(lease_seconds * 1_000_000), limit
        )
        return [_message(row) for row in sorted(rows, key=lambda row: int(row[0]))]

    async def sent(self, message_id: str) -> None:
        await self._connection.execute("message_sent", message_id)

    async def postpone(self, message_id: str, *, due_at: datetime, error: str) -> None:
        """Counts as one more attempt."""
        await self._connection.execute("postpone_message", message_id, to_micros(due_at), error)

    async def abandon(self, message_id: str, *, error: str) -> None:
        await self._connection.execute("abandon_message", message_id, error)


def _message(row: Row) -> OutboxMessage:
    _, document, due_at, attempts, last_error = row
    return replace(
        decode(OutboxMessage, document), due_at=from_micros(due_at), attempts=attempts, last_error=last_error
    )
