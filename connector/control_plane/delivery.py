"""Event pushes (`CloudEvents-PUSH`): dataset topic -> decision, consent, pseudonym -> the consumer's gateway.

One worker per started transfer. Events about persons go by reference: type, pseudonym and where to
ask, never a payload. At least once, in order; the offset is committed after the consumer's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from connector.access.admission import ACTIONS, Admission, Disclosures, LiveGrant
from connector.access.grants import EpochBoard, GrantWatch
from connector.control_plane.consent import EVENT_GIVEN, EVENT_WITHDRAWN, ConsentRegister, SubjectCodec
from connector.errors import ConnectorError, GrantStopped, NotPermitted, PeerError, Reason
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.decision import EVERY_ROW, Permit, Pseudonym
from connector.model.event import CloudEvent, Delivered
from connector.model.negotiation import Role
from connector.model.token import AuthorizationDetail
from connector.model.transfer import TransferProcess, TransferState
from connector.ports import Clock, EventBus, Store

_log = logging.getLogger(__name__)

MAX_BATCH = 100
RETRY_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0
REFUSED_PAUSE_SECONDS = 60.0
"""A refusal is asked about again now and then: each time it goes on record."""

CONSENT_EVENTS = frozenset({EVENT_GIVEN, EVENT_WITHDRAWN})

Send = Callable[[TransferProcess, Sequence[CloudEvent]], Awaitable[None]]
"""Delivers one batch to the consumer's gateway; returns once it has acknowledged. Raises PeerError."""

Pseudonyms = Callable[[Pseudonym, Sequence[str]], Awaitable[Sequence[str]]]


def dataset_topic(dataset_id: str) -> str:
    """The topic of the events about one dataset, inside its provider."""
    return f"dataset.{dataset_id}"


@dataclass(frozen=True, slots=True)
class Ready:
    """What may leave now, and the persons it is about."""

    events: Sequence[CloudEvent]
    subjects: frozenset[str]


