"""Port Store on SQLite, for one machine: a WAL file, one writer, readers that never wait for it.

A commit is a write to the write-ahead log, which outlives the process whatever happens to it; a thread of
its own brings the log to the disk within 10 ms, for all commits since the last time at once. Losing the
machine's power can cost those milliseconds, never the file's consistency.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from connector.adapters.sql.connection import Appended, Dialect, Parameter, Row, Stage, Wakes
from connector.adapters.sql.queries import queries
from connector.adapters.sql.sqlite_thread import SqliteThread
from connector.adapters.sql.store import SqlStore
from connector.adapters.sql.wal_syncer import WalSyncer, fdatasync, sync_folder
from connector.errors import ConfigurationError, Conflict, Unavailable

_T = TypeVar("_T")

_READERS = 2
_OLDEST_SQLITE = (3, 38, 0)  # strict tables, RETURNING, json_each built in


class SqliteStore(SqlStore):
    """`path` is made where it is missing (mode 0600); its folder must exist."""

    def __init__(self, path: Path) -> None:
        super().__init__(SqliteDatabase(path))


class SqliteDatabase:
    """One SQLite file. Every statement runs in a thread of its connection, none in the event loop's.

    Other processes may use the same file: their writers wait for each other up to 5 seconds.
    `fdatasync` is for tests.
    """

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path, *, fdatasync: Callable[[int], None] = fdatasync) -> None:
        self.wakes = Wakes()
        self._path = path
        self._fdatasync = fdatasync
        self._writer: SqliteThread | None = None
        self._writing = asyncio.Lock()
        self._writing_task: asyncio.Task[object] | None = None
        self._readers: asyncio.LifoQueue[SqliteThread] = asyncio.LifoQueue()
        self._readers_open = 0
        self._syncer: WalSyncer | None = None

    async def open(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old.", mend="Use 3.38 or newer, or PostgreSQL."
            )
        await asyncio.to_thread(_create_private, self._path)
        try:
            self._writer = await SqliteThread.open(self._path, "write")
            self._syncer = WalSyncer(_wal(self._path), self._fdatasync)
            while self._readers_open < _READERS:
                self._readers.put_nowait(await SqliteThread.open(self._path, "read"))
                self._readers_open += 1
            await asyncio.to_thread(sync_folder, self._path.parent)
        except BaseException:
            await self.close()
            raise

    @asynccontextmanager
    async def connect(self, *, read_only: bool = False) -> AsyncIterator[SqliteConnection]:
        """Raises RuntimeError for a second write transaction inside one of the same task: it would
        wait for itself for ever."""
        if read_only:
            async with self._reading() as connection:
                yield connection
            return
        if self._writing_task is asyncio.current_task() is not None:
            raise RuntimeError("a write transaction inside a write transaction of the same task")
        async with self._writing:
            if self._writer is None or self._syncer is None:
                raise Unavailable("The store is not open.")
            self._syncer.check()
            self._writing_task = asyncio.current_task()
            connection = SqliteConnection(self._writer, "begin immediate", committed=self._syncer.wanted)
            try:
                async with connection:
                    yield connection
            finally:
                self._writing_task = None
                self.wakes.fire(connection.appended.topics)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[SqliteConnection]:
        if self._writer is None:
            raise Unavailable("The store is not open.")
        reader = await self._readers.get()
        try:
            async with SqliteConnection(reader, "begin") as connection:
                yield connection
        finally:
            self._readers.put_nowait(reader)

    async def ping(self) -> None:
        async with self.connect(read_only=True) as connection:
            await connection.fetchone("ping")
        if self._syncer is not None:
            self._syncer.check()

    async def close(self) -> None:
        """Waits for the transactions under way. The last connection moves the log into the file."""
        async with self._writing:
            writer, self._writer = self._writer, None  # from here on nobody gets in
            while self._readers_open:
                await (await self._readers.get()).close()
                self._readers_open -= 1
            if self._syncer is not None:
                await asyncio.to_thread(self._syncer.close)
                self._syncer = None
            if writer is not None:
                await writer.close()


class SqliteConnection:
    """One transaction in one thread. It begins with its first statement, so that a round trip is saved.

    The thread takes its work in order: even when the task is cancelled at the worst moment, the
    rollback stands before the next transaction's first statement.
    """

    def __init__(
        self,
        thread: SqliteThread,
        begin: Literal["begin", "begin immediate"],
        *,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self.appended = Appended()
        self._thread = thread
        self._begin = begin
        self._committed = committed
        self._queries = queries("sqlite")
        self._stage = Stage()
        self._begun = False
        self._posted: list[Callable[[], object]] = []

    async def __aenter__(self) -> SqliteConnection:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stage.end()
        if kind is None:
            await self._thread.do(self._commit)
        else:
            await self._thread.do(self._roll_back)

    async def execute(self, query: str, *parameters: Parameter) -> int:
        return await self._run(lambda: self._statement(self._queries[query], parameters).rowcount)

    async def post(
        self,
        query: str,
        *parameters: Parameter,
        otherwise: str = "",
        tell: Callable[[Row | None], None] | None = None,
    ) -> None:
        def work() -> None:
            cursor = self._statement(self._queries[query], parameters)
            if tell is not None:
                rows = cursor.fetchall()
                tell(rows[0] if rows else None)
            if otherwise and cursor.rowcount != 1:
                raise Conflict(otherwise)

        self._post(work)

    async def execute_many(self, query: str, rows: Sequence[Sequence[Parameter]]) -> None:
        if rows:
            self._post(lambda: self._begun_raw().executemany(self._queries[query], rows))

    async def fetch(self, query: str, *parameters: Parameter) -> Sequence[Row]:
        return await self._run(lambda: self._statement(self._queries[query], parameters).fetchall())

    async def fetchone(self, query: str, *parameters: Parameter) -> Row | None:
        rows = await self.fetch(query, *parameters)  # to the end: an open cursor would hold the snapshot
        return rows[0] if rows else None

    async def script(self, sql: str) -> None:
        await self._run(lambda: self._script(sql))

    async def _run(self, work: Callable[[], _T]) -> _T:
        def after_what_was_posted() -> _T:
            self._run_posted()
            return work()

        with self._stage.statement():
            return await self._thread.do(after_what_was_posted if self._posted else work)

    def _post(self, work: Callable[[], object]) -> None:
        """Kept until the next statement or the commit: a trip to the thread costs more than the statement."""
        with self._stage.statement():
            self._posted.append(work)

    # --- in the thread ---

    def _run_posted(self) -> None:
        posted, self._posted = self._posted, []
        for work in posted:
            work()

    def _begun_raw(self) -> sqlite3.Connection:
        raw = self._thread.raw
        if not self._begun:
            raw.execute(self._begin)
            self._begun = True
        return raw

    def _statement(self, sql: str, parameters: Sequence[Parameter]) -> sqlite3.Cursor:
        return self._begun_raw().execute(sql, parameters)

    def _script(self, sql: str) -> None:
        """`executescript` would commit first."""
        statement = ""
        for line in sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self._statement(statement, ())
                statement = ""

    def _commit(self) -> None:
        try:
            self._stage.check_committable()
            self._run_posted()
            if not self._begun:
                return
            self._thread.raw.execute("commit")
        except BaseException:
            self._roll_back()
            raise
        self._committed()

    def _roll_back(self) -> None:
        if self._thread.raw.in_transaction:  # some errors (disk full) have rolled back already
            self._thread.raw.execute("rollback")


def _create_private(path: Path) -> None:
    """The file holds agreements and encrypted ids: for its owner only. SQLite gives the log the same mode."""
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        for file in (path, _wal(path), path.with_name(f"{path.name}-shm")):
            with suppress(FileNotFoundError):
                file.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The database file cannot be made: {error.strerror}.", where=str(path)
        ) from None


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
