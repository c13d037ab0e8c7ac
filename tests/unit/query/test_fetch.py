"""The consumer's end of the transport: a provider's stream is believed whole and proven, or not at all."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.access import end_record
from connector.data_plane import transport
from connector.errors import PeerError, PeerProtocolError, PeerRefused, PeerUnreachable, SourceUnavailable
from connector.model.fragment import EndRecord, HiddenPart
from connector.query.fetch import decode
from connector.query.ipc import StreamLimits
from tests.unit.access.evidence import fresh_keys

KEYS = fresh_keys("kela")
LIMITS = StreamLimits()
EOS = b"\xff\xff\xff\xff\0\0\0\0"
SCHEMA = pa.schema([("n", pa.int64()), ("name", pa.string())])
TABLE = pa.table({"n": [1, 2, None, 4, 5], "name": ["a", None, "ccc", "ä", ""]}, schema=SCHEMA)
END = EndRecord(
    rows=0,
    digest="",
    audit_id="a1",
    grant_id="g1",
    policy_revision="p1",
    identified=False,
    groups_hidden=2,
    hidden=(HiddenPart(what="column name", why="not opened", enforced_by="kela (offer)"),),
)


async def encoded(
    table: pa.Table = TABLE,
    *,
    batch_rows: int = 2,
    keys: Any = KEYS,
    end: EndRecord = END,
    failure: Exception | None = None,
) -> bytes:
    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for batch in table.to_batches(batch_rows):
            yield batch
        if failure is not None:
            raise failure

    async def finish(rows: int, digest: str, error: str) -> str:
        return end_record.sign(replace(end, rows=rows, digest=digest, error=error), keys)

    return b"".join([chunk async for chunk in transport.encode(table.schema, batches(), finish)])


async def chunked(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def received(
    data: bytes, *, size: int = 1 << 16, limits: StreamLimits = LIMITS, keys: Any = KEYS
) -> tuple[pa.Table, EndRecord]:
    fragment = decode(chunked(data, size), "kela", keys.public_jwks(), limits)
    schema = await fragment.schema()
    batches = [batch async for batch in fragment]
    return pa.Table.from_batches(batches, schema), fragment.end


async def refused(data: bytes, **how: Any) -> str:
    """It must be refused, by name; returns the text."""
    with pytest.raises(PeerProtocolError) as caught:
        await received(data, **how)
    assert caught.value.participant == "kela"
    assert str(caught.value).startswith("kela: ")
    return str(caught.value)


async def received_or_refused(data: bytes) -> tuple[pa.Table, EndRecord] | None:
    try:
        return await received(data)
    except PeerError as error:
        if error.participant != "kela":
            raise
        return None


def messages(data: bytes) -> list[bytes]:
    """The stream cut at its message boundaries by Arrow's own reader; without the end-of-stream mark."""
    return [message.serialize().to_pybytes() for message in pa.ipc.MessageReader.open_stream(data)]


def sealed(body: bytes, rows: int, *, end: EndRecord = END, keys: Any = KEYS) -> bytes:
    """`body` (a schema and batches, of a hostile provider's making) with an end record that fits it."""
    digest = hashlib.sha256(body).hexdigest()
    signed = end_record.sign(replace(end, rows=rows, digest=digest), keys)
    sink = io.BytesIO()
    writer = pa.ipc.new_stream(sink, SCHEMA)
    writer.write_batch(_empty())
    mark = sink.tell()
    writer.write_batch(_empty(), custom_metadata={"end": signed})
    writer.close()
    return body + sink.getvalue()[mark:]


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=SCHEMA)


def written(schema: pa.Schema, batches: Sequence[pa.RecordBatch], compression: str | None = "lz4") -> bytes:
    """Schema and batches, without an end."""
    sink = io.BytesIO()
    writer = pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression))
    for batch in batches:
        writer.write_batch(batch)
    return sink.getvalue()


# --- whole answers --------------------------------------------------------------------------------------


