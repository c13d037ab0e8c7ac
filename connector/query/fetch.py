"""A provider's stream read back: incremental, bounded, and believed only after its signed last word.

Rows come out before they are proven, so that no more than one batch is held; whoever takes them must
throw all of them away unless the iteration ends without an exception. The provider is a stranger here:
lengths, types and contents are checked before Arrow or the join engine touch them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from connector.access import end_record, jose
from connector.errors import PeerError, PeerProtocolError, PeerRefused, PeerUnreachable, Reason
from connector.model.fragment import EndRecord
from connector.query import ipc
from connector.query.ipc import Malformed, StreamLimits

if TYPE_CHECKING:
    import pyarrow as pa

IN_THREAD_BYTES = 1 << 20
"""From here on, unpacking a batch would hold up the event loop for a millisecond and more."""

WORTH_A_RETRY = frozenset(
    {
        "consent_changed",
        "source_unavailable",
        "policy_unavailable",
        "unavailable",
        "internal",
        "consumer_left",
    }
)
_ERROR_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DISCARDED = "Nothing of this answer was kept."


def decode(
    chunks: AsyncIterator[bytes],
    participant: str,
    jwks: Sequence[Mapping[str, Any]],
    limits: StreamLimits = StreamLimits(),  # noqa: B008 - frozen
) -> IncomingFragment:
    """`jwks` are the participant's public keys, from the registry: not from the stream's sender."""
    return IncomingFragment(chunks, participant, jwks, limits)


class IncomingFragment:
    """`async for batch in fragment`, once; afterwards `end` is the verified end record.

    Raises PeerProtocolError (a stream that is cut, corrupt, forged or beyond the limits), PeerRefused or
    PeerUnreachable (the provider's own word that it stopped): each names the participant.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        participant: str,
        jwks: Sequence[Mapping[str, Any]],
        limits: StreamLimits,
    ) -> None:
        self._bytes = _Bytes(chunks, limits.max_stream_bytes)
        self._participant = participant
        self._jwks = jwks
        self._limits = limits
        self._sha256 = hashlib.sha256()
        self._rows = 0
        self._schema: pa.Schema | None = None
        self._end: EndRecord | None = None
        self.made_at = ""
        """When the provider says it handed over the last batch read: for measuring, unproven."""

    @property
    def end(self) -> EndRecord:
        if self._end is None:
            raise RuntimeError("the fragment has not been read to its end")
        return self._end

    async def schema(self) -> pa.Schema:
        """Of every batch to come. Read from the stream at the first call."""
        if self._schema is None:
            with _naming(self._participant):
                self._schema = await self._read_schema()
        return self._schema

    async def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        await self.schema()
        while True:
            with _naming(self._participant):
                batch = await self._next()
            if batch is None:
                break
            if batch.num_rows:
                yield batch
        _raise_for(self.end, self._participant)

    async def _read_schema(self) -> pa.Schema:
        import pyarrow as pa

        message = await self._message()
        if message is None or message.kind != ipc.SCHEMA:
            raise Malformed("the stream does not begin with a schema")
        self._sha256.update(message.raw)
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(message.raw))
            _require_flat(schema, self._limits)
        except (
            pa.ArrowException,
            ValueError,
            OSError,
        ) as error:  # a name that is no UTF-8 shows only when read
            raise Malformed("the schema cannot be read") from error
        return schema

    async def _next(self) -> pa.RecordBatch | None:
        """The next batch, or None behind the end record."""
        message = await self._message()
        if message is None:
            raise Malformed("the stream has no end record")
        if message.kind != ipc.RECORD_BATCH:
            raise Malformed("the stream has a second schema")
        if (unverified := message.custom_metadata.get(end_record.METADATA_KEY)) is not None:
            self._end = self._verified_end(message, unverified)
            await self._nothing_more()
            return None
        self._sha256.update(message.raw)
        self._rows += message.rows
        self.made_at = message.custom_metadata.get(end_record.MADE_AT_KEY, "")
        if len(message.raw) >= IN_THREAD_BYTES:
            return await asyncio.to_thread(_batch, message, self._schema)
        return _batch(message, self._schema)

    async def _message(self) -> ipc.Message | None:
        prefix = await self._bytes.take(ipc.PREFIX_BYTES)
        metadata = await self._bytes.take(ipc.metadata_length(prefix, self._limits))
        if not metadata:
            return None
        body = await self._bytes.take(ipc.body_length(metadata, self._limits))
        return ipc.read_message(prefix, metadata, body, self._limits)

    def _verified_end(self, message: ipc.Message, unverified: str) -> EndRecord:
        try:
            end = end_record.verify(unverified, self._jwks)
        except jose.Refusal as refusal:
            raise Malformed(f"its end record is not acceptable ({refusal.code})") from refusal
        if message.rows or end.rows != self._rows or end.digest != self._sha256.hexdigest():
            raise Malformed("its end record belongs to other rows")
        return end

    async def _nothing_more(self) -> None:
        if await self._bytes.take(ipc.PREFIX_BYTES) != ipc.END_OF_STREAM or not await self._bytes.at_end():
            raise Malformed("the stream goes on behind its end record")


