"""The consent register: transitions, batches, sets of valid subjects, and withdrawal with its barrier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.adapters.postgres_store import PostgresStore
from connector.adapters.sql.store import SqlStore
from connector.adapters.sqlite_store import SqliteStore
from connector.control_plane.consent import EVENT_GIVEN, EVENT_WITHDRAWN, IMPORT_BATCH, ConsentGiven
from connector.errors import Conflict, ConnectorError, NotFound, RequestInvalid, Unavailable
from connector.model.audit import AuditEvent
from connector.model.consent import TRANSITIONS, ConsentEvent, ConsentRecord, ConsentState, Notice
from connector.model.event import CloudEvent
from connector.model.transfer import GrantState
from connector.ports import GrantSelector
from tests.agreed import CONSUMER, PERSONS, PURPOSE, Agreed, answer
from tests.clocks import START, ManualClock
from tests.fakes import MemoryStore, MemoryTransaction
from tests.parts.postgres import fresh_database
from tests.ports.examples import grant

GIVEN, REFUSED, WITHDRAWN = ConsentState.GIVEN, ConsentState.REFUSED, ConsentState.WITHDRAWN
RENEWED, REQUESTED, DEFERRED = ConsentState.RENEWED, ConsentState.REQUESTED, ConsentState.DEFERRED
EXPIRED, REVOKED, INVALIDATED = ConsentState.EXPIRED, ConsentState.REVOKED, ConsentState.INVALIDATED
ANNA, BEN, CARL, DORA = PERSONS


def register() -> Agreed:
    """Over a store in memory."""
    return Agreed()


@pytest.fixture
def desk() -> Agreed:
    return register()


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Agreed]:
    store = SqliteStore(folder / "connector.sqlite")
    await store.open()
    try:
        yield Agreed(store)
    finally:
        await store.close()


def events(desk: Agreed) -> list[CloudEvent]:
    assert isinstance(desk.store, MemoryStore)
    return [event for _, event in desk.store.state.events]


async def records(desk: Agreed, person: str = ANNA) -> Sequence[ConsentRecord]:
    return await desk.consents.records_of(person)


async def shown(desk: Agreed) -> set[str]:
    """The personal ids of those who may be shown now."""
    return set((await desk.consents.valid_set(PURPOSE, CONSUMER)).keys)


# --- transitions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [None, *ConsentState])
@pytest.mark.parametrize("wanted", ConsentState)
async def test_the_table_of_transitions_is_the_registers(
    held: ConsentState | None, wanted: ConsentState
) -> None:
    """DPV 2.3 consent statuses: a step that the table does not have is a Conflict, and nothing changed.

    From an ending there is no way back in the record: the next answer makes a new one that replaces it.
    """
    desk = register()
    assert isinstance(desk.store, MemoryStore)
    before = []
    if held is not None:
        event = ConsentEvent(state=held, at=START)
        await desk.write(lambda tx: tx.save_consents([_record(desk, event)]))
        before = [_record(desk, event)]
    closed = held is not None and not TRANSITIONS.get(held)
    ending = wanted in (WITHDRAWN, REVOKED, EXPIRED, INVALIDATED)
    allowed = wanted in TRANSITIONS.get(None if closed and not ending else held, frozenset())
    allowed = allowed or (held is None and wanted is WITHDRAWN)  # an import of history
    versions = dict(desk.store.state.consent_versions)
    if allowed:
        made = await desk.consents.record(answer(ANNA, wanted))
        assert made.state is wanted
        assert made.replaces == ("r1" if closed else "")
        assert (made.id == "r1") is (held is not None and not closed)
    else:
        with pytest.raises(Conflict):
            await desk.consents.record(answer(ANNA, wanted))
        assert list(await records(desk)) == before
        assert desk.store.state.consent_versions == versions
        assert events(desk) == []
        assert desk.audit.kept == []


def _record(
    desk: Agreed, *happened: ConsentEvent, record_id: str = "r1", replaces: str = ""
) -> ConsentRecord:
    return ConsentRecord(
        id=record_id,
        subject=desk.subjects.token(ANNA),
        controller="kela",
        purpose=PURPOSE,
        recipient=CONSUMER,
        legal_basis="",
        disclosure_basis="consent",
        notice=Notice(),
        events=happened,
        replaces=replaces,
    )


async def test_a_new_consent_after_a_withdrawal_is_a_new_record(desk: Agreed) -> None:
    """ISO/IEC TS 27560: the withdrawn record stays as evidence; the new one says what it replaces."""
    first = await desk.consents.record(answer(ANNA))
    await desk.consents.withdraw(first.id)
    second = await desk.consents.record(answer(ANNA))
    assert (second.id != first.id, second.replaces) == (True, first.id)
    assert {r.id: r.state for r in await records(desk)} == {first.id: WITHDRAWN, second.id: GIVEN}
    assert await shown(desk) == {ANNA}


async def test_ids_that_do_not_sort_change_nothing(desk: Agreed) -> None:
    """Stores return a person's records by id, and ids are random: the open record is found all the same."""
    ids = iter(["zzz", "e1", "aaa", "e2", *(f"later-{i}" for i in range(20))])
    desk.consents._new_id = lambda: next(ids)
    first = await desk.consents.record(answer(ANNA))
    await desk.consents.record(answer(ANNA, WITHDRAWN))
    second = await desk.consents.record(answer(ANNA))
    assert isinstance(desk.store, MemoryStore)
    held = desk.store.state.consents
    desk.store.state.consents = {key: held[key] for key in sorted(held)}
    assert await shown(desk) == {ANNA}
    ended = await desk.consents.record(answer(ANNA, WITHDRAWN))
    assert (ended.id, ended.state, ended.replaces) == (second.id, WITHDRAWN, first.id)
    assert await shown(desk) == set()