async def test_what_was_sent_is_what_arrives() -> None:
    """Data API: rows, then the provider's verified word with what was hidden."""
    table, end = await received(await encoded())
    assert table == TABLE
    assert (end.rows, end.audit_id, end.groups_hidden, end.hidden) == (5, "a1", 2, END.hidden)


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
async def test_the_size_of_chunks_does_not_matter(size: int) -> None:
    """A network cuts where it likes."""
    assert (await received(await encoded(), size=size))[0] == TABLE


async def test_no_rows_is_an_answer_too() -> None:
    """An empty fragment has a schema and an end record."""
    table, end = await received(await encoded(TABLE.slice(0, 0)))
    assert (table.schema, table.num_rows, end.rows) == (SCHEMA, 0, 0)


EVERY_TYPE = pa.table(
    {
        "bool": pa.array([True, None]),
        "int": pa.array([2**62, None], pa.int64()),
        "small": pa.array([-1, None], pa.int16()),
        "float": pa.array([float("inf"), None]),
        "decimal": pa.array([Decimal("1.10"), None], pa.decimal128(12, 2)),
        "big": pa.array([Decimal(2**100), None], pa.decimal128(38, 0)),
        "text": pa.array(["ä\U00010000", None]),
        "large": pa.array(["x", None], pa.large_string()),
        "bytes": pa.array([b"\0", None]),
        "date": pa.array([date(2026, 11, 22), None]),
        "at": pa.array([datetime(2026, 11, 22, 1, 2, 3, 4, UTC), None], pa.timestamp("us", tz="UTC")),
        "nothing": pa.nulls(2),
    }
)


async def test_every_type_that_travels() -> None:
    """Flat types, with nulls."""
    assert (await received(await encoded(EVERY_TYPE)))[0] == EVERY_TYPE


@given(
    rows=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.none(), st.text(max_size=9) | st.none())),
    batch_rows=st.integers(1, 7),
    size=st.integers(1, 500),
)
@settings(max_examples=60, deadline=None)
async def test_round_trip(rows: list[tuple[int | None, str | None]], batch_rows: int, size: int) -> None:
    """Any rows, any batches, any chunks."""
    table = pa.table({"n": [r[0] for r in rows], "name": [r[1] for r in rows]}, schema=SCHEMA)
    assert (await received(await encoded(table, batch_rows=batch_rows), size=size))[0] == table


async def test_only_what_is_asked_for_is_pulled() -> None:
    """Backpressure and bounded memory: one batch is held, not the stream."""
    big = pa.table({"n": list(range(200_000)), "name": [str(n) * 8 for n in range(200_000)]}, schema=SCHEMA)
    data = await encoded(big, batch_rows=1_000)
    pulled = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal pulled
        async for chunk in chunked(data, 4_096):
            pulled += len(chunk)
            yield chunk

    tracemalloc.start()
    seen = 0
    fragment = decode(counted(), "kela", KEYS.public_jwks())
    async for batch in fragment:
        seen += batch.num_rows
        assert pulled <= len(data) * seen / big.num_rows + 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == big.num_rows
    assert peak < 1_000_000


async def test_a_big_batch_is_unpacked_in_a_thread() -> None:
    """Above a megabyte the event loop is not held up; the answer is the same."""
    table = pa.table(
        {"n": [(i * 7919) % 2**60 for i in range(300_000)], "name": ["x"] * 300_000}, schema=SCHEMA
    )
    assert (await received(await encoded(table, batch_rows=300_000)))[0] == table


# --- cut, corrupt, forged -------------------------------------------------------------------------------


async def test_cut_anywhere() -> None:
    """fedquery §0.3: Arrow reads a stream cut at a message as a shorter result; here it is an error."""
    data = await encoded()
    for length in range(len(data)):
        await refused(data[:length])


async def test_any_bit_flipped() -> None:
    """Before the end record every flip is found; in its envelope it is found or changes nothing."""
    data = await encoded()
    whole = await received(data)
    envelope = len(data) - len(messages(data)[-1] + EOS)
    for place in range(len(data)):
        broken = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        answer = await received_or_refused(broken)
        assert answer is None or (answer == whole and place >= envelope), place


