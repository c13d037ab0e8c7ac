"""Rows as texts: every form says the same, and an array that was cut is no JSON."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.data_plane.rows import CSV, JSON, JSON_LINES, WRITERS

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("whole", pa.int64()),
        ("number", pa.float64()),
        ("yes", pa.bool_()),
        ("day", pa.date32()),
        ("instant", pa.timestamp("us", tz="UTC")),
        ('a "name", quoted', pa.string()),
    ]
)


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": nullable(TEXTS),
            "whole": nullable(st.integers(-(2**63), 2**63 - 1)),
            "number": nullable(st.floats(allow_nan=False, allow_infinity=False)),
            "yes": nullable(st.booleans()),
            "day": nullable(st.dates()),
            "instant": nullable(st.datetimes(timezones=st.just(UTC))),
            'a "name", quoted': nullable(TEXTS),
        }
    ),
    max_size=8,
)


def written(kind: str, batches: list[list[dict[str, Any]]]) -> bytes:
    writer = WRITERS[kind]()
    pieces = [writer.begin(SCHEMA)]
    pieces += [writer.rows(pa.RecordBatch.from_pylist(rows, schema=SCHEMA)) for rows in batches]
    return b"".join([*pieces, writer.end()])


def expected(row: dict[str, Any]) -> dict[str, Any]:
    day, instant = row["day"], row["instant"]
    return {
        **row,
        "day": day.isoformat() if day else None,
        "instant": instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0") if instant else None,
    }


@settings(deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_json_comes_back_as_it_was(batches: list[list[dict[str, Any]]]) -> None:
    """Any values, any batches, none at all: an array, and a line for each."""
    rows = [expected(row) for batch in batches for row in batch]
    assert json.loads(written(JSON, batches)) == rows
    lines = written(JSON_LINES, batches).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == rows


@settings(deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_csv_comes_back_as_it_was(batches: list[list[dict[str, Any]]]) -> None:
    """RFC 4180: quotes, commas and line breaks inside values; as text."""
    rows = [expected(row) for batch in batches for row in batch]
    text = written(CSV, batches).decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(found) == len(rows)
    for got, row in zip(found, rows, strict=True):
        assert got["text"] == (row["text"] or "")
        assert got["whole"] == ("" if row["whole"] is None else str(row["whole"]))
        assert got["number"] == "" if row["number"] is None else float(got["number"]) == row["number"]
        assert got["yes"] == {True: "true", False: "false", None: ""}[row["yes"]]
        assert (got["day"], got["instant"]) == (row["day"] or "", row["instant"] or "")
        assert got['a "name", quoted'] == (row['a "name", quoted'] or "")


def test_absent_differs_from_empty() -> None:
    """In CSV by the quotes."""
    empty = dict.fromkeys(SCHEMA.names)
    text = written(CSV, [[{**empty, "text": ""}, empty]]).decode().split("\r\n")
    assert text[1:3] == ['"",,,,,,', ",,,,,,"]


def test_what_json_lacks_is_null() -> None:
    """Not-a-number and infinities: no reader of JSON takes them."""
    row = dict.fromkeys(SCHEMA.names)
    for number in (float("nan"), float("inf"), float("-inf")):
        assert json.loads(written(JSON, [[{**row, "number": number}]]))[0]["number"] is None


@pytest.mark.parametrize("end", [1, 2, 3])
def test_an_array_that_was_cut_is_no_json(end: int) -> None:
    """At any place where a chunk may end."""
    writer = WRITERS[JSON]()
    batch = pa.RecordBatch.from_pylist([dict.fromkeys(SCHEMA.names)], schema=SCHEMA)
    pieces = [writer.begin(SCHEMA), writer.rows(batch), writer.rows(batch), writer.end()]
    assert len(json.loads(b"".join(pieces))) == 2
    with pytest.raises(ValueError):
        json.loads(b"".join(pieces[:end]))
