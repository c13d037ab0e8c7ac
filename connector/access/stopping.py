"""The operator's stop: every grant ends at once, and none opens until somebody lifts it.

Kept in the store, so a restart changes nothing about it. Agreements and transfers stay as they are: after the
stop is lifted, peers come back with new grants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from connector.errors import Conflict
from connector.model.audit import AuditEvent
from connector.model.json import from_rfc3339, to_rfc3339
from connector.model.transfer import Grant
from connector.ports import Clock, GrantSelector, Store, Transaction

STOPPED = "connector_stopped"
_STORE = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    by: str
    reason: str
    at: datetime


class Stopping:
    """`publish` returns once nothing under an ended grant is being written any more (the barrier)."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        publish: Callable[[Sequence[Grant]], Awaitable[None]],
        record: Callable[..., Awaitable[object]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._publish = publish
        self._record = record

    async def stop_all(self, reason: str, *, by: str) -> int:
        """How many grants it ended. Holds when it returns. Again is no fault: what is open ends."""
        stop = {"by": by, "reason": reason, "at": to_rfc3339(self._clock.now())}
        async with self._store.transaction() as tx:
            await tx.put_value(_STORE, stop)
            ended = await tx.bump_grants(GrantSelector(), ended_reason=STOPPED)
        await self._publish(ended)
        await self._record(AuditEvent.CONNECTOR_STOPPED_ALL, actor=by, outcome=f"{len(ended)} grants")
        return len(ended)

    async def lift(self, *, by: str) -> None:
        """Raises Conflict where nothing is stopped."""
        async with self._store.transaction() as tx:
            if await tx.value(_STORE) is None:
                raise Conflict("Nothing is stopped.", code="not_stopped")
            await tx.delete_values([_STORE])
        await self._record(AuditEvent.CONNECTOR_RESUMED, actor=by)

    async def current(self) -> Stop | None:
        async with self._store.transaction(read_only=True) as tx:
            return await stop_in_force(tx)


async def stop_in_force(tx: Transaction) -> Stop | None:
    held: Any = await tx.value(_STORE)
    return Stop(by=held["by"], reason=held["reason"], at=from_rfc3339(held["at"])) if held else None