async def test_messages_left_out_repeated_and_exchanged() -> None:
    """At every message boundary."""
    schema, *batches, end = messages(await encoded())
    assert len(batches) == 4, "an empty one that brings the schema, and three with rows"
    for index in range(len(batches)):
        await refused(b"".join([schema, *batches[:index], *batches[index + 1 :], end, EOS]))
        await refused(
            b"".join([schema, *batches[: index + 1], batches[index], *batches[index + 1 :], end, EOS])
        )
    await refused(b"".join([schema, *reversed(batches), end, EOS]))
    await refused(b"".join([schema, schema, *batches, end, EOS]))
    await refused(b"".join([*batches, end, EOS]))
    await refused(b"".join([schema, *batches, EOS]))
    await refused(b"".join([schema, *batches, end]))
    await refused(b"".join([schema, *batches, end, end, EOS]))
    await refused(b"".join([schema, *batches, end, EOS, b"x"]))
    await refused(b"".join([schema, end, EOS]))
    await refused(end + EOS)
    await refused(b"")
    assert (await received(b"".join([schema, *batches, end, EOS])))[0] == TABLE


async def test_an_end_record_of_another_stream() -> None:
    """A provider's word on other rows proves nothing here."""
    own, strange = messages(await encoded()), messages(await encoded(TABLE.slice(0, 3)))
    assert "other rows" in await refused(b"".join([*own[:-1], strange[-1], EOS]))


async def test_another_participants_key() -> None:
    """Only the keys the registry publishes for this participant count."""
    assert "end record" in await refused(await encoded(keys=fresh_keys("kela")))


def _unsigned(_: EndRecord) -> str:
    return "eyJhbGciOiJub25lIiwidHlwIjoiZnJhZ21lbnQtZW5kK2p3dCJ9.e30."


def _of_another_kind(end: EndRecord) -> str:
    return KEYS.sign_jwt(end_record.to_wire(end), typ="tree-head+jwt")


def _with(**changes: Any) -> Callable[[EndRecord], str]:
    def forge(end: EndRecord) -> str:
        wire = {**end_record.to_wire(end), **changes}
        return KEYS.sign_jwt({k: v for k, v in wire.items() if v is not ...}, typ=end_record.TYP)

    return forge


