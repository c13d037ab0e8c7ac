"""Event pushes: who gets a worker, what leaves and in which form, and what stops it (CloudEvents-PUSH)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from connector.access.admission import LiveGrant
from connector.access.pseudonym import Pseudonymiser
from connector.adapters.event_log import EventLog
from connector.adapters.sqlite_store import SqliteStore
from connector.control_plane.consent import EVENT_GIVEN, EVENT_WITHDRAWN
from connector.control_plane.delivery import MAX_BATCH, Delivery
from connector.control_plane.publishing import NewEvent, Publishing
from connector.errors import PeerRefused, PeerUnreachable, Reason
from connector.model.audit import AuditEvent, AuditLeaf
from connector.model.consent import ConsentState
from connector.model.decision import Deny, FieldCondition, Permit, Pseudonym
from connector.model.event import CloudEvent
from connector.model.negotiation import Role
from connector.model.participant import ParticipantStatus
from connector.model.policy import Constraint, Policy, Rule
from connector.model.transfer import TransferProcess, TransferState
from connector.ports import GrantSelector
from tests.agreed import (
    CONSUMER,
    PERMIT,
    PERSONS,
    PROVIDER,
    PURPOSE,
    PUSH,
    QUERY,
    STATUS_CHANGED,
    Agreed,
    answer,
    benefits,
    record,
    transfer,
    until,
)
from tests.clocks import START

ANNA, BEN, CARL, DORA = PERSONS
KEY = b"k" * 32
TOPIC = "dataset.benefits"
SETTLED_SECONDS = 0.25
"""After this long nothing more is on its way."""


@dataclass
class Gateway:
    """The consumer's, where batches arrive: down, refusing, or slow at will."""

    batches: list[list[CloudEvent]] = field(default_factory=list)
    tried: int = 0
    fails_with: Exception | None = None
    held_up: asyncio.Event | None = None
    to: list[str] = field(default_factory=list)

    async def send(self, transfer: TransferProcess, events: Sequence[CloudEvent]) -> None:
        self.tried += 1
        self.to.append(transfer.pid)
        if self.held_up is not None:
            await self.held_up.wait()
        if self.fails_with is not None:
            raise self.fails_with
        self.batches.append(list(events))

    @property
    def events(self) -> list[CloudEvent]:
        return [event for batch in self.batches for event in batch]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def names(self, type_: str = STATUS_CHANGED) -> list[str]:
        return [event.subject for event in self.events if event.type == type_]


