"""The outbox worker: sends what is due, asks hooks, writes evidence; retries; gives up loudly.

Everything it does was committed as a row together with the state that caused it, so a kill loses
nothing. A row is leased while it is worked on; several replicas may run workers over one store. What this
process commits itself comes over the desk, leased already; the store is asked only for what is left over:
retries, later work, and what others left behind.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from connector.control_plane.desk import LEASE_MARGIN, Desk, Task
from connector.control_plane.unit import AUDIT, DECISION, recorded_facts
from connector.errors import ConnectorError, PeerRefused
from connector.model.json import JsonObject
from connector.ports import Clock, OutboxMessage, Store

_log = logging.getLogger(__name__)

Deliver = Callable[[OutboxMessage], Awaitable[JsonObject | None]]
"""Send one DSP message and return the answer's object, if any. Raises PeerRefused (4xx: final, unless 409) or
another PeerError (worth a retry). Any 2xx with any body, or none, is an acknowledgement."""

Audit = Callable[..., Awaitable[object]]
"""`audit(event, fact=…, **fields)`: AuditLeaf's fields. On record when it returns, once for each `fact`."""

MOST_WAITING = 2_000
"""Rows that wait in memory; more of them wait in the store."""

UNTIMELY_ATTEMPTS = 5
"""How often a message is sent that the peer says does not fit its state."""

_CONFLICT = 409


_RELEASE_SECONDS = 2.0  # a store that does not answer must not hold up a stop