@pytest.mark.parametrize(
    "forge",
    [
        _unsigned,
        _of_another_kind,
        lambda _: "",
        lambda _: "a.b.c",
        lambda _: "x" * 300_000,
        _with(rows=4),
        _with(rows=-1),
        _with(rows=True),
        _with(rows="5"),
        _with(rows=5.0),
        _with(digest="0" * 64),
        _with(digest=""),
        _with(identified=None),
        _with(hidden=None),
        _with(hidden=[{}]),
        _with(hidden=["x"]),
        _with(hidden=[{"what": "x", "why": 1, "enforcedBy": "x"}]),
        _with(auditId=...),
        _with(error=...),
        _with(groupsHidden=-1),
    ],
)
async def test_forged_end_records(forge: Callable[[EndRecord], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Signature, kind, rows, digest and shape: each is checked."""
    monkeypatch.setattr(end_record, "sign", lambda record, _: forge(record))
    await refused(await encoded())


async def test_an_end_record_on_rows_is_none() -> None:
    """The last word comes behind all rows, in a batch of none."""
    sink = io.BytesIO()
    writer = pa.ipc.new_stream(sink, SCHEMA)
    writer.write_batch(_empty())
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    signed = end_record.sign(replace(END, rows=0, digest=digest), KEYS)
    writer.write_batch(TABLE.to_batches()[0], custom_metadata={"end": signed})
    writer.close()
    assert "other rows" in await refused(sink.getvalue())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("agreement_terminated", PeerRefused),
        ("limit_exceeded", PeerRefused),
        ("consent_changed", PeerUnreachable),
        ("source_unavailable", PeerUnreachable),
        ("internal", PeerUnreachable),
        ("<script>\n", PeerRefused),
    ],
)
async def test_the_provider_says_that_it_stopped(code: str, kind: type[PeerError]) -> None:
    """An error in a good end record: by name, with its code, and said whether asking again helps."""
    failure = SourceUnavailable("secret engine text")
    failure.code = code
    with pytest.raises(kind) as caught:
        await received(await encoded(failure=failure))
    assert caught.value.participant == "kela"
    assert (code in str(caught.value)) == code.isidentifier()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("failure", [PeerUnreachable("reset"), ConnectionResetError("reset")])
@pytest.mark.parametrize("after", [0, 100, 900])
async def test_a_connection_that_breaks(failure: Exception, after: int) -> None:
    """A provider that dies: worth a retry, and named."""
    data = await encoded()

    async def breaking() -> AsyncIterator[bytes]:
        yield data[:after]
        raise failure

    fragment = decode(breaking(), "kela", KEYS.public_jwks())
    with pytest.raises(PeerUnreachable) as caught:
        [batch async for batch in fragment]
    assert caught.value.participant == "kela"
    with pytest.raises(RuntimeError):
        assert fragment.end


# --- bombs ----------------------------------------------------------------------------------------------


def _patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    place = data.rindex(old)
    return data[:place] + new + data[place + len(old) :]


async def test_a_decompression_bomb() -> None:
    """A buffer that says it unpacks to a terabyte is refused before anything is allocated for it."""
    batch = pa.record_batch([[7] * 4096, ["x"] * 4096], schema=SCHEMA)
    for declared in (1 << 40, 1 << 62, -2, -(1 << 63), 200 << 20):
        body = _patched(written(SCHEMA, [batch]), struct.pack("<q", 4096 * 8), struct.pack("<q", declared))
        text = await refused(sealed(body, 4096))
        assert "grows larger" in text or "negative" in text


async def test_a_buffer_that_unpacks_to_something_else_than_it_says() -> None:
    """Too little and too much are both found."""
    batch = pa.record_batch([[7] * 4096, ["x"] * 4096], schema=SCHEMA)
    for declared in (0, 8, 4096 * 8 - 1, 4096 * 8 + 64, 1 << 20):
        body = _patched(written(SCHEMA, [batch]), struct.pack("<q", 4096 * 8), struct.pack("<q", declared))
        assert "cannot be read" in await refused(sealed(body, 4096))


@pytest.mark.parametrize(
    "offsets", [[0, 1 << 30, 5], [0, -4, 5], [4, 2, 0], [0, 5, 1 << 20], [-(1 << 31), 0, 5]]
)
async def test_texts_that_point_outside_their_buffer(offsets: list[int]) -> None:
    """Offsets are checked before an engine follows them into foreign memory."""
    honest = pa.record_batch([[1, 2], ["ab", "cde"]], schema=SCHEMA)
    body = _patched(
        written(SCHEMA, [honest], None), struct.pack("<3i", 0, 2, 5), struct.pack("<3i", *offsets)
    )
    assert "cannot be read" in await refused(sealed(body, 2))


async def test_text_that_is_not_utf_8() -> None:
    """What is called text is text."""
    honest = pa.record_batch([[1], ["abcde"]], schema=SCHEMA)
    body = _patched(written(SCHEMA, [honest], None), b"abcde", b"ab\xff\xfee")
    assert "cannot be read" in await refused(sealed(body, 1))


async def test_more_rows_than_allowed() -> None:
    """A column of nothing has no buffers: its rows alone would be the bomb."""
    schema = pa.schema([("nothing", pa.null())])
    rows = LIMITS.max_batch_rows + 1
    batch = pa.record_batch([pa.nulls(rows)], schema=schema)
    assert "more rows" in await refused(sealed(written(schema, [batch]), rows))


def _wide() -> pa.Schema:
    return pa.schema([(f"c{n}", pa.int8()) for n in range(1025)])


def _nested() -> pa.Schema:
    type_: pa.DataType = pa.int8()
    for _ in range(40):
        type_ = pa.list_(type_)
    return pa.schema([("deep", type_)])


@pytest.mark.parametrize(
    "schema",
    [
        _wide(),
        _nested(),
        pa.schema([("d", pa.dictionary(pa.int8(), pa.string()))]),
        pa.schema([("s", pa.struct([("a", pa.int8())]))]),
        pa.schema([("m", pa.map_(pa.string(), pa.int8()))]),
        pa.schema([("v", pa.string_view())]),
        pa.schema([("r", pa.run_end_encoded(pa.int16(), pa.int8()))]),
        pa.schema([("e", pa.uuid())]),
        pa.schema([("a", pa.int8()), ("A", pa.int8())]),
        pa.schema([("a", pa.int8()), ("a", pa.int8())]),
        pa.schema([]),
    ],
    ids=[
        "wide",
        "nested",
        "dictionary",
        "struct",
        "map",
        "view",
        "runs",
        "extension",
        "case",
        "twice",
        "none",
    ],
)
async def test_schemas_that_do_not_travel(schema: pa.Schema) -> None:
    """Schema bombs and types outside the wire's closed set."""
    assert "schema" in await refused(sealed(schema.serialize().to_pybytes(), 0))


async def test_a_schema_of_a_million_columns() -> None:
    """Refused by its length, unread."""
    schema = pa.schema([(f"c{n}", pa.int8()) for n in range(30_000)])
    assert "begin as one" in await refused(sealed(schema.serialize().to_pybytes(), 0))


@pytest.mark.parametrize(
    "limits",
    [
        StreamLimits(max_metadata_bytes=64),
        StreamLimits(max_body_bytes=64),
        StreamLimits(max_batch_bytes=15),
        StreamLimits(max_batch_rows=1),
        StreamLimits(max_columns=1),
        StreamLimits(max_stream_bytes=500),
    ],
)
async def test_every_limit_is_held(limits: StreamLimits) -> None:
    """The same honest stream, under a narrower limit each time."""
    await refused(await encoded(), limits=limits)


def _prefixed(length: int, rest: bytes = b"") -> bytes:
    return b"\xff\xff\xff\xff" + struct.pack("<i", length) + rest


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 64,
        b"ARROW1\0\0" + b"\0" * 64,
        b'{"title":"an error page"}' * 10,
        _prefixed(-1),
        _prefixed(2**31 - 1),
        _prefixed(8, b"\xff" * 8),
        _prefixed(8, b"\0" * 8),
        _prefixed(8, b"\x04\0\0\0\xff\xff\xff\x7f"),
        _prefixed(16, struct.pack("<IiII", 4, -(2**31), 0, 0)),
        _prefixed(0),
        _prefixed(0) * 3,
    ],
)
async def test_nonsense(data: bytes) -> None:
    """Anything but an Arrow stream: an error page, another format, offsets into nowhere."""
    await refused(data)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
