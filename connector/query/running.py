"""Queries while they run and for a while after: how far each source is, who may look, and the stop.

Of this process only: another replica knows nothing of them. No statement and no rows are held, so that what
is left of a query here is no copy of its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from connector.errors import Conflict, ConnectorError, NotFound, RequestInvalid
from connector.ports import Clock

T = TypeVar("T")

REMEMBERED = timedelta(minutes=10)
MOST_REMEMBERED = 1_000


class QueryState(StrEnum):
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class SourceState(StrEnum):
    WAITING = "WAITING"
    READING = "READING"
    DONE = "DONE"


@dataclass(slots=True, kw_only=True)
class SourceProgress:
    """One fragment: which participant answers, and how many rows have come from it."""

    participant: str
    dataset: str
    agreement_id: str
    state: SourceState = SourceState.WAITING
    rows: int = 0


@dataclass(slots=True, kw_only=True)
class RunningQuery:
    """`answer`: what is told of it once it is done, without its rows. `error`: a code, no text of a peer."""

    id: str
    subject: str
    purpose: str
    started_at: datetime
    state: QueryState = QueryState.RUNNING
    sources: Sequence[SourceProgress] = ()
    ended_at: datetime | None = None
    error: str = ""
    answer: Any = None
    task: asyncio.Task[Any] | None = field(default=None, repr=False)


class RunningQueries:
    """Whose query it is may look and stop it; for everybody else there is none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, RunningQuery] = {}

    async def run(
        self,
        query_id: str,
        subject: str,
        purpose: str,
        work: Callable[[RunningQuery], Coroutine[Any, Any, T]],
    ) -> T:
        """Raises Conflict where the id is taken or the query was cancelled, else what `work` raises."""
        query = self._begin(query_id, subject, purpose)
        query.task = task = asyncio.create_task(work(query))
        try:
            done = await task
        except asyncio.CancelledError:
            if query.state is not QueryState.CANCELLED:  # the asker has left
                self._end(query, QueryState.CANCELLED)
                raise
            raise Conflict("The query was cancelled.", code="query_cancelled") from None
        except BaseException as error:
            query.error = error.code if isinstance(error, ConnectorError) else "internal"
            self._end(query, QueryState.FAILED)
            raise
        self._end(query, QueryState.DONE)
        return done

    def get(self, query_id: str, subject: str) -> RunningQuery:
        query = self._known.get(query_id)
        if query is None or query.subject != subject:
            raise NotFound(
                "There is no such query of yours here.",
                mend="What has ended is remembered for ten minutes, by the replica that ran it.",
            )
        return query

    def cancel(self, query_id: str, subject: str) -> RunningQuery:
        """What has ended stays as it ended."""
        query = self.get(query_id, subject)
        if query.state is QueryState.RUNNING and query.task is not None:
            self._end(query, QueryState.CANCELLED)
            query.task.cancel()
        return query

    def _begin(self, query_id: str, subject: str, purpose: str) -> RunningQuery:
        self._forget()
        if query_id in self._known:
            raise Conflict("A query has this id already.", mend="Leave the id out.", code="query_id_taken")
        if len(self._known) >= MOST_REMEMBERED:
            raise RequestInvalid(
                "Too many queries at once.", mend="Ask again later.", code="too_many_queries"
            )
        now = self._clock.now()
        query = RunningQuery(id=query_id, subject=subject, purpose=purpose, started_at=now)
        self._known[query_id] = query
        return query

    def _end(self, query: RunningQuery, state: QueryState) -> None:
        if query.ended_at is None:
            query.state, query.ended_at = state, self._clock.now()

    def _forget(self) -> None:
        """What ended long ago; and the oldest that ended, where there are too many."""
        before = self._clock.now() - REMEMBERED
        ended = sorted((q.ended_at, q.id) for q in self._known.values() if q.ended_at is not None)
        spare = len(self._known) - MOST_REMEMBERED + 1
        for number, (ended_at, query_id) in enumerate(ended):
            if ended_at < before or number < spare:
                del self._known[query_id]
