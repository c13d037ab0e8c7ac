"""The consent register of a disclosing controller: record, withdraw, and the set of valid subjects.

Personal ids enter here and never leave this process; what is stored is AES-SIV of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Protocol

from connector.access.grants import EpochBoard
from connector.errors import Conflict, NotFound, RequestInvalid
from connector.model.audit import AuditEvent
from connector.model.consent import TRANSITIONS, ConsentEvent, ConsentRecord, ConsentSet, ConsentState, Notice
from connector.model.event import CloudEvent
from connector.model.transfer import Grant
from connector.ports import Clock, GrantSelector, Store, Transaction

EVENT_GIVEN = "fi.dataspace.consent.given.v1"
EVENT_WITHDRAWN = "fi.dataspace.consent.withdrawn.v1"
IMPORT_BATCH = 1_000
LEEWAY = timedelta(seconds=60)
"""How far the clock of whoever asked the person may be ahead of ours."""

ENDINGS = frozenset(
    {ConsentState.WITHDRAWN, ConsentState.REVOKED, ConsentState.EXPIRED, ConsentState.INVALIDATED}
)


class SubjectCodec(Protocol):
    """Personal id <-> the token that stands for it in the register."""

    def token(self, personal_id: str) -> str: ...
    def personal_id(self, token: str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentGiven:
    """One answer of one person. `personal_id` as the register's sources write it."""

    personal_id: str
    purpose: str
    recipient: str
    state: ConsentState
    valid_until: datetime | None = None
    at: datetime | None = None
    by: str = "subject"
    method: str = ""
    identification: str = ""
    notice: Notice = field(default_factory=Notice)
    legal_basis: str = ""
    disclosure_basis: str = "consent"