async def test_consent_to_one_recipient_says_nothing_to_another(desk: Agreed) -> None:
    """A consent names a purpose and a recipient; neither carries over."""
    await desk.consents.record(answer(ANNA))
    await desk.consents.record(answer(ANNA, REFUSED, recipient="city"))
    await desk.consents.record(answer(ANNA, REFUSED, purpose="case-work"))
    assert await shown(desk) == {ANNA}
    assert (await desk.consents.valid_set(PURPOSE, "city")).keys == frozenset()


async def test_one_record_that_says_no_outweighs_one_that_says_yes(desk: Agreed) -> None:
    """Two open records about one question can only come from outside; deny wins."""
    await desk.consents.record(answer(ANNA))
    no = _record(desk, ConsentEvent(state=REFUSED, at=START), record_id="r-outside")
    await desk.write(lambda tx: tx.save_consents([no]))
    await desk.write(lambda tx: tx.bump_consent_version(PURPOSE, CONSUMER))
    assert await shown(desk) == set()


async def test_an_older_answer_does_not_override_a_newer_one(desk: Agreed) -> None:
    """A paper form that is typed in late must not bring a withdrawn consent back."""
    await desk.consents.record(answer(ANNA, at=START - timedelta(days=2)))
    await desk.consents.record(answer(ANNA, WITHDRAWN, at=START - timedelta(days=1)))
    with pytest.raises(Conflict):
        await desk.consents.record(answer(ANNA, at=START - timedelta(days=1, hours=1)))
    assert await shown(desk) == set()


async def test_a_withdrawal_counts_whatever_the_desks_clock_says(desk: Agreed) -> None:
    """The safe direction: a withdrawal that seems to be older than the consent is still one."""
    await desk.consents.record(answer(ANNA))
    await desk.consents.record(answer(ANNA, WITHDRAWN, at=START - timedelta(seconds=5)))
    assert await shown(desk) == set()


async def test_a_consent_that_ran_out_can_be_given_again(desk: Agreed) -> None:
    """The old record ends as expired when the person answers anew."""
    first = await desk.consents.record(answer(ANNA, valid_until=START + timedelta(days=1)))
    await desk.clock.advance(86_400)
    second = await desk.consents.record(answer(ANNA))
    states = {r.id: r.state for r in await records(desk)}
    assert states == {first.id: EXPIRED, second.id: GIVEN}
    assert await shown(desk) == {ANNA}


@pytest.mark.parametrize(
    "wrong",
    [
        answer(ANNA, purpose=""),
        answer(ANNA, recipient=""),
        answer(""),
        answer("  "),
        answer(ANNA, at=START + timedelta(minutes=2)),
    ],
)
async def test_an_answer_that_cannot_be_is_refused(desk: Agreed, wrong: ConsentGiven) -> None:
    """No purpose, no recipient, no person, or an answer of tomorrow: nothing is kept."""
    with pytest.raises(RequestInvalid):
        await desk.consents.record(wrong)
    assert isinstance(desk.store, MemoryStore)
    assert desk.store.state.consents == {}
    assert desk.store.state.consent_versions == {}


