"""The join engine: DuckDB in memory, shut off from files, network and its own configuration.

A session is an instance of its own, so that one query's rows are never in reach of another's. The
statement was checked when it was parsed (query/parse.py); here DuckDB's own parser is asked what it makes
of the text, and that must name nothing but landed tables and harmless functions: a difference between two
parsers is not enough to get past both. DuckDB and Arrow are loaded with the first session.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from connector.errors import RequestInvalid, SqlInvalid, Unavailable
from connector.query import functions

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

LAND_BYTES = 4 << 20
"""So much is gathered before it is inserted: small batches cost more than their rows."""

RESULT_BATCH_ROWS = 65_536
_INCOMING = "__incoming"
_NO_MAP: dict[str, list[Any]] = {"map": []}
_KINDS = frozenset(
    {"", "BASE_TABLE", "JOIN", "SUBQUERY", "EMPTY", "EXPRESSION_LIST"}
    | {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
)
"""Relations and query nodes in DuckDB's serialised form; table functions, SHOW and the rest are refused."""
_NARROWER = "Filter more, select fewer columns, or aggregate."


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinLimits:
    """Per session, except `sessions`: how many may run at once."""

    memory_mb: int = 1_024
    threads: int = 2
    sessions: int = 8
    answer_bytes: int = 256 << 20
    run_seconds: float = 120.0


class DuckDbJoinEngine:
    """`connector.ports.JoinEngine`."""

    def __init__(self, limits: JoinLimits = JoinLimits()) -> None:
        self._limits = limits
        self._running = 0
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[DuckDbJoinSession]:
        if self._closed or self._running >= self._limits.sessions:
            raise Unavailable("Too many queries are being joined; ask again in a moment.")
        self._running += 1
        session = DuckDbJoinSession(self._limits)
        try:
            await session.open()
            yield session
        finally:
            self._running -= 1
            await session.close()

    async def close(self) -> None:
        self._closed = True