class ConsentRegister:
    def __init__(
        self,
        *,
        participant_id: str,
        store: Store,
        clock: Clock,
        new_id: Callable[[], str],
        subjects: SubjectCodec,
        board: EpochBoard,
        record: Callable[..., Awaitable[object]],
        topics_for: Callable[[str, str], Sequence[str]],
    ) -> None:
        """`topics_for(purpose, recipient)`: topics of the datasets whose offers ask for that consent."""
        self._participant_id = participant_id
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._subjects = subjects
        self._board = board
        self._record = record
        self._topics_for = topics_for
        self._sets: dict[tuple[str, str], ConsentSet] = {}

    async def record(self, answer: ConsentGiven) -> ConsentRecord:
        """Raises RequestInvalid, or Conflict where the person's open record does not allow this step."""
        (record,) = await self._append([answer])
        await self._put_on_record(record)
        return record

    async def import_answers(self, answers: Iterable[ConsentGiven]) -> int:
        """Many at once; each batch of 1,000 is all or nothing, and an error names the answer by its number.

        Returns how many were taken.
        """
        count, pending = 0, iter(answers)
        while batch := list(islice(pending, IMPORT_BATCH)):
            taken = len(await self._append(batch, first_number=count + 1))
            await self._record(AuditEvent.CONSENT_RECORDED, outcome="imported", subjects=taken)
            count += taken
        return count

    async def withdraw(self, record_id: str, *, by: str = "subject", method: str = "") -> ConsentRecord:
        """Effective when this returns: no further record of the person leaves under this consent.

        Raises NotFound, or Conflict when there is nothing to withdraw.
        """
        now = self._clock.now()
        event = ConsentEvent(state=ConsentState.WITHDRAWN, at=now, by=by, method=method)
        async with self._store.transaction() as tx:
            held = await self._known(tx, record_id)
            await tx.bump_consent_version(held.purpose, held.recipient)
            held = await self._known(tx, record_id)  # as it is now that nobody else can change it
            record = _next(held, event)
            await tx.save_consents([record])
            await self._announce(tx, [_Step(before=held.state, record=record)], now)
            selector = GrantSelector(consumer=record.recipient, purpose=record.purpose)
            grants = await tx.bump_grants(selector)
        await self._board.publish(grants, subject=self._subjects.personal_id(record.subject))
        await self._put_on_record(record)
        return record

    async def records_of(self, personal_id: str) -> Sequence[ConsentRecord]:
        async with self._store.transaction(read_only=True) as tx:
            return await tx.consents_of(self._subjects.token(personal_id))

    async def valid_set(self, purpose: str, recipient: str) -> ConsentSet:
        """The set now. Read anew whenever a record changed or one of its consents ran out."""
        now = self._clock.now()
        held = self._sets.get((purpose, recipient))
        async with self._store.transaction(read_only=True) as tx:
            version = await tx.consent_version(purpose, recipient)
            if held and held.version == version and (held.good_until is None or now < held.good_until):
                return held
            tokens, good_until = _valid(await tx.consents_for(purpose, recipient), now)
        current = ConsentSet(
            version=version,
            tokens=tokens,
            keys=frozenset(map(self._subjects.personal_id, tokens)),
            good_until=good_until,
        )
        self._sets[purpose, recipient] = current
        return current

    async def _append(self, answers: Sequence[ConsentGiven], *, first_number: int = 0) -> list[ConsentRecord]:
        """All or none. `first_number`: where the answers are numbered, the first one's number."""
        now = self._clock.now()
        grants: list[Grant] = []
        async with self._store.transaction() as tx:
            # first, because it keeps other writers out: nobody gets two open records for one question
            for purpose, recipient in sorted({(a.purpose, a.recipient) for a in answers}):
                await tx.bump_consent_version(purpose, recipient)
            steps = await self._take(tx, answers, now, first_number)
            await self._announce(tx, steps, now)
            for purpose, recipient in sorted({s.asked for s in steps if s.matters}):
                grants.extend(await tx.bump_grants(GrantSelector(consumer=recipient, purpose=purpose)))
        if any(step.before.permits for step in steps):
            await self._board.publish(grants)
        else:
            self._board.changed(grants)  # nobody was taken out: no write under way shows too much
        return [step.record for step in steps]

    async def _take(
        self, tx: Transaction, answers: Sequence[ConsentGiven], now: datetime, first_number: int
    ) -> list[_Step]:
        steps: list[_Step] = []
        known: dict[str, dict[str, ConsentRecord]] = {}  # by subject: the records as these answers leave them
        changed: dict[str, ConsentRecord] = {}
        for number, answer in enumerate(answers, start=first_number):
            with _numbered(number):
                subject = self._subjects.token(answer.personal_id)
                if subject not in known:
                    known[subject] = {r.id: r for r in await tx.consents_of(subject)}
                step = self._answered(answer, subject, list(known[subject].values()), now)
            steps.append(step)
            for record in (*step.closed, step.record):
                known[subject][record.id] = changed[record.id] = record
        await tx.save_consents(list(changed.values()))
        return steps

    def _answered(
        self, answer: ConsentGiven, subject: str, records: Sequence[ConsentRecord], now: datetime
    ) -> _Step:
        event = _event(answer, now)
        asked = (answer.purpose, answer.recipient)
        held = _latest([r for r in records if (r.purpose, r.recipient) == asked])
        closed: tuple[ConsentRecord, ...] = ()
        if held is not None:
            last = held.events[-1]
            if event.at < last.at and event.state not in ENDINGS:
                raise Conflict("A later answer of this person is on record.", mend="Ask the person again.")
            if _ran_out(held, now) and event.state not in ENDINGS | {ConsentState.RENEWED}:
                held = _next(held, _expired(last))
                closed = (held,)
            if TRANSITIONS.get(held.state) or event.state in ENDINGS:
                return _Step(before=held.state, record=_next(held, event))
        fresh = ConsentRecord(
            id=self._new_id(),
            subject=subject,
            controller=self._participant_id,
            purpose=answer.purpose,
            recipient=answer.recipient,
            legal_basis=answer.legal_basis,
            disclosure_basis=answer.disclosure_basis,
            notice=answer.notice,
            events=(),
            replaces=held.id if held else "",
        )
        if event.state is ConsentState.WITHDRAWN:  # an import of history: it was given before
            fresh = _next(fresh, replace(event, state=ConsentState.GIVEN))
        return _Step(before=ConsentState.UNKNOWN, record=_next(fresh, event), closed=closed)

    @staticmethod
    async def _known(tx: Transaction, record_id: str) -> ConsentRecord:
        record = await tx.consent(record_id)
        if record is None:
            raise NotFound("There is no such consent record.", mend="List the person's records first.")
        return record

    async def _put_on_record(self, record: ConsentRecord) -> None:
        withdrawn = record.state is ConsentState.WITHDRAWN
        await self._record(
            AuditEvent.CONSENT_WITHDRAWN if withdrawn else AuditEvent.CONSENT_RECORDED,
            object=record.id,
            purpose=record.purpose,
            outcome=record.state.value,
            actor=record.recipient,
        )

    async def _announce(self, tx: Transaction, steps: Sequence[_Step], now: datetime) -> None:
        """One event per topic and step, keyed by the subject's token; delivery makes it a pseudonym.

        What was never permitted is nobody's business but the person's and the register's.
        """
        by_topic: dict[str, list[CloudEvent]] = {}
        for step in steps:
            kind, record = step.announced_as, step.record
            for topic in self._topics_for(record.purpose, record.recipient) if kind else ():
                by_topic.setdefault(topic, []).append(
                    CloudEvent(
                        id=self._new_id(),
                        source=f"urn:participant:{self._participant_id}",
                        type=kind,
                        time=now,
                        subject=record.subject,
                        extensions={"purpose": record.purpose, "recipient": record.recipient},
                    )
                )
        for topic, events in by_topic.items():
            await tx.append_events(topic, events)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A record that has taken one step, and the state in which the person's answer was before.

    `closed`: the record that ran out, where this one takes its place.
    """

    before: ConsentState
    record: ConsentRecord
    closed: tuple[ConsentRecord, ...] = ()

    @property
    def asked(self) -> tuple[str, str]:
        """Purpose and recipient."""
        return self.record.purpose, self.record.recipient

    @property
    def matters(self) -> bool:
        """Whether who may be shown can have changed."""
        return self.before.permits or self.record.state.permits

    @property
    def announced_as(self) -> str:
        """The event's type, "" for none."""
        if self.record.state.permits:
            return EVENT_GIVEN
        return EVENT_WITHDRAWN if self.before.permits and self.record.state in ENDINGS else ""


