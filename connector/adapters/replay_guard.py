"""Port ReplayGuard in SQL: a SQLite file of its own, or the replicas' PostgreSQL database."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

from connector.adapters.sql.connection import Database, Row
from connector.adapters.sql.documents import to_micros
from connector.adapters.sql.migrate import migrate
from connector.adapters.sqlite_store import SqliteDatabase
from connector.errors import Unavailable
from connector.ports import Clock

_PRUNE_EVERY = timedelta(seconds=1)


class SqlReplayGuard:
    """Keeps fingerprints (SHA-256) of the ids until they expire, at most `at_most` of them.

    Each process counts what it added itself, and everything when it reaches the limit.
    The guard opens and closes `database`. With PostgreSQL give it a database object of its own, to
    the same DSN as the store: then an id is single-use over all replicas.
    """

    def __init__(self, database: Database, clock: Clock, *, at_most: int = 1_000_000) -> None:
        self._database = database
        self._clock = clock
        self._at_most = at_most
        self._remembered = 0
        self._pruned_at: datetime | None = None

    async def open(self) -> None:
        """Raises ConfigurationError or Unavailable."""
        await self._database.open()
        try:
            await migrate(self._database, "replay")
            await self._prune(self._clock.now())
        except BaseException:
            await self._database.close()
            raise

    async def claim(self, kind: str, token_id: str, *, expires_at: datetime) -> bool:
        """False also for what has expired already: it would be forgotten, and could come again."""
        now = self._clock.now()
        if expires_at <= now:
            return False
        if self._pruned_at is None or now - self._pruned_at >= _PRUNE_EVERY:
            await self._prune(now)
        if self._remembered >= self._at_most:
            raise Unavailable("Too many tokens are remembered as used; none is forgotten before it expires.")
        rows: list[Row | None] = []
        async with self._database.connect() as connection:  # one statement, so one way to the database
            await connection.post(
                "claim_token", _fingerprint(kind, token_id), to_micros(expires_at), tell=rows.append
            )
        claimed = rows[0] is not None
        self._remembered += claimed
        return claimed

    async def close(self) -> None:
        await self._database.close()

    async def _prune(self, now: datetime) -> None:
        """Forget what has expired; near the limit, count exactly: other processes may have added too."""
        first = self._pruned_at is None
        self._pruned_at = now
        async with self._database.connect() as connection:
            forgotten = await connection.execute("forget_expired_tokens", to_micros(now))
            if first or self._remembered >= self._at_most:
                row = await connection.fetchone("count_claimed_tokens")
                self._remembered = int(row[0]) if row else 0
            else:
                self._remembered -= forgotten


class SqliteReplayGuard(SqlReplayGuard):
    """In a file of its own (mode 0600): restarts forget nothing, and the store's writer is not in the way."""

    def __init__(self, path: Path, clock: Clock, *, at_most: int = 1_000_000) -> None:
        super().__init__(SqliteDatabase(path), clock, at_most=at_most)


def _fingerprint(kind: str, token_id: str) -> str:
    """An id is a stranger's text: of any length, in any characters."""
    text = f"{len(kind)}:{kind}{token_id}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
