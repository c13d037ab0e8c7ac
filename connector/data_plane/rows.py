"""Rows as texts that any HTTP client reads: a JSON array, JSON lines, CSV. Pure, over record batches.

Dates and instants are ISO 8601, instants in UTC. What is absent is null; in CSV an empty field without
quotes, so that it differs from an empty text. Not-a-number and infinity, which JSON lacks, are null there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from pydantic_core import to_json

if TYPE_CHECKING:
    import pyarrow as pa

JSON, JSON_LINES, CSV = "application/json", "application/x-ndjson", "text/csv"


class RowWriter(Protocol):
    """Keeps no row. `end` closes an answer that is whole, and only such a one."""

    def begin(self, schema: pa.Schema) -> bytes: ...
    def rows(self, batch: pa.RecordBatch) -> bytes: ...
    def end(self) -> bytes: ...


class JsonArray:
    """One object per row. An answer that was cut is no JSON."""

    def __init__(self) -> None:
        self._before = b"\n"

    def begin(self, schema: pa.Schema) -> bytes:  # noqa: ARG002 - each row names its columns
        return b"["

    def rows(self, batch: pa.RecordBatch) -> bytes:
        lines = b",\n".join(_objects(batch))
        if not lines:
            return b""
        written, self._before = self._before + lines, b",\n"
        return written

    def end(self) -> bytes:
        return b"\n]\n"


class JsonLines:
    def begin(self, schema: pa.Schema) -> bytes:  # noqa: ARG002
        return b""

    def rows(self, batch: pa.RecordBatch) -> bytes:
        return b"".join(line + b"\n" for line in _objects(batch))

    def end(self) -> bytes:
        return b""


class Csv:
    """RFC 4180, with a line of names."""

    def begin(self, schema: pa.Schema) -> bytes:
        names = (name.replace('"', '""') for name in schema.names)
        return ",".join(f'"{name}"' for name in names).encode() + b"\r\n"

    def rows(self, batch: pa.RecordBatch) -> bytes:
        import pyarrow as pa
        from pyarrow import csv

        sink = pa.BufferOutputStream()
        csv.write_csv(_plain(batch), sink, csv.WriteOptions(include_header=False, eol="\r\n"))
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def end(self) -> bytes:
        return b""


WRITERS: Mapping[str, type[JsonArray | JsonLines | Csv]] = {JSON: JsonArray, JSON_LINES: JsonLines, CSV: Csv}


def _objects(batch: pa.RecordBatch) -> list[bytes]:
    names = batch.schema.names
    columns = [column.to_pylist() for column in _plain(batch).columns]
    rows = zip(*columns, strict=True)
    return [to_json(dict(zip(names, row, strict=True)), inf_nan_mode="null") for row in rows]


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Instants as text, the same in every form. As Python's own they would cost more than all the rest."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [
        pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ") if pa.types.is_timestamp(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
