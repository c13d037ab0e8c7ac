"""A register in a SQLite file, read by the standard library's driver.

Four things keep it read-only: the file is opened `mode=ro`, `query_only` is on, an authorizer lets
nothing but SELECT compile, and only data_plane.render makes the SQL.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from connector.adapters.sources.running import (
    NewId,
    concealed,
    concealed_call,
    in_a_thread,
    require_fields,
    to_batch,
)
from connector.model.catalog import Field, LogicalType
from connector.ports import SourceQuery

if TYPE_CHECKING:
    import pyarrow as pa

BUSY_SECONDS = 5.0
"""How long to wait while the register's owner writes."""

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION})
_BARRED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})


class SqliteSource:
    """`table` is a table or view. One connection and one thread per query; nothing is kept open."""

    def __init__(self, *, name: str, path: Path, table: str, fields: Sequence[Field], new_id: NewId) -> None:
        self._name = name
        self._path = path
        self._table = table
        self._fields = tuple(fields)
        self._new_id = new_id

    @property
    def dialect(self) -> str:
        return "sqlite"

    @property
    def relation(self) -> str:
        return f"main.{_quoted(self._table)}"

    async def schema(self) -> Sequence[Field]:
        return await concealed_call(asyncio.to_thread(self._schema), self._name, self._new_id)

    def execute(self, query: SourceQuery, *, batch_rows: int) -> AsyncIterator[pa.RecordBatch]:
        opened: list[sqlite3.Connection] = []

        def interrupt() -> None:
            for connection in opened:
                with suppress(sqlite3.ProgrammingError):  # it has just been closed
                    connection.interrupt()

        batches = in_a_thread(lambda: self._batches(query, batch_rows, opened), interrupt)
        return concealed(batches, self._name, self._new_id)

    async def close(self) -> None:
        """Nothing is open between queries."""

    def _schema(self) -> Sequence[Field]:
        connection = self._connect()
        try:
            return self._physical(connection)
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self._path))}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)
        connection.execute("PRAGMA temp_store = MEMORY")  # key lists hold personal ids: never on disk
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    def _physical(self, connection: sqlite3.Connection) -> Sequence[Field]:
        rows = connection.execute("SELECT name, type FROM pragma_table_info(?, 'main')", [self._table])
        return [Field(name=name, type=_logical(declared)) for name, declared in rows]

    def _batches(
        self, query: SourceQuery, batch_rows: int, opened: list[sqlite3.Connection]
    ) -> Generator[pa.RecordBatch]:
        connection = self._connect()
        try:
            opened.append(connection)
            # types are the values' own in SQLite, not the columns': each value is checked as it is read
            require_fields(
                self._name, self._fields, self._physical(connection), self._new_id, ignore_types=True
            )
            _place(connection, query.key_lists)
            connection.execute("PRAGMA query_only = ON")
            connection.set_authorizer(_authorize)
            cursor = connection.execute(query.sql, [_bound(p) for p in query.parameters])
            while rows := cursor.fetchmany(batch_rows):
                yield to_batch(rows, query.result, _READERS)
        finally:
            opened.clear()
            connection.close()


def _place(connection: sqlite3.Connection, key_lists: Mapping[str, Sequence[str]]) -> None:
    for name, keys in key_lists.items():
        table = f"temp.{_quoted(name)}"
        connection.execute("BEGIN")
        connection.execute(f"CREATE TABLE {table} (k TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID")
        connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?)", ((k,) for k in keys))  # noqa: S608 - quoted
        connection.execute("COMMIT")


def _authorize(action: int, _first: str | None, second: str | None, *_rest: str | None) -> int:
    """Asked by SQLite while it compiles: everything but reading is refused."""
    if action not in _READING:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _BARRED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _logical(declared: str) -> LogicalType:
    """By SQLite's own affinity rules, and the names people use for what it has no type for."""
    upper = declared.upper()
    for marks, type_ in _MARKS:
        if any(mark in upper for mark in marks):
            return type_
    return "number"


_MARKS: tuple[tuple[tuple[str, ...], LogicalType], ...] = (
    (("BOOL",), "boolean"),
    (("INT",), "integer"),
    (("CHAR", "CLOB", "TEXT"), "string"),
    (("TIMESTAMP", "DATETIME"), "timestamp"),
    (("DATE",), "date"),
)


# --- values: SQLite knows integers, reals and texts, the descriptor says what they mean -------------


def _bound(value: Any) -> Any:
    """Timestamps as `strftime('%Y-%m-%d %H:%M:%f')` writes them, to compare as text."""
    if isinstance(value, datetime):
        spec = "milliseconds" if value.microsecond % 1000 == 0 else "microseconds"
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec=spec)
    return value.isoformat() if isinstance(value, date) else value


def _boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError("not a boolean")
    return bool(value)


def _timestamp(value: Any) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC)  # always written by strftime, in UTC


_READERS: dict[LogicalType, Callable[[Any], Any]] = {
    "boolean": _boolean,
    "date": date.fromisoformat,
    "timestamp": _timestamp,
}