async def test_random_damage_never_gets_past(data: st.DataObject) -> None:
    """Whatever is done to a stream by who cannot sign: refused by name, or exactly the same answer."""
    honest = bytearray(await encoded())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(honest)))
        stop = data.draw(st.integers(start, min(len(honest), start + 12)))
        honest[start:stop] = data.draw(st.binary(max_size=12))
    answer = await received_or_refused(bytes(honest))
    assert answer is None or answer[0] == TABLE


@given(place=st.integers(0, 10_000), value=st.binary(min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
async def test_a_provider_that_signs_its_own_nonsense(place: int, value: bytes) -> None:
    """A hostile provider's digest fits. Still nothing but an error or well-formed rows comes out."""
    for compression in ("lz4", None):
        body = bytearray(written(SCHEMA, TABLE.to_batches(2), compression))
        start = place % len(body)
        body[start : start + len(value)] = value
        answer = await received_or_refused(sealed(bytes(body), TABLE.num_rows))
        if answer is not None:
            answer[0].validate(full=True)


def test_importing_is_cheap() -> None:
    """A connector starts in under two seconds and idles small: Arrow comes with the first query."""
    import subprocess
    import sys

    heavy = ("pyarrow", "sqlglot", "duckdb")
    code = (
        "import sys, connector.query.federate, connector.data_plane.transport;"
        "import connector.adapters.duckdb_join, connector.adapters.audit_log, connector.adapters.ledger_file;"
        f"sys.exit(any(name in sys.modules for name in {heavy!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
