"""Port EventBus: the event log on SQLite and on PostgreSQL, and Apache Kafka, under one contract."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from connector.adapters.event_log import EventLog, LogSubscription
from connector.adapters.kafka_bus import KafkaBus
from connector.adapters.postgres_store import PostgresStore
from connector.adapters.sql.store import SqlStore
from connector.adapters.sqlite_store import SqliteStore
from connector.errors import ConfigurationError, Conflict, RequestInvalid, Unavailable
from connector.model.event import CloudEvent, Delivered
from connector.ports import EventBus, Subscription
from tests.parts.kafka import KafkaServer
from tests.parts.postgres import PostgresServer, fresh_database
from tests.ports.examples import NOW, event

NewBus = Callable[[], Awaitable[EventBus]]
PATIENCE_SECONDS = 20.0  # a Kafka group may take seconds to form on a busy machine


async def take(
    subscription: Subscription, count: int, *, patience_seconds: float = PATIENCE_SECONDS
) -> list[Delivered]:
    """The next `count` events, however many polls it takes."""
    taken: list[Delivered] = []
    deadline = time.monotonic() + patience_seconds
    while len(taken) < count and time.monotonic() < deadline:
        taken.extend(await subscription.poll(max_events=count - len(taken), timeout_seconds=0.5))
    return taken


async def settled(bus: EventBus, topic: str, *members: Subscription) -> None:
    """Until the members agree who receives: Kafka hands partitions over when somebody joins."""
    for number in range(20):
        await bus.publish(topic, [event(f"probe-{number}")])
        batches = await asyncio.gather(*(member.poll(timeout_seconds=1) for member in members))
        receivers = [(member, batch) for member, batch in zip(members, batches, strict=True) if batch]
        if len(receivers) == 1:
            ((member, batch),) = receivers
            with suppress(Conflict):
                await member.commit(batch[-1].offset)
                if ids(batch) == [f"probe-{number}"]:
                    return
    pytest.fail("the members of the group never agreed")


def ids(delivered: Sequence[Delivered]) -> list[str]:
    return [each.event.id for each in delivered]


class EventBusContract:
    """What publishers and deliveries build on, whichever broker stands behind it.

    A subclass has the fixture `new_bus`: each bus is another process over one broker.
    """

    @pytest.fixture
    async def bus(self, new_bus: NewBus) -> EventBus:
        return await new_bus()

    @pytest.fixture
    def topic(self) -> str:
        return f"consent-{uuid.uuid4().hex}"

    async def test_an_event_arrives_as_it_was_sent(self, bus: EventBus, topic: str) -> None:
        """CloudEvents 1.0.2: every attribute, extensions, nested data, in any script."""
        sent = [
            event("e1", subject="hyvinvointi/äöå 👪 ‮", data={"fi": "Hyvää päivää", "n": [1, 2.5, None, {}]}),
            event("e2", subject="", data={}, extensions={"traceparent": "00-ab-cd-01", "agreement": "ä"}),
            event("e3", dataschema="https://example.org/schemas/benefit/1", data={"": {"€": True}}),
        ]
        await bus.publish(topic, sent)
        async with bus.subscribe(topic, "g") as subscription:
            assert [each.event for each in await take(subscription, 3)] == sent

    async def test_what_several_tasks_publish_keeps_its_order_per_key(
        self, bus: EventBus, new_bus: NewBus, topic: str
    ) -> None:
        """Events: in order per key, nothing lost, from several tasks and processes at once."""

        async def publish(bus: EventBus, subject: str) -> None:
            for number in range(0, 30, 3):
                batch = [event(f"{subject}-{n:02}", subject=subject) for n in range(number, number + 3)]
                await bus.publish(topic, batch)

        other = await new_bus()
        await asyncio.gather(*(publish(one, f"s{n}") for n in range(3) for one in ((bus, other)[n % 2],)))
        async with bus.subscribe(topic, "g") as subscription:
            taken = ids(await take(subscription, 90))
        for subject in ("s0", "s1", "s2"):
            expected = [f"{subject}-{n:02}" for n in range(30)]
            assert [each for each in taken if each.startswith(subject)] == expected
        assert len(taken) == 90

    async def test_a_new_subscription_starts_behind_the_commit(
        self, bus: EventBus, new_bus: NewBus, topic: str
    ) -> None:
        """Port Subscription: resumes after a crash, in another process, from the last acknowledged offset."""
        await bus.publish(topic, [event(f"e{n}") for n in range(6)])
        async with bus.subscribe(topic, "g") as subscription:
            taken = await take(subscription, 4)
            await subscription.commit(taken[2].offset)
            await subscription.commit(taken[2].offset)
            await subscription.commit(taken[0].offset)  # never back
        async with (await new_bus()).subscribe(topic, "g") as subscription:
            assert ids(await take(subscription, 3)) == ["e3", "e4", "e5"]

    async def test_without_a_commit_events_come_again(self, bus: EventBus, topic: str) -> None:
        """Port Subscription: at-least-once; and one subscription does not repeat itself."""
        await bus.publish(topic, [event("e1"), event("e2")])
        for _ in range(2):
            async with bus.subscribe(topic, "g") as subscription:
                assert ids(await take(subscription, 2)) == ["e1", "e2"]
                assert ids(await subscription.poll(timeout_seconds=0.05)) == []

    async def test_groups_are_independent(self, bus: EventBus, topic: str) -> None:
        """Port EventBus: each group has its own offset and begins at the start of the topic."""
        await bus.publish(topic, [event("e1"), event("e2")])
        async with bus.subscribe(topic, "one") as one:
            taken = await take(one, 2)
            await one.commit(taken[-1].offset)
            async with bus.subscribe(topic, "two") as two:
                assert ids(await take(two, 2)) == ["e1", "e2"]
        await bus.publish(topic, [event("e3")])
        async with bus.subscribe(topic, "one") as one, bus.subscribe(topic, "two") as two:
            assert ids(await take(one, 1)) == ["e3"]
            assert ids(await take(two, 3)) == ["e1", "e2", "e3"]

    async def test_topics_are_independent(self, bus: EventBus, topic: str) -> None:
        """Port EventBus: topics may be named in each other's prefixes."""
        await bus.publish(topic, [event("e1")])
        await bus.publish(f"{topic}.quarantine", [event("q1")])
        async with bus.subscribe(f"{topic}.quarantine", "g") as subscription:
            assert ids(await take(subscription, 1)) == ["q1"]
            assert ids(await subscription.poll(timeout_seconds=0.05)) == []

    async def test_a_poll_is_bounded_in_events_and_in_time(self, bus: EventBus, topic: str) -> None:
        """Events: backpressure instead of memory; an idle topic blocks nobody."""
        async with bus.subscribe(topic, "g") as subscription:
            begun = time.monotonic()
            assert ids(await subscription.poll(timeout_seconds=0.1)) == []
            assert time.monotonic() - begun < 5
            await bus.publish(topic, [event(f"e{n:02}") for n in range(25)])
            await bus.publish(topic, [])
            sizes = []
            taken: list[Delivered] = []
            while len(taken) < 25:
                batch = await subscription.poll(max_events=7, timeout_seconds=5)
                sizes.append(len(batch))
                taken.extend(batch)
            assert max(sizes) <= 7
            assert ids(taken) == [f"e{n:02}" for n in range(25)]

    async def test_a_waiting_poll_is_woken(self, bus: EventBus, topic: str) -> None:
        """Events: the stop signal is an event; it must not wait for the poll's end."""
        await bus.publish(topic, [event("first")])
        async with bus.subscribe(topic, "g") as subscription:
            await take(subscription, 1)
            waiting = asyncio.create_task(subscription.poll(timeout_seconds=30))
            await asyncio.sleep(0.05)
            begun = time.monotonic()
            await bus.publish(topic, [event("e1")])
            assert ids(await waiting) == ["e1"]
            assert time.monotonic() - begun < 3

    async def test_of_two_members_of_a_group_one_receives_until_it_leaves(
        self, bus: EventBus, new_bus: NewBus, topic: str
    ) -> None:
        """Port EventBus: replicas share a group without delivering twice; the survivor goes on."""
        other = await new_bus()
        async with AsyncExitStack() as one_leaves, AsyncExitStack() as other_leaves:
            one = await one_leaves.enter_async_context(bus.subscribe(topic, "g"))
            two = await other_leaves.enter_async_context(other.subscribe(topic, "g"))
            await settled(bus, topic, one, two)
            await bus.publish(topic, [event("e1"), event("e2")])
            by_one, by_two = await asyncio.gather(
                take(one, 2, patience_seconds=1), take(two, 2, patience_seconds=1)
            )
            assert sorted([ids(by_one), ids(by_two)]) == [[], ["e1", "e2"]]
            if by_one:
                await one_leaves.aclose()
                assert ids(await take(two, 2)) == ["e1", "e2"]
            else:
                await other_leaves.aclose()
                assert ids(await take(one, 2)) == ["e1", "e2"]

    async def test_only_what_was_delivered_can_be_committed(self, bus: EventBus, topic: str) -> None:
        """Port Subscription: an offset from nowhere would skip events in silence."""
        await bus.publish(topic, [event("e1")])
        async with bus.subscribe(topic, "g") as subscription:
            (only,) = await take(subscription, 1)
            with pytest.raises(RequestInvalid):
                await subscription.commit(only.offset + 1_000_000)
        async with bus.subscribe(topic, "g") as subscription:
            assert ids(await take(subscription, 1)) == ["e1"]

    async def test_published_events_outlive_the_bus(self, bus: EventBus, new_bus: NewBus, topic: str) -> None:
        """Port EventBus: durable when `publish` returns."""
        await bus.publish(topic, [event("e1")])
        await bus.close()
        async with (await new_bus()).subscribe(topic, "g") as subscription:
            assert ids(await take(subscription, 1)) == ["e1"]

    async def test_data_that_is_not_json_is_refused(self, bus: EventBus, topic: str) -> None:
        """Port EventBus: refused whole, before anything is on the topic."""
        with pytest.raises(RequestInvalid):
            await bus.publish(topic, [event("e1"), event("e2", data={"text": "\ud800"})])
        await bus.publish(topic, [event("e3")])
        async with bus.subscribe(topic, "g") as subscription:
            assert ids(await take(subscription, 1)) == ["e3"]

    async def test_it_answers(self, bus: EventBus) -> None:
        """Port EventBus: health."""
        await bus.ping()


