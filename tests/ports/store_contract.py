"""Port Store: the contract that test_store.py runs against each database.

A subclass has the fixtures `new_store` (a factory: each store is another process over one database) and
`committer` (arguments that let tests.ports.committer open the same database).
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from connector.adapters.sql.migrate import migrations
from connector.adapters.sql.store import SqlStore
from connector.errors import ConfigurationError, Conflict, ConnectorError, RequestInvalid, Unavailable
from connector.model.consent import ConsentState
from connector.model.negotiation import AgreementSignature, NegotiationState
from connector.model.policy import AgreementState
from connector.model.transfer import GrantState
from connector.ports import GrantSelector, OutboxMessage, Store
from tests.ports import examples
from tests.ports.examples import NOW, agreement_record, consent, event, grant, message, negotiation, transfer

ROOT = Path(__file__).parents[2]
NewStore = Callable[[], SqlStore]


async def due(
    store: Store, *, at: Any = NOW, worker: str = "w", lease_seconds: float = 60, limit: int = 20
) -> Sequence[OutboxMessage]:
    async with store.transaction() as transaction:
        return await transaction.due_messages(at, worker=worker, lease_seconds=lease_seconds, limit=limit)


async def enqueue(store: Store, *messages: OutboxMessage) -> None:
    async with store.transaction() as transaction:
        for each in messages:
            await transaction.enqueue(each)


async def save_grants(store: Store, *grants: Any) -> None:
    async with store.transaction() as transaction:
        for each in grants:
            await transaction.save_grant(each)


class StoreContract:
    """What every use case builds on, whichever database stands behind it."""

    @pytest.fixture
    async def store(self, new_store: NewStore) -> AsyncIterator[SqlStore]:
        store = new_store()
        await store.open()
        yield store
        await store.close()

    # --- transactions ---

    async def test_an_exception_rolls_everything_back(self, store: SqlStore) -> None:
        """Port Transaction, style.md habit 6: process, outbox, events, consent, grants commit together or not
        at all (DSP durability: a state without its message, or the reverse, would wedge both sides)."""

        async def everything_then_fail() -> None:
            async with store.transaction() as transaction:
                await transaction.save_negotiation(negotiation())
                await transaction.save_transfer(transfer())
                await transaction.save_agreement(agreement_record())
                await transaction.enqueue(message("m1"))
                await transaction.append_events("consent", [event("e1")])
                await transaction.save_consents([consent()])
                await transaction.bump_consent_version("outreach", "youth")
                await transaction.save_grant(grant())
                await transaction.put_value("cursor", {"at": 1})
                assert await transaction.count_use("a", period="2026-11-22", at_most=1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await everything_then_fail()
        assert await due(store) == []
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.negotiation("urn:uuid:n1") is None
            assert await transaction.transfers() == []
            assert await transaction.agreements() == []
            assert await transaction.consents_of("siv:1") == []
            assert await transaction.consent_version("outreach", "youth") == 0
            assert await transaction.grants(GrantSelector()) == []
            assert await transaction.value("cursor") is None
        async with store.database.connect(read_only=True) as connection:
            assert await connection.fetch("read_events", "consent", -1, 9, "g", "m") == []
        async with store.transaction() as transaction:
            assert await transaction.count_use("a", period="2026-11-22", at_most=1)

    async def test_a_cancelled_transaction_leaves_nothing_and_blocks_nobody(self, store: SqlStore) -> None:
        """Port Store: a client that hangs up cancels its use case at any await."""
        for pause in (0, 0.0001, 0.001, 0.005):
            entered = asyncio.Event()

            async def write(entered: asyncio.Event = entered) -> None:
                async with store.transaction() as transaction:
                    await transaction.put_value("never", {})
                    entered.set()
                    while True:
                        await transaction.put_value("never", {})

            task = asyncio.create_task(write())
            await entered.wait()
            await asyncio.sleep(pause)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            async with store.transaction() as transaction:
                assert await transaction.value("never") is None

    async def test_a_statement_after_the_end_is_a_programming_error(self, store: SqlStore) -> None:
        """Port Transaction: a transaction that leaks out of its block must not write outside of any."""
        async with store.transaction() as transaction:
            pass
        with pytest.raises(RuntimeError):
            await transaction.put_value("late", {})

    async def test_nothing_is_committed_after_a_statement_that_failed(self, store: SqlStore) -> None:
        """Port Transaction: swallowing an error inside must not turn into half a commit, nor into a rollback
        that looks like a commit."""
        await enqueue(store, message("m1"))

        async def go_on_regardless(*, writing: bool) -> None:
            async with store.transaction() as transaction:
                await transaction.put_value("half", {})
                with suppress(Conflict):
                    await transaction.enqueue(message("m1"))
                if writing:
                    await transaction.put_value("other half", {})

        for writing in (True, False):
            # told at once, and swallowed: the code's mistake; or told as late as the commit
            with pytest.raises((RuntimeError, Conflict)):
                await go_on_regardless(writing=writing)
        async with store.transaction() as transaction:
            assert await transaction.values("") == {}

    async def test_a_read_only_transaction_refuses_to_write(self, store: SqlStore) -> None:
        """Port Store: `read_only` is held by the database, not by good will."""
        with pytest.raises(ConnectorError):
            async with store.transaction(read_only=True) as transaction:
                await transaction.put_value("k", {})
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.value("k") is None

    async def test_reading_waits_for_no_writer_and_sees_one_snapshot(self, store: SqlStore) -> None:
        """Port Store: a page of the console is not torn by what is written meanwhile."""
        async with store.transaction() as transaction:
            await transaction.put_value("k", {"n": 1})
        async with store.transaction() as writer:
            await writer.put_value("k", {"n": 2})
            async with asyncio.timeout(2), store.transaction(read_only=True) as reader:
                assert await reader.value("k") == {"n": 1}
        async with store.transaction(read_only=True) as reader:
            assert await reader.value("k") == {"n": 2}
            async with store.transaction() as writer:
                await writer.put_value("k", {"n": 3})
            assert await reader.value("k") == {"n": 2}

    async def test_what_was_committed_is_there_after_reopening(
        self, new_store: NewStore, store: SqlStore
    ) -> None:
        """Protocol, durability: nothing lives in memory only."""
        async with store.transaction() as transaction:
            await transaction.save_negotiation(negotiation())
            await transaction.enqueue(message("m1"))
        await store.close()
        again = new_store()
        await again.open()
        async with again.transaction(read_only=True) as transaction:
            assert await transaction.negotiation("urn:uuid:n1") == negotiation(version=1)
        assert [each.id for each in await due(again)] == ["m1"]
        await again.close()

    async def test_a_closed_store_is_unavailable(self, store: SqlStore) -> None:
        """Port Store: the safe outcome of a store that does not answer is a denial."""
        await store.ping()
        await store.close()
        await store.close()
        with pytest.raises(Unavailable):
            await store.ping()
        with pytest.raises(Unavailable):
            async with store.transaction():
                pass

    # --- processes ---

    async def test_the_first_writer_wins(self, store: SqlStore) -> None:
        """Port Transaction: optimistic versions, for both protocols' processes."""
        async with store.transaction() as transaction:
            first = await transaction.save_negotiation(negotiation())
            assert (first.version, await transaction.negotiation(first.pid)) == (1, first)
            started = await transaction.save_transfer(transfer())
        async with store.transaction() as transaction:
            agreed = await transaction.save_negotiation(replace(first, state=NegotiationState.AGREED))
            assert agreed.version == 2
            await transaction.save_transfer(replace(started, sending="start"))
        with pytest.raises(Conflict):
            async with store.transaction() as transaction:
                await transaction.save_negotiation(replace(first, state=NegotiationState.TERMINATED))
        with pytest.raises(Conflict):
            async with store.transaction() as transaction:
                await transaction.save_transfer(started)
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.negotiation(first.pid) == agreed

    async def test_of_concurrent_writers_exactly_one_wins(self, store: SqlStore) -> None:
        """Protocol: replicas share one store; a state is left once."""
        async with store.transaction() as transaction:
            held = await transaction.save_negotiation(negotiation())

        async def move(state: NegotiationState) -> bool:
            try:
                async with store.transaction() as transaction:
                    await transaction.save_negotiation(replace(held, state=state))
            except Conflict:
                return False
            return True

        outcomes = await asyncio.gather(
            *(move(state) for state in (NegotiationState.AGREED, NegotiationState.TERMINATED) * 4)
        )
        assert sum(outcomes) == 1

    async def test_a_process_is_inserted_once(self, store: SqlStore) -> None:
        """DSP 2025-1: a request that is repeated, perhaps to two replicas at once, makes one process."""
        async with store.transaction() as transaction:
            await transaction.save_negotiation(negotiation("n1", peer_pid="p1"))
            await transaction.save_transfer(transfer("t1", peer_pid="p1"))
        for pid, peer_pid in (("n1", "p2"), ("n2", "p1")):
            with pytest.raises(Conflict):
                async with store.transaction() as transaction:
                    await transaction.save_negotiation(negotiation(pid, peer_pid=peer_pid))
            with pytest.raises(Conflict):
                async with store.transaction() as transaction:
                    await transaction.save_transfer(transfer(pid.replace("n", "t"), peer_pid=peer_pid))
        async with store.transaction() as transaction:  # another participant may use the same pid
            await transaction.save_negotiation(negotiation("n2", peer_pid="p1", counter_party="city"))
            await transaction.save_transfer(transfer("t2", peer_pid="p1", counter_party="city"))

    async def test_processes_are_found_by_the_peers_pid(self, store: SqlStore) -> None:
        """Port Transaction: only a known pid of this counterparty; "not told yet" matches nothing."""
        async with store.transaction() as transaction:
            found = await transaction.save_negotiation(negotiation("n1", peer_pid="p1"))
            await transaction.save_negotiation(negotiation("n2"))
            await transaction.save_negotiation(negotiation("n3"))
            moved = await transaction.save_transfer(transfer("t1", peer_pid="p1"))
            assert await transaction.negotiation_by_peer("youth", "p1") == found
            assert await transaction.transfer_by_peer("youth", "p1") == moved
            for counter_party, peer_pid in (("city", "p1"), ("youth", "p2"), ("youth", "")):
                assert await transaction.negotiation_by_peer(counter_party, peer_pid) is None
                assert await transaction.transfer_by_peer(counter_party, peer_pid) is None

    async def test_negotiations_come_in_pages(self, store: SqlStore) -> None:
        """Protocol: the operator's API lists what waits; by pid in the order of its bytes."""
        pids = ["B", "a", "ä", "z", "€"]
        async with store.transaction() as transaction:
            for pid in reversed(pids):
                await transaction.save_negotiation(
                    negotiation(pid, waiting_for="approval" if pid in "az" else "")
                )
            everything = await transaction.negotiations()
            pages = [await transaction.negotiations(limit=2, after=after) for after in ("", "a", "z", "€")]
            waiting = await transaction.negotiations(waiting=True)
            moving = await transaction.negotiations(waiting=False, limit=2)
        assert sorted(pids, key=str.encode) == ["B", "a", "z", "ä", "€"]
        assert [n.pid for n in everything] == ["B", "a", "z", "ä", "€"]
        assert [[n.pid for n in page] for page in pages] == [["B", "a"], ["z", "ä"], ["ä", "€"], []]
        assert [n.pid for n in waiting] == ["a", "z"]
        assert [n.pid for n in moving] == ["B", "ä"]

    async def test_transfers_of_an_agreement(self, store: SqlStore) -> None:
        """Protocol: ending an agreement ends its transfers."""
        async with store.transaction() as transaction:
            one = await transaction.save_transfer(transfer("t1", agreement_id="a1"))
            two = await transaction.save_transfer(transfer("t2", agreement_id="a2"))
            assert await transaction.transfers(agreement_id="a1") == [one]
            assert await transaction.transfers() == [one, two]
            assert await transaction.transfer("t2") == two

    async def test_transfers_by_pages(self, store: SqlStore) -> None:
        """Protocol: the operator's list; a page begins behind the last pid of the one before."""
        async with store.transaction() as transaction:
            for number in range(5):
                agreement_id = "a2" if number == 3 else "a1"
                await transaction.save_transfer(transfer(f"t{number}", agreement_id=agreement_id))
            first = await transaction.transfers_page(limit=2)
            rest = await transaction.transfers_page(after=first[-1].pid)
            assert [t.pid for t in (*first, *rest)] == ["t0", "t1", "t2", "t3", "t4"]
            of_one = await transaction.transfers_page(agreement_id="a1", limit=2, after="t1")
            assert [t.pid for t in of_one] == ["t2", "t4"]
            assert not await transaction.transfers_page(agreement_id="a3")

    async def test_of_two_who_change_an_agreement_none_undoes_the_other(self, store: SqlStore) -> None:
        """Agreements: a signature that comes with the FINALIZED event loses neither."""
        async with store.transaction() as transaction:
            await transaction.save_agreement(agreement_record(state=AgreementState.PENDING))
            assert await transaction.agreement_for_change("urn:uuid:none") is None

        async def change(**changes: Any) -> None:
            async with store.transaction() as transaction:
                held = await transaction.agreement_for_change("urn:uuid:a1")
                assert held is not None
                await asyncio.sleep(0.01)
                await transaction.save_agreement(replace(held, **changes))

        signed = AgreementSignature(participant="youth", jws="a.b.c", jwk={"kid": "k"}, at=NOW)
        await asyncio.gather(
            change(state=AgreementState.ACTIVE, in_force_at=NOW),
            change(signatures=(signed,)),
            change(signature_problem=("absent", "No.")),
        )
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.agreement("urn:uuid:a1") == agreement_record(
                in_force_at=NOW, signatures=(signed,), signature_problem=("absent", "No.")
            )

    async def test_a_terminated_agreement_stays_terminated(self, store: SqlStore) -> None:
        """Architecture idea 3: a writer that read the agreement before its end must not revive it."""
        active = agreement_record()
        ended = replace(active, state=AgreementState.TERMINATED, ended_at=NOW, ended_reason="sunset")
        async with store.transaction() as transaction:
            await transaction.save_agreement(active)
            await transaction.save_agreement(agreement_record("a2", assignee="city"))
            await transaction.save_agreement(ended)
            await transaction.save_agreement(ended)
        with pytest.raises(Conflict):
            async with store.transaction() as transaction:
                await transaction.save_agreement(active)
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.agreement("urn:uuid:a1") == ended
            assert await transaction.agreements(counter_party="youth") == [ended]
            assert len(await transaction.agreements()) == 2

    # --- outbox ---

    async def test_messages_of_a_process_leave_one_by_one_in_order(self, store: SqlStore) -> None:
        """Protocol: per-process order; one process does not hold another up."""
        await enqueue(
            store,
            message("a1", process_pid="a"),
            message("a2", process_pid="a"),
            message("b1", process_pid="b"),
        )
        assert [each.id for each in await due(store)] == ["a1", "b1"]
        assert await due(store) == []
        async with store.transaction() as transaction:
            await transaction.sent("a1")
            await transaction.sent("a1")
        assert [each.id for each in await due(store)] == ["a2"]

    async def test_a_message_is_not_due_before_its_time_and_holds_later_ones_back(
        self, store: SqlStore
    ) -> None:
        """Protocol: backoff of the first message must not let the second overtake it."""
        later = NOW + timedelta(minutes=5)
        await enqueue(store, message("a1", due_at=later), message("a2"))
        assert await due(store, at=later - timedelta(microseconds=1)) == []
        assert [each.id for each in await due(store, at=later)] == ["a1"]

    async def test_a_lease_that_runs_out_frees_the_message(self, store: SqlStore) -> None:
        """Protocol: a worker that was killed while sending; the message keeps its id."""
        await enqueue(store, message("m1"))
        assert [each.id for each in await due(store, worker="dead", lease_seconds=0.15)] == ["m1"]
        assert await due(store, worker="alive") == []
        await asyncio.sleep(0.2)
        assert [each.id for each in await due(store, worker="alive")] == ["m1"]

    async def test_a_postponed_message_counts_its_attempts(self, store: SqlStore) -> None:
        """Protocol: exponential backoff needs the number, the operator the reason; the lease ends."""
        await enqueue(store, message("m1"))
        await due(store)
        retry_at = NOW + timedelta(seconds=2)
        async with store.transaction() as transaction:
            await transaction.postpone("m1", due_at=retry_at, error="503")
        assert await due(store) == []
        (again,) = await due(store, at=retry_at)
        assert again == message("m1", due_at=retry_at, attempts=1, last_error="503")

    async def test_abandoning_takes_the_later_messages_along(self, store: SqlStore) -> None:
        """Protocol: given up loudly; what came after it would make no sense to the peer. A new message
        (the termination) is not held back."""
        await enqueue(
            store, *(message(name, process_pid=name[0]) for name in ("a1", "a2", "b1")), message("a3")
        )
        await due(store, limit=1)
        async with store.transaction() as transaction:
            await transaction.abandon("a1", error="gave up after 10 attempts")
            await transaction.enqueue(message("a4", process_pid="a"))
        assert [each.id for each in await due(store)] == ["b1", "a3", "a4"]
        async with store.transaction() as transaction:
            await transaction.sent("a2")
            await transaction.postpone("a2", due_at=NOW, error="")
            await transaction.abandon("a2", error="")
            await transaction.abandon("unknown", error="")
        assert await due(store) == []

    async def test_replicas_never_lease_the_same_message(self, store: SqlStore) -> None:
        """Protocol: leases so that several replicas share one store."""
        names = [f"m{number:03}" for number in range(60)]
        await enqueue(store, *(message(name, process_pid=name) for name in names))
        leased: list[str] = []

        async def work(worker: str) -> None:
            while batch := await due(store, worker=worker, limit=3):
                leased.extend(each.id for each in batch)

        await asyncio.gather(*(work(f"w{number}") for number in range(5)))
        leased.extend(each.id for each in await due(store, limit=60))  # passed over while locked
        assert sorted(leased) == names

    async def test_a_message_can_be_leased_from_the_start(self, store: SqlStore) -> None:
        """Protocol: its transaction's own worker does it at once; a dead worker's lease runs out."""
        async with store.transaction() as transaction:
            first = await transaction.enqueue(
                message("a1", process_pid="a"),
                message("a2", process_pid="a"),
                message("b1", process_pid="b"),
                worker="w",
                lease_seconds=0.3,
            )
        assert first.leased == {"a1": "", "a2": "a1", "b1": ""}
        assert await due(store, worker="other") == []
        async with store.transaction() as transaction:
            behind = await transaction.enqueue(message("a3", process_pid="a"), worker="w", lease_seconds=60)
            await transaction.sent("b1", "unknown")
        assert behind.leased == {"a3": "a2"}
        await asyncio.sleep(0.4)
        assert [each.id for each in await due(store, worker="other")] == ["a1"]
        async with store.transaction() as transaction:
            await transaction.sent("a1", "a2")
        assert await due(store, worker="other") == [], "the last one is still leased"

    async def test_what_stands_behind_another_workers_message_is_leased_to_nobody(
        self, store: SqlStore
    ) -> None:
        """Protocol: per-process order, whichever replica decided."""
        await enqueue(store, message("a1", process_pid="a"), message("b1", process_pid="b"))
        await due(store, worker="other", limit=1)
        async with store.transaction() as transaction:
            enqueued = await transaction.enqueue(
                message("a2", process_pid="a"),
                message("b2", process_pid="b"),
                message("c1", process_pid="c"),
                worker="w",
                lease_seconds=60,
            )
        assert enqueued.leased == {"c1": ""}
        assert [each.id for each in await due(store, worker="w")] == ["b1"]

    async def test_leases_can_be_given_back(self, store: SqlStore) -> None:
        """Protocol: an orderly stop leaves nothing that others must wait for; nobody ends others' leases."""
        async with store.transaction() as transaction:
            for worker in ("w", "x"):
                names = [f"{worker}{number}" for number in (1, 2)]
                await transaction.enqueue(
                    *(message(name, process_pid=name) for name in names), worker=worker, lease_seconds=60
                )
        async with store.transaction() as transaction:
            await transaction.release("w", "w2", "x1")
        assert [each.id for each in await due(store, worker="y")] == ["w2"]
        async with store.transaction() as transaction:
            await transaction.release("w")
        assert [each.id for each in await due(store, worker="y")] == ["w1"]

    async def test_what_was_given_up_is_listed_the_latest_first(self, store: SqlStore) -> None:
        """Protocol: gives up loudly; the operator reads what, and why."""
        await enqueue(
            store, *(message(name, process_pid=name[0]) for name in ("a1", "b1", "c1", "c2")), message("d1")
        )
        async with store.transaction() as transaction:
            assert await transaction.abandoned_messages() == []
            for name in ("b1", "c1"):
                await transaction.abandon(name, error=f"no {name}")
        async with store.transaction(read_only=True) as transaction:
            found = await transaction.abandoned_messages()
            assert [(each.id, each.last_error) for each in found] == [
                ("c2", "no c1"),
                ("c1", "no c1"),
                ("b1", "no b1"),
            ]
            assert found[2] == message("b1", process_pid="b", last_error="no b1")
            assert [each.id for each in await transaction.abandoned_messages(limit=1)] == ["c2"]
            assert [each.id for each in await transaction.abandoned_messages(before="c1")] == ["b1"]
            assert await transaction.abandoned_messages(before="b1") == []

    async def test_a_message_is_enqueued_once(self, store: SqlStore) -> None:
        """Port OutboxMessage: the same id is the same message."""
        await enqueue(store, message("m1"))
        with pytest.raises(Conflict):
            await enqueue(store, message("m1"))

    # --- consent ---

    async def test_consent_records_are_found_by_person_and_by_purpose(self, store: SqlStore) -> None:
        """Port Transaction: a person's own page, and the set a decision needs, in whatever state."""
        mine = [consent("c1"), consent("c2", ConsentState.REFUSED, purpose="statistics")]
        other = consent("c3", ConsentState.GIVEN, ConsentState.WITHDRAWN, subject="siv:2")
        async with store.transaction() as transaction:
            await transaction.save_consents([*mine, other])
            assert await transaction.consents_of("siv:1") == mine
            assert await transaction.consents_for("outreach", "youth") == [mine[0], other]
            assert await transaction.consents_for("outreach", "city") == []
            assert await transaction.consent("c3") == other
            assert await transaction.consent("c9") is None

    async def test_a_withdrawal_is_never_overwritten(self, store: SqlStore) -> None:
        """Architecture idea 3: events only ever grow, whoever saves what they read before."""
        given = consent("c1", ConsentState.GIVEN)
        withdrawn = consent("c1", ConsentState.GIVEN, ConsentState.WITHDRAWN)
        renewed_twice = consent("c1", ConsentState.GIVEN, ConsentState.RENEWED, ConsentState.RENEWED)
        async with store.transaction() as transaction:
            await transaction.save_consents([given])
            await transaction.save_consents([given])
            await transaction.save_consents([withdrawn])
        for stale in (given, renewed_twice):
            with pytest.raises(Conflict):
                async with store.transaction() as transaction:
                    await transaction.save_consents([consent("c2"), stale])
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.consent("c1") == withdrawn
            assert await transaction.consent("c2") is None

    async def test_of_concurrent_changes_to_one_consent_one_wins(self, store: SqlStore) -> None:
        """Architecture idea 3, on several replicas: no event is lost in silence."""
        async with store.transaction() as transaction:
            await transaction.save_consents([consent("c1", ConsentState.GIVEN)])

        async def change(state: ConsentState) -> bool:
            try:
                async with store.transaction() as transaction:
                    record = await transaction.consent("c1")
                    assert record is not None
                    if len(record.events) > 1:
                        return False
                    await transaction.save_consents([consent("c1", ConsentState.GIVEN, state)])
            except Conflict:
                return False
            return True

        changes = [ConsentState.WITHDRAWN, ConsentState.RENEWED, ConsentState.EXPIRED]
        assert sum(await asyncio.gather(*(change(state) for state in changes))) == 1

    async def test_each_change_of_a_consent_set_has_its_own_version(self, store: SqlStore) -> None:
        """Architecture, consent and the source: caches and streams compare versions."""

        async def bump() -> int:
            async with store.transaction() as transaction:
                return await transaction.bump_consent_version("outreach", "youth")

        versions = await asyncio.gather(*(bump() for _ in range(10)))
        assert sorted(versions) == list(range(1, 11))
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.consent_version("outreach", "youth") == 10
            assert await transaction.consent_version("outreach", "city") == 0

    # --- grants ---

    async def test_a_bump_reaches_exactly_the_grants_selected(self, store: SqlStore) -> None:
        """Architecture idea 3: each occasion (an agreement's end, an expulsion, ...) names its own."""
        await save_grants(
            store,
            grant("g1"),
            grant("g2", agreement_id="a2", consumer="city"),
            grant("g3", transfer_pid="t3", purpose="statistics"),
            grant("g4", dataset_id="benefits"),
            grant("g5", state=GrantState.ENDED, ended_reason="expired"),
        )
        occasions = {
            GrantSelector(): ["g1", "g2", "g3", "g4"],
            GrantSelector(agreement_id="a2"): ["g2"],
            GrantSelector(transfer_pid="t3"): ["g3"],
            GrantSelector(consumer="youth"): ["g1", "g3", "g4"],
            GrantSelector(consumer="youth", purpose="outreach"): ["g1", "g4"],
            GrantSelector(dataset_ids=frozenset({"benefits", "leavers"})): ["g4"],
            GrantSelector(dataset_ids=frozenset()): [],
        }
        expected = dict.fromkeys(("g1", "g2", "g3", "g4", "g5"), 1)
        for selector, names in occasions.items():
            async with store.transaction() as transaction:
                bumped = await transaction.bump_grants(selector)
                selected = [each.id for each in await transaction.grants(selector)]
            for name in names:
                expected[name] += 1
            assert [(each.id, each.epoch) for each in bumped] == [(name, expected[name]) for name in names]
            assert [name for name in selected if name != "g5"] == names
        async with store.transaction(read_only=True) as transaction:
            everything = await transaction.grants(GrantSelector())
        assert {each.id: each.epoch for each in everything} == expected
        assert {each.id for each in everything if each.state is GrantState.ENDED} == {"g5"}

    async def test_an_ended_grant_never_returns(self, store: SqlStore) -> None:
        """Port Transaction, Grant: neither by saving nor by bumping; its reason stays."""
        await save_grants(store, grant())
        async with store.transaction() as transaction:
            (ended,) = await transaction.bump_grants(GrantSelector(), ended_reason="agreement_terminated")
            assert ended == grant(epoch=2, state=GrantState.ENDED, ended_reason="agreement_terminated")
            assert await transaction.bump_grants(GrantSelector(), ended_reason="again") == []
        for revived in (grant(epoch=9), ended):
            with pytest.raises(Conflict):
                await save_grants(store, revived)
        async with store.transaction(read_only=True) as transaction:
            assert await transaction.grant("g1") == ended
            assert await transaction.grant("g2") is None

    async def test_a_stale_save_does_not_lower_the_epoch(self, store: SqlStore) -> None:
        """Architecture idea 3: the stop signal must not be lost to whoever read the grant before it."""
        await save_grants(store, grant())
        await save_grants(store, grant(policy_revision="p2", consent_version=7))
        async with store.transaction() as transaction:
            await transaction.bump_grants(GrantSelector())
        with pytest.raises(Conflict):
            await save_grants(store, grant(policy_revision="p3"))
        with pytest.raises(Conflict):
            await save_grants(store, grant(epoch=2, consumer="city"))
        async with store.transaction(read_only=True) as transaction:
            held = await transaction.grant("g1")
        assert held == grant(epoch=2, policy_revision="p2", consent_version=7)

    async def test_concurrent_bumps_all_count(self, store: SqlStore) -> None:
        """Architecture idea 3: two occasions at once are two epochs, and neither blocks the other."""
        await save_grants(store, *(grant(f"g{number}") for number in range(20)))

        async def bump(selector: GrantSelector) -> None:
            async with store.transaction() as transaction:
                await transaction.bump_grants(selector)

        occasions = [GrantSelector(consumer="youth"), GrantSelector(purpose="outreach")] * 5
        await asyncio.gather(*(bump(selector) for selector in occasions))
        async with store.transaction(read_only=True) as transaction:
            assert {each.epoch for each in await transaction.grants(GrantSelector())} == {11}

    # --- small state ---

    async def test_values_are_replaced_and_listed_by_prefix(self, store: SqlStore) -> None:
        """Port Transaction: a prefix is text, not a pattern."""
        async with store.transaction() as transaction:
            for key in ("relay/b", "relay/a", "relay_c", "relay%", "RELAY/d", "reläy/e"):
                await transaction.put_value(key, {"key": key})
            await transaction.put_value("relay/a", {"key": "new", "list": [1, None, {"ä": 0.5}]})
            assert await transaction.value("relay/a") == {"key": "new", "list": [1, None, {"ä": 0.5}]}
            assert await transaction.value("relay/z") is None
            assert list(await transaction.values("relay/")) == ["relay/a", "relay/b"]
            assert await transaction.values("relay_") == {"relay_c": {"key": "relay_c"}}
            assert await transaction.values("relay%") == {"relay%": {"key": "relay%"}}
            assert list(await transaction.values("relä")) == ["reläy/e"]
            assert len(await transaction.values("")) == 6
        async with store.transaction() as transaction:
            await transaction.delete_values(["relay/a", "never there"])
            assert list(await transaction.values("relay/")) == ["relay/b"]

    async def test_a_quota_is_exact_under_50_concurrent_callers(self, store: SqlStore) -> None:
        """ODRL `count`: exactly as many uses as agreed, per period."""

        async def use(period: str) -> bool:
            async with store.transaction() as transaction:
                return await transaction.count_use("agreement/a1", period=period, at_most=20)

        assert sum(await asyncio.gather(*(use("2026-11-22") for _ in range(50)))) == 20
        assert not await use("2026-11-22")
        assert await use("2026-11-23")
        async with store.transaction() as transaction:
            assert not await transaction.count_use("agreement/a2", period="", at_most=0)

    # --- documents ---

    @pytest.mark.parametrize(
        "document",
        [{"reason": "\ud800"}, {"deep": None}, {"\udfff": 1}],
        ids=["lone surrogate", "nested 230 deep", "surrogate as a name"],
    )
    async def test_what_could_not_be_read_again_is_refused(
        self, store: SqlStore, document: dict[str, Any]
    ) -> None:
        """Protocol, bad input: a peer's document is a typed error, never a row that poisons its process."""
        if "deep" in document:
            for _ in range(230):
                document = {"deep": document}
        with pytest.raises(RequestInvalid):
            async with store.transaction() as transaction:
                await transaction.save_negotiation(negotiation(offer=document))

    @pytest.mark.parametrize("pid", ["\0", "n\0x", "\ud800", "x" * 20_000, "'; drop table grants; --"])
    async def test_hostile_ids_find_nothing_and_break_nothing(self, store: SqlStore, pid: str) -> None:
        """Protocol, bad input: ids come from a peer's URL; the answer is "unknown" or a typed refusal."""
        with suppress(RequestInvalid):
            async with store.transaction() as transaction:
                assert await transaction.negotiation(pid) is None
        with suppress(RequestInvalid):
            async with store.transaction() as transaction:
                saved = await transaction.save_negotiation(negotiation(pid, peer_pid=pid))
                assert await transaction.negotiation_by_peer("youth", pid) == saved
        await store.ping()

    async def test_errors_name_no_values(self, store: SqlStore) -> None:
        """Brief, rules for texts: engines quote the row that failed; we do not."""
        await enqueue(store, message("060694-952X"))
        with pytest.raises(Conflict) as caught:
            await enqueue(store, message("060694-952X"))
        error: BaseException | None = caught.value
        assert "060694" not in str(error)
        assert error is not None
        assert error.__suppress_context__
        assert error.__cause__ is None

    # --- schema ---

    async def test_a_newer_schema_is_refused(self, new_store: NewStore, store: SqlStore) -> None:
        """Architecture, Store: an older connector must not guess at columns it does not know."""
        async with store.database.connect() as connection:
            await connection.execute("record_schema_version", "store", 99, "from the future")
        late = new_store()
        with pytest.raises(ConfigurationError, match="99"):
            await late.open()
        with pytest.raises(Unavailable):
            await late.ping()

    async def test_an_older_schema_is_brought_forward_with_its_data(self, new_store: NewStore) -> None:
        """Protocol: schema migrations forward-tested, from the first version on."""
        old = new_store()
        first, *rest = migrations(old.database.dialect, "store")
        assert rest
        await old.database.open()
        async with old.database.connect() as connection:
            assert await connection.fetchone("has_schema_version")
            await connection.script(
                "create table schema_version (component text not null, version bigint not null,"
                " name text not null);"
            )
            await connection.script(first.sql)
            await connection.execute("record_schema_version", "store", 1, first.name)
        async with old.transaction() as transaction:
            await transaction.save_negotiation(negotiation())
        await old.close()
        new = new_store()
        await new.open()
        async with new.transaction() as transaction:
            assert await transaction.negotiation("urn:uuid:n1") is not None
            await transaction.append_events("t", [event("e1")])
        async with new.database.connect(read_only=True) as connection:
            row = await connection.fetchone("schema_version", "store")
        assert row is not None
        assert row[0] == len(rest) + 1
        await new.close()

    async def test_a_migration_that_fails_changes_nothing(self, new_store: NewStore) -> None:
        """Architecture, Store: all of the migrations or none, so that the backup's code still fits."""
        blocked = new_store()
        await blocked.database.open()
        async with blocked.database.connect() as connection:
            await connection.script("create table event_groups (in_the_way bigint);")
        await blocked.database.close()
        with pytest.raises(Unavailable):
            await blocked.open()
        await blocked.database.open()
        async with blocked.database.connect() as connection:
            row = await connection.fetchone("has_schema_version")
            assert row is not None
            assert row[0] == 0
        await blocked.database.close()

    async def test_replicas_that_start_together_migrate_once(self, new_store: NewStore) -> None:
        """Protocol: replicas over one store are started by one command."""
        stores = [new_store() for _ in range(4)]
        await asyncio.gather(*(each.open() for each in stores))
        for each in stores:
            await each.ping()
        await asyncio.gather(*(each.close() for each in stores))

    # --- crash ---

    async def test_a_killed_process_loses_nothing_it_was_told_is_on_record(
        self, store: SqlStore, committer: Sequence[str]
    ) -> None:
        """Architecture, Store: "on record" outlives SIGKILL at any moment; nothing is there by half."""
        acknowledged: set[str] = set()
        for run, seconds in (("one", 0.05), ("two", 0.25)):
            acknowledged |= await run_and_kill(*committer, run, after_seconds=seconds)
        async with store.transaction() as transaction:
            values = {key.removeprefix("half/") for key in await transaction.values("half/")}
            leased = await transaction.due_messages(NOW, worker="w", lease_seconds=1, limit=1_000_000)
        assert acknowledged <= values
        assert values == {each.process_pid for each in leased}


