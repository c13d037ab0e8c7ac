"""The stop signal: epochs of grants, the streams that run under them, and the barrier.

A stream registers with `EpochBoard.watch`. Right before each write it compares epochs, and writes
inside `GrantWatch.writing()`. Whoever changes something that grants depend on commits first, then
calls `changed`, then awaits `settle`: once that returns, nothing decided under the old epoch is
being written any more. A write that a slow reader holds up is cancelled, never waited out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from connector.errors import ConnectorError, GrantStopped
from connector.model.transfer import Grant, GrantState
from connector.ports import Clock, Store

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
STALE_SECONDS = 1.0
"""A copy of the epochs older than this stops its streams: another replica may have changed them."""

PATIENCE_SECONDS = 0.15
"""How long the barrier lets a write in progress finish before it cancels the stream."""

REMEMBERED = timedelta(hours=1)
"""How long a change is kept for streams yet to come. A stream that was decided before the change and
registers after it must learn of it at once; nothing prepares a stream for this long."""


@dataclass(frozen=True, slots=True)
class _Known:
    epoch: int
    state: GrantState
    learned_at: datetime


class GrantWatch:
    """One running stream under one grant. `seen` is the grant as the stream last decided on it."""

    def __init__(self, grant: Grant, board: EpochBoard, cancel: Callable[[], object]) -> None:
        self.seen = grant
        self._board = board
        self._cancel = cancel
        self._idle = asyncio.Event()
        self._idle.set()
        self._subjects: Collection[str] | None = None
        self.cancelled = False

    @property
    def moved(self) -> bool:
        """Whether the grant is no longer the one the stream decided on. Check before every write.

        Raises GrantStopped where the epochs cannot be read or the grant has run out.
        """
        self._board.require_fresh()
        self._board.require_unexpired(self.seen)
        return self._outdated

    @property
    def _outdated(self) -> bool:
        return self._board.latest(self.seen) != (self.seen.epoch, self.seen.state)

    def decided(self, grant: Grant) -> None:
        """The stream has taken a new decision under this state of its grant, read after it registered."""
        self.seen = grant
        self._board.changed([grant])  # perhaps the store was ahead of the board

    @contextmanager
    def writing(self, subjects: Collection[str] | None = None) -> Iterator[None]:
        """From the check of the epoch until the transport has the bytes, with no await before the first.

        `subjects`: the persons the bytes are about; None where that may be anybody.
        """
        self._subjects = subjects
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    async def settle(self, patience_seconds: float, subject: str | None = None) -> None:
        """Until no write of an outdated decision is under way: about `subject`, or where None about anybody.
        One that is up to date, or about others only, is left alone."""
        if self._idle.is_set() or not self._outdated:
            return
        if subject is not None and self._subjects is not None and subject not in self._subjects:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), patience_seconds)
        except TimeoutError:
            if self._idle.is_set():  # it ended in the same moment
                return
            self.cancelled = True
            self._cancel()
            await self._idle.wait()


class EpochBoard:
    """What this process knows of the epochs of watched grants."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._latest: dict[str, _Known] = {}  # in the order in which it was learned
        self._watches: dict[str, set[GrantWatch]] = {}
        self._fresh_at = clock.now()
        self._wanted = asyncio.Event()

    @contextmanager
    def watch(self, grant: Grant, cancel: Callable[[], object]) -> Iterator[GrantWatch]:
        """Register a stream; `cancel` must stop its task (and so its pending write)."""
        if not self._watches:
            self._fresh_at = self._clock.now()
        watch = GrantWatch(grant, self, cancel)
        self._watches.setdefault(grant.id, set()).add(watch)
        self._learn(grant)
        self._wanted.set()
        try:
            yield watch
        finally:
            self._watches[grant.id].discard(watch)
            if not self._watches[grant.id]:
                del self._watches[grant.id]

    def latest(self, grant: Grant) -> tuple[int, GrantState]:
        known = self._latest.get(grant.id)
        return (known.epoch, known.state) if known else (grant.epoch, grant.state)

    def require_fresh(self) -> None:
        if (self._clock.now() - self._fresh_at).total_seconds() > STALE_SECONDS:
            raise GrantStopped("the state of the grants cannot be read", code="grants_stale", retryable=True)

    def require_unexpired(self, grant: Grant) -> None:
        if grant.expires_at is not None and self._clock.now() >= grant.expires_at:
            raise GrantStopped("the grant has expired", code="grant_expired")

    def changed(self, grants: Sequence[Grant]) -> None:
        """Call after the commit that changed them, before anything is awaited."""
        for grant in grants:
            self._learn(grant)
        self._forget()

    async def settle(
        self,
        grants: Sequence[Grant],
        *,
        subject: str | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """The barrier: returns when no write of an older decision is under way, about `subject` or, where
        None, about anybody. A batch about others need not stop for one person's withdrawal."""
        watches = [w for g in grants for w in self._watches.get(g.id, ())]
        await asyncio.gather(*(w.settle(patience_seconds, subject) for w in watches))

    async def publish(self, grants: Sequence[Grant], *, subject: str | None = None) -> None:
        """`changed` and `settle` in one: what every occasion of the stop signal calls."""
        self.changed(grants)
        await self.settle(grants, subject=subject)

    @property
    def running(self) -> int:
        return sum(len(w) for w in self._watches.values())

    async def run(self) -> None:
        """Follow what other replicas change, for as long as streams run here."""
        while True:
            if not self._watches:
                self._wanted.clear()
                await self._wanted.wait()
            try:
                await self._refresh()
            except ConnectorError as error:
                # nothing to do here: the copy grows stale, and stale streams stop by themselves
                _log.warning("epochs of grants could not be read: %s", error.code)
            await self._clock.sleep(POLL_SECONDS)

    async def _refresh(self) -> None:
        started = self._clock.now()
        async with self._store.transaction(read_only=True) as tx:
            for grant_id, watches in list(self._watches.items()):
                if (grant := await tx.grant(grant_id)) is not None:
                    self._learn(grant)
                elif watches:  # not there any more: nothing can stand on it
                    self._learn(replace(next(iter(watches)).seen, state=GrantState.ENDED))
        self._fresh_at = started

    def _learn(self, grant: Grant) -> None:
        """Epochs only rise and an ending is for good, in whatever order the news comes."""
        held = self._latest.pop(grant.id, None)
        epoch, state = grant.epoch, grant.state
        if held is not None:
            epoch = max(epoch, held.epoch)
            if GrantState.ENDED in (state, held.state):
                state = GrantState.ENDED
        self._latest[grant.id] = _Known(epoch, state, self._clock.now())

    def _forget(self) -> None:
        """The oldest first; what streams run under stays."""
        now = self._clock.now()
        while self._latest:
            grant_id, known = next(iter(self._latest.items()))
            if now - known.learned_at < REMEMBERED:
                return
            del self._latest[grant_id]
            if grant_id in self._watches:
                self._latest[grant_id] = _Known(known.epoch, known.state, now)
