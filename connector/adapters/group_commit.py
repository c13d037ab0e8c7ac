"""A SQLite file with one writing thread: what waits together is committed together.

Used where a file grows by many small, independent facts (audit log, disclosure ledger). A result is
handed out once its transaction is in the write-ahead log, which outlives the process; the log is
synced to the disk within 10 ms of that, which outlives the machine (architecture.md, "Store").
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from connector.errors import ConfigurationError, Unavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

SYNC_AFTER_SECONDS = 0.005  # half of what is promised; the other half is for the disk
MAX_JOBS_PER_COMMIT = 1_000


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class GroupCommit:
    """`name` stands in error messages. `schema` is SQL that may run at every opening.

    `rolled_back` runs in the writing thread after a transaction was lost, before the next one:
    whoever keeps a copy of the file's state must forget it there.
    """

    def __init__(
        self, path: Path, schema: str, *, name: str, rolled_back: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._schema = schema
        self._name = name
        self._rolled_back = rolled_back
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._unsynced_since: float | None = None
        self._lost = False  # a failed sync: what the disk holds is unknown, so nothing more is promised

    async def open(self) -> None:
        """Raises ConfigurationError when the file cannot be opened or is something else."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=self._serve, args=(asyncio.get_running_loop(), opened), name=self._name, daemon=True
        )
        self._thread.start()
        await opened

    async def write(self, work: Work[T]) -> T:
        """Run `work` in the writing thread inside a transaction of its own or a shared one.

        What it raises is raised here and only its own writes are undone. Raises Unavailable when the
        transaction cannot be committed. A cancelled caller's work may still happen.
        """
        if self._closed or self._thread is None:
            raise Unavailable(f"The {self._name} is closed.")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._jobs.put(job)
        result: T = await job.future
        return result

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a connection of its own that cannot write; it sees what was committed by now."""
        return await asyncio.to_thread(self._read, work)

    async def close(self) -> None:
        """Everything accepted is written and synced first."""
        if self._closed or self._thread is None:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _read(self, work: Work[T]) -> T:
        try:
            with closing(
                sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
            ) as connection:
                return work(connection)
        except sqlite3.Error as error:
            raise Unavailable(f"The {self._name} cannot be read.") from error

    # --- in the writing thread -------------------------------------------------------------------------

    def _serve(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None]) -> None:
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            failure = ConfigurationError(
                f"cannot be opened as the {self._name} ({error})",
                where=str(self._path),
                mend="Check that the folder is writable and the file is not another program's.",
            )
            loop.call_soon_threadsafe(_settle, opened, None, failure)
            return
        loop.call_soon_threadsafe(_settle, opened, None, None)
        with closing(connection):
            while (jobs := self._next_jobs()) is not None:
                self._commit(connection, jobs)
            self._sync()

    def _connect(self) -> sqlite3.Connection:
        # evidence is for its owner only; SQLite gives the write-ahead log the same mode
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # _sync does the rest, once per group
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.executescript(self._schema)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _next_jobs(self) -> list[_Job] | None:
        """What waits by now, at least one job; None at the end. Syncs when nothing comes in time."""
        while True:
            try:
                job = self._jobs.get(timeout=self._until_sync())
            except queue.Empty:
                self._sync()
                continue
            if job is None:
                return None
            jobs = [job]
            while len(jobs) < MAX_JOBS_PER_COMMIT:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._jobs.put(None)  # the last item there is: close() lets nothing in behind it
                    break
                jobs.append(more)
            return jobs

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        try:
            if self._lost:
                raise Unavailable(f"The {self._name} could not be synced to its disk; restart to recover.")
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run(connection, job)
            connection.execute("COMMIT")
        except (sqlite3.Error, Unavailable) as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._rolled_back()
            for job in jobs:
                job.error = Unavailable(f"The {self._name} cannot be written.")
                job.error.__cause__ = error
        else:
            self._unsynced_since = self._unsynced_since or monotonic()
        for job in jobs:
            if not job.loop.is_closed():
                job.loop.call_soon_threadsafe(_settle, job.future, job.result, job.error)
        if self._until_sync() == 0:
            self._sync()

    def _run(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except sqlite3.Error:
            raise  # the database's trouble is everybody's: the whole group fails
        except Exception as error:
            job.error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _until_sync(self) -> float | None:
        if self._unsynced_since is None:
            return None
        return max(0.0, self._unsynced_since + SYNC_AFTER_SECONDS - monotonic())

    def _sync(self) -> None:
        """SQLite's own sync comes only at checkpoints; until then the write-ahead log is the record."""
        if self._unsynced_since is None:
            return
        self._unsynced_since = None
        try:
            descriptor = os.open(f"{self._path}-wal", os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self._lost = True


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