class Pushing:
    """kela's delivery over the real embedded store and event log."""

    def __init__(self, agreed: Agreed, bus: EventLog) -> None:
        self.agreed, self.bus, self.clock = agreed, bus, agreed.clock
        self.gateway = Gateway()
        self.delivery = Delivery(
            participant_id=PROVIDER,
            store=agreed.store,
            bus=bus,
            clock=agreed.clock,
            admission=agreed.admission,
            board=agreed.board,
            consents=agreed.consents,
            subjects=agreed.subjects,
            pseudonyms=self._names,
            send=self.gateway.send,
            disclosures=self,
            record=agreed.auditor.record,
        )
        self.publishing = Publishing(
            participant_id=PROVIDER,
            bus=bus,
            clock=agreed.clock,
            new_id=agreed.new_id,
            catalogue=lambda: agreed.datasets,
            subjects=agreed.subjects,
        )
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """What happens while a batch is made ready."""
        self._tasks: list[asyncio.Task[None]] = []
        self.disclosed: list[tuple[str, frozenset[str], int]] = []

    async def disclose(self, live: LiveGrant, audit_id: str, subjects: Collection[str], rows: int) -> str:
        self.disclosed.append((audit_id, frozenset(subjects), rows))
        return "ledger"

    async def _names(self, pseudonym: Pseudonym, ids: Sequence[str]) -> Sequence[str]:
        if ids and self.meanwhile is not None:
            await self.meanwhile()
        made = Pseudonymiser(KEY, pseudonym.domain, invertible=pseudonym.invertible).apply(ids)
        return [name or "" for name in made]

    def name(self, person: str, permit: Permit = PERMIT) -> str:
        (made,) = Pseudonymiser(KEY, permit.pseudonyms["hetu"].domain, invertible=False).apply([person])
        return made or ""

    def start(self) -> None:
        self._tasks += [
            asyncio.create_task(self.delivery.run()),
            asyncio.create_task(self.agreed.board.run()),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def publish(self, *people: str, **changes: Any) -> None:
        await self.publishing.publish(
            "benefits", [NewEvent(**{"type": STATUS_CHANGED, "person": p, **changes}) for p in people]
        )

    async def raw(self, **changes: Any) -> None:
        """An event on the dataset's topic that no use case of ours would publish."""
        values: dict[str, Any] = {
            "id": self.agreed.new_id(),
            "source": "urn:participant:kela",
            "type": STATUS_CHANGED,
            "time": self.clock.now(),
            "subject": self.agreed.subjects.token(ANNA),
        }
        await self.bus.publish(TOPIC, [CloudEvent(**{**values, **changes})])

    def leaves(self, event: AuditEvent) -> list[AuditLeaf]:
        return self.agreed.audit.of(event)

    async def arrived(self, count: int) -> None:
        await until(lambda: len(self.gateway.events) >= count)

    async def settled(self) -> None:
        await asyncio.sleep(SETTLED_SECONDS)

    async def keep_time(self) -> None:
        """The board polls by the test's clock; without this its copy would grow stale in long tests."""
        await self.clock.advance(0.25)
        await asyncio.sleep(0.01)


@pytest.fixture
async def pushing(tmp_path: Path) -> AsyncIterator[Pushing]:
    store = SqliteStore(tmp_path / "connector.sqlite")
    await store.open()
    agreed = await Agreed(store).set_up()
    made = Pushing(agreed, EventLog(store.database, new_id=agreed.new_id))
    try:
        yield made
    finally:
        await made.stop()
        await store.close()


async def consenting(pushing: Pushing, *people: str) -> None:
    """They have consented, and the events of that have been delivered."""
    await pushing.agreed.consents.import_answers(answer(p) for p in people)
    await pushing.arrived(len(people))
    pushing.gateway.batches.clear()


# --- who gets a worker ----------------------------------------------------------------------------------

NO_WORKER = {
    "not started": {"state": TransferState.REQUESTED},
    "suspended": {"state": TransferState.SUSPENDED},
    "ended": {"state": TransferState.COMPLETED},
    "pulled, not pushed": {"format_": QUERY},
    "ours as consumer": {"role": Role.CONSUMER},
    "its suspension is on its way": {"sending": "TransferSuspensionMessage"},
}


@pytest.mark.parametrize("changes", NO_WORKER.values(), ids=NO_WORKER)
async def test_only_started_pushes_of_ours_send(pushing: Pushing, changes: dict[str, Any]) -> None:
    """DSP 2025-1 §9: data flows in STARTED only, and our own decision to stop counts at once."""
    await pushing.agreed.change_transfer("t-push", state=TransferState.TERMINATED)
    made = transfer("t-other", **{"format_": PUSH, **changes})
    await pushing.agreed.write(lambda tx: tx.save_transfer(made))
    await pushing.agreed.consents.record(answer(ANNA))
    await pushing.publish(ANNA)
    pushing.start()
    await pushing.settled()
    assert pushing.gateway.tried == 0
    assert pushing.leaves(AuditEvent.EVENTS_DECIDED) == []


async def test_a_transfer_that_starts_later_is_served_and_one_that_stops_is_not(pushing: Pushing) -> None:
    """`wake` makes it look at once; a stopped transfer's worker ends."""
    await pushing.agreed.change_transfer("t-push", state=TransferState.REQUESTED)
    pushing.start()
    await pushing.agreed.consents.record(answer(ANNA))
    await pushing.agreed.change_transfer("t-push", state=TransferState.STARTED)
    pushing.delivery.wake()
    await pushing.arrived(1)
    await pushing.agreed.change_transfer("t-push", state=TransferState.SUSPENDED)
    pushing.delivery.wake()
    await pushing.settled()
    await pushing.publish(ANNA)
    await pushing.settled()
    assert pushing.gateway.types == [EVENT_GIVEN]


async def test_an_agreement_with_two_purposes_says_not_which(pushing: Pushing) -> None:
    """One grant, one purpose: a push under "either of two" is under neither."""
    asked = Constraint(left_operand="purpose", operator="isAnyOf", right_operand=[PURPOSE, "case-work"])
    agreement = replace(
        record().agreement, policy=Policy(permissions=(Rule(action="use", constraints=(asked,)),))
    )
    await pushing.agreed.change_agreement(agreement=agreement)
    await pushing.agreed.consents.record(answer(ANNA))
    pushing.start()
    await pushing.settled()
    assert pushing.gateway.tried == 0


# --- what leaves ----------------------------------------------------------------------------------------


async def test_an_event_goes_by_reference(pushing: Pushing) -> None:
    """By default no payload leaves: type, pseudonym, and where to ask. No id, no token, no data."""
    pushing.start()
    await consenting(pushing, ANNA)
    await pushing.raw(data={"amount": 612.5, "hetu": ANNA}, extensions={"clerk": "k-17"})
    await pushing.arrived(1)
    (event,) = pushing.gateway.events
    name = pushing.name(ANNA)
    assert event.subject == name
    assert event.data == {"dataset": "kela.benefits", "key": "hetu", "value": name}
    assert event.extensions == {"purpose": PURPOSE, "agreementid": "a1"}
    assert (event.type, event.source, event.time) == (STATUS_CHANGED, "urn:participant:kela", START)
    for secret in (ANNA, pushing.agreed.subjects.token(ANNA), "612.5", "k-17"):
        assert secret not in repr(event)
    assert set(pushing.gateway.to) == {"t-push"}


async def test_whose_events_left_is_in_the_disclosure_ledger(pushing: Pushing) -> None:
    """Architecture, disclosure ledger: events count like rows; "who must be told of this withdrawal"."""
    pushing.start()
    await consenting(pushing, ANNA)
    await pushing.raw()
    await pushing.arrived(1)
    await until(lambda: bool(pushing.disclosed))
    (_, subjects, rows) = pushing.disclosed[0]
    assert subjects == {ANNA}
    assert rows == len(pushing.gateway.batches[0])


async def test_nothing_about_who_has_not_consented(pushing: Pushing) -> None:
    """Never asked, refused, consented to somebody else or to something else, or for a time that is over."""
    pushing.start()
    await consenting(pushing, ANNA)
    await pushing.agreed.consents.record(answer(BEN, ConsentState.REFUSED))
    await pushing.agreed.consents.record(answer(CARL, recipient="city"))
    await pushing.agreed.consents.record(answer(CARL, purpose="case-work"))
    await pushing.agreed.consents.record(answer(DORA, valid_until=START))
    await pushing.publish(BEN, CARL, DORA, ANNA, "311299-999R")
    await pushing.arrived(1)
    await pushing.settled()
    assert pushing.gateway.names() == [pushing.name(ANNA)]
    assert pushing.gateway.types == [STATUS_CHANGED]


async def test_a_consent_that_runs_out_while_the_push_runs(pushing: Pushing) -> None:
    """No version and no epoch moves then: each batch asks who may be shown at that moment."""
    pushing.start()
    await pushing.agreed.consents.record(answer(ANNA, valid_until=START + timedelta(seconds=0.5)))
    await pushing.agreed.consents.record(answer(BEN))
    await pushing.publish(ANNA)
    await pushing.arrived(3)
    await pushing.keep_time()
    await pushing.keep_time()
    await pushing.publish(ANNA, BEN)
    await pushing.arrived(4)
    assert pushing.gateway.names() == [pushing.name(ANNA), pushing.name(BEN)]


async def test_a_withdrawal_reaches_the_consumer(pushing: Pushing) -> None:
    """It is the stop signal itself: it passes although its person is no longer in the set, as a pseudonym."""
    pushing.start()
    made = await pushing.agreed.consents.record(answer(ANNA))
    await pushing.arrived(1)
    await pushing.agreed.consents.withdraw(made.id)
    await pushing.publish(ANNA)
    await pushing.arrived(2)
    await pushing.settled()
    assert pushing.gateway.types == [EVENT_GIVEN, EVENT_WITHDRAWN]
    assert pushing.gateway.names(EVENT_WITHDRAWN) == [pushing.name(ANNA)]


OTHERS_BUSINESS = {
    "another recipient's": {"recipient": "city", "purpose": PURPOSE},
    "another purpose's": {"recipient": CONSUMER, "purpose": "case-work"},
    "nobody's": {},
}


@pytest.mark.parametrize("type_", [EVENT_GIVEN, EVENT_WITHDRAWN])
@pytest.mark.parametrize("extensions", OTHERS_BUSINESS.values(), ids=OTHERS_BUSINESS)
async def test_an_answer_is_told_to_whom_it_concerns(
    pushing: Pushing, extensions: dict[str, str], type_: str
) -> None:
    """An answer about another recipient or purpose stays where it is, and is never told as if it were
    about this one."""
    pushing.start()
    await consenting(pushing, ANNA)
    await pushing.raw(type=type_, extensions=extensions)
    await pushing.publish(ANNA)
    await pushing.arrived(1)
    assert pushing.gateway.types == [STATUS_CHANGED]


async def test_what_was_over_before_the_agreement_is_not_told(pushing: Pushing) -> None:
    """A new push reads its topic from the start; withdrawals of before the agreement name persons whom
    this consumer never had."""
    about = {"recipient": CONSUMER, "purpose": PURPOSE}
    await pushing.raw(type=EVENT_WITHDRAWN, extensions=about, time=START - timedelta(days=2))
    await pushing.raw(
        type=EVENT_WITHDRAWN,
        extensions=about,
        time=START - timedelta(hours=2),
        subject=pushing.agreed.subjects.token(BEN),
    )
    pushing.start()
    await pushing.arrived(1)
    await pushing.settled()
    assert pushing.gateway.names(EVENT_WITHDRAWN) == [pushing.name(BEN)]


async def test_types_that_the_descriptor_does_not_name_do_not_leave(pushing: Pushing) -> None:
    """What a dataset publishes is in its contract."""
    pushing.start()
    await consenting(pushing, ANNA)
    await pushing.raw(type="fi.kela.internal.v1")
    await pushing.publish(ANNA)
    await pushing.arrived(1)
    assert pushing.gateway.types == [STATUS_CHANGED]


async def test_events_about_nobody(pushing: Pushing) -> None:
    """A dataset with no persons in it: no pseudonym is needed, and none is made up."""
    pushing.agreed.datasets["benefits"] = benefits(subject_key="")
    pushing.agreed.decider.answer = Permit(columns=frozenset({"status"}))
    pushing.start()
    await pushing.publishing.publish("benefits", [NewEvent(type=STATUS_CHANGED)])
    await pushing.arrived(1)
    (event,) = pushing.gateway.events
    assert (event.subject, event.data) == ("", {"dataset": "kela.benefits"})


UNFIT = {
    "the key is no pseudonym": (replace(PERMIT, pseudonyms={}), "event_needs_pseudonym"),
    "groups only": (replace(PERMIT, aggregate_only=True), "event_about_one_person"),
    "a minimum group": (replace(PERMIT, min_group_size=5), "event_about_one_person"),
    "some rows only": (
        replace(PERMIT, row_filter=FieldCondition(field="status", operator="eq", value="open")),
        "event_row_filter",
    ),
    "only persons named": (replace(PERMIT, subjects_named=True), "event_names_nobody"),
    "denied": (Deny(reasons=(Reason(code="purpose", text="Not for this."),)), "purpose"),
}


@pytest.mark.parametrize(("decision", "code"), UNFIT.values(), ids=UNFIT)
async def test_what_cannot_be_enforced_on_an_event_is_refused(
    pushing: Pushing, decision: Any, code: str
) -> None:
    """An obligation that single events cannot keep denies the push, on record; it is asked about again
    ever more seldom, and resumes by itself."""
    pushing.start()
    await consenting(pushing, ANNA)
    pushing.agreed.decider.answer = decision
    await pushing.agreed.write(lambda tx: tx.bump_grants(GrantSelector()))
    await pushing.keep_time()
    await pushing.publish(ANNA)
    await pushing.settled()
    refusals = [x for x in pushing.leaves(AuditEvent.EVENTS_DECIDED) if x.outcome == "deny"]
    assert [leaf.reasons for leaf in refusals] == [(code,)]
    assert pushing.gateway.events == []
    pushing.agreed.decider.answer = PERMIT
    await pushing.clock.advance(1)
    await pushing.arrived(1)
    assert pushing.gateway.names() == [pushing.name(ANNA)]


# --- in order, without loss -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        PeerUnreachable("no answer", participant=CONSUMER),
        PeerRefused("full", participant=CONSUMER, status=403),
    ],
)
async def test_a_peer_that_is_down_loses_nothing(pushing: Pushing, error: Exception) -> None:
    """At least once and in order: what was not acknowledged comes first when the peer is back."""
    pushing.start()
    await consenting(pushing, ANNA, BEN)
    pushing.gateway.fails_with = error
    expected = [ANNA, BEN, BEN, ANNA]
    await pushing.publish(*expected[:2])
    await until(lambda: pushing.gateway.tried >= 2)
    for attempt in range(3):
        tried = pushing.gateway.tried
        await pushing.publish(*expected[2:] if attempt == 0 else ())
        await until(lambda: pushing.clock.sleepers >= 2)
        await pushing.clock.advance(8)
        await until(lambda seen=tried: pushing.gateway.tried > seen)  # type: ignore[misc]
    pushing.gateway.fails_with = None
    await until(lambda: pushing.clock.sleepers >= 2)
    await pushing.clock.advance(8)
    await pushing.arrived(4)
    assert pushing.gateway.names() == [pushing.name(p) for p in expected]
    outcomes = [leaf.outcome for leaf in pushing.leaves(AuditEvent.EVENTS_DELIVERED)]
    assert outcomes[1:5] == [error.code] * 4  # type: ignore[attr-defined]
    assert outcomes[-1] == "delivered"