class EventLogContract(EventBusContract):
    """What the log in the store's database promises beyond a broker."""

    @pytest.fixture
    async def stores(
        self, new_store: Callable[[], SqlStore]
    ) -> AsyncIterator[Callable[[], Awaitable[SqlStore]]]:
        async with AsyncExitStack() as closing:

            async def open_store() -> SqlStore:
                store = new_store()
                await store.open()
                closing.push_async_callback(store.close)
                return store

            yield open_store

    @pytest.fixture
    async def new_bus(self, stores: Callable[[], Awaitable[SqlStore]]) -> NewBus:
        async def new_bus() -> EventLog:
            return log_of(await stores())

        return new_bus

    @pytest.fixture
    async def store(self, stores: Callable[[], Awaitable[SqlStore]]) -> SqlStore:
        return await stores()

    async def test_a_transactions_events_appear_with_its_commit(self, store: SqlStore) -> None:
        """Port Transaction, append_events: with the commit, at once, in order; with a rollback never."""
        async with log_of(store).subscribe("consent", "g") as subscription:
            waiting = asyncio.create_task(subscription.poll(timeout_seconds=30))
            async with store.transaction() as transaction:
                await transaction.append_events("consent", [event("e1"), event("e2")])
                await transaction.append_events("other", [event("o1")])
                await transaction.append_events("consent", [event("e3")])
                await asyncio.sleep(0.3)
                assert not waiting.done()
            begun = time.monotonic()
            assert ids(await waiting) == ["e1", "e2", "e3"]
            assert time.monotonic() - begun < 1
            with pytest.raises(ZeroDivisionError):
                async with store.transaction() as transaction:
                    raise await append_and_fail(transaction, event("never"))
            assert ids(await subscription.poll(timeout_seconds=0.05)) == []

    async def test_another_processs_events_are_noticed(self, new_bus: NewBus) -> None:
        """Architecture: replicas share the log; without a wake-up the next look is 200 ms away."""
        here, there = await new_bus(), await new_bus()
        async with here.subscribe("consent", "g") as subscription:
            await subscription.poll(timeout_seconds=0)
            await there.publish("consent", [event("e1")])
            begun = time.monotonic()
            assert ids(await subscription.poll(timeout_seconds=30)) == ["e1"]
            assert time.monotonic() - begun < 2

    async def test_a_member_that_died_is_replaced_when_its_lease_runs_out(
        self, stores: Callable[[], Awaitable[SqlStore]]
    ) -> None:
        """Events: resumes after any crash; who lost the lease can neither receive nor commit."""
        first_store, second_store = await stores(), await stores()
        await log_of(first_store).publish("consent", [event("e1"), event("e2"), event("e3")])
        async with log_of(first_store).subscribe("consent", "g"):
            pass
        # made by hand, so that nobody renews their leases: as processes that hang
        first = LogSubscription(first_store.database, "consent", "g", "first", 0.3)
        second = LogSubscription(second_store.database, "consent", "g", "second", 0.3)
        taken = list(await first.poll(max_events=2))
        await first.commit(taken[0].offset)
        assert ids(await second.poll(timeout_seconds=0.05)) == []
        await asyncio.sleep(0.35)
        assert ids(await second.poll(max_events=1)) == ["e2"]
        with pytest.raises(Conflict):
            await first.commit(taken[1].offset)
        assert ids(await first.poll(timeout_seconds=0)) == []
        assert ids(await second.poll()) == ["e3"]

    async def test_a_member_that_works_long_keeps_its_lease(
        self, stores: Callable[[], Awaitable[SqlStore]]
    ) -> None:
        """Port EventBus: handling a batch may take longer than the lease, which is renewed meanwhile."""
        first_store, second_store = await stores(), await stores()
        await log_of(first_store).publish("consent", [event("e1"), event("e2")])
        slow, eager = (
            EventLog(store.database, new_id=lambda: uuid.uuid4().hex, lease_seconds=0.6)
            for store in (first_store, second_store)
        )
        async with slow.subscribe("consent", "g") as first, eager.subscribe("consent", "g") as second:
            (taken,) = await first.poll(max_events=1)
            assert ids(await second.poll(timeout_seconds=1.5)) == []
            await first.commit(taken.offset)
            assert ids(await first.poll()) == ["e2"]

    async def test_old_events_can_be_forgotten(self, store: SqlStore) -> None:
        """Architecture idea 5: the log is no standing copy; offsets stay as they are."""
        log = log_of(store)
        await log.publish("consent", [event("old"), event("new", time=NOW + timedelta(days=8))])
        assert await log.prune(before=NOW + timedelta(days=1)) == 1
        async with log.subscribe("consent", "g") as subscription:
            (left,) = await subscription.poll()
            assert left.event.id == "new"
            await subscription.commit(left.offset)
            assert await log.prune(before=NOW + timedelta(days=9)) == 1
            await log.publish("consent", [event("next")])
            (following,) = await subscription.poll()
            assert following.offset > left.offset

    async def test_a_closed_store_closes_the_bus(self, store: SqlStore) -> None:
        """Port EventBus: health follows the database."""
        log = log_of(store)
        await store.close()
        with pytest.raises(Unavailable):
            await log.ping()
        with pytest.raises(Unavailable):
            await log.publish("consent", [event("e1")])