class _Bytes:
    """Exactly as many bytes as asked for, out of chunks of any size; one chunk is held beyond that."""

    def __init__(self, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
        self._chunks = aiter(chunks)
        self._held = memoryview(b"")
        self._left = max_bytes

    async def take(self, count: int) -> bytes:
        pieces: list[memoryview] = []
        while count:
            if not self._held:
                self._held = memoryview(await self._chunk())
            piece, self._held = self._held[:count], self._held[count:]
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    async def at_end(self) -> bool:
        while not self._held:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return True
            self._held = memoryview(chunk)
        return False

    async def _chunk(self) -> bytes:
        chunk = await anext(self._chunks, None)
        if chunk is None:
            raise Malformed("the stream breaks off")
        self._left -= len(chunk)
        if self._left < 0:
            raise Malformed("the stream is longer than allowed")
        return chunk


class _naming:  # noqa: N801 - reads as a statement
    """What goes wrong while reading is said of the participant, and of nothing inside the message."""

    def __init__(self, participant: str) -> None:
        self._participant = participant

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Malformed):
            raise PeerProtocolError(
                f"its answer cannot be used: {error}", participant=self._participant, mend=_DISCARDED
            ) from error
        if (isinstance(error, PeerError) and not error.participant) or isinstance(error, OSError):
            raise PeerUnreachable(
                "the connection broke off while it answered", participant=self._participant, mend=_DISCARDED
            ) from error


def _batch(message: ipc.Message, schema: pa.Schema | None) -> pa.RecordBatch:
    """Fully validated: a lying offset in a text column would be read past its buffer."""
    import pyarrow as pa

    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(message.raw), schema)
        batch.validate(full=True)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise Malformed("a record batch cannot be read") from error
    if batch.num_rows != message.rows:
        raise Malformed("a record batch has other rows than it says")
    return batch


def _require_flat(schema: pa.Schema, limits: StreamLimits) -> None:
    import pyarrow as pa

    kinds = pa.types
    flat = (
        kinds.is_boolean,
        kinds.is_integer,
        kinds.is_floating,
        kinds.is_decimal,
        kinds.is_string,
        kinds.is_large_string,
        kinds.is_binary,
        kinds.is_large_binary,
        kinds.is_date,
        kinds.is_time,
        kinds.is_timestamp,
        kinds.is_null,
    )
    names = {name.casefold() for name in schema.names}  # as the join engine tells names apart
    if not 0 < len(schema) <= limits.max_columns or len(names) != len(schema):
        raise Malformed("the schema has too many columns, none, or one name twice")
    if not all(any(is_kind(type_) for is_kind in flat) for type_ in schema.types):
        raise Malformed("the schema has a column of a type that does not travel")


def _raise_for(end: EndRecord, participant: str) -> None:
    """The provider stopped and says so: as binding as any other end record."""
    if not end.error:
        return
    code = end.error if _ERROR_CODE.fullmatch(end.error) else "stopped"
    text = f"it stopped its answer ({code})"
    if code in WORTH_A_RETRY:
        raise PeerUnreachable(text, participant=participant, mend=f"{_DISCARDED} Ask again.")
    reason = Reason(code=code, text=f"{participant} stopped the answer: {code}", source=participant)
    raise PeerRefused(text, participant=participant, reasons=(reason,), mend=_DISCARDED)