async def test_a_clock_that_is_a_little_ahead_delays_nobody(desk: Agreed) -> None:
    """Half a minute of difference between two honest clocks: the consent counts at once."""
    await desk.consents.record(answer(ANNA, at=START + timedelta(seconds=30)))
    assert await shown(desk) == {ANNA}


async def test_spellings_of_one_personal_id_are_one_person(desk: Agreed) -> None:
    """Lower case and stray blanks do not make another person."""
    await desk.consents.record(answer(ANNA.lower() + " "))
    await desk.consents.record(answer(ANNA, WITHDRAWN))
    assert await shown(desk) == set()
    assert len(await records(desk, f" {ANNA}")) == 1


# --- many at once ---------------------------------------------------------------------------------------


def person(number: int) -> str:
    return f"{number % 28 + 1:02}0195-{number:04}X"


async def test_thousands_are_taken_in_batches(tmp_path: Path) -> None:
    """A register's history comes in with one call; each batch is one transaction and one version."""
    many = [answer(person(i), REFUSED if i % 10 == 0 else GIVEN) for i in range(2 * IMPORT_BATCH + 500)]
    async with sqlite(tmp_path) as desk:
        assert await desk.consents.import_answers(iter(many)) == len(many)
        found = await desk.consents.valid_set(PURPOSE, CONSUMER)
        assert len(found.keys) == len(many) * 9 // 10
        assert found.version == 3
        assert found.keys == {desk.subjects.personal_id(t) for t in found.tokens}
        counts = [leaf.subjects for leaf in desk.audit.of(AuditEvent.CONSENT_RECORDED)]
        assert counts == [1_000, 1_000, 500]


async def test_a_batch_is_all_or_nothing_and_names_what_is_wrong(desk: Agreed) -> None:
    """The batches before it stay; of its own nothing does; the answer is named by its number."""
    many = [answer(person(i)) for i in range(IMPORT_BATCH + 10)]
    many[IMPORT_BATCH + 4] = answer(person(3))  # has consented already, in the first batch
    with pytest.raises(Conflict, match=f"Answer {IMPORT_BATCH + 5}:"):
        await desk.consents.import_answers(many)
    assert len(await shown(desk)) == IMPORT_BATCH
    assert len(events(desk)) == IMPORT_BATCH
    assert [leaf.subjects for leaf in desk.audit.kept] == [IMPORT_BATCH]


async def test_one_persons_answers_in_one_batch_follow_each_other(desk: Agreed) -> None:
    """Given, withdrawn, given again: three lines of one file, two records."""
    lines = [
        answer(ANNA, at=START - timedelta(days=3)),
        answer(ANNA, WITHDRAWN, at=START - timedelta(days=2)),
        answer(ANNA, at=START - timedelta(days=1)),
    ]
    assert await desk.consents.import_answers(lines) == 3
    assert sorted(r.state for r in await records(desk)) == sorted([WITHDRAWN, GIVEN])
    assert await shown(desk) == {ANNA}


async def test_an_empty_import_is_on_no_record(desk: Agreed) -> None:
    """Nothing happened."""
    assert await desk.consents.import_answers([]) == 0
    assert desk.audit.kept == []


async def test_no_raw_personal_id_is_in_the_stores_files(tmp_path: Path) -> None:
    """Personal ids enter the register and stay in memory: on disk there are AES-SIV tokens only."""
    people = [*PERSONS, *(person(i) for i in range(200))]
    async with sqlite(tmp_path) as desk:
        await desk.consents.import_answers([answer(p) for p in people])
        first = await desk.consents.record(answer("311299-999R", REFUSED))
        (record, *_) = await desk.consents.records_of(ANNA)
        await desk.consents.withdraw(record.id)
        assert await desk.consents.valid_set(PURPOSE, CONSUMER)
        scan_for([*people, "311299-999R"], tmp_path, must_hold=first.subject)
    scan_for([*people, "311299-999R"], tmp_path, must_hold=first.subject)
    assert all(p not in repr(desk.audit.kept) for p in people)


def scan_for(people: Sequence[str], folder: Path, *, must_hold: str) -> None:
    """Every byte of every file; `must_hold` shows that the scan reads what was written."""
    content = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    assert must_hold.encode() in content
    assert [p for p in people if p.encode() in content or p.encode("utf-16-le") in content] == []


# --- the valid set --------------------------------------------------------------------------------------