async def append_and_fail(transaction: Any, one: CloudEvent) -> ZeroDivisionError:
    await transaction.append_events("consent", [one])
    return ZeroDivisionError()


def log_of(store: SqlStore) -> EventLog:
    return EventLog(store.database, new_id=lambda: uuid.uuid4().hex)


class TestEventLogOnSqlite(EventLogContract):
    """The twin."""

    @pytest.fixture
    def new_store(self, tmp_path: Path) -> Callable[[], SqlStore]:
        return lambda: SqliteStore(tmp_path / "store.db")


class TestEventLogOnPostgres(EventLogContract):
    """Replicas without a broker."""

    @pytest.fixture
    def new_store(self, postgres_server: PostgresServer) -> Callable[[], SqlStore]:
        dsn = fresh_database(postgres_server)
        return lambda: PostgresStore(dsn, connections=4)

    async def test_transactions_that_commit_out_of_order_lose_nothing(self, store: SqlStore) -> None:
        """parts.md 4.3: numbers are drawn in another order than transactions commit; a reader that had
        passed the later one would never see the earlier."""
        async with log_of(store).subscribe("consent", "g") as subscription:
            await subscription.poll(timeout_seconds=0)
            async with store.transaction() as slow:
                await slow.append_events("consent", [event("slow")])
                await slow.value("any")  # a read: what was written before it is in the database by now
                async with store.transaction() as quick:
                    await quick.append_events("consent", [event("quick")])
                early = ids(await subscription.poll(timeout_seconds=0.3))
            assert early == []
            assert ids(await take(subscription, 2)) == ["slow", "quick"]

    async def test_after_a_restore_into_another_cluster_offsets_go_on(
        self, stores: Callable[[], Awaitable[SqlStore]]
    ) -> None:
        """Events, backup and restore: transaction numbers begin anew, committed offsets do not."""
        store = await stores()
        far_ahead = (10**12) * 2**20
        async with store.database.connect() as connection:
            await connection.script(
                "insert into event_log (position, topic, at, document)"
                f" select {far_ahead}, 'consent', 0, document from event_log where false;"
                f' insert into event_log values ({far_ahead}, \'consent\', 0, \'{{"id":"e1","source":"s",'
                '"type":"t","time":"2026-11-22T09:00:00Z"}\');'
            )
        restored = await stores()
        async with log_of(restored).subscribe("consent", "g") as subscription:
            (before,) = await subscription.poll()
            await subscription.commit(before.offset)
        await log_of(restored).publish("consent", [event("e2")])
        third = await stores()  # opening changes nothing where nothing was restored
        await log_of(third).publish("consent", [event("e3")])
        async with log_of(third).subscribe("consent", "g") as subscription:
            assert ids(await take(subscription, 2)) == ["e2", "e3"]


