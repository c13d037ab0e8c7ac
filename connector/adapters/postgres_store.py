"""Port Store on PostgreSQL, for replicas that share one database. asyncpg is imported when it opens.

READ COMMITTED, with what must not be lost held by versions, conditions in the statements and row locks;
read-only transactions see one snapshot. Needs PostgreSQL 13 or newer (transaction numbers of 64 bits).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from connector.adapters.sql.connection import Appended, Dialect, Parameter, Row, Stage, Wakes
from connector.adapters.sql.queries import queries
from connector.adapters.sql.store import SqlStore
from connector.errors import ConfigurationError, Conflict, ConnectorError, RequestInvalid, Unavailable

if TYPE_CHECKING:
    import asyncpg

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 15  # asyncpg's own limit, above the server's: a server that answers ends it first
_SERVER_SETTINGS = {
    "application_name": "connector",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",  # a hung replica must not hold the event log's readers back
}
_OLDEST_SERVER = 13


class PostgresStore(SqlStore):
    """`dsn` is never shown, logged or put into an error."""

    def __init__(self, dsn: str, *, connections: int = 10) -> None:
        super().__init__(PostgresDatabase(dsn, connections=connections))


class PostgresDatabase:
    """A pool of at most `connections`; a broken one is replaced at its next use."""

    dialect: Dialect = "postgresql"

    def __init__(self, dsn: str, *, connections: int = 10) -> None:
        self.wakes = Wakes()
        self._dsn = dsn
        self._connections = connections
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        import asyncpg

        with _translated():
            try:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=1,
                    max_size=self._connections,
                    timeout=_CONNECT_SECONDS,
                    command_timeout=_STATEMENT_SECONDS,
                    server_settings=_SERVER_SETTINGS,
                    reset=_nothing_to_reset,
                )
            except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
                raise ConfigurationError(
                    f"PostgreSQL refused the connection (SQLSTATE {error.sqlstate}).",
                    mend="Check user, password and database in the store's DSN.",
                ) from None
            except ValueError:  # asyncpg's own ClientConfigurationError among them
                raise ConfigurationError("The store's DSN is not one of PostgreSQL.") from None
        async with self._acquired() as raw:
            version = raw.get_server_version().major
        if version < _OLDEST_SERVER:
            await self.close()
            raise ConfigurationError(
                f"PostgreSQL {version} is too old.", mend=f"Use {_OLDEST_SERVER} or newer."
            )

    @asynccontextmanager
    async def connect(self, *, read_only: bool = False) -> AsyncIterator[PostgresConnection]:
        """A commit whose answer is lost raises Unavailable, although it may have happened."""
        async with self._acquired() as raw:
            connection = PostgresConnection(raw, read_only=read_only)
            try:
                async with connection:
                    yield connection
            finally:
                self.wakes.fire(connection.appended.topics)

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        if self._pool is None:
            raise Unavailable("The store is not open.")
        with _translated():
            raw = await self._pool.acquire(timeout=_CONNECT_SECONDS)
        try:
            yield raw
        finally:
            with _translated():
                await self._pool.release(raw)

    async def ping(self) -> None:
        async with self.connect(read_only=True) as connection:
            await connection.fetchone("ping")

    async def close(self) -> None:
        """Waits for the transactions under way, at most as long as a statement may take."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(_STATEMENT_SECONDS):
                await pool.close()
        except TimeoutError:
            _log.warning("transactions were still under way when the store was closed")
            pool.terminate()


@dataclass(slots=True)
class _Posted:
    """One statement, perhaps for many rows, whose outcome may come late."""

    query: str
    rows: list[Sequence[Parameter]]
    otherwise: str
    tells: list[Callable[[Row | None], None]]

    def joins(self, other: _Posted) -> bool:
        """Whether both can go in one round trip."""
        return (
            self.query == other.query
            and not self.otherwise
            and not other.otherwise
            and bool(self.tells) == bool(other.tells)
        )


