"""Port EventBus on Apache Kafka, through aiokafka (imported at first use).

Events travel as CloudEvents 1.0.2 in Kafka's binary mode: attributes in headers `ce_*`, data as JSON in the
value, the subject (or, without one, the id) as the key. Events of one key keep their order: they stay in one
partition, and the producer is idempotent. Of several members of a group each partition has one receiver.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from connector.errors import ConfigurationError, Conflict, RequestInvalid, Unavailable
from connector.model.event import CloudEvent, Delivered
from connector.model.json import from_rfc3339, to_rfc3339

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

_NO_ERROR, _INVALID_TOPIC, _MAY_NOT_CREATE, _ALREADY_EXISTS = 0, 17, 29, 36  # Kafka protocol guide
_CORE = ("specversion", "id", "source", "type", "time", "subject", "dataschema")


class KafkaBus:
    """`bootstrap_servers` is `host:port,...`. Topics that are missing are made at their first use, with
    `partitions` and `replication` copies (production: 3). Where we may not make topics, they must exist.

    `connection` goes to aiokafka as it is: `security_protocol`, `ssl_context`, `sasl_...`.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        partitions: int = 1,
        replication: int = 1,
        request_timeout_seconds: float = 10.0,
        connection: Mapping[str, Any] | None = None,
    ) -> None:
        self._partitions = partitions
        self._replication = replication
        self._options = {
            "bootstrap_servers": bootstrap_servers,
            "client_id": "connector",
            "request_timeout_ms": round(request_timeout_seconds * 1000),
            **(connection or {}),
        }
        self._ping_seconds = request_timeout_seconds
        self._producer: AIOKafkaProducer | None = None
        self._known_topics: set[str] = set()
        self._starting = asyncio.Lock()
        self._closed = False

    async def publish(self, topic: str, events: Sequence[CloudEvent]) -> None:
        """Every in-sync replica has them when it returns. After Unavailable some may be there:
        publish all of them again, receivers dedupe on (source, id)."""
        records = [_record(event) for event in events]
        producer = await self._started_producer()
        await self._ensure_topic(topic)
        try:
            with _translated():
                await _send(producer, topic, records)
        except Unavailable:
            # its sequence numbers may have a gap that the broker refuses for ever; a new one has none
            await self._discard(producer)
            raise

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str) -> AsyncIterator[KafkaSubscription]:
        """A group that is new begins at the start of the topic. Joining it goes on during the first polls."""
        from aiokafka import AIOKafkaConsumer

        await self._ensure_topic(topic)
        consumer = AIOKafkaConsumer(
            topic,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            **self._options,
        )
        try:
            with _translated():
                await consumer.start()
            yield KafkaSubscription(consumer, topic)
        finally:
            await consumer.stop()

    async def ping(self) -> None:
        producer = await self._started_producer()
        with _translated():
            async with asyncio.timeout(self._ping_seconds):
                await producer.client.fetch_all_metadata()

    async def close(self) -> None:
        """Sends what is still buffered."""
        async with self._starting:
            self._closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _started_producer(self) -> AIOKafkaProducer:
        from aiokafka import AIOKafkaProducer

        async with self._starting:
            if self._closed:
                raise Unavailable("The event bus is closed.")
            if self._producer is None:
                producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **self._options)
                try:
                    with _translated():
                        await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
        await producer.stop()

    async def _ensure_topic(self, topic: str) -> None:
        if topic in self._known_topics:
            return
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        wanted = NewTopic(topic, num_partitions=self._partitions, replication_factor=self._replication)
        admin = AIOKafkaAdminClient(**self._options)
        try:
            with _translated():
                await admin.start()
                answer = await admin.create_topics([wanted])
        finally:
            await admin.close()
        code = answer.topic_errors[0][1]
        if code == _INVALID_TOPIC:
            raise ConfigurationError(
                f"Kafka cannot have a topic named {topic!r}.",
                mend="Use up to 249 letters, digits, dots, underscores and hyphens.",
            )
        if code not in (_NO_ERROR, _ALREADY_EXISTS, _MAY_NOT_CREATE):
            raise Unavailable(f"Kafka did not make a topic (error {code}).")
        self._known_topics.add(topic)