async def test_many_events_are_pushed_in_batches_and_in_order(pushing: Pushing) -> None:
    """A batch is acknowledged before the next one is sent."""
    pushing.start()
    await consenting(pushing, ANNA, BEN)
    people = [ANNA if i % 3 else BEN for i in range(250)]
    await pushing.publish(*people)
    await pushing.arrived(250)
    assert pushing.gateway.names() == [pushing.name(p) for p in people]
    assert max(map(len, pushing.gateway.batches)) <= MAX_BATCH
    leaves = [x for x in pushing.leaves(AuditEvent.EVENTS_DELIVERED) if x.rows and x.rows > 2]
    assert sum(x.rows or 0 for x in leaves) == 250
    assert {x.subjects for x in leaves} == {2}
    decided = {x.id for x in pushing.leaves(AuditEvent.EVENTS_DECIDED)}
    assert {x.refers for x in leaves} <= decided


async def test_a_restart_goes_on_where_it_was(pushing: Pushing) -> None:
    """The offset is the group's, in the store: a new process neither repeats nor skips."""
    pushing.start()
    await consenting(pushing, ANNA)
    await pushing.publish(ANNA)
    await pushing.arrived(1)
    await until(lambda: pushing.leaves(AuditEvent.EVENTS_DELIVERED)[-1].outcome == "delivered")
    await pushing.settled()
    await pushing.stop()
    await pushing.publish(ANNA)
    pushing.start()
    await pushing.arrived(2)
    await pushing.settled()
    assert len(pushing.gateway.events) == 2


