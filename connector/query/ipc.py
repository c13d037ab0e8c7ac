"""Arrow IPC messages taken apart before Arrow sees them: what a peer declares is held to our limits first.

Arrow's own reader believes the lengths in a message and allocates what they say. Here the flatbuffer
metadata (Arrow format, Message.fbs) is read with every offset checked, so that a stream can neither
ask for more memory than allowed nor hide where one message ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CONTINUATION = b"\xff\xff\xff\xff"
PREFIX_BYTES = 8
END_OF_STREAM = CONTINUATION + bytes(4)

SCHEMA, RECORD_BATCH = 1, 3
_MAX_VALUE_BYTES = 1 << 19
_MAX_METADATA_PAIRS = 64


class Malformed(Exception):
    """Text for our log and the operator: what of the message breaks the format or a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Of one fragment's stream; `max_batch_bytes` after decompression."""

    max_columns: int = 1_024
    max_metadata_bytes: int = 1 << 20
    max_body_bytes: int = 32 << 20
    max_batch_bytes: int = 128 << 20
    max_batch_rows: int = 1 << 22
    max_stream_bytes: int = 8 << 30


@dataclass(frozen=True, slots=True)
class Message:
    """`raw` is the whole encapsulated message, prefix included; `rows` is 0 for a schema."""

    kind: int
    raw: bytes
    rows: int
    custom_metadata: dict[str, str]


def metadata_length(prefix: bytes, limits: StreamLimits) -> int:
    """From the 8 bytes before a message; 0 at the end of the stream."""
    length = int.from_bytes(prefix[4:8], "little", signed=True)
    if prefix[:4] != CONTINUATION or not 0 <= length <= limits.max_metadata_bytes:
        raise Malformed("a message does not begin as one")
    return length


def body_length(metadata: bytes, limits: StreamLimits) -> int:
    length = _message(metadata).integer(3, 8)
    if not 0 <= length <= limits.max_body_bytes:
        raise Malformed("a message is longer than allowed")
    return length


def read_message(prefix: bytes, metadata: bytes, body: bytes, limits: StreamLimits) -> Message:
    """Raises Malformed for anything but a schema or a flat record batch within the limits."""
    message = _message(metadata)
    kind = message.integer(1, 1)
    if kind not in (SCHEMA, RECORD_BATCH) or (kind == SCHEMA and body):
        raise Malformed("a message is neither schema nor record batch")
    rows = _checked_rows(message.table(2), body, limits) if kind == RECORD_BATCH else 0
    return Message(kind, prefix + metadata + body, rows, dict(_pairs(message)))


def _checked_rows(batch: _Table, body: bytes, limits: StreamLimits) -> int:
    rows = batch.integer(0, 8)
    if not 0 <= rows <= limits.max_batch_rows:
        raise Malformed("a record batch has more rows than allowed")
    compressed = batch.has(3)
    if compressed and (batch.table(3).integer(0, 1), batch.table(3).integer(1, 1)) not in ((0, 0), (1, 0)):
        raise Malformed("a record batch is compressed in an unknown way")
    size = 0
    for offset, length in batch.pairs_of_int64(2, limit=limits.max_columns * 4):
        if offset < 0 or length < 0 or offset + length > len(body):
            raise Malformed("a buffer lies outside its message")
        size += _uncompressed(body, offset, length) if compressed else length
        if size > limits.max_batch_bytes:
            raise Malformed("a record batch grows larger than allowed")
    return rows


def _uncompressed(body: bytes, offset: int, length: int) -> int:
    """As declared in the buffer's first 8 bytes; -1 stands for a buffer left as it was."""
    if length == 0:
        return 0
    if length < 8:
        raise Malformed("a compressed buffer has no length")
    declared = int.from_bytes(body[offset : offset + 8], "little", signed=True)
    if declared < -1:
        raise Malformed("a compressed buffer has a negative length")
    return length - 8 if declared == -1 else declared


def _pairs(message: _Table) -> Iterator[tuple[str, str]]:
    if message.has(4):
        for pair in message.tables(4, limit=_MAX_METADATA_PAIRS):
            yield pair.text(0), pair.text(1)


# --- flatbuffers ----------------------------------------------------------------------------------------


def _message(metadata: bytes) -> _Table:
    return _Table(metadata, _uint(metadata, 0, 4))


class _Table:
    """A flatbuffer table at `position`; fields by number. Raises Malformed where an offset leads astray."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - _int(data, position, 4)
        self._vtable_bytes = _uint(data, self._vtable, 2)

    def has(self, field: int) -> bool:
        return self._offset(field) != 0

    def integer(self, field: int, size: int) -> int:
        """0, the format's default, where it is absent."""
        offset = self._offset(field)
        return _int(self._data, self._position + offset, size) if offset else 0

    def table(self, field: int) -> _Table:
        return _Table(self._data, self._target(field))

    def text(self, field: int) -> str:
        start = self._target(field)
        length = _uint(self._data, start, 4)
        if length > _MAX_VALUE_BYTES or start + 4 + length > len(self._data):
            raise Malformed("a text is longer than allowed")
        try:
            return self._data[start + 4 : start + 4 + length].decode()
        except UnicodeDecodeError:
            raise Malformed("a text is not UTF-8") from None

    def tables(self, field: int, *, limit: int) -> Iterator[_Table]:
        for at in self._items(field, 4, limit):
            yield _Table(self._data, at + _uint(self._data, at, 4))

    def pairs_of_int64(self, field: int, *, limit: int) -> Iterator[tuple[int, int]]:
        if self.has(field):
            for at in self._items(field, 16, limit):
                yield _int(self._data, at, 8), _int(self._data, at + 8, 8)

    def _items(self, field: int, size: int, limit: int) -> Iterator[int]:
        start = self._target(field)
        count = _uint(self._data, start, 4)
        if count > limit:
            raise Malformed("a list is longer than allowed")
        yield from range(start + 4, start + 4 + count * size, size)

    def _target(self, field: int) -> int:
        offset = self._offset(field)
        if not offset:
            raise Malformed("a message lacks a part")
        at = self._position + offset
        return at + _uint(self._data, at, 4)

    def _offset(self, field: int) -> int:
        entry = 4 + 2 * field
        return _uint(self._data, self._vtable + entry, 2) if entry + 2 <= self._vtable_bytes else 0


def _uint(data: bytes, at: int, size: int) -> int:
    return _number(data, at, size, signed=False)


def _int(data: bytes, at: int, size: int) -> int:
    return _number(data, at, size, signed=True)


def _number(data: bytes, at: int, size: int, *, signed: bool) -> int:
    if at < 0 or at + size > len(data):
        raise Malformed("an offset leads out of its message")
    return int.from_bytes(data[at : at + size], "little", signed=signed)