class Delivery:
    """Keeps one worker for each started push transfer of which we are the provider."""

    def __init__(
        self,
        *,
        participant_id: str,
        store: Store,
        bus: EventBus,
        clock: Clock,
        admission: Admission,
        board: EpochBoard,
        consents: ConsentRegister,
        subjects: SubjectCodec,
        pseudonyms: Pseudonyms,
        send: Send,
        disclosures: Disclosures,
        record: Callable[..., Awaitable[object]],
    ) -> None:
        self._participant_id = participant_id
        self._store = store
        self._bus = bus
        self._clock = clock
        self._admission = admission
        self._board = board
        self._consents = consents
        self._subjects = subjects
        self._pseudonyms = pseudonyms
        self._send = send
        self._disclosures = disclosures
        self._record = record
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, float] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A transfer changed: look again."""
        self._wake.set()

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                try:
                    await self._match_workers()
                except ConnectorError as error:
                    _log.warning("the transfers cannot be read: %s", error.code)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), RETRY_SECONDS)
        finally:
            for worker in self._workers.values():
                worker.cancel()
            await asyncio.gather(*self._workers.values(), return_exceptions=True)

    async def _match_workers(self) -> None:
        async with self._store.transaction(read_only=True) as tx:
            wanted = {t.pid: t for t in await tx.transfers() if _is_running_push(t)}
        for pid in [p for p, task in self._workers.items() if p not in wanted or task.done()]:
            self._dismiss(pid, self._workers.pop(pid))
        for pid, transfer in wanted.items():
            if pid not in self._workers:
                worker = asyncio.create_task(self._work(transfer), name=f"push {pid}")
                worker.add_done_callback(self._ended)
                self._workers[pid] = worker

    def _ended(self, worker: asyncio.Task[None]) -> None:
        if worker.cancelled():  # by the barrier: its batch waits
            self.wake()

    def _dismiss(self, pid: str, worker: asyncio.Task[None]) -> None:
        if worker.cancel():
            self._pauses.pop(pid, None)  # the transfer stopped
        elif not worker.cancelled() and (error := worker.exception()):
            _log.error("push %s failed: %s", pid, type(error).__name__)

    async def _work(self, transfer: TransferProcess) -> None:
        """Until the transfer stops. A peer that is down is tried again; nothing is skipped."""
        while True:
            try:
                await self._push(transfer)
            except (GrantStopped, NotPermitted) as stopped:
                _log.info("push %s is refused: %s", transfer.pid, _codes(stopped))
                longest = REFUSED_PAUSE_SECONDS
            except ConnectorError as error:
                _log.warning("push %s pauses: %s", transfer.pid, error.code)
                longest = LONGEST_PAUSE_SECONDS
            pause = self._pauses.get(transfer.pid, RETRY_SECONDS)
            self._pauses[transfer.pid] = min(2 * pause, REFUSED_PAUSE_SECONDS)
            await self._clock.sleep(min(pause, longest))

    async def _push(self, transfer: TransferProcess) -> None:
        live = await self._open(transfer)
        task = asyncio.current_task()
        assert task is not None
        async with self._bus.subscribe(dataset_topic(live.dataset.id), transfer.pid) as subscription:
            # a cancelled worker is started anew and delivers its batch under the new decision
            with self._board.watch(live.grant, task.cancel) as watch:
                permit, audit_id = await self._decide(live)
                while True:
                    batch = await subscription.poll(max_events=MAX_BATCH)
                    ready = await self._ready(live, permit, batch)
                    while watch.moved or self._ran_out(permit):
                        live = await self._admission.load(live.grant.id)
                        watch.decided(live.grant)
                        permit, audit_id = await self._decide(live)
                        ready = await self._ready(live, permit, batch)
                    if ready.events:  # from the check, with no await between, until it is written
                        await self._deliver(watch, live, ready, audit_id)
                    if batch:
                        await subscription.commit(batch[-1].offset)
                        self._pauses.pop(transfer.pid, None)

    def _ran_out(self, permit: Permit) -> bool:
        return permit.expires_at is not None and self._clock.now() >= permit.expires_at

    async def _open(self, transfer: TransferProcess) -> LiveGrant:
        async with self._store.transaction(read_only=True) as tx:
            record = await tx.agreement(transfer.agreement_id)
        purposes = record.agreement.policy.values_of("purpose") if record else frozenset()
        if record is None or len(purposes) != 1:
            raise NotPermitted([_AMBIGUOUS])
        (purpose,) = purposes
        detail = AuthorizationDetail(
            agreement_id=record.agreement.id,
            dataset_id=record.agreement.target,
            actions=frozenset({ACTIONS[transfer.format]}),
            purpose=purpose,
        )
        consumer = self._admission.participant(transfer.counter_party)
        grant = await self._admission.open(consumer, detail)
        return await self._admission.load(grant.id)

    async def _decide(self, live: LiveGrant) -> tuple[Permit, str]:
        event = AuditEvent.EVENTS_DECIDED
        async with self._admission.refusals_on_record(live, event):
            permit = await self._admission.decide(live, "event")
            if reasons := _left_to_refuse(live, permit):
                raise NotPermitted(reasons)
        receipt = await self._admission.on_record(live, event, permit)
        return permit, receipt.audit_id

    async def _ready(self, live: LiveGrant, permit: Permit, batch: Sequence[Delivered]) -> Ready:
        """What of the batch may leave now, in the form in which it may leave."""
        consenting = [await self._consents.valid_set(c.purpose, c.recipient) for c in permit.consent]
        allowed = [
            event
            for event in (d.event for d in batch)
            if event.type in live.dataset.event_types
            and _concerns(event, live)
            # a withdrawal always passes: it is the stop signal itself, and names nobody in the clear
            and (event.type == EVENT_WITHDRAWN or all(event.subject in c.tokens for c in consenting))
        ]
        return await self._by_reference(live, permit, allowed)

    async def _by_reference(self, live: LiveGrant, permit: Permit, events: Sequence[CloudEvent]) -> Ready:
        reference = {"dataset": f"{self._participant_id}.{live.dataset.id}"}
        extensions = {"purpose": live.grant.purpose, "agreementid": live.grant.agreement_id}
        key = live.dataset.subject_key
        pseudonym = permit.pseudonyms.get(key)
        if pseudonym is None:  # about nobody: `_left_to_refuse` has seen to that
            bare = [replace(e, subject="", data=reference, extensions=extensions) for e in events]
            return Ready(bare, frozenset())
        subjects = [self._subjects.personal_id(e.subject) for e in events]
        names = await self._pseudonyms(pseudonym, subjects)
        named = [
            replace(event, subject=name, data={**reference, "key": key, "value": name}, extensions=extensions)
            for event, name in zip(events, names, strict=True)
        ]
        return Ready(named, frozenset(subjects))

    async def _deliver(self, watch: GrantWatch, live: LiveGrant, ready: Ready, audit_id: str) -> None:
        """The outcome is on record whatever it is."""
        try:
            with watch.writing(ready.subjects or None):
                await self._send(live.transfer, ready.events)
        except PeerError as error:
            await self._outcome(live, ready, audit_id, error.code)
            raise
        except BaseException:  # cut off by the barrier: nobody knows what arrived
            try:
                await self._outcome(live, ready, audit_id, "interrupted")
            except ConnectorError as error:
                _log.error("the end of push %s is not on record: %s", live.transfer.pid, error.code)
            raise
        await self._outcome(live, ready, audit_id, "delivered")

    async def _outcome(self, live: LiveGrant, ready: Ready, audit_id: str, outcome: str) -> None:
        """What may have arrived counts as disclosed, whatever became of it."""
        ledger = await self._disclosures.disclose(live, audit_id, ready.subjects, len(ready.events))
        await self._record(
            AuditEvent.EVENTS_DELIVERED,
            actor=live.consumer.id,
            object=live.dataset.id,
            purpose=live.grant.purpose,
            agreement=live.grant.agreement_id,
            transfer=live.transfer.pid,
            grant=live.grant.id,
            epoch=live.grant.epoch,
            outcome=outcome,
            rows=len(ready.events),
            subjects=len(ready.subjects),
            ledger=ledger,
            refers=audit_id,
        )


def _is_running_push(transfer: TransferProcess) -> bool:
    """Not while we say something about it: the consumer may not know yet that it started, or stops."""
    return (
        transfer.role is Role.PROVIDER
        and transfer.format is TransferFormat.CLOUD_EVENTS_PUSH
        and transfer.state is TransferState.STARTED
        and not transfer.sending
    )


def _concerns(event: CloudEvent, live: LiveGrant) -> bool:
    """An answer of a person is for the recipient it was about, for that purpose, and none of its business
    where it was over before there was an agreement."""
    if event.type not in CONSENT_EVENTS:
        return True
    about = (event.extensions.get("recipient"), event.extensions.get("purpose"))
    over = event.type == EVENT_WITHDRAWN and event.time < live.record.agreement.timestamp
    return about == (live.consumer.id, live.grant.purpose) and not over


def _left_to_refuse(live: LiveGrant, permit: Permit) -> list[Reason]:
    """What cannot be made to hold on single events about persons, is refused."""
    key = live.dataset.subject_key
    found = []
    if key and key not in permit.pseudonyms:
        found.append(_NO_PSEUDONYM)
    if permit.aggregate_only or permit.min_group_size > 1:
        found.append(_ONLY_GROUPS)
    if permit.row_filter != EVERY_ROW:
        found.append(_ROW_FILTER)
    if permit.subjects_named:
        found.append(_ONLY_NAMED)
    return found


def _codes(stopped: GrantStopped | NotPermitted) -> str:
    reasons = stopped.reasons if isinstance(stopped, NotPermitted) else ()
    return ", ".join(r.code for r in reasons) or stopped.code


_AMBIGUOUS = Reason(
    code="purpose_ambiguous", text="A push needs an agreement with exactly one purpose.", source="agreement"
)
_NO_PSEUDONYM = Reason(
    code="event_needs_pseudonym",
    text="Events about persons go by reference: the offer must expose the subject key as a pseudonym.",
    source="dataset",
)
_ONLY_GROUPS = Reason(
    code="event_about_one_person", text="Only groups may be shown, and an event is about one.", source="offer"
)
_ROW_FILTER = Reason(
    code="event_row_filter",
    text="A policy opens some rows only, and an event does not tell whether its person is in them.",
    source="policy",
)
_ONLY_NAMED = Reason(
    code="event_names_nobody",
    text="Only persons named one by one may be shown, and a push names none.",
    source="offer",
)