def _event(answer: ConsentGiven, now: datetime) -> ConsentEvent:
    if not answer.purpose or not answer.recipient:
        raise RequestInvalid("A consent names a purpose and a recipient.", where="purpose, recipient")
    at = answer.at or now
    if at > now + LEEWAY:
        raise RequestInvalid("An answer cannot be given in the future.", where="at")
    return ConsentEvent(
        state=answer.state,
        at=min(at, now),
        valid_until=answer.valid_until,
        by=answer.by,
        method=answer.method,
        identification=answer.identification,
    )


def _expired(given: ConsentEvent) -> ConsentEvent:
    return ConsentEvent(state=ConsentState.EXPIRED, at=given.valid_until or given.at, by="controller")


def _next(record: ConsentRecord, event: ConsentEvent) -> ConsentRecord:
    held = record.events[-1].state if record.events else None
    if event.state not in TRANSITIONS.get(held, frozenset()):
        raise Conflict(
            f"A consent in state {held.value if held else 'none'} cannot become {event.state.value}.",
            mend="A new consent is a new record: ask the person again.",
        )
    return replace(record, events=(*record.events, event))


def _standing(records: Sequence[ConsentRecord]) -> list[ConsentRecord]:
    """Those that no other record replaces."""
    replaced = {r.replaces for r in records}
    return [r for r in records if r.id not in replaced]


def _latest(records: Sequence[ConsentRecord]) -> ConsentRecord | None:
    """What the next answer of this person follows on: the open record, where there is one."""
    standing = sorted(_standing(records), key=lambda r: (bool(TRANSITIONS.get(r.state)), r.events[-1].at))
    return standing[-1] if standing else None


def _ran_out(record: ConsentRecord, now: datetime) -> bool:
    until = record.events[-1].valid_until
    return record.state.permits and until is not None and until <= now


def _valid(records: Sequence[ConsentRecord], now: datetime) -> tuple[frozenset[str], datetime | None]:
    """The subjects who may be shown now, and until when none of them runs out. Of several records about
    one person, one that says no outweighs the others."""
    standing = _standing(records)
    refused = {r.subject for r in standing if not r.valid_at(now)}
    valid = [r for r in standing if r.subject not in refused]
    ends = [r.events[-1].valid_until for r in valid]
    return frozenset(r.subject for r in valid), min((e for e in ends if e is not None), default=None)


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Which answer of many was wrong; 0 for one that stands alone."""
    try:
        yield
    except Conflict as error:
        if not number:
            raise
        raise Conflict(f"Answer {number}: {error.message}", mend=error.mend, code=error.code) from None
    except RequestInvalid as error:
        if not number:
            raise
        raise RequestInvalid(f"Answer {number}: {error.message}", mend=error.mend, code=error.code) from None