class PostgresConnection:
    """One transaction on one connection of the pool. It begins with its first statement, and not at all
    where there is only one, which is a transaction by itself: round trips are what it costs."""

    def __init__(self, raw: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], *, read_only: bool) -> None:
        self.appended = Appended()
        self._raw = raw
        self._queries = queries("postgresql")
        self._transaction = (
            raw.transaction(isolation="repeatable_read", readonly=True) if read_only else raw.transaction()
        )
        self._stage = Stage()
        self._begun = False
        self._posted: list[_Posted] = []

    async def __aenter__(self) -> PostgresConnection:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stage.end()
        if kind is not None:
            await self._roll_back()
            return
        try:
            self._stage.check_committable()
            with _translated():
                if self._begun or len(self._posted) > 1:
                    await self._begin()
                await self._run_posted()
        except BaseException:
            await self._roll_back()
            raise
        if self._begun:
            with _translated():
                await self._transaction.commit()

    async def _begin(self) -> None:
        if not self._begun:
            await self._transaction.start()
            self._begun = True

    async def _roll_back(self) -> None:
        if not self._begun:
            return
        import asyncpg

        # of a connection that is gone the server rolls back itself
        gone = (asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError, OSError)
        with _translated(), suppress(*gone):
            await self._transaction.rollback()

    async def execute(self, query: str, *parameters: Parameter) -> int:
        async with self._statement():
            return _touched(await self._raw.execute(self._queries[query], *parameters))

    async def post(
        self,
        query: str,
        *parameters: Parameter,
        otherwise: str = "",
        tell: Callable[[Row | None], None] | None = None,
    ) -> None:
        self._post(_Posted(query, [parameters], otherwise, [tell] if tell is not None else []))

    async def execute_many(self, query: str, rows: Sequence[Sequence[Parameter]]) -> None:
        if rows:
            self._post(_Posted(query, list(rows), "", []))

    async def fetch(self, query: str, *parameters: Parameter) -> Sequence[Row]:
        async with self._statement():
            rows = await self._raw.fetch(self._queries[query], *parameters)
        return cast("Sequence[Row]", rows)

    async def fetchone(self, query: str, *parameters: Parameter) -> Row | None:
        async with self._statement():
            row = await self._raw.fetchrow(self._queries[query], *parameters)
        return cast("Row | None", row)

    async def script(self, sql: str) -> None:
        async with self._statement():
            await self._raw.execute(sql)

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[None]:
        with self._stage.statement(), _translated():
            await self._begin()
            await self._run_posted()
            yield

    def _post(self, posted: _Posted) -> None:
        with self._stage.statement():
            if self._posted and self._posted[-1].joins(posted):
                self._posted[-1].rows.extend(posted.rows)
                self._posted[-1].tells.extend(posted.tells)
            else:
                self._posted.append(posted)

    async def _run_posted(self) -> None:
        waiting, self._posted = self._posted, []
        for posted in waiting:
            sql = self._queries[posted.query]
            if posted.tells:
                for tell, row in zip(posted.tells, await self._told(sql, posted.rows), strict=True):
                    tell(row)
            elif len(posted.rows) > 1:
                await self._raw.executemany(sql, posted.rows)
            elif _touched(await self._raw.execute(sql, *posted.rows[0])) != 1 and posted.otherwise:
                raise Conflict(posted.otherwise)

    async def _told(self, sql: str, rows: Sequence[Sequence[Parameter]]) -> Sequence[Row | None]:
        """One row for each of `rows`."""
        if len(rows) > 1:
            return cast("Sequence[Row]", await self._raw.fetchmany(sql, rows))
        return [cast("Row | None", await self._raw.fetchrow(sql, *rows[0]))]


def _touched(status: str) -> int:
    return int(status.rpartition(" ")[2])  # `UPDATE 1`, `INSERT 0 1`


async def _nothing_to_reset(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """asyncpg rolls back what is open, and we set nothing that outlives that: spare the round trip."""


@contextmanager
def _translated() -> Iterator[None]:
    """`from None` everywhere: PostgreSQL's texts quote rows, and asyncpg's can name the user."""
    import asyncpg

    try:
        yield
    except asyncpg.PostgresError as error:
        raise _of_state(error.sqlstate or "unknown") from None
    # InternalClientError: what asyncpg says of a connection that the server took away under it
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise Unavailable(f"PostgreSQL does not answer ({type(error).__name__}).") from None


def _of_state(state: str) -> ConnectorError:
    match state[:2]:
        case "23":  # a constraint
            return Conflict("Someone else wrote this first.")
        case "40":  # a deadlock, or a snapshot that is too old
            return Conflict("Someone else wrote at the same time; nothing was changed.")
        case "22" | "54":  # text with NUL; a key too long for an index
            return RequestInvalid("A value cannot be kept.", code="not_storable")
    if state == "25006":
        return ConnectorError("Something was to be written in a read-only transaction.")
    return Unavailable(f"The PostgreSQL store failed (SQLSTATE {state}).")