async def test_the_set_is_read_anew_for_each_version(desk: Agreed) -> None:
    """A change raises the version; between changes the set is the same value, not decrypted again."""
    assert await shown(desk) == set()
    await desk.consents.record(answer(ANNA))
    one = await desk.consents.valid_set(PURPOSE, CONSUMER)
    assert await desk.consents.valid_set(PURPOSE, CONSUMER) is one
    await desk.consents.record(answer(BEN))
    two = await desk.consents.valid_set(PURPOSE, CONSUMER)
    assert (one.keys, two.keys) == ({ANNA}, {ANNA, BEN})
    assert (one.version, two.version) == (1, 2)
    assert two.tokens == {desk.subjects.token(ANNA), desk.subjects.token(BEN)}


async def test_another_processs_change_is_in_the_next_set(tmp_path: Path) -> None:
    """Nothing is believed without asking the store for its version, whoever changed it."""
    async with sqlite(tmp_path) as here, sqlite(tmp_path) as there:
        there.subjects = there.consents._subjects = here.subjects
        made = await here.consents.record(answer(ANNA))
        assert await shown(there) == {ANNA}
        await here.consents.withdraw(made.id)
        assert await shown(there) == set()


async def test_a_consent_that_runs_out_leaves_the_set_by_itself(desk: Agreed) -> None:
    """No version moves when a consent's time is over: `good_until` makes the set be read anew."""
    await desk.consents.record(answer(ANNA, valid_until=START + timedelta(hours=1)))
    await desk.consents.record(answer(BEN, valid_until=START + timedelta(hours=2)))
    await desk.consents.record(answer(CARL))
    found = await desk.consents.valid_set(PURPOSE, CONSUMER)
    assert (found.keys, found.good_until) == ({ANNA, BEN, CARL}, START + timedelta(hours=1))
    await desk.clock.advance(3_599)
    assert await desk.consents.valid_set(PURPOSE, CONSUMER) is found
    await desk.clock.advance(1)
    found = await desk.consents.valid_set(PURPOSE, CONSUMER)
    assert (found.keys, found.good_until) == ({BEN, CARL}, START + timedelta(hours=2))
    await desk.clock.advance(3_600)
    found = await desk.consents.valid_set(PURPOSE, CONSUMER)
    assert (found.keys, found.good_until) == ({CARL}, None)


# --- withdrawal -----------------------------------------------------------------------------------------


async def with_grants(desk: Agreed) -> None:
    async with desk.store.transaction() as tx:
        await tx.save_grant(grant("mine", consumer=CONSUMER, purpose=PURPOSE))
        await tx.save_grant(grant("other-purpose", consumer=CONSUMER, purpose="case-work"))
        await tx.save_grant(grant("other-consumer", consumer="city", purpose=PURPOSE))


async def epochs(desk: Agreed) -> dict[str, int]:
    async with desk.store.transaction(read_only=True) as tx:
        found = await tx.grants(GrantSelector())
    assert all(g.state is GrantState.ACTIVE for g in found)
    return {g.id: g.epoch for g in found}


async def test_withdrawal_raises_version_and_epochs_of_its_own_grants(desk: Agreed) -> None:
    """Every stream under that consumer and purpose decides anew, and nobody else's."""
    await with_grants(desk)
    made = await desk.consents.record(answer(ANNA))
    ended = await desk.consents.withdraw(made.id, method="desk:1")
    assert (ended.id, ended.state) == (made.id, WITHDRAWN)
    assert (ended.events[-1].at, ended.events[-1].method) == (START, "desk:1")
    assert await epochs(desk) == {"mine": 3, "other-purpose": 1, "other-consumer": 1}
    assert (await desk.consents.valid_set(PURPOSE, CONSUMER)).version == 2
    (leaf,) = desk.audit.of(AuditEvent.CONSENT_WITHDRAWN)
    assert (leaf.object, leaf.purpose, leaf.outcome) == (made.id, PURPOSE, "ConsentWithdrawn")


