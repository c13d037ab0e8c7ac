"""One unit of work of the control plane: state, messages, evidence and events commit together, or not at all.

Nothing is sent and nobody is told before the commit; the outbox worker does both afterwards.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from connector.control_plane.desk import LEASE_MARGIN, Desk, Task
from connector.dsp.messages import BASE_PATH, ProcessMessage
from connector.errors import Conflict, IllegalTransition, Unavailable
from connector.model.audit import AuditEvent
from connector.model.event import CloudEvent
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.transfer import Grant, TransferProcess
from connector.ports import Clock, Enqueued, GrantSelector, OutboxMessage, Store, Transaction

CONTROL_TOPIC = "control"
AGREEMENT_FINALIZED = "fi.dataspace.agreement.finalized.v1"
AGREEMENT_TERMINATED = "fi.dataspace.agreement.terminated.v1"

NEGOTIATION = "negotiation"
TRANSFER = "transfer"
DECISION = "decision"
AUDIT = "audit"

MAX_COLLISIONS = 5
"""How often a step is taken anew because another writer was first."""

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

DIGESTION = timedelta(milliseconds=500)
"""What connectors that move some time after our answer (EDC) need before our next message: one that
overtakes their step is refused or overwritten, or makes them say again, differently, what they had said."""

Process = ContractNegotiation | TransferProcess
GrantsChanged = Callable[[Sequence[Grant]], Awaitable[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What every use case of the control plane stands on.

    `base_url` is ours, without a trailing slash. `wake` tells the outbox worker that there is work.
    `on_grants_changed` is called after the commit that raised their epochs.
    `decision_delay`: how long a decision waits after its transition.
    `slow_peers`: participants for whom it waits `DIGESTION` at least.
    `unsigned_peers`: participants whose agreements the operator accepts without their signature.
    `desk`: takes what was committed to our own worker at once.
    """

    store: Store
    clock: Clock
    new_id: Callable[[], str]
    participant_id: str
    base_url: str
    wake: asyncio.Event
    on_grants_changed: GrantsChanged
    decision_delay: timedelta = timedelta(0)
    slow_peers: Container[str] = frozenset()
    unsigned_peers: Container[str] = frozenset()
    desk: Desk = field(default_factory=Desk)

    @property
    def dsp_url(self) -> str:
        return f"{self.base_url}{BASE_PATH}"

    def delay_for(self, counter_party: str) -> timedelta:
        return max(self.decision_delay, DIGESTION if counter_party in self.slow_peers else timedelta(0))

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[Unit]:
        """Commits on leaving; then what is to be done is handed to the worker, and grants are published."""
        async with self.store.transaction() as tx:
            unit = Unit(environment=self, tx=tx, now=self.clock.now())
            yield unit
            await unit.enqueue()
        unit.hand_over()
        if unit.grants:
            await self.on_grants_changed(unit.grants)


