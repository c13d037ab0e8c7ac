"""The outbox worker: sends what is due, asks hooks, writes evidence; retries; gives up loudly.

Everything it does was committed as a row together with the state that caused it, so a kill loses
nothing. A row is leased while it is worked on; several replicas may run workers over one store.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from connector.control_plane.unit import AUDIT, DECISION, audit_fields
from connector.errors import ConnectorError, PeerRefused
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.ports import Clock, OutboxMessage, Store

_log = logging.getLogger(__name__)

Deliver = Callable[[OutboxMessage], Awaitable[JsonObject | None]]
"""Send one DSP message and return the answer's object, if any. Raises PeerRefused (4xx: final) or another
PeerError (worth a retry). Any 2xx with any body, or none, is an acknowledgement."""

Audit = Callable[..., Awaitable[object]]
"""`audit(event, **fields)`: AuditLeaf's fields. On record when it returns."""

_MARGIN = 0.8  # of a lease: work that takes longer is cut off before somebody else starts it again


class Sender(Protocol):
    """What the worker tells about a process's messages: Negotiations and Transfers."""

    async def consider(self, task: OutboxMessage) -> None: ...
    async def acknowledged(self, message: OutboxMessage, answer: JsonObject | None) -> None: ...
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
        at_once: int = 20,
    ) -> None:
        """`senders`: by kind, `negotiation` and `transfer`. `chance`: random numbers in [0, 1).
        `name` tells this worker's leases from others'."""
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

    async def run(self) -> None:
        """Until cancelled. A slow peer holds up nobody but its own process."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._wake.clear()
                for message in await self._lease_or_nothing(self._at_once - len(running)):
                    task = asyncio.create_task(self._handle(message), name=f"outbox {message.id}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                    task.add_done_callback(lambda _: self._wake.set())  # its process may have more to say
                await self._woken_or_due()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def step(self, *, limit: int = 1) -> int:
        """Work on what is due now, at most `limit` rows; returns how many there were."""
        messages = await self._lease(limit)
        await asyncio.gather(*(self._handle(m) for m in messages))
        return len(messages)

    # --- when ---------------------------------------------------------------------------------------------

    async def _lease(self, limit: int) -> list[OutboxMessage]:
        if limit <= 0:
            return []
        async with self._store.transaction() as tx:
            due = await tx.due_messages(
                self._clock.now(), worker=self._name, lease_seconds=self._lease_seconds, limit=limit
            )
        return list(due)

    async def _lease_or_nothing(self, limit: int) -> list[OutboxMessage]:
        try:
            return await self._lease(limit)
        except ConnectorError as error:
            _log.error("the outbox cannot be read: %s", error.code)
            return []

    async def _woken_or_due(self) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        due = asyncio.ensure_future(self._clock.sleep(self._poll_seconds))
        try:
            await asyncio.wait({woken, due}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            due.cancel()
            await asyncio.gather(woken, due, return_exceptions=True)

    # --- what -----------------------------------------------------------------------------------------------

    async def _handle(self, message: OutboxMessage) -> None:
        """Never raises but CancelledError: what fails is tried again, later."""
        try:
            async with asyncio.timeout(self._lease_seconds * _MARGIN):
                await self._work(message)
        except ConnectorError as error:
            await self._guarded(message, self._not_done(message, error))
        except TimeoutError:
            await self._guarded(message, self._failed(message, "timeout"))
        except Exception as error:
            _log.error("outbox row %s (%s) failed: %s", message.id, message.kind, _where(error))
            await self._guarded(message, self._failed(message, type(error).__name__))

    async def _work(self, message: OutboxMessage) -> None:
        if message.kind == DECISION:
            await self._senders[str(message.body["process"])].consider(message)
        elif message.kind == AUDIT:
            await self._audit(AuditEvent(message.body["event"]), **audit_fields(message.body))
            async with self._store.transaction() as tx:
                await tx.sent(message.id)
        else:
            answer = await self._deliver(message)
            await self._senders[message.kind].acknowledged(message, answer)

    async def _not_done(self, message: OutboxMessage, error: ConnectorError) -> None:
        if isinstance(error, PeerRefused) and message.kind in self._senders:
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

    async def _guarded(self, message: OutboxMessage, step: Awaitable[None]) -> None:
        """Where even the bookkeeping fails, the lease runs out and the row comes up again."""
        try:
            await step
        except Exception as error:
            _log.error("outbox row %s (%s) waits for its lease: %s", message.id, message.kind, _where(error))


def _where(error: Exception) -> str:
    """Our own fault: its type and place. Its text could hold anything, so it stays out of the log."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