class TestKafka(EventBusContract):
    """The real one."""

    @pytest.fixture
    async def new_bus(self, kafka_server: KafkaServer) -> AsyncIterator[NewBus]:
        async with AsyncExitStack() as closing:

            async def new_bus() -> KafkaBus:
                bus = KafkaBus(kafka_server.bootstrap_servers)
                closing.push_async_callback(bus.close)
                return bus

            yield new_bus

    async def test_events_travel_as_cloudevents_in_binary_mode(
        self, bus: EventBus, topic: str, kafka_server: KafkaServer
    ) -> None:
        """CloudEvents 1.0.2, Kafka protocol binding §3.2: what other programs read."""
        await bus.publish(topic, [event("e1", subject="", data={"ä": 1}, extensions={"agreement": "a1"})])
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=kafka_server.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            record = await asyncio.wait_for(anext(consumer), PATIENCE_SECONDS)
        assert record.key == b"e1"
        assert record.value == '{"ä":1}'.encode()
        assert dict(record.headers) == {
            "ce_specversion": b"1.0",
            "ce_id": b"e1",
            "ce_source": b"urn:participant:kela",
            "ce_type": b"fi.kela.benefit.granted.v1",
            "ce_time": b"2026-11-22T09:00:00.123Z",
            "ce_agreement": b"a1",
            "content-type": b"application/json",
        }
        assert consumer.partitions_for_topic(topic) == {0}

    async def test_a_foreign_record_is_said_and_passed(
        self, bus: EventBus, topic: str, kafka_server: KafkaServer
    ) -> None:
        """Events: a record that is no event neither ends the subscription nor disappears in silence."""
        await bus.publish(topic, [event("e1")])
        async with AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap_servers) as producer:
            await producer.send_and_wait(topic, b"060694-952X", headers=[("ce_id", b"x")])
        await bus.publish(topic, [event("e2")])
        async with bus.subscribe(topic, "g") as subscription:
            taken: list[Delivered] = []
            complaints = []
            while len(taken) < 2:
                try:
                    taken += await take(subscription, 1)
                except RequestInvalid as error:
                    complaints.append(str(error))
            await subscription.commit(taken[-1].offset)
        assert ids(taken) == ["e1", "e2"]
        assert len(complaints) == 1
        assert f"{topic}/0@1" in complaints[0]
        assert "060694" not in complaints[0]

    async def test_keys_keep_their_order_over_several_partitions(
        self, kafka_server: KafkaServer, topic: str
    ) -> None:
        """Events: in order per key where a topic has more partitions; a commit covers all before it."""
        bus = KafkaBus(kafka_server.bootstrap_servers, partitions=3)
        sent = [event(f"{n:02}-s{n % 5}", subject=f"s{n % 5}") for n in range(40)]
        await bus.publish(topic, sent)
        async with bus.subscribe(topic, "g") as subscription:
            taken = await take(subscription, 40)
            await subscription.commit(taken[24].offset)
        for n in range(5):
            mine = [name for name in ids(taken) if name.endswith(f"s{n}")]
            assert mine == sorted(mine)
        async with bus.subscribe(topic, "g") as subscription:
            again = await take(subscription, 15)
        assert sorted(ids(again)) == sorted(ids(taken)[25:])
        await bus.close()

    async def test_a_broker_that_is_away_is_unavailable(self, topic: str) -> None:
        """Events: worth a retry; nothing is left running, and no address is in the text."""
        bus = KafkaBus("127.0.0.1:1", request_timeout_seconds=1)
        for attempt in (bus.publish(topic, [event("e1")]), bus.ping()):
            with pytest.raises(Unavailable) as caught:
                await attempt
            assert "127.0.0.1" not in str(caught.value)
        with pytest.raises(Unavailable):
            async with bus.subscribe(topic, "g"):
                pass
        await bus.close()

    async def test_a_topic_that_kafka_cannot_name_is_a_mistake(self, bus: EventBus) -> None:
        """Events: said at once, not at the first event that gets lost."""
        with pytest.raises(ConfigurationError):
            await bus.publish("consent withdrawn!", [event("e1")])

    async def test_an_event_too_big_for_the_broker_is_refused(self, bus: EventBus, topic: str) -> None:
        """Port EventBus: the caller's mistake, and the bus works on."""
        with pytest.raises(RequestInvalid):
            await bus.publish(topic, [event("e1", data={"x": "y" * 3_000_000})])
        await bus.publish(topic, [event("e2")])

    async def test_an_extension_cannot_pose_as_a_core_attribute(self, bus: EventBus, topic: str) -> None:
        """CloudEvents 1.0.2 §3.1: names are unique."""
        with pytest.raises(RequestInvalid):
            await bus.publish(topic, [event("e1", extensions={"source": "urn:participant:other"})])

    async def test_a_closed_bus_is_unavailable(self, bus: EventBus, topic: str) -> None:
        """Port EventBus: nothing is sent after the connector has stopped."""
        await bus.ping()
        await bus.close()
        await bus.close()
        with pytest.raises(Unavailable):
            await bus.publish(topic, [event("e1")])
