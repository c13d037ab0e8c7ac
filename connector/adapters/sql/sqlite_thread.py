"""A SQLite connection and the thread that owns it: the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, TypeVar, cast

from connector.errors import ConfigurationError, Conflict, ConnectorError, RequestInvalid, Unavailable

_T = TypeVar("_T")

_BUSY_TIMEOUT_SECONDS = 5
_CHECKPOINT_PAGES = 4000  # 16 MB: each checkpoint stops the writer for two syncs, so not at every megabyte
_OVERDUE_SECONDS = 0.002
_GIVE_WAY_SECONDS = 0.0002


class SqliteThread(threading.Thread):
    """A connection and the one thread that uses it: jobs run in order, each whole.

    A queue and a thread rather than a ThreadPoolExecutor: half the cost per round trip, and a job once
    handed in always runs.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=f"sqlite-{name}", daemon=True)
        self.raw: sqlite3.Connection
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    @classmethod
    async def open(cls, path: Path, mode: Literal["read", "write"]) -> SqliteThread:
        thread = cls(f"{path.name}-{mode}")
        try:
            thread.raw = await thread.do(lambda: _connected(path, mode))
        except BaseException:
            thread._jobs.put(None)
            raise
        return thread

    async def do(self, work: Callable[[], _T]) -> _T:
        """When the waiting is cancelled, the work is done all the same."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        self._jobs.put(partial(_run_job, work, loop, answer))
        courtesy = _Courtesy(loop)
        try:
            return await answer
        except sqlite3.Error as error:
            raise _translated(error) from None
        except (UnicodeEncodeError, OverflowError):
            raise RequestInvalid(
                "A value cannot be kept: text that is not Unicode, or a number beyond 64 bits.",
                code="not_storable",
            ) from None
        finally:
            courtesy.end()

    async def close(self) -> None:
        await self.do(self.raw.close)
        self._jobs.put(None)

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class _Courtesy:
    """Lets an overdue job have the interpreter.

    An event loop with work all the time lets go of the interpreter lock for a microsecond per round, and
    a thread that is woken by that comes too late, again and again: measured, a job of 50 microseconds
    waited 11 seconds. So while a job is overdue, the loop pauses a fifth of a millisecond every two.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle = loop.call_later(_OVERDUE_SECONDS, self._give_way)

    def _give_way(self) -> None:
        time.sleep(_GIVE_WAY_SECONDS)
        self._handle = self._loop.call_later(_OVERDUE_SECONDS, self._give_way)

    def end(self) -> None:
        self._handle.cancel()


def _run_job(work: Callable[[], _T], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[_T]) -> None:
    try:
        deliver = partial(_settle, answer, result=work())
    except Exception as error:
        deliver = partial(_settle, answer, error=error)
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(deliver)


def _settle(answer: asyncio.Future[_T], *, result: _T | None = None, error: Exception | None = None) -> None:
    if answer.done():  # cancelled
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(cast("_T", result))


def _connected(path: Path, mode: Literal["read", "write"]) -> sqlite3.Connection:
    try:
        raw = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_SECONDS)
        try:
            if _journal(raw) != "wal":
                raise ConfigurationError(
                    "SQLite cannot keep a write-ahead log here.", where=str(path), mend="Use a local disk."
                )
            raw.execute(
                "pragma synchronous = normal"
            )  # commits are synced by WalSyncer, checkpoints by SQLite
            raw.execute("pragma foreign_keys = on")
            raw.execute("pragma trusted_schema = off")
            raw.execute(f"pragma wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            raw.execute("select count(*) from sqlite_schema").fetchone()  # makes the log's files
            if mode == "read":
                raw.execute("pragma query_only = on")
        except BaseException:
            raw.close()
            raise
    except sqlite3.DatabaseError as error:
        if _primary(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise ConfigurationError("This file is not an intact SQLite database.", where=str(path)) from None
        raise
    return raw


def _journal(raw: sqlite3.Connection) -> str:
    """Ask for the write-ahead log. Where several processes ask at once SQLite does not wait by itself."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while True:
        try:
            return str(raw.execute("pragma journal_mode = wal").fetchone()[0])
        except sqlite3.OperationalError as error:
            if _primary(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _primary(error: sqlite3.Error) -> int:
    """SQLite's primary result code; the module's own errors have none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _translated(error: sqlite3.Error) -> ConnectorError:
    code = _primary(error)
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Conflict("Someone else wrote this first.")
    if code == sqlite3.SQLITE_READONLY:
        return ConnectorError("Something was to be written in a read-only transaction.")
    if code == sqlite3.SQLITE_TOOBIG:
        return RequestInvalid("A value is too big to be kept.", code="not_storable")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return Unavailable(f"The SQLite store failed ({name}).")