# --- what stops it --------------------------------------------------------------------------------------


async def test_the_barrier_cuts_a_push_and_its_batch_is_decided_anew(pushing: Pushing) -> None:
    """A gateway that does not answer while a consent is withdrawn: the withdrawal returns, the batch is
    delivered again under the new decision, without the person."""
    pushing.start()
    await consenting(pushing, ANNA, BEN)
    (made,) = await pushing.agreed.consents.records_of(ANNA)
    pushing.gateway.held_up = asyncio.Event()
    await pushing.publish(ANNA, BEN)
    await until(lambda: pushing.gateway.tried == 2)
    async with asyncio.timeout(2):
        await pushing.agreed.consents.withdraw(made.id)
    pushing.gateway.held_up = None
    await pushing.arrived(2)
    await pushing.settled()
    assert pushing.gateway.names() == [pushing.name(BEN)]
    assert pushing.gateway.names(EVENT_WITHDRAWN) == [pushing.name(ANNA)]
    outcomes = [leaf.outcome for leaf in pushing.leaves(AuditEvent.EVENTS_DELIVERED)]
    assert "interrupted" in outcomes
    epochs = [leaf.epoch for leaf in pushing.leaves(AuditEvent.EVENTS_DELIVERED)]
    assert epochs == sorted(epochs, key=lambda e: e or 0)