@dataclass(slots=True, kw_only=True)
class Unit:
    """`grants`: those whose epoch this unit raised."""

    environment: Environment
    tx: Transaction
    now: datetime
    grants: list[Grant] = field(default_factory=list)
    _rows: list[tuple[OutboxMessage, Process | None]] = field(default_factory=list)
    _facts: dict[str, list[JsonObject]] = field(default_factory=dict)
    _until: float = 0.0
    _enqueued: Enqueued = field(default_factory=Enqueued)

    async def send(self, process: Process, message: ProcessMessage) -> None:
        """To the peer, after everything that this process has yet to send."""
        kind = NEGOTIATION if isinstance(process, ContractNegotiation) else TRANSFER
        row = OutboxMessage(
            id=message.id,
            process_pid=process.pid,
            kind=kind,
            recipient=process.counter_party,
            url=process.peer_address.rstrip("/") + message.path(process.peer_pid),
            body=message.document(),
            created_at=self.now,
            due_at=self.now,
        )
        self._rows.append((row, process))

    def queue(self, row: OutboxMessage) -> None:
        """Other work for the outbox worker."""
        self._rows.append((row, None))

    async def ask(self, process: Process) -> None:
        """Have the hook consulted about this state, even if we are killed right after the commit."""
        kind = NEGOTIATION if isinstance(process, ContractNegotiation) else TRANSFER
        body = {"process": kind, "pid": process.pid, "state": process.state.value}
        due_at = self.now + self.environment.delay_for(process.counter_party)
        self._rows.append((self._own_work(DECISION, process.pid, body, due_at), process))

    async def record(self, event: AuditEvent, pid: str, **fields: Any) -> None:
        """A fact for the audit log; `fields` are AuditLeaf's. Reaches the log exactly in order of commits."""
        known = {name: value for name, value in fields.items() if value}
        fact = {"id": self.environment.new_id(), "event": event.value, "fields": known}
        self._facts.setdefault(pid, []).append(fact)

    async def announce(self, event_type: str, record: AgreementRecord) -> None:
        """A change of an agreement, on our own control topic."""
        data = {
            "agreement": record.agreement.id,
            "dataset": record.agreement.target,
            "participant": record.counter_party,
            "role": record.role.value,
            "reason": record.ended_reason,
        }
        event = CloudEvent(
            id=self.environment.new_id(),
            source=f"urn:participant:{self.environment.participant_id}",
            type=event_type,
            time=self.now,
            subject=record.agreement.id,
            data=data,
        )
        await self.tx.append_events(CONTROL_TOPIC, [event])

    async def stop_grants(self, selector: GrantSelector, reason: str) -> None:
        """End them: streams that run under them notice by the epoch."""
        self.grants.extend(await self.tx.bump_grants(selector, ended_reason=reason))

    async def enqueue(self) -> None:
        """Everything to be done after the commit, into the commit. What is due at once is leased to our own
        worker where there is one."""
        for pid, facts in self._facts.items():
            self._rows.append((self._own_work(AUDIT, pid, {"facts": facts}, self.now), None))
        desk = self.environment.desk
        if later := [row for row, _ in self._rows if row.due_at > self.now or not desk.attended]:
            await self.tx.enqueue(*later)
        if at_once := [row for row, _ in self._rows if row.due_at <= self.now and desk.attended]:
            self._until = asyncio.get_running_loop().time() + desk.lease_seconds * LEASE_MARGIN
            self._enqueued = await self.tx.enqueue(
                *at_once, worker=desk.worker, lease_seconds=desk.lease_seconds
            )

    def hand_over(self) -> None:
        """After the commit. What is leased to nobody is found in the store, when it is due."""
        tasks: list[Task] = []
        for row, process in self._rows:
            if row.id in self._enqueued.leased:
                after = self._enqueued.leased[row.id]
                tasks.append(Task(row=row, process=process, until=self._until, after=after))
            elif row.due_at > self.now:
                self.environment.desk.remind(row.due_at)
        if len(tasks) < len(self._rows):
            self.environment.wake.set()
        self.environment.desk.hand(tasks)

    def _own_work(self, kind: str, pid: str, body: JsonObject, due_at: datetime) -> OutboxMessage:
        # a queue of its own: work of ours never waits for a peer, and goes on when its messages are given up
        return OutboxMessage(
            id=self.environment.new_id(),
            process_pid=f"{kind}:{pid}",
            kind=kind,
            recipient="",
            url="",
            body=body,
            created_at=self.now,
            due_at=due_at,
        )


async def retried(step: Callable[[], Awaitable[T]]) -> T:
    """`step` taken anew while other writers are first. Raises Unavailable when they always are."""
    for _ in range(MAX_COLLISIONS):
        try:
            return await step()
        except IllegalTransition:
            raise
        except Conflict as conflict:
            if conflict.code != Conflict.code:  # a refusal of our own
                raise
    raise too_busy()


def too_busy() -> Unavailable:
    return Unavailable("This process is being changed too often right now.", mend="Try again in a moment.")


def audit_codes(code: str) -> tuple[str, ...]:
    """A code of the peer's as it may stand in the audit log: texts of others are not evidence."""
    if not code:
        return ()
    return (code if _CODE.fullmatch(code) else "other",)


def recorded_facts(row: OutboxMessage) -> list[tuple[AuditEvent, Mapping[str, Any]]]:
    """What one unit recorded about one process, in order, as `Unit.record` took it: JSON knows no tuples.
    Each fact is named, so that it is told once however often it is tried."""
    facts = row.body.get("facts") or [{"id": row.id, **row.body}]  # earlier versions: one fact in a row
    return [
        (
            AuditEvent(f["event"]),
            {"fact": f["id"], **{k: tuple(v) if isinstance(v, list) else v for k, v in f["fields"].items()}},
        )
        for f in facts
    ]