class KafkaSubscription:
    """One member of a group. `KafkaBus.subscribe` makes it.

    With one partition a delivered offset is Kafka's own; with n it is Kafka's times n plus the partition.
    """

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._fetched: deque[ConsumerRecord[bytes, bytes]] = deque()
        self._uncommitted: deque[tuple[int, TopicPartition, int]] = deque()
        self._committed: dict[int, int] = {}  # partition -> Kafka's offset

    async def poll(self, *, max_events: int = 100, timeout_seconds: float = 1.0) -> Sequence[Delivered]:
        """A record that is no CloudEvent raises RequestInvalid, once; the next poll goes on behind it."""
        if not self._fetched:
            with _translated():
                batches = await self._consumer.getmany(
                    timeout_ms=round(timeout_seconds * 1000), max_records=max_events
                )
            for batch in batches.values():
                self._fetched.extend(batch)
        delivered: list[Delivered] = []
        while self._fetched and len(delivered) < max_events:
            try:
                delivered.append(self._deliver(self._fetched[0]))
            except RequestInvalid:
                if delivered:
                    break  # first what came before it
                self._fetched.popleft()
                raise
            self._fetched.popleft()
        return delivered

    async def commit(self, offset: int) -> None:
        """Raises Conflict when the partition went to another member of the group meanwhile, RequestInvalid
        for an offset that was not delivered here."""
        position, number = divmod(offset, self._partition_count())
        if position <= self._committed.get(number, -1):
            return
        upto = self._delivered_upto(offset)
        with _translated():
            await self._consumer.commit({partition: last + 1 for partition, last in upto.items()})
        self._committed.update({partition.partition: last for partition, last in upto.items()})
        while self._uncommitted.popleft()[0] != offset:
            pass

    def _deliver(self, record: ConsumerRecord[bytes, bytes]) -> Delivered:
        from aiokafka import TopicPartition

        event = _event(record)
        number = record.offset * self._partition_count() + record.partition
        self._uncommitted.append((number, TopicPartition(record.topic, record.partition), record.offset))
        return Delivered(offset=number, event=event)

    def _partition_count(self) -> int:
        return len(self._consumer.partitions_for_topic(self._topic) or (0,))

    def _delivered_upto(self, offset: int) -> Mapping[TopicPartition, int]:
        upto: dict[TopicPartition, int] = {}
        for number, partition, position in self._uncommitted:
            upto[partition] = position
            if number == offset:
                return upto
        raise RequestInvalid("An offset was committed that was not delivered.")


_Record = tuple[bytes, bytes, list[tuple[str, bytes]]]


async def _send(producer: AIOKafkaProducer, topic: str, records: Sequence[_Record]) -> None:
    answers = []
    try:
        for key, value, headers in records:
            answers.append(await producer.send(topic, value, key=key, headers=headers))
    finally:
        results = await asyncio.gather(*answers, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _record(event: CloudEvent) -> _Record:
    """CloudEvents 1.0.2, Kafka binding §3.2: header values are UTF-8."""
    if taken := [name for name in event.extensions if name in _CORE]:
        raise RequestInvalid(f"An extension attribute cannot be called {taken[0]!r}.")
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": to_rfc3339(event.time),
        "subject": event.subject,
        "dataschema": event.dataschema,
        **event.extensions,
    }
    try:
        value = json.dumps(event.data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        headers = [(f"ce_{name}", text.encode()) for name, text in attributes.items() if text]
        key = (event.subject or event.id).encode()
    except (ValueError, TypeError):  # UnicodeEncodeError among them
        raise RequestInvalid("An event cannot be sent: its data is not JSON.", code="not_storable") from None
    return key, value, [*headers, ("content-type", b"application/json")]


def _event(record: ConsumerRecord[bytes, bytes]) -> CloudEvent:
    """Raises RequestInvalid naming where the record is, never what is in it."""
    try:
        attributes = {
            name.removeprefix("ce_"): value.decode()
            for name, value in record.headers
            if name.startswith("ce_")
        }
        data = json.loads(record.value or b"")
        if attributes["specversion"] != "1.0" or not isinstance(data, dict):
            raise ValueError
        return CloudEvent(
            id=attributes["id"],
            source=attributes["source"],
            type=attributes["type"],
            time=from_rfc3339(attributes["time"]),
            subject=attributes.get("subject", ""),
            data=data,
            dataschema=attributes.get("dataschema", ""),
            extensions={name: text for name, text in attributes.items() if name not in _CORE},
        )
    except (KeyError, ValueError, AttributeError, RecursionError):
        raise RequestInvalid(
            "This record is not a CloudEvent in binary mode with JSON data.",
            where=f"{record.topic}/{record.partition}@{record.offset}",
            code="not_an_event",
        ) from None


@contextmanager
def _translated() -> Iterator[None]:
    """`from None`: aiokafka's texts name addresses."""
    from aiokafka.errors import (
        CommitFailedError,
        IllegalStateError,
        KafkaError,
        MessageSizeTooLargeError,
    )

    try:
        yield
    except MessageSizeTooLargeError:
        raise RequestInvalid("An event is bigger than Kafka takes.", code="not_storable") from None
    except (CommitFailedError, IllegalStateError):
        raise Conflict(
            "Another member of the group took over; what it is given includes these events."
        ) from None
    except (KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(f"Kafka does not answer as it should ({type(error).__name__}).") from None
