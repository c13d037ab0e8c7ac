"""A register in PostgreSQL, read by asyncpg through a server-side cursor.

The role must not be able to write to the register: one that can is refused, and every query runs in a
read-only transaction all the same. A role of its own and a replica are advised.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from connector.adapters.sources.running import (
    NewId,
    concealed,
    concealed_call,
    require_fields,
    to_batch,
    unavailable,
)
from connector.model.catalog import Field, LogicalType
from connector.ports import SourceQuery

if TYPE_CHECKING:
    import asyncpg
    import pyarrow as pa

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 5.0

_TOKENS = re.compile(r"""("(?:[^"]|"")*")|('(?:[^']|'')*')|(\?)""")

_MAY_WRITE = """
SELECT has_table_privilege(relation.id, 'INSERT, UPDATE, DELETE, TRUNCATE')
    OR has_any_column_privilege(relation.id, 'INSERT, UPDATE')
FROM (SELECT to_regclass($1) AS id) AS relation
WHERE relation.id IS NOT NULL
"""

_COLUMNS = """
SELECT a.attname AS name, coalesce(base.typname, t.typname) AS type_name, t.typtype = 'e' AS enumerated,
       a.atttypmod AS modifier, coalesce(c.collisdeterministic, true) AS deterministic
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type AS base ON base.oid = t.typbasetype
LEFT JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_TYPES: dict[str, LogicalType] = {
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "float4": "number",
    "float8": "number",
    "bool": "boolean",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamp",
    "text": "string",
    "varchar": "string",
    "bpchar": "string",
    "citext": "string",
    "uuid": "string",
    "name": "string",
}


class PostgresSource:
    """`table` is `name` or `schema.name`. Connections are made on first use, at most `max_connections`."""

    def __init__(
        self,
        *,
        name: str,
        dsn: str,
        table: str,
        fields: Sequence[Field],
        new_id: NewId,
        max_connections: int = 4,
        statement_seconds: float = 120.0,
    ) -> None:
        self._name = name
        self._dsn = dsn
        self._table = table
        self._fields = tuple(fields)
        self._new_id = new_id
        self._max_connections = max_connections
        self._statement_seconds = statement_seconds
        self._lock = asyncio.Lock()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def dialect(self) -> str:
        return "postgres"

    @property
    def relation(self) -> str:
        return ".".join('"' + part.replace('"', '""') + '"' for part in self._table.split("."))

    async def schema(self) -> Sequence[Field]:
        return await concealed_call(self._schema(), self._name, self._new_id)

    def execute(self, query: SourceQuery, *, batch_rows: int) -> AsyncIterator[pa.RecordBatch]:
        return concealed(self._batches(query, batch_rows), self._name, self._new_id)

    async def close(self) -> None:
        async with self._lock:
            pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
        except TimeoutError:
            pool.terminate()

    async def _schema(self) -> Sequence[Field]:
        pool = await self._opened()
        async with pool.acquire() as connection:
            return await self._physical(connection)

    async def _batches(self, query: SourceQuery, batch_rows: int) -> AsyncGenerator[pa.RecordBatch]:
        sql, parameters = numbered(query)
        pool = await self._opened()
        async with (
            pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            # as a subquery nothing but a query parses
            cursor = await connection.cursor(f"SELECT * FROM ({sql}) AS answer", *parameters)  # noqa: S608
            while rows := await cursor.fetch(batch_rows):
                yield to_batch([tuple(row) for row in rows], query.result, _READERS)

    async def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        import asyncpg

        async with self._lock:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=self._max_connections,
                    timeout=CONNECT_SECONDS,
                    init=self._check,
                    server_settings={
                        "application_name": "connector",
                        "default_transaction_read_only": "on",
                        "statement_timeout": str(int(self._statement_seconds * 1000)),
                        "TimeZone": "UTC",
                    },
                )
            return self._pool

    async def _check(self, connection: Any) -> None:
        """Each new connection, before anything is read through it."""
        for type_name, decode in _DECODERS.items():
            await connection.set_type_codec(
                type_name, schema="pg_catalog", format="tuple", encoder=_never, decoder=decode
            )
        may_write = await connection.fetchval(_MAY_WRITE, self.relation)
        if may_write is None:
            raise unavailable(self._name, "the table is not there, or not for this role", self._new_id)
        if may_write:
            raise unavailable(self._name, "the role may write to the register: refused", self._new_id)
        require_fields(self._name, self._fields, await self._physical(connection), self._new_id)

    async def _physical(self, connection: Any) -> Sequence[Field]:
        """Columns whose type or collation we have no template for are left out."""
        rows = await connection.fetch(_COLUMNS, self.relation)
        found = ((row["name"], _logical(row)) for row in rows)
        return [Field(name=name, type=type_) for name, type_ in found if type_ is not None]


def _logical(row: Any) -> LogicalType | None:
    """Texts that compare by a collation's own idea of equality are not comparable by ours."""
    if not row["deterministic"]:
        return None
    if row["enumerated"]:
        return "string"
    if row["type_name"] == "numeric":
        return _numeric(row["modifier"])
    return _TYPES.get(row["type_name"])


def _numeric(modifier: int) -> LogicalType:
    """numeric(p, 0) that fits 64 bits is an integer. The modifier is precision << 16 | scale, plus 4."""
    precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
    return "integer" if modifier >= 4 and scale == 0 and precision <= 18 else "number"


def numbered(query: SourceQuery) -> tuple[str, list[Any]]:
    """`?` as $1, $2, ... and the name of each key list as an array parameter of its own.

    Texts and quoted names are stepped over: a physical name may hold a question mark.
    """
    parameters: list[Any] = []
    values = iter(query.parameters)
    places: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        name, text, mark = match.groups()
        if mark:
            parameters.append(_bound(next(values)))
            return f"${len(parameters)}"
        keys = query.key_lists.get(name[1:-1]) if name else None
        if keys is None:
            return str(name or text)
        if name not in places:
            parameters.append(list(keys))
            places[name] = f"CAST(${len(parameters)} AS text[])"
        return places[name]

    return _TOKENS.sub(replaced, query.sql), parameters


def _bound(value: Any) -> Any:
    """Numbers are bound as numeric, digit by digit as they were written; dates as text."""
    if isinstance(value, date):
        return value.isoformat()
    return Decimal(repr(value)) if isinstance(value, float) else value


# Of its own accord asyncpg reads infinity as 9999-12-31, which another row may hold in earnest. Ours raise
# for what a date or an instant between the years 1 and 9999 cannot say.


def _date(days: tuple[int]) -> date:
    return date.fromordinal(_EPOCH.toordinal() + days[0])


def _instant(microseconds: tuple[int]) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds[0])


def _never(_value: Any) -> Any:
    raise TypeError("dates are bound as text")


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DECODERS: dict[str, Callable[[Any], Any]] = {"date": _date, "timestamp": _instant, "timestamptz": _instant}


def _integer(value: Any) -> int:
    """A sum of bigint comes as numeric."""
    whole = int(value)
    if whole != value:
        raise ValueError("not an integer")
    return whole


_READERS: dict[LogicalType, Callable[[Any], Any]] = {"integer": _integer, "number": float}