class Sender(Protocol):
    """What the worker tells about a process's messages: Negotiations and Transfers."""

    async def consider(self, task: OutboxMessage, known: Any = None) -> None: ...
    async def acknowledged(
        self, message: OutboxMessage, answer: JsonObject | None, known: Any = None
    ) -> None: ...
    async def abandoned(self, message: OutboxMessage, why: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses double from `first_seconds` up to `longest_seconds`; after `attempts` a peer is given up."""

    first_seconds: float = 0.5
    longest_seconds: float = 300.0
    attempts: int = 20

    def pause(self, failures: int, chance: float) -> timedelta:
        """After the `failures`-th failure; `chance` in [0, 1) spreads it over its upper half, so that peers
        that failed together do not come back together."""
        full = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))
        return timedelta(seconds=full * (0.5 + chance / 2))


class OutboxWorker:
    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        wake: asyncio.Event,
        senders: Mapping[str, Sender],
        deliver: Deliver,
        audit: Audit,
        chance: Callable[[], float],
        name: str,
        backoff: Backoff = Backoff(),
        poll_seconds: float = 1.0,
        lease_seconds: float = 30.0,
        at_once: int = 64,
        desk: Desk | None = None,
    ) -> None:
        """`senders`: by kind, `negotiation` and `transfer`. `chance`: random numbers in [0, 1).
        `name` tells this worker's leases from others'; a `desk` goes by the same name and lease."""
        self._store = store
        self._clock = clock
        self._wake = wake
        self._senders = senders
        self._deliver = deliver
        self._audit = audit
        self._chance = chance
        self._name = name
        self._backoff = backoff
        self._poll_seconds = poll_seconds
        self._lease_seconds = lease_seconds
        self._at_once = at_once
        self._desk = desk or Desk(name, lease_seconds=lease_seconds)
        self._queues: dict[str, deque[Task]] = {}  # by process_pid; the first one is being worked on
        self._waiting: deque[str] = deque()  # queues for which there is no room yet
        self._facts: list[Task] = []  # evidence, written by one batch at a time
        self._running: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._writing = False
        self._refused: list[str] = []
        self._short = False

    async def run(self) -> None:
        """Until cancelled. A slow peer holds up nobody but its own process."""
        self._desk.open(self._take)
        try:
            while True:
                self._wake.clear()
                await self._give_back_refused()
                free = self._at_once - self._busy - len(self._waiting)
                self._short = free <= 0
                self._take(await self._lease_or_nothing(free))
                await self._woken_or_due()
        finally:
            self._desk.close()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._queues.clear()
            self._waiting.clear()
            self._facts.clear()
            self._busy = 0
            await self._release()

    async def step(self, *, limit: int = 1) -> int:
        """Work on what is due now, at most `limit` rows; returns how many there were."""
        tasks = await self._lease(limit)
        facts = [t for t in tasks if t.row.kind == AUDIT]
        others = [t for t in tasks if t.row.kind != AUDIT]
        await asyncio.gather(self._record(facts), *(self._handle(t) for t in others))
        return len(tasks)

    # --- when ---------------------------------------------------------------------------------------------

    async def _lease(self, limit: int) -> list[Task]:
        if limit <= 0:
            return []
        until = asyncio.get_running_loop().time() + self._lease_seconds * LEASE_MARGIN
        async with self._store.transaction() as tx:
            due = await tx.due_messages(
                self._clock.now(), worker=self._name, lease_seconds=self._lease_seconds, limit=limit
            )
        return [Task(row=row, until=until, from_store=True) for row in due]

    async def _lease_or_nothing(self, limit: int) -> list[Task]:
        try:
            return await self._lease(limit)
        except ConnectorError as error:
            _log.error("the outbox cannot be read: %s", error.code)
            return []

    async def _woken_or_due(self) -> None:
        due = self._desk.due(self._clock.now())
        pause = self._poll_seconds if due is None else min(due, self._poll_seconds)
        woken = asyncio.ensure_future(self._wake.wait())
        slept = asyncio.ensure_future(self._clock.sleep(pause))
        try:
            await asyncio.wait({woken, slept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()
            await asyncio.gather(woken, slept, return_exceptions=True)

    # --- in which order -----------------------------------------------------------------------------------

    def _take(self, tasks: Iterable[Task]) -> None:
        """Each behind what there is of its queue. One that cannot stand there is given back to the store."""
        for task in tasks:
            pid = task.row.process_pid
            queue = self._queues.get(pid)
            while queue and len(queue) > 1 and queue[-1].row.id != task.after:
                queue.pop()  # gone from the store: overruled while it waited
            missing = task.after and not (queue and queue[-1].row.id == task.after)
            if missing or len(self._waiting) + len(self._facts) >= MOST_WAITING:
                self._refused.append(task.row.id)
                self._wake.set()
            elif queue:
                queue.append(task)
            else:
                self._queues[pid] = deque([task])
                self._begin(pid, task)

    def _begin(self, pid: str, task: Task) -> None:
        if task.row.kind == AUDIT:
            self._facts.append(task)
            if not self._writing:
                self._writing = True
                self._start(self._write_facts(), "outbox evidence")
        elif self._busy < self._at_once:
            self._busy += 1
            self._start(self._work_through(pid), f"outbox {pid}")
        else:
            self._waiting.append(pid)

    def _start(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _work_through(self, pid: str) -> None:
        """A queue, one after the other; then the next queue that waits takes its place."""
        while True:
            await self._empty(pid)
            if not self._waiting:
                self._busy -= 1
                if self._short:
                    self._wake.set()
                return
            pid = self._waiting.popleft()

    async def _empty(self, pid: str) -> None:
        """Until nothing is left of the queue, or one failed: those after it are the store's again."""
        queue = self._queues[pid]
        while queue:
            task = queue[0]
            if not await self._handle(task):
                del self._queues[pid]
                self._leave(queue)
                return
            queue.popleft()
            if task.from_store:  # there may be more of it, or of others, in the store
                self._wake.set()
        del self._queues[pid]

    async def _write_facts(self) -> None:
        """All the evidence that has come by now in one batch, while the next one gathers."""
        try:
            while batch := self._facts:
                self._facts = []
                done = await self._record(batch)
                for task in batch:
                    pid = task.row.process_pid
                    queue = self._queues.pop(pid)
                    queue.popleft()
                    if queue and task.row.id in done:
                        self._queues[pid] = queue
                        self._facts.append(queue[0])
                    if task.row.id not in done:
                        self._leave([task, *queue])
                    elif task.from_store:
                        self._wake.set()
        finally:
            self._writing = False

    def _leave(self, queue: Iterable[Task]) -> None:
        """The first one failed: those after it are the store's again."""
        _, *behind = queue
        self._refused.extend(task.row.id for task in behind)
        self._wake.set()

    async def _give_back_refused(self) -> None:
        if self._refused:
            ids, self._refused = self._refused, []
            await self._release(*ids)

    async def _release(self, *ids: str) -> None:
        """What is leased to us and not in hand, or all."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS), self._store.transaction() as tx:
                await tx.release(self._name, *ids)
        except (ConnectorError, TimeoutError) as error:
            _log.warning("leases of this outbox worker have to run out: %s", type(error).__name__)

    # --- what -----------------------------------------------------------------------------------------------

    async def _handle(self, task: Task) -> bool:
        """Never raises but CancelledError: what fails is tried again, later. False: it is not done."""
        return await self._tried(task, self._work)

    async def _tried(self, task: Task, work: Callable[[Task], Awaitable[None]]) -> bool:
        message = task.row
        if asyncio.get_running_loop().time() >= task.until:
            return False  # it waited too long here: somebody else may have it by now
        try:
            async with asyncio.timeout_at(task.until):
                await work(task)
            return True
        except ConnectorError as error:
            await self._guarded(message, self._not_done(message, error))
        except TimeoutError:
            await self._guarded(message, self._failed(message, "timeout"))
        except Exception as error:
            _log.error("outbox row %s (%s) failed: %s", message.id, message.kind, _where(error))
            await self._guarded(message, self._failed(message, type(error).__name__))
        return False

    async def _work(self, task: Task) -> None:
        message = task.row
        if message.kind == DECISION:
            await self._senders[str(message.body["process"])].consider(message, task.process)
        else:
            answer = await self._deliver(message)
            await self._senders[message.kind].acknowledged(message, answer, task.process)

    async def _record(self, tasks: Sequence[Task]) -> set[str]:
        """Write the evidence and forget the rows, all at once; the ids of those that are done. One that fails
        keeps no other back."""
        if not tasks:
            return set()
        written = await asyncio.gather(*(self._tried(t, self._write) for t in tasks))
        done = {t.row.id for t, is_written in zip(tasks, written, strict=True) if is_written}
        if done:
            await self._guarded(tasks[0].row, self._forget(done))
        return done

    async def _write(self, task: Task) -> None:
        for event, fields in recorded_facts(task.row):
            await self._audit(event, **fields)

    async def _forget(self, ids: Iterable[str]) -> None:
        async with self._store.transaction() as tx:
            await tx.sent(*ids)

    async def _not_done(self, message: OutboxMessage, error: ConnectorError) -> None:
        ours = message.kind not in self._senders
        if isinstance(error, PeerRefused) and not ours and not _untimely(error, message):
            texts = "; ".join(r.text for r in error.reasons) or str(error.status or error.code)
            why = f"{message.recipient} refused {message.body.get('@type')}: {texts}"
            await self._senders[message.kind].abandoned(message, why)
        else:
            await self._failed(message, error.code)

    async def _failed(self, message: OutboxMessage, code: str) -> None:
        failures = message.attempts + 1
        ours = message.kind in (DECISION, AUDIT)  # never given up: nothing may happen undecided or unrecorded
        if not ours and failures >= self._backoff.attempts:
            why = f"{message.recipient} could not be reached for {message.body.get('@type')}: {code}"
            await self._senders[message.kind].abandoned(message, why)
            return
        _log.warning("outbox row %s (%s): attempt %d failed: %s", message.id, message.kind, failures, code)
        due_at = self._clock.now() + self._backoff.pause(failures, self._chance())
        async with self._store.transaction() as tx:
            await tx.postpone(message.id, due_at=due_at, error=code)
        self._desk.remind(due_at)

    async def _guarded(self, message: OutboxMessage, step: Awaitable[None]) -> None:
        """Where even the bookkeeping fails, the lease runs out and the row comes up again."""
        try:
            await step
        except Exception as error:
            _log.error("outbox row %s (%s) waits for its lease: %s", message.id, message.kind, _where(error))


def _untimely(refusal: PeerRefused, message: OutboxMessage) -> bool:
    """409: our message does not fit the peer's state. Some peers answer our side before their own step is on
    record, so that it may fit a moment later."""
    return refusal.status == _CONFLICT and message.attempts < UNTIMELY_ATTEMPTS


def _where(error: Exception) -> str:
    """Our own fault: its type and place. Its text could hold anything, so it stays out of the log."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
