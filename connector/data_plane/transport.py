"""5 Transport: record batches to the bytes that leave, closed by the provider's signed last word.

Arrow IPC stream, LZ4; after the data one batch of no rows whose custom metadata carries the end record
(access/end_record.py). A consumer that does not find it there has read a broken answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from connector.access.end_record import MADE_AT_KEY, METADATA_KEY
from connector.data_plane.rows import RowWriter
from connector.errors import ConnectorError
from connector.model.json import to_rfc3339

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

Finish = Callable[[int, str, str], Awaitable[str]]
"""(rows handed over, digest, error code or "") -> the signed end record. Records the outcome."""

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
INTERNAL_ERROR = ConnectorError.code
CONSUMER_LEFT = "consumer_left"
IN_THREAD_BYTES = 1 << 20
"""From here on, compressing a batch would hold up the event loop for a millisecond and more."""

TEXT_IN_THREAD_BYTES = 1 << 14
"""The same for turning it into text, which takes far longer."""


async def encode(
    schema: pa.Schema,
    batches: AsyncIterator[pa.RecordBatch],
    finish: Finish,
    now: Callable[[], datetime] | None = None,
) -> AsyncGenerator[bytes, None]:
    """One chunk per batch, handed over before the next batch is asked for: a slow reader slows the source.

    Close the iterator when the consumer leaves; `batches` is closed with it. `finish` is called exactly
    once, whatever happens. A ConnectorError of `batches` ends the stream with its code in the end
    record; any other exception with `internal`, and is raised again behind it. When `finish` itself fails
    there is no end record, and the consumer discards what it has. Raises TypeError for nested or
    dictionary columns: the wire carries flat ones only. With `now`, each batch says when it was made.
    """
    wire = _Wire(schema, now)
    rows, failure = 0, None
    try:
        async with _closed(batches):
            async for batch in batches:
                chunk = await wire.chunk(batch)
                rows += batch.num_rows  # handed over counts as delivered, whether it is read or not
                yield chunk
    except (GeneratorExit, asyncio.CancelledError):
        await _despite_cancellation(finish(rows, wire.digest(), CONSUMER_LEFT))
        raise
    except Exception as error:
        failure = error
    yield wire.last_chunk(await finish(rows, wire.digest(), _code(failure)))
    if failure is not None and not isinstance(failure, ConnectorError):
        raise failure


async def encode_rows(
    schema: pa.Schema, batches: AsyncIterator[pa.RecordBatch], writer: RowWriter, finish: Finish
) -> AsyncGenerator[bytes, None]:
    """The same for clients that read no end record. What is not whole ends in an exception instead: whoever
    sends it must then break the connection off, for nothing else tells such a client. `finish` is called
    exactly once, with no digest; what it returns is not sent."""
    rows, pending = 0, writer.begin(schema)
    try:
        async with _closed(batches):
            async for batch in batches:
                chunk = pending + await _written(writer, batch)
                rows, pending = rows + batch.num_rows, b""
                yield chunk
    except (GeneratorExit, asyncio.CancelledError):
        await _despite_cancellation(finish(rows, "", CONSUMER_LEFT))
        raise
    except Exception as error:
        await finish(rows, "", _code(error))
        raise
    await finish(rows, "", "")
    if last := pending + writer.end():
        yield last


async def _written(writer: RowWriter, batch: pa.RecordBatch) -> bytes:
    if batch.nbytes >= TEXT_IN_THREAD_BYTES:
        return await asyncio.to_thread(writer.rows, batch)
    return writer.rows(batch)


class _Wire:
    """Batches in, bytes out, and a running SHA-256 of them."""

    def __init__(self, schema: pa.Schema, now: Callable[[], datetime] | None) -> None:
        import pyarrow as pa

        if any(pa.types.is_nested(t) or pa.types.is_dictionary(t) for t in schema.types):
            raise TypeError("nested and dictionary columns do not travel")
        self._now = now
        self._pieces: list[bytes] = []
        self._sha256 = hashlib.sha256()
        self._writer = pa.ipc.new_stream(
            pa.PythonFile(_Sink(self._pieces), mode="w"),
            schema,
            options=pa.ipc.IpcWriteOptions(compression="lz4"),
        )
        self._no_rows = pa.RecordBatch.from_pylist([], schema=schema)
        # The writer holds the schema back until a batch comes; it must be under the digest in any case.
        self._writer.write_batch(self._no_rows)

    async def chunk(self, batch: pa.RecordBatch) -> bytes:
        stamp = {MADE_AT_KEY: to_rfc3339(self._now())} if self._now else None
        if batch.nbytes >= IN_THREAD_BYTES:
            await asyncio.to_thread(self._writer.write_batch, batch, stamp)
        else:
            self._writer.write_batch(batch, stamp)
        return self._drain()

    def digest(self) -> str:
        """Over everything so far; what is not yet drained leaves with the last chunk."""
        pending = self._sha256.copy()
        pending.update(b"".join(self._pieces))
        return pending.hexdigest()

    def last_chunk(self, end_record: str) -> bytes:
        self._writer.write_batch(self._no_rows, custom_metadata={METADATA_KEY: end_record})
        self._writer.close()
        return self._drain()

    def _drain(self) -> bytes:
        chunk = b"".join(self._pieces)
        self._pieces.clear()
        self._sha256.update(chunk)
        return chunk


class _Sink:
    """The file that Arrow writes to."""

    closed = False

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _code(failure: Exception | None) -> str:
    if failure is None:
        return ""
    return failure.code if isinstance(failure, ConnectorError) else INTERNAL_ERROR


@asynccontextmanager
async def _closed(batches: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if (aclose := getattr(batches, "aclose", None)) is not None:
            await aclose()


async def _despite_cancellation(outcome: Awaitable[str]) -> None:
    """The outcome is recorded even where every await of a leaving task is cancelled anew."""
    task = asyncio.ensure_future(outcome)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_report)


def _report(outcome: asyncio.Future[str]) -> None:
    """Nobody waits for it any more, but an outcome that is not on record must be known."""
    if not outcome.cancelled() and (error := outcome.exception()) is not None:
        _log.error("The outcome of a stream that was left could not be recorded: %s", error)