@pytest.mark.parametrize("by_answer", [False, True], ids=["withdraw", "an answer"])
async def test_it_returns_only_when_no_older_write_is_under_way(desk: Agreed, by_answer: bool) -> None:
    """The barrier: a write of the old decision ends, or is cut, before the withdrawal is answered."""
    await with_grants(desk)
    made = await desk.consents.record(answer(ANNA))
    async with desk.store.transaction(read_only=True) as tx:
        mine = await tx.grant("mine")
    assert mine is not None
    order: list[str] = []

    async def write(how_long: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        with desk.board.watch(mine, task.cancel) as watch:
            try:
                with watch.writing():
                    await asyncio.sleep(how_long)
            finally:
                order.append("write over")

    writes = [asyncio.create_task(write(0.02)), asyncio.create_task(write(60))]
    await asyncio.sleep(0)
    if by_answer:
        await desk.consents.record(answer(ANNA, WITHDRAWN))
    else:
        await desk.consents.withdraw(made.id)
    order.append("answered")
    await asyncio.gather(*writes, return_exceptions=True)
    assert order == ["write over", "write over", "answered"]


async def test_an_answer_that_takes_nobody_out_cuts_no_stream(desk: Agreed) -> None:
    """More persons, or a refusal of somebody who was never in: a slow reader keeps its stream."""
    await with_grants(desk)
    async with desk.store.transaction(read_only=True) as tx:
        mine = await tx.grant("mine")
    assert mine is not None
    with desk.board.watch(mine, lambda: pytest.fail("cancelled")) as watch, watch.writing():
        async with asyncio.timeout(0.1):
            await desk.consents.record(answer(BEN, REFUSED))
            assert not watch.moved
            await desk.consents.record(answer(ANNA))
        assert watch.moved


@pytest.mark.parametrize("state", [REFUSED, WITHDRAWN])
async def test_there_must_be_something_to_withdraw(desk: Agreed, state: ConsentState) -> None:
    """NotFound for what there is not, Conflict for what has ended: and nothing is announced twice."""
    with pytest.raises(NotFound):
        await desk.consents.withdraw("no-such-record")
    made = await desk.consents.record(answer(ANNA, state))
    so_far = (events(desk), len(desk.audit.kept))
    with pytest.raises(Conflict):
        await desk.consents.withdraw(made.id)
    assert (events(desk), len(desk.audit.kept)) == so_far


async def test_two_withdrawals_at_once_are_one(tmp_path: Path) -> None:
    """Two clicks: one is answered, the other is a Conflict, and one event goes out."""
    async with sqlite(tmp_path) as desk:
        made = await desk.consents.record(answer(ANNA))
        results = await asyncio.gather(
            *(desk.consents.withdraw(made.id) for _ in range(5)), return_exceptions=True
        )
        assert sorted(type(r).__name__ for r in results) == ["Conflict"] * 4 + ["ConsentRecord"]
        (record,) = await records(desk)
        assert len(record.events) == 2


@pytest.fixture(params=["sqlite", "postgresql"])
async def two_processes(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Agreed, Agreed]]:
    """Two connectors' worth of register over one database."""
    stores: list[SqlStore]
    if request.param == "sqlite":
        stores = [SqliteStore(tmp_path / "connector.sqlite") for _ in range(2)]
    else:
        dsn = fresh_database(request.getfixturevalue("postgres_server"))
        stores = [PostgresStore(dsn) for _ in range(2)]
    for store in stores:
        await store.open()
    here, there = Agreed(stores[0]), Agreed(stores[1])
    there.subjects = there.consents._subjects = here.subjects
    there.consents._new_id = lambda: f"there-{here.new_id()}"
    try:
        yield here, there
    finally:
        for store in stores:
            await store.close()


async def test_two_first_answers_at_once_make_one_record(two_processes: tuple[Agreed, Agreed]) -> None:
    """The portal and the desk at the same moment, in two processes: one question, one open record."""
    here, there = two_processes
    results = await asyncio.gather(
        *(d.consents.record(answer(ANNA)) for d in (here, there) * 3), return_exceptions=True
    )
    assert sum(isinstance(r, ConsentRecord) for r in results) == 1
    assert sum(isinstance(r, Conflict) for r in results) == 5
    assert len(await records(here)) == 1


async def test_a_withdrawal_and_an_answer_at_once(two_processes: tuple[Agreed, Agreed]) -> None:
    """Whoever comes second sees what the first did; in no order is anybody shown after both."""
    here, there = two_processes
    await here.consents.record(answer(ANNA))
    (made,) = await records(here)
    results = await asyncio.gather(
        here.consents.withdraw(made.id),
        there.consents.record(answer(ANNA, REVOKED)),
        return_exceptions=True,
    )
    assert sorted(type(r).__name__ for r in results) == ["Conflict", "ConsentRecord"]
    assert await shown(here) == await shown(there) == set()