class DuckDbJoinSession:
    """`connector.ports.JoinSession`. DuckDB is only ever called in the session's own thread."""

    def __init__(self, limits: JoinLimits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="join")
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._tables: set[tuple[str, str]] = set()

    async def open(self) -> None:
        self._connection = await self._call(lambda: _connect(self._limits))

    async def land(
        self, schema: str, table: str, columns: pa.Schema, batches: AsyncIterator[pa.RecordBatch]
    ) -> int:
        target = f"{_quoted(schema)}.{_quoted(table)}"
        await self._call(lambda: self._create(schema, target, columns))
        self._tables.add((schema.casefold(), table.casefold()))
        held: list[pa.RecordBatch] = []
        rows = held_bytes = 0
        async for batch in batches:
            rows += batch.num_rows
            held.append(batch)
            held_bytes += batch.nbytes
            if held_bytes >= LAND_BYTES:
                await self._insert(target, held)
                held, held_bytes = [], 0
        await self._insert(target, held)
        return rows

    async def run(self, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
        try:
            async with asyncio.timeout(self._limits.run_seconds):
                return await self._call(lambda: self._answer(sql, parameters))
        except TimeoutError:
            text = f"The statement took longer than {self._limits.run_seconds:g} seconds."
            raise RequestInvalid(text, mend=_NARROWER, code="query_too_long") from None

    async def close(self) -> None:
        if self._connection is not None:
            await self._call(self._connection.close)
        self._thread.shutdown(wait=False)

    async def _insert(self, target: str, batches: list[pa.RecordBatch]) -> None:
        import pyarrow as pa

        if batches:
            table = pa.Table.from_batches(
                batches
            ).combine_chunks()  # DuckDB pays for each batch, not for its rows
            insert = f"INSERT INTO {target} SELECT * FROM {_INCOMING}"  # noqa: S608 - quoted
            await self._call(lambda: self._place(table, insert))

    async def _call(self, work: Callable[[], T]) -> T:
        """In the thread; when the caller is cancelled, DuckDB is interrupted before we go on."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if self._connection is not None:
                self._connection.interrupt()
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # an interruption, or too late to matter
            raise

    # --- in the thread ---------------------------------------------------------------------------------

    def _create(self, schema: str, target: str, columns: pa.Schema) -> None:
        self._own.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
        create = f"CREATE TABLE {target} AS SELECT * FROM {_INCOMING}"  # noqa: S608 - quoted
        self._place(columns.empty_table(), create)

    def _place(self, table: pa.Table, statement: str) -> None:
        import duckdb
        import pyarrow as pa

        self._own.register(_INCOMING, table)
        try:
            self._own.execute(statement)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise _failed(error) from error
        finally:
            self._own.unregister(_INCOMING)

    def _answer(self, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
        import duckdb
        import pyarrow as pa

        try:
            self._check(sql)
            relation = self._own.sql(sql, params=dict(parameters) or None)
            reader = relation.to_arrow_reader(RESULT_BATCH_ROWS)
            return pa.Table.from_batches(self._bounded(reader), reader.schema)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise _failed(error) from error

    def _bounded(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        size = 0
        for batch in reader:
            size += batch.nbytes
            if size > self._limits.answer_bytes:
                raise RequestInvalid("The answer is too large.", mend=_NARROWER, code="answer_too_large")
            yield batch

    def _check(self, sql: str) -> None:
        """What DuckDB's parser finds: one SELECT, landed tables and CTEs, no function it should not call."""
        ((text,),) = self._own.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
        parsed = json.loads(text)
        if len(parsed.get("statements", ())) != 1:
            raise SqlInvalid("The statement is not one query that the join engine understands.")
        nodes = list(_nodes(parsed))
        ctes = {str(cte["key"]).casefold() for node in nodes for cte in node.get("cte_map", _NO_MAP)["map"]}
        for node in nodes:
            if not {_kind(node.get(place)) for place in ("from_table", "left", "right")} <= _KINDS:
                raise SqlInvalid("A function cannot stand in FROM.", mend="Rows of your own go into VALUES.")
            if node.get("type") == "BASE_TABLE":
                self._check_table(node, ctes)
            if functions.refused(str(node.get("function_name", ""))):
                raise SqlInvalid(f"The function {node['function_name']} cannot be called here.")

    def _check_table(self, node: Mapping[str, Any], ctes: set[str]) -> None:
        schema, table = str(node["schema_name"]).casefold(), str(node["table_name"]).casefold()
        known = (schema, table) in self._tables if schema else table in ctes
        if not known or node["catalog_name"] or node["at_clause"]:
            raise SqlInvalid("The statement names a table that is not part of this query.")

    @property
    def _own(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise Unavailable("The join engine is closed.")
        return self._connection


def _connect(limits: JoinLimits) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_unsigned_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
            "max_temp_directory_size": "0B",  # rows of others are never written to disk
            "memory_limit": f"{limits.memory_mb}MB",
            "threads": str(limits.threads),
            "default_null_order": "nulls_last",
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


def _kind(node: object) -> str:
    """Of a relation or query node; expressions, which have a class, are none of them."""
    return str(node.get("type")) if isinstance(node, dict) and "class" not in node else ""


def _nodes(value: object) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


_OF_THE_STATEMENT = ("Parser Error", "Binder Error", "Catalog Error", "Syntax Error")
_OF_A_VALUE = ("Conversion Error", "Out of Range Error", "Invalid Input Error", "Data Error")
_NOT_DONE = ("Not implemented Error", "Invalid type Error", "Mismatch Type Error")


def _failed(error: Exception) -> Exception:
    """DuckDB's text is passed on where it speaks of the statement; where it may quote a row it is not.

    Told apart by the text, because an error halfway through an answer comes as a bare OSError.
    """
    text = str(error).split("\n\n", 1)[0].split("\nLINE ", 1)[0].strip()
    if text.startswith(_OF_THE_STATEMENT):
        return SqlInvalid(text, mend="Columns and tables are those that `explain` shows.")
    if text.startswith("Out of Memory Error"):
        needs = "The query needs more memory than it may use."
        return RequestInvalid(needs, mend=_NARROWER, code="query_too_large")
    if text.startswith(_OF_A_VALUE):
        misfit = "A value does not fit what the statement makes of it."
        return SqlInvalid(misfit, mend="Look at casts and arithmetic; TRY_CAST gives NULL instead.")
    if text.startswith(_NOT_DONE):
        return SqlInvalid("The statement asks for something the join engine does not do.")
    return Unavailable("The join engine failed.")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
