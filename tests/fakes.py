"""A small working store in memory, for unit tests of the control plane: port Store without a database."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from connector.errors import Conflict
from connector.model.consent import ConsentRecord
from connector.model.event import CloudEvent
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.policy import AgreementState
from connector.model.transfer import Grant, GrantState, TransferProcess
from connector.ports import Clock, Enqueued, GrantSelector, OutboxMessage

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass
class Row:
    """One row of the outbox; `abandoned` holds the error."""

    message: OutboxMessage
    leased_to: str = ""
    leased_until: datetime = LONG_AGO
    abandoned: str = ""

    def free(self) -> None:
        self.leased_to, self.leased_until = "", LONG_AGO


@dataclass
class State:
    negotiations: dict[str, ContractNegotiation] = field(default_factory=dict)
    transfers: dict[str, TransferProcess] = field(default_factory=dict)
    agreements: dict[str, AgreementRecord] = field(default_factory=dict)
    outbox: list[Row] = field(default_factory=list)
    events: list[tuple[str, CloudEvent]] = field(default_factory=list)
    consents: dict[str, ConsentRecord] = field(default_factory=dict)
    consent_versions: dict[tuple[str, str], int] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    values: dict[str, JsonObject] = field(default_factory=dict)
    uses: dict[tuple[str, str], int] = field(default_factory=dict)

    def copied(self) -> State:
        """Values are frozen: only the containers and the outbox's rows are copied."""
        shallow = {name: copy.copy(value) for name, value in vars(self).items()}
        return State(**{**shallow, "outbox": [replace(row) for row in self.outbox]})


class MemoryStore:
    """Transactions run one at a time on a copy; leaving one without an exception makes the copy current."""

    def __init__(self, clock: Clock) -> None:
        self.state = State()
        self._clock = clock
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        pass

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[MemoryTransaction]:
        if read_only:
            yield MemoryTransaction(self.state.copied(), self._clock)
            return
        async with self._lock:
            draft = self.state.copied()
            yield MemoryTransaction(draft, self._clock)
            self.state = draft

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass


