"""Events that other participants push to us: dedupe, then our own bus."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from connector.errors import NotFound, NotPermitted, Reason
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.event import CloudEvent
from connector.model.negotiation import Role
from connector.model.participant import Participant
from connector.model.transfer import TransferProcess
from connector.ports import EventBus, Store, Transaction

INBOX = "inbox"
MAX_EVENTS = 1_000


class Inbox:
    def __init__(self, *, store: Store, bus: EventBus, record: Callable[..., Awaitable[object]]) -> None:
        self._store = store
        self._bus = bus
        self._record = record
        self._receiving: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def receive(self, sender: Participant, transfer_pid: str, events: Sequence[CloudEvent]) -> int:
        """Take a batch under our transfer; returns how many were new. Durable when it returns.

        At-least-once made effectively once: an event is marked as seen only after it is on the bus,
        and a repeat of a marked one is dropped. Raises NotFound, NotPermitted.
        """
        async with self._store.transaction(read_only=True) as tx:
            transfer = await self._running(tx, sender, transfer_pid)
        async with self._receiving[transfer.pid]:  # a repeat may come while the first is under way
            fresh = await self._take(sender, transfer, events)
        await self._record(
            AuditEvent.EVENTS_RECEIVED,
            actor=sender.id,
            agreement=transfer.agreement_id,
            transfer=transfer.pid,
            rows=fresh,
        )
        return fresh

    async def _running(self, tx: Transaction, sender: Participant, transfer_pid: str) -> TransferProcess:
        transfer = await tx.transfer(transfer_pid)
        if (
            transfer is None
            or transfer.role is not Role.CONSUMER
            or transfer.counter_party != sender.id
            or transfer.format is not TransferFormat.CLOUD_EVENTS_PUSH
        ):
            raise NotFound("There is no such transfer.")
        if not transfer.open:
            raise NotPermitted([Reason(code="transfer_not_started", text="The transfer is not started.")])
        return transfer

    async def _take(
        self, sender: Participant, transfer: TransferProcess, events: Sequence[CloudEvent]
    ) -> int:
        fresh: dict[str, CloudEvent] = {}
        async with self._store.transaction(read_only=True) as tx:
            for event in events:
                mark = _mark(sender, event)
                if mark not in fresh and await tx.value(mark) is None:
                    fresh[mark] = event
        if fresh:
            taken = [_from(sender, transfer.agreement_id, e) for e in fresh.values()]
            await self._bus.publish(INBOX, taken)
            async with self._store.transaction() as tx:
                for mark in fresh:
                    await tx.put_value(mark, {"transfer": transfer.pid})
        return len(fresh)


def _mark(sender: Participant, event: CloudEvent) -> str:
    """Under the sender's name: nobody can have another's events taken for repeats."""
    return f"seen:{sender.id}:{hashlib.sha256(json.dumps(event.key).encode()).hexdigest()}"


def _from(sender: Participant, agreement_id: str, event: CloudEvent) -> CloudEvent:
    """Who pushed it is ours to say, not the event's."""
    return replace(event, extensions={**event.extensions, "provider": sender.id, "agreementid": agreement_id})