async def test_imports_about_the_same_people_at_once(two_processes: tuple[Agreed, Agreed]) -> None:
    """Two batches that lock the same questions in another order do not wait for each other for ever."""
    here, there = two_processes
    purposes = ["a", "b", "c"]
    mine = [answer(p, purpose=purpose) for purpose in purposes for p in PERSONS[:2]]
    yours = [answer(p, purpose=purpose) for purpose in reversed(purposes) for p in PERSONS[2:]]
    async with asyncio.timeout(20):
        taken = await asyncio.gather(here.consents.import_answers(mine), there.consents.import_answers(yours))
    assert taken == [6, 6]
    assert (await here.consents.valid_set("a", CONSUMER)).keys == set(PERSONS)


# --- events ---------------------------------------------------------------------------------------------


async def test_what_is_announced(desk: Agreed) -> None:
    """Given and withdrawn go to the topics of the datasets concerned, keyed by the token, with no data."""
    desk.topics = ["dataset.benefits", "dataset.leavers"]
    made = await desk.consents.record(answer(ANNA))
    await desk.consents.withdraw(made.id)
    assert isinstance(desk.store, MemoryStore)
    assert [(t, e.type) for t, e in desk.store.state.events] == [
        ("dataset.benefits", EVENT_GIVEN),
        ("dataset.leavers", EVENT_GIVEN),
        ("dataset.benefits", EVENT_WITHDRAWN),
        ("dataset.leavers", EVENT_WITHDRAWN),
    ]
    for event in events(desk):
        assert event.subject == desk.subjects.token(ANNA)
        assert event.extensions == {"purpose": PURPOSE, "recipient": CONSUMER}
        assert (event.source, event.data) == ("urn:participant:kela", {})
        assert ANNA not in repr(event)
    assert len({e.id for e in events(desk)}) == 4


@pytest.mark.parametrize("state", [REFUSED, REQUESTED, DEFERRED, ConsentState.UNKNOWN, WITHDRAWN])
async def test_what_never_permitted_is_announced_to_nobody(desk: Agreed, state: ConsentState) -> None:
    """Whoever refused, was only asked, or had withdrawn before the register knew them: nobody hears."""
    await desk.consents.record(answer(ANNA, state))
    assert events(desk) == []


class FailingStore(MemoryStore):
    """Fails where the events are appended, in the middle of the transaction."""

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[MemoryTransaction]:
        async with super().transaction(read_only=read_only) as tx:
            yield tx
            if not read_only:
                raise Unavailable("the commit fails")


@pytest.mark.parametrize("withdraw", [False, True])
async def test_record_and_event_are_one_commit(withdraw: bool) -> None:
    """Rolled back, neither is there: no consent without its event, no event without its consent."""
    store = FailingStore(ManualClock())
    desk = Agreed(store)
    if withdraw:
        store.state.consents["r1"] = _record(desk, ConsentEvent(state=GIVEN, at=START))
    before = store.state.copied()
    with pytest.raises(Unavailable):
        await (desk.consents.withdraw("r1") if withdraw else desk.consents.record(answer(ANNA)))
    assert store.state == before
    assert desk.audit.kept == []


# --- removing a consent never adds a subject ------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(PERSONS),
        st.sampled_from([*ConsentState, "withdraw the record", "wait"]),
        st.integers(-3, 0),
        st.sampled_from([None, 1, 5]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_only_a_yes_adds_a_person(
    history: Sequence[tuple[str, ConsentState | str, int, int | None]],
) -> None:
    """Hypothesis: whatever was answered, refused, repeated or came too late, no step but a given or
    renewed consent of that very person ever adds anybody, and an ending always takes its person out."""

    async def play() -> None:
        desk = register()
        for who, step, days, validity in history:
            before = await shown(desk)
            kept = False
            try:
                if step == "wait":
                    await desk.clock.advance(86_400)
                elif step == "withdraw the record":
                    for record in await records(desk, who):
                        if record.state.permits:
                            await desk.consents.withdraw(record.id)
                    kept = True
                else:
                    now = desk.clock.now()
                    until = now + timedelta(days=validity) if validity else None
                    at = now + timedelta(days=days)
                    await desk.consents.record(answer(who, ConsentState(step), at=at, valid_until=until))
                    kept = True
            except ConnectorError:
                assert await shown(desk) == before
            after = await shown(desk)
            yes = step in (GIVEN, RENEWED)
            assert after - before <= ({who} if yes else set())
            if kept and not yes:
                assert who not in after

    asyncio.run(play())