class MemoryTransaction:
    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    # --- processes ----------------------------------------------------------------------------------------

    async def negotiation(self, pid: str) -> ContractNegotiation | None:
        return self._state.negotiations.get(pid)

    async def negotiation_by_peer(self, counter_party: str, peer_pid: str) -> ContractNegotiation | None:
        found = self._state.negotiations.values()
        return next((n for n in found if (n.counter_party, n.peer_pid) == (counter_party, peer_pid)), None)

    async def negotiations(
        self, *, waiting: bool | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[ContractNegotiation]:
        found = sorted(self._state.negotiations.values(), key=lambda n: n.pid)
        wanted = [n for n in found if n.pid > after and waiting in (None, bool(n.waiting_for))]
        return wanted[:limit]

    async def save_negotiation(self, negotiation: ContractNegotiation) -> ContractNegotiation:
        held = self._state.negotiations.get(negotiation.pid)
        if negotiation.version != (held.version if held else 0):
            raise Conflict("This negotiation was changed by someone else in the meantime.")
        saved = replace(negotiation, version=negotiation.version + 1)
        self._state.negotiations[saved.pid] = saved
        return saved

    async def transfer(self, pid: str) -> TransferProcess | None:
        return self._state.transfers.get(pid)

    async def transfer_by_peer(self, counter_party: str, peer_pid: str) -> TransferProcess | None:
        found = self._state.transfers.values()
        return next((t for t in found if (t.counter_party, t.peer_pid) == (counter_party, peer_pid)), None)

    async def transfers(self, *, agreement_id: str | None = None) -> Sequence[TransferProcess]:
        found = self._state.transfers.values()
        return [t for t in found if agreement_id in (None, t.agreement_id)]

    async def transfers_page(
        self, *, agreement_id: str | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[TransferProcess]:
        found = sorted(await self.transfers(agreement_id=agreement_id), key=lambda t: t.pid)
        return [t for t in found if t.pid > after][:limit]

    async def save_transfer(self, transfer: TransferProcess) -> TransferProcess:
        held = self._state.transfers.get(transfer.pid)
        if transfer.version != (held.version if held else 0):
            raise Conflict("This transfer was changed by someone else in the meantime.")
        saved = replace(transfer, version=transfer.version + 1)
        self._state.transfers[saved.pid] = saved
        return saved

    async def agreement(self, agreement_id: str) -> AgreementRecord | None:
        return self._state.agreements.get(agreement_id)

    async def agreement_for_change(self, agreement_id: str) -> AgreementRecord | None:
        return self._state.agreements.get(agreement_id)

    async def agreements(self, *, counter_party: str | None = None) -> Sequence[AgreementRecord]:
        found = self._state.agreements.values()
        return [a for a in found if counter_party in (None, a.counter_party)]

    async def save_agreement(self, record: AgreementRecord) -> None:
        held = self._state.agreements.get(record.agreement.id)
        if held and held.state is AgreementState.TERMINATED and record.state is not held.state:
            raise Conflict("This agreement was terminated: it cannot become active again.")
        self._state.agreements[record.agreement.id] = record

    # --- outbox and events --------------------------------------------------------------------------------

    async def enqueue(
        self, *messages: OutboxMessage, worker: str = "", lease_seconds: float = 0.0
    ) -> Enqueued:
        enqueued = Enqueued()
        now = self._clock.now()
        for message in messages:
            assert all(row.message.id != message.id for row in self._state.outbox), "an id is used once"
            queue = [r for r in self._state.outbox if r.message.process_pid == message.process_pid]
            ahead = [r for r in queue if not r.abandoned]
            row = Row(message)
            if worker and all(r.leased_to == worker and r.leased_until > now for r in ahead):
                row.leased_to, row.leased_until = worker, now + timedelta(seconds=lease_seconds)
                enqueued.leased[message.id] = ahead[-1].message.id if ahead else ""
            self._state.outbox.append(row)
        return enqueued

    async def due_messages(
        self, now: datetime, *, worker: str, lease_seconds: float, limit: int = 20
    ) -> Sequence[OutboxMessage]:
        heads: dict[str, Row] = {}
        for row in self._state.outbox:
            if not row.abandoned:
                heads.setdefault(row.message.process_pid, row)
        free = [r for r in heads.values() if r.leased_until <= now]
        due = [r for r in free if r.message.due_at <= now][:limit]
        for row in due:
            row.leased_to, row.leased_until = worker, now + timedelta(seconds=lease_seconds)
        return [row.message for row in due]

    async def sent(self, *message_ids: str) -> None:
        self._state.outbox = [r for r in self._state.outbox if r.message.id not in message_ids or r.abandoned]

    async def release(self, worker: str, *message_ids: str) -> None:
        for row in self._state.outbox:
            if row.leased_to == worker and (not message_ids or row.message.id in message_ids):
                row.free()

    async def postpone(self, message_id: str, *, due_at: datetime, error: str) -> None:
        for row in self._pending(message_id):
            tried = row.message.attempts + 1
            row.message = replace(row.message, due_at=due_at, last_error=error, attempts=tried)
            row.free()

    async def abandon(self, message_id: str, *, error: str) -> None:
        for given_up in self._pending(message_id):
            rows = self._state.outbox[self._state.outbox.index(given_up) :]
            for row in rows:
                if row.message.process_pid == given_up.message.process_pid:
                    row.abandoned = row.abandoned or error

    async def abandoned_messages(self, *, limit: int = 100, before: str = "") -> Sequence[OutboxMessage]:
        rows = [r for r in reversed(self._state.outbox) if r.abandoned]
        ids = [r.message.id for r in rows]
        first = ids.index(before) + 1 if before in ids else len(rows) if before else 0
        return [replace(r.message, last_error=r.abandoned) for r in rows[first : first + limit]]

    def _pending(self, message_id: str) -> list[Row]:
        return [r for r in self._state.outbox if r.message.id == message_id and not r.abandoned]

    async def append_events(self, topic: str, events: Sequence[CloudEvent]) -> None:
        self._state.events.extend((topic, event) for event in events)

    # --- consent and grants -------------------------------------------------------------------------------

    async def consent(self, record_id: str) -> ConsentRecord | None:
        return self._state.consents.get(record_id)

    async def consents_of(self, subject: str) -> Sequence[ConsentRecord]:
        return [r for r in self._state.consents.values() if r.subject == subject]

    async def save_consents(self, records: Sequence[ConsentRecord]) -> None:
        self._state.consents.update({r.id: r for r in records})

    async def consents_for(self, purpose: str, recipient: str) -> Sequence[ConsentRecord]:
        found = self._state.consents.values()
        return [r for r in found if (r.purpose, r.recipient) == (purpose, recipient)]

    async def consent_version(self, purpose: str, recipient: str) -> int:
        return self._state.consent_versions.get((purpose, recipient), 0)

    async def bump_consent_version(self, purpose: str, recipient: str) -> int:
        version = await self.consent_version(purpose, recipient) + 1
        self._state.consent_versions[purpose, recipient] = version
        return version

    async def grant(self, grant_id: str) -> Grant | None:
        return self._state.grants.get(grant_id)

    async def grants(self, selector: GrantSelector) -> Sequence[Grant]:
        return [g for g in self._state.grants.values() if _selects(selector, g)]

    async def save_grant(self, grant: Grant) -> None:
        held = self._state.grants.get(grant.id)
        if held and held.state is GrantState.ENDED:
            raise Conflict("This grant has ended.")
        self._state.grants[grant.id] = grant

    async def bump_grants(self, selector: GrantSelector, *, ended_reason: str = "") -> Sequence[Grant]:
        bumped = []
        for grant in await self.grants(selector):
            if grant.state is GrantState.ACTIVE:
                moved = replace(grant, epoch=grant.epoch + 1)
                if ended_reason:
                    moved = replace(moved, state=GrantState.ENDED, ended_reason=ended_reason)
                self._state.grants[grant.id] = moved
                bumped.append(moved)
        return bumped

    # --- values and counters ------------------------------------------------------------------------------

    async def value(self, key: str) -> JsonObject | None:
        return self._state.values.get(key)

    async def put_value(self, key: str, value: JsonObject) -> None:
        self._state.values[key] = value

    async def delete_values(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._state.values.pop(key, None)

    async def values(self, prefix: str) -> Mapping[str, JsonObject]:
        return {k: v for k, v in self._state.values.items() if k.startswith(prefix)}

    async def count_use(self, key: str, *, period: str, at_most: int) -> bool:
        used = self._state.uses.get((key, period), 0)
        if used >= at_most:
            return False
        self._state.uses[key, period] = used + 1
        return True


def _selects(selector: GrantSelector, grant: Grant) -> bool:
    wanted = {
        "agreement_id": selector.agreement_id,
        "transfer_pid": selector.transfer_pid,
        "consumer": selector.consumer,
        "purpose": selector.purpose,
    }
    named = all(value is None or getattr(grant, name) == value for name, value in wanted.items())
    return named and (selector.dataset_ids is None or grant.dataset_id in selector.dataset_ids)