async def check_round_trips(store: Store, data: st.DataObject) -> None:
    """Every kind of document, written and read in one transaction that is then rolled back."""
    held = data.draw(examples.negotiations)
    moved = data.draw(examples.transfers)
    agreed = data.draw(examples.agreement_records)
    granted = data.draw(examples.grants)
    consented = data.draw(examples.consents)
    queued = data.draw(examples.messages)
    value = data.draw(examples.json_objects)
    async with store.transaction() as transaction:
        saved = await transaction.save_negotiation(held)
        assert await transaction.negotiation(held.pid) == saved
        assert await transaction.save_transfer(moved) == await transaction.transfer(moved.pid)
        await transaction.save_agreement(agreed)
        kept = await transaction.agreement(agreed.agreement.id)
        assert kept == agreed
        assert kept is not None
        assert types_in(kept.terms) == types_in(agreed.terms)
        assert types_in(kept.agreement.policy) == types_in(agreed.agreement.policy)
        assert types_in(kept.agreement.document) == types_in(agreed.agreement.document)
        await transaction.save_grant(granted)
        assert await transaction.grant(granted.id) == granted
        await transaction.save_consents([consented])
        assert await transaction.consent(consented.id) == consented
        await transaction.enqueue(queued)
        assert await transaction.due_messages(NOW, worker="w", lease_seconds=1) == [queued]
        await transaction.put_value("any", value)
        assert types_in(await transaction.value("any")) == types_in(value)
        raise RollBack


class RollBack(Exception):
    """Leaves the store as it was."""


async def run_and_kill(*arguments: str, after_seconds: float) -> set[str]:
    """Start a committer, let it commit for a while, kill it; return what it said was on record."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.ports.committer", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        first = b"".join([await child.stdout.readline() for _ in range(10)])
        await asyncio.sleep(after_seconds)
    finally:
        child.kill()
    lines = (first + await child.stdout.read()).decode().splitlines(keepends=True)
    assert await child.wait() == -signal.SIGKILL
    said = {line.strip() for line in lines if line.endswith("\n")}
    assert len(said) >= 10
    return said


def types_in(value: object) -> object:
    """`1 == 1.0 == True`: compare the types too."""
    if isinstance(value, dict):
        return {key: types_in(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [types_in(inner) for inner in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: types_in(getattr(value, name)) for name in value.__dataclass_fields__}
    return type(value).__name__, value