async def test_withdrawn_while_a_batch_is_made_ready(pushing: Pushing) -> None:
    """What was made ready under the old decision is made ready anew, without the person."""
    pushing.start()
    await consenting(pushing, ANNA, BEN)
    (made,) = await pushing.agreed.consents.records_of(ANNA)

    async def withdraw() -> None:
        pushing.meanwhile = None
        await pushing.agreed.consents.withdraw(made.id)

    pushing.meanwhile = withdraw
    await pushing.publish(ANNA, BEN)
    await pushing.arrived(2)
    await pushing.settled()
    assert pushing.gateway.names() == [pushing.name(BEN)]
    assert pushing.gateway.names(EVENT_WITHDRAWN) == [pushing.name(ANNA)]


async def test_withdrawn_between_two_batches(pushing: Pushing) -> None:
    """After the answer to a withdrawal not one more event of the person leaves, however many wait."""
    pushing.start()
    await consenting(pushing, ANNA, BEN)
    (made,) = await pushing.agreed.consents.records_of(ANNA)
    for _ in range(5):
        await pushing.publish(*[ANNA, BEN] * 60)
    await pushing.arrived(100)
    await pushing.agreed.consents.withdraw(made.id)
    answered_after = len(pushing.gateway.events)
    await until(lambda: pushing.gateway.types.count(EVENT_WITHDRAWN) == 1)
    later = pushing.gateway.events[answered_after:]
    assert pushing.name(ANNA) not in [e.subject for e in later if e.type == STATUS_CHANGED]
    assert pushing.gateway.names().count(pushing.name(BEN)) == 300


