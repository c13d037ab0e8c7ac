"""Messages that were given up: what a peer refused, or was not there to hear. The operator looks here."""

from __future__ import annotations

from collections.abc import Sequence

from connector.ports import OutboxMessage, Store

MOST = 1_000


class Undelivered:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, *, limit: int = 100, before: str = "") -> Sequence[OutboxMessage]:
        """The latest first; those before the message `before` where one is named. `last_error`: why."""
        async with self._store.transaction(read_only=True) as tx:
            return await tx.abandoned_messages(limit=min(max(limit, 1), MOST), before=before)
