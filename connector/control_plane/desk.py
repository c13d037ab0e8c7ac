"""What this connector has just committed and does itself at once, without asking the store for it.

Each row was leased to this worker by the commit that made it, so no replica takes it meanwhile; if we are
killed, the lease runs out and whoever runs then finds the row as any other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from connector.ports import OutboxMessage

LEASE_MARGIN = 0.8
"""Of a lease: work that takes longer is cut off before somebody else starts it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row to work on, until `until` (the event loop's time), `after` another one of its queue.

    `process`: as it was saved with the row. It may have changed since; a save then finds out.
    """

    row: OutboxMessage
    until: float
    process: Any = None
    after: str = ""
    from_store: bool = False


Take = Callable[[Sequence[Task]], None]


class Desk:
    """Where units of work leave what they committed, for the worker of the same process."""

    def __init__(self, worker: str = "", *, lease_seconds: float = 30.0) -> None:
        self.worker = worker
        self.lease_seconds = lease_seconds
        self._take: Take | None = None
        self._reminders: list[datetime] = []  # a heap

    def open(self, take: Take) -> None:
        """From now on a worker is here."""
        self._take = take

    def close(self) -> None:
        """It is not: what is committed now waits in the store."""
        self._take = None

    @property
    def attended(self) -> bool:
        return self._take is not None

    def hand(self, tasks: Sequence[Task]) -> None:
        """At once after the commit, so that order is kept. Without a worker the leases have to run out."""
        if self._take is not None and tasks:
            self._take(tasks)

    def remind(self, due_at: datetime) -> None:
        """Something is due later."""
        heapq.heappush(self._reminders, due_at)

    def due(self, now: datetime) -> float | None:
        """Seconds until the earliest reminder; 0 where one has come, which is forgotten; None without any."""
        came = False
        while self._reminders and self._reminders[0] <= now:
            heapq.heappop(self._reminders)
            came = True
        if came:
            return 0.0
        return (self._reminders[0] - now).total_seconds() if self._reminders else None