Stop = Callable[[Pushing], Awaitable[None]]


async def expelled(pushing: Pushing) -> None:
    pushing.agreed.suspend_consumer()
    await stop_grants(pushing, "participant_inactive")


async def terminated(pushing: Pushing) -> None:
    await pushing.agreed.change_transfer("t-push", state=TransferState.TERMINATED)
    await stop_grants(pushing, "transfer_ended")


async def stop_grants(pushing: Pushing, reason: str) -> None:
    async with pushing.agreed.store.transaction() as tx:
        moved = await tx.bump_grants(GrantSelector(), ended_reason=reason)
    await pushing.agreed.board.publish(moved)


@pytest.mark.parametrize("stop", [expelled, terminated])
async def test_an_ended_grant_stops_the_push(pushing: Pushing, stop: Stop) -> None:
    """Suspended from the registry, or its transfer ended: not one more event, whatever is tried again."""
    pushing.start()
    await consenting(pushing, ANNA)
    await stop(pushing)
    await pushing.publish(ANNA)
    for _ in range(3):
        await pushing.settled()
        await pushing.clock.advance(2)
    assert pushing.gateway.events == []


async def test_whoever_is_admitted_again_gets_what_waited(pushing: Pushing) -> None:
    """A suspension from the registry that is lifted: a new grant, and the events go on in order."""
    pushing.start()
    await consenting(pushing, ANNA)
    await expelled(pushing)
    await pushing.publish(ANNA)
    await pushing.settled()
    pushing.agreed.registry.set_status(CONSUMER, ParticipantStatus.ACTIVE)
    await pushing.clock.advance(60)
    await pushing.arrived(1)
    assert len({leaf.grant for leaf in pushing.leaves(AuditEvent.EVENTS_DELIVERED)}) == 2


