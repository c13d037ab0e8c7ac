"""Stage 5: what leaves is Arrow, ends in a signed word, and never ends silently."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from connector.data_plane import transport
from connector.errors import GrantStopped, SourceUnavailable, Unavailable

SCHEMA = pa.schema([("n", pa.int64()), ("name", pa.string())])


def batch(rows: int, start: int = 0) -> pa.RecordBatch:
    numbers = range(start, start + rows)
    return pa.record_batch([list(numbers), [f"name {n}" for n in numbers]], schema=SCHEMA)


@dataclass
class Outcomes:
    """Stands for the pipeline: keeps what `finish` was told."""

    told: list[tuple[int, str, str]] = field(default_factory=list)
    wait: float = 0.0
    failure: Exception | None = None

    async def finish(self, rows: int, digest: str, error: str) -> str:
        await asyncio.sleep(self.wait)
        self.told.append((rows, digest, error))
        if self.failure is not None:
            raise self.failure
        return f"signed {rows} {error}"


@dataclass
class FakeSource:
    """Batches, then perhaps an exception; remembers how far it was asked and that it was closed."""

    batches: list[pa.RecordBatch]
    failure: BaseException | None = None
    asked: int = 0
    closed: bool = False

    async def run(self) -> AsyncIterator[pa.RecordBatch]:
        try:
            for item in self.batches:
                self.asked += 1
                yield item
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed = True


async def collect(
    source: FakeSource, outcomes: Outcomes, schema: pa.Schema = SCHEMA, into: list[bytes] | None = None
) -> list[bytes]:
    chunks = [] if into is None else into
    async for chunk in transport.encode(schema, source.run(), outcomes.finish):
        chunks.append(chunk)
    return chunks


def read(data: bytes) -> tuple[list[pa.RecordBatch], str]:
    """As any Arrow reader sees it."""
    reader = pa.ipc.open_stream(io.BytesIO(data))
    batches, last = list[pa.RecordBatch](), ""
    while True:
        try:
            item, metadata = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            return batches, last
        batches.append(item)
        last = metadata["end"].decode() if metadata and "end" in metadata else ""


@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 8192, 5], [200_000]])
async def test_a_whole_answer(sizes: list[int]) -> None:
    """Data API: Arrow IPC, then a batch of no rows with the end record over all before it."""
    source, outcomes = FakeSource([batch(size) for size in sizes]), Outcomes()
    chunks = await collect(source, outcomes)
    data = b"".join(chunks)
    batches, end = read(data)
    assert pa.Table.from_batches(batches) == pa.Table.from_batches(source.batches, schema=SCHEMA)
    assert end == f"signed {sum(sizes)} "
    assert batches[-1].num_rows == 0
    ((rows, digest, error),) = outcomes.told
    assert (rows, error) == (sum(sizes), "")
    last_message = data.rindex(b"\xff\xff\xff\xff", 0, data.rindex(b"signed"))
    assert digest == hashlib.sha256(data[:last_message]).hexdigest()
    assert source.closed


async def test_batches_are_compressed() -> None:
    """fedquery §0.2: LZ4. Repeating values shrink."""
    numbers = pa.record_batch([[7] * 50_000, ["the same"] * 50_000], schema=SCHEMA)
    assert len(b"".join(await collect(FakeSource([numbers]), Outcomes()))) < numbers.nbytes / 4


async def test_one_batch_is_drained_before_the_next_is_asked_for() -> None:
    """Backpressure: a reader that stops stops the source."""
    source = FakeSource([batch(10) for _ in range(5)])
    async with aclosing(transport.encode(SCHEMA, source.run(), Outcomes().finish)) as stream:
        for expected in (1, 2, 3):
            await anext(stream)
            assert source.asked == expected


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (GrantStopped("x", code="agreement_terminated"), "agreement_terminated"),
        (GrantStopped("x", code="consent_changed", retryable=True), "consent_changed"),
        (SourceUnavailable("x"), "source_unavailable"),
        (Unavailable("x"), "unavailable"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
async def test_an_error_on_the_way_is_said(failure: Exception, code: str, before: int) -> None:
    """Never silently short: the end record names what stopped the stream, and counts what left."""
    source, outcomes = FakeSource([batch(4) for _ in range(before)], failure), Outcomes()
    batches, end = read(b"".join(await collect(source, outcomes)))
    assert end == f"signed {4 * before} {code}"
    assert sum(b.num_rows for b in batches) == 4 * before
    assert source.closed


async def test_a_fault_of_ours_is_said_and_raised() -> None:
    """Outside: `internal`. Inside: the exception itself, for the log."""
    outcomes, chunks = Outcomes(), list[bytes]()
    with pytest.raises(ZeroDivisionError):
        await collect(FakeSource([batch(4)], ZeroDivisionError()), outcomes, into=chunks)
    assert read(b"".join(chunks))[1] == "signed 4 internal"
    assert len(outcomes.told) == 1


async def test_no_outcome_no_end_record() -> None:
    """Architecture idea 6: when the outcome cannot be recorded, the stream must not look complete."""
    chunks = list[bytes]()
    with pytest.raises(Unavailable):
        await collect(FakeSource([batch(4)]), Outcomes(failure=Unavailable("audit")), into=chunks)
    assert read(b"".join(chunks))[1] == ""


async def test_a_consumer_that_leaves_is_on_record() -> None:
    """The outcome after, also when nobody hears it: rows handed over, and the source stopped."""
    source, outcomes = FakeSource([batch(10) for _ in range(5)]), Outcomes()
    async with aclosing(transport.encode(SCHEMA, source.run(), outcomes.finish)) as stream:
        await anext(stream)
        await anext(stream)
    assert [(rows, error) for rows, _, error in outcomes.told] == [(20, "consumer_left")]
    assert source.closed


async def test_cancelling_again_and_again_does_not_lose_the_outcome() -> None:
    """Servers cancel every await of a leaving request anew."""
    source, outcomes = FakeSource([batch(10) for _ in range(5)]), Outcomes(wait=0.05)

    async def serve() -> None:
        async with aclosing(transport.encode(SCHEMA, source.run(), outcomes.finish)) as stream:
            async for _ in stream:
                await asyncio.sleep(10)

    task = asyncio.create_task(serve())
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert [(rows, error) for rows, _, error in outcomes.told] == [(10, "consumer_left")]


async def test_cancelled_while_the_source_works() -> None:
    """The cancellation reaches the source and is recorded once."""
    outcomes = Outcomes()

    async def slow() -> AsyncIterator[pa.RecordBatch]:
        yield batch(1)
        await asyncio.sleep(10)

    async def serve() -> None:
        async for _ in transport.encode(SCHEMA, slow(), outcomes.finish):
            pass

    task = asyncio.create_task(serve())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(rows, error) for rows, _, error in outcomes.told] == [(1, "consumer_left")]


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.dictionary(pa.int8(), pa.string())]
)
async def test_only_flat_columns_travel(type_: pa.DataType) -> None:
    """The wire is a closed format: dictionaries would need messages of their own."""
    with pytest.raises(TypeError):
        await collect(FakeSource([]), Outcomes(), pa.schema([("a", type_)]))


@pytest.mark.parametrize("wrong", [lambda: pa.record_batch([[1]], names=["other"]), lambda: None])
async def test_a_source_that_yields_something_else(wrong: Callable[[], Any]) -> None:
    """Our own fault is `internal` outside, and no row of it leaves."""
    outcomes: Outcomes = Outcomes()
    with pytest.raises((pa.ArrowInvalid, AttributeError, TypeError)):
        await collect(FakeSource([wrong()]), outcomes)
    assert [(rows, error) for rows, _, error in outcomes.told] == [(0, "internal")]
