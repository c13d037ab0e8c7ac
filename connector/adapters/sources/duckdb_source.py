"""A register in a Parquet, CSV or JSON file, in a folder of them, or in a DuckDB database file.

DuckDB has no privileges inside: whoever may send it SQL may send it anything. So it gets only what
data_plane.render makes, one SELECT at a time, in an in-memory database that can open this register and
nothing else, whose configuration is locked before the first query.
"""

from __future__ import annotations

import asyncio
import csv
import threading
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
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
_Signature = tuple[tuple[str, int, int, int], ...]
Kind = Literal["parquet", "csv", "json", "duckdb"]

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
_TEXT_TYPES: dict[LogicalType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",  # plain TIMESTAMP drops an offset without a word
}


class DuckDbSource:
    """One engine per source, made on first use, and made anew when a file has been replaced or added.

    A folder is all files in it with the kind's suffix, alike in their columns; what lies deeper is not read.
    CSV: UTF-8 with a header line; columns have the descriptor's types, those it does not name are text.
    Nothing between two commas is absent, `""` is the empty text.
    JSON: an array of objects or one object per line; members that the descriptor does not name are not read.
    DuckDB: `table` of a database file, opened for reading and only as long as a query lasts: who writes to it
    locks it, and so do we.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        kind: Kind,
        fields: Sequence[Field],
        new_id: NewId,
        table: str = "",
        memory_mb: int = 512,
        threads: int = 2,
        delimiter: str = ",",
    ) -> None:
        self._name = name
        self._path = path
        self._kind = kind
        self._table = table
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
        if self._kind == "duckdb":
            signature, engine = self._signature(), self._hardened()
            try:
                yield engine, signature
            finally:
                engine.close()
            return
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
        stats = ((file.name, file.stat()) for file in self._files())
        return tuple((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats)

    def _files(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path]
        found = sorted(self._path.glob(f"*.{self._kind}"))
        if not found:
            raise unavailable(self._name, f"no .{self._kind} file in the folder", self._new_id)
        return found

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
            if self._kind == "duckdb":
                engine.execute(f"ATTACH {_literal(str(self._path))} AS source (READ_ONLY)")
            else:
                engine.execute(f"SET allowed_paths = {_list(map(str, self._files()))}")
            engine.execute("SET enable_external_access = false")
            engine.execute("SET lock_configuration = true")
            engine.execute(f'CREATE VIEW "{_VIEW}" AS SELECT * FROM {self._reader()}')  # noqa: S608 - ours
            require_fields(self._name, self._fields, _physical(engine), self._new_id)
        except BaseException:
            engine.close()
            raise
        return engine

    def _reader(self) -> str:
        if self._kind == "duckdb":
            return ".".join(_quoted(part) for part in ("source", *self._table.split(".")))
        paths = _list(map(str, self._files()))
        types = {f.physical_name or f.name: _TEXT_TYPES[f.type] for f in self._fields}
        match self._kind:
            case "parquet":
                return f"read_parquet({paths}, hive_partitioning = false)"
            case "json":
                return (
                    f"read_json({paths}, auto_detect = false, format = 'auto', hive_partitioning = false, "
                    f"columns = {_struct(types)})"
                )
            case _:
                return (
                    f"read_csv({paths}, auto_detect = false, header = true, "
                    f"delim = {_literal(self._delimiter)}, quote = '\"', escape = '\"', nullstr = '', "
                    "allow_quoted_nulls = false, hive_partitioning = false, "
                    f"columns = {_struct({name: types.get(name, 'VARCHAR') for name in self._header()})})"
                )

    def _header(self) -> list[str]:
        """DuckDB takes the columns by their place, so the header says which stands where."""
        headers = [self._header_of(file) for file in self._files()]
        if any(header != headers[0] for header in headers):
            raise unavailable(self._name, "the files' header lines differ", self._new_id)
        return headers[0]

    def _header_of(self, path: Path) -> list[str]:
        with path.open(encoding="utf-8-sig", newline="") as file:
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


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_literal, texts))}]"


def _struct(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_literal(name)}: {_literal(value)}" for name, value in members.items()) + "}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