async def test_an_agreement_that_runs_out_stops_the_push(pushing: Pushing) -> None:
    """A push may run for months: the last day of its decision is the last day of its events."""
    ends = START + timedelta(seconds=1)
    pushing.agreed.decider.answer = replace(PERMIT, expires_at=ends)
    pushing.start()
    await consenting(pushing, ANNA)
    pushing.agreed.decider.answer = Deny(reasons=(Reason(code="expired", text="It is over."),))
    for _ in range(4):
        await pushing.keep_time()
    await pushing.publish(ANNA)
    await pushing.settled()
    assert pushing.gateway.events == []


async def test_a_decision_that_narrows_its_own_time_is_taken_anew(pushing: Pushing) -> None:
    """The grant may last longer than one decision under it."""
    pushing.start()
    await consenting(pushing, ANNA)
    pushing.agreed.decider.answer = replace(PERMIT, expires_at=START + timedelta(seconds=0.5))
    await pushing.agreed.write(lambda tx: tx.bump_grants(GrantSelector()))
    await pushing.keep_time()
    await pushing.publish(ANNA)
    await pushing.arrived(1)
    pushing.agreed.decider.answer = Deny(reasons=(Reason(code="expired", text="It is over."),))
    await pushing.keep_time()
    await pushing.publish(ANNA)
    await pushing.settled()
    assert len(pushing.gateway.events) == 1


async def test_no_outcome_no_next_batch(pushing: Pushing) -> None:
    """When the audit log fails the offset is not committed: the batch comes again, and is deduped there."""
    pushing.start()
    await consenting(pushing, ANNA)
    pushing.agreed.audit.down = True
    await pushing.publish(ANNA)
    await pushing.arrived(1)
    await pushing.settled()
    pushing.agreed.audit.down = False
    await pushing.clock.advance(2)
    await pushing.arrived(2)
    first, second = pushing.gateway.events
    assert first.key == second.key


async def test_a_store_that_fails_for_a_moment_ends_nothing(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfers cannot be read: those that run go on."""
    pushing.start()
    await consenting(pushing, ANNA)

    async def fails(self: Delivery) -> None:
        raise PeerUnreachable("as good as any error of ours")

    with monkeypatch.context() as patched:
        patched.setattr(Delivery, "_match_workers", fails)
        pushing.delivery.wake()
        await pushing.settled()
        await pushing.publish(ANNA)
        await pushing.arrived(1)


async def test_it_stops_when_asked_to(pushing: Pushing) -> None:
    """No worker outlives the delivery, not even one that waits for a gateway."""
    pushing.start()
    await consenting(pushing, ANNA)
    pushing.gateway.held_up = asyncio.Event()
    await pushing.publish(ANNA)
    await until(lambda: pushing.gateway.tried == 2)
    with suppress(asyncio.CancelledError):
        async with asyncio.timeout(2):
            await pushing.stop()
    assert [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("push ")] == []
