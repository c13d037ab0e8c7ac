"""A register in a Parquet or CSV file, read by DuckDB.

DuckDB has no privileges inside: whoever may send it SQL may send it anything. So it gets only what
data_plane.render makes, one SELECT at a time, in an in-memory database that can open this one file and
nothing else, whose configuration is locked before the first query.
"""

from __future__ import annotations

import asyncio
import csv
import threading
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connector.adapters.sources.running import (
    NewId,
    concealed,
    concealed_call,
    in_a_thread,
    require_fields,
    unavailable,
)
from connector.model.catalog import Field, LogicalType
from connector.ports import SourceQuery

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_VIEW = "register"
_Signature = tuple[int, int, int]

_TYPES: dict[str, LogicalType] = {
    "VARCHAR": "string",
    "UUID": "string",
    "TINYINT": "integer",
    "SMALLINT": "integer",
    "INTEGER": "integer",
    "BIGINT": "integer",
    "UTINYINT": "integer",
    "USMALLINT": "integer",
    "UINTEGER": "integer",
    "FLOAT": "number",
    "DOUBLE": "number",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMP_S": "timestamp",
    "TIMESTAMP_MS": "timestamp",
    "TIMESTAMP_NS": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}
_CSV_TYPES: dict[LogicalType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",  # plain TIMESTAMP drops an offset without a word
}


class DuckDbSource:
    """One engine per source, made on first use, and made anew when the file has been replaced.

    CSV: UTF-8 with a header line; columns have the descriptor's types, those it does not name are text.
    Nothing between two commas is absent, `""` is the empty text.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        kind: Literal["parquet", "csv"],
        fields: Sequence[Field],
        new_id: NewId,
        memory_mb: int = 512,
        threads: int = 2,
        delimiter: str = ",",
    ) -> None:
        self._name = name
        self._path = path
        self._kind = kind
        self._fields = tuple(fields)
        self._new_id = new_id
        self._memory_mb = memory_mb
        self._threads = threads
        self._delimiter = delimiter
        self._lock = threading.Lock()
        self._engine: duckdb.DuckDBPyConnection | None = None
        self._made_for: _Signature | None = None

    @property
    def dialect(self) -> str:
        return "duckdb"

    @property
    def relation(self) -> str:
        return f'"{_VIEW}"'

    async def schema(self) -> Sequence[Field]:
        return await concealed_call(asyncio.to_thread(self._schema), self._name, self._new_id)

    def execute(self, query: SourceQuery, *, batch_rows: int) -> AsyncIterator[pa.RecordBatch]:
        opened: list[duckdb.DuckDBPyConnection] = []

        def interrupt() -> None:
            for connection in opened:
                connection.interrupt()

        batches = in_a_thread(lambda: self._batches(query, batch_rows, opened), interrupt)
        return concealed(batches, self._name, self._new_id)

    async def close(self) -> None:
        with self._lock:
            engine, self._engine, self._made_for = self._engine, None, None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    def _batches(
        self, query: SourceQuery, batch_rows: int, opened: list[duckdb.DuckDBPyConnection]
    ) -> Generator[pa.RecordBatch]:
        import pyarrow as pa

        from connector.data_plane.columns import arrow_schema

        schema = arrow_schema(query.result)
        with self._connection() as (connection, signature):
            opened.append(connection)
            try:
                for name, keys in query.key_lists.items():
                    connection.register(name, pa.table({"k": pa.array(keys, pa.string())}))
                _require_one_select(connection, query.sql)
                answer = connection.sql(query.sql, params=list(query.parameters))
                for batch in answer.to_arrow_reader(batch_rows):
                    if self._signature() != signature:
                        raise OSError("the file was replaced while it was read")
                    yield from _cast(batch, schema, batch_rows)
            finally:
                opened.clear()

    def _schema(self) -> Sequence[Field]:
        with self._connection() as (connection, _):
            return _physical(connection)

    @contextmanager
    def _connection(self) -> Generator[tuple[duckdb.DuckDBPyConnection, _Signature]]:
        """A session of its own: what it registers no other session sees."""
        with self._lock:
            signature = self._signature()
            if self._engine is None or self._made_for != signature:
                self._engine, self._made_for = self._hardened(), signature
            session = self._engine.cursor()
        try:
            yield session, signature
        finally:
            session.close()

    def _signature(self) -> _Signature:
        """Another file in the same place: its columns may stand in another order."""
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _hardened(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        engine = duckdb.connect(
            ":memory:",
            config={
                "allow_community_extensions": "false",
                "autoload_known_extensions": "false",
                "autoinstall_known_extensions": "false",
                "python_enable_replacements": "false",
                "memory_limit": f"{self._memory_mb}MB",
                "threads": str(self._threads),
                "temp_directory": "",  # no spilling: rows of a register are not written anywhere
                "max_temp_directory_size": "0KB",
            },
        )
        try:
            engine.execute("SET TimeZone = 'UTC'")
            engine.execute(f"SET allowed_paths = [{_literal(str(self._path))}]")
            engine.execute("SET enable_external_access = false")
            engine.execute("SET lock_configuration = true")
            engine.execute(f'CREATE VIEW "{_VIEW}" AS SELECT * FROM {self._reader()}')  # noqa: S608 - ours
            require_fields(self._name, self._fields, _physical(engine), self._new_id)
        except BaseException:
            engine.close()
            raise
        return engine

    def _reader(self) -> str:
        path = _literal(str(self._path))
        if self._kind == "parquet":
            return f"read_parquet({path})"
        types = {f.physical_name or f.name: _CSV_TYPES[f.type] for f in self._fields}
        columns = ", ".join(
            f"{_literal(name)}: {_literal(types.get(name, 'VARCHAR'))}" for name in self._header()
        )
        return (
            f"read_csv({path}, auto_detect = false, header = true, delim = {_literal(self._delimiter)}, "
            "quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false, "
            f"columns = {{{columns}}})"
        )

    def _header(self) -> list[str]:
        """DuckDB takes the columns by their place, so the header says which stands where."""
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=self._delimiter), [])
        if not header or len(set(header)) != len(header):
            raise unavailable(self._name, "no header line, or a name twice in it", self._new_id)
        return header


def _physical(connection: duckdb.DuckDBPyConnection) -> Sequence[Field]:
    """Columns of types that no logical type covers are left out: a descriptor cannot name them."""
    rows = connection.sql(f'DESCRIBE "{_VIEW}"').fetchall()
    found = ((name, _logical(sql_type)) for name, sql_type, *_ in rows)
    return [Field(name=name, type=type_) for name, type_ in found if type_ is not None]


def _logical(sql_type: str) -> LogicalType | None:
    if sql_type.startswith("DECIMAL("):
        return "number"
    return "string" if sql_type.startswith("ENUM(") else _TYPES.get(sql_type)


def _require_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """The engine's own parser agrees that this only reads."""
    import duckdb

    statements = connection.extract_statements(sql)
    if [s.type for s in statements] != [duckdb.StatementType.SELECT]:
        raise PermissionError("not one SELECT")


def _cast(batch: pa.RecordBatch, schema: pa.Schema, batch_rows: int) -> Generator[pa.RecordBatch]:
    """By position; raises where a value does not fit, such as a sum beyond 64 bits."""
    import pyarrow as pa

    arrays: list[Any] = [
        column.cast(type_) for column, type_ in zip(batch.columns, schema.types, strict=True)
    ]
    exact = pa.RecordBatch.from_arrays(arrays, schema=schema)
    for start in range(0, exact.num_rows, batch_rows):
        yield exact.slice(start, batch_rows)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
