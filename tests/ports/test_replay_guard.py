"""Port ReplayGuard: in a SQLite file of its own, and in the replicas' PostgreSQL database."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from connector.adapters.postgres_store import PostgresDatabase, PostgresStore
from connector.adapters.replay_guard import SqliteReplayGuard, SqlReplayGuard
from connector.errors import Unavailable
from tests.clocks import START, ManualClock
from tests.parts.postgres import PostgresServer, fresh_database

NewGuard = Callable[[ManualClock], SqlReplayGuard]
SOON = START + timedelta(seconds=60)


class ReplayGuardContract:
    """RFC 7523 §3 and RFC 9449 §11.1: an assertion's and a proof's `jti` are accepted once.

    A subclass has the fixture `new_guard`: each guard is another process over one database, at most 5 ids.
    """

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def guard(self, new_guard: NewGuard, clock: ManualClock) -> AsyncIterator[SqlReplayGuard]:
        guard = new_guard(clock)
        await guard.open()
        yield guard
        await guard.close()

    async def test_an_id_is_claimed_once_per_kind(self, guard: SqlReplayGuard) -> None:
        """Port ReplayGuard: kinds do not mix, and no kind can be spelt into an id."""
        assert await guard.claim("assertion", "a", expires_at=SOON)
        assert not await guard.claim("assertion", "a", expires_at=SOON)
        assert not await guard.claim("assertion", "a", expires_at=SOON + timedelta(hours=1))
        assert await guard.claim("proof", "a", expires_at=SOON)
        assert await guard.claim("assertiona", "", expires_at=SOON)

    async def test_of_concurrent_claims_one_wins(self, guard: SqlReplayGuard) -> None:
        """A proof that is sent twice at the same moment is good once."""
        claims = [guard.claim("proof", "a", expires_at=SOON) for _ in range(20)]
        assert sum(await asyncio.gather(*claims)) == 1

    async def test_claims_hold_over_restarts_and_processes(
        self, guard: SqlReplayGuard, new_guard: NewGuard, clock: ManualClock
    ) -> None:
        """Skeleton: single use survives a restart; Protocol: and holds over all replicas."""
        assert await guard.claim("proof", "a", expires_at=SOON)
        other = new_guard(clock)
        await other.open()
        assert not await other.claim("proof", "a", expires_at=SOON)
        assert await other.claim("proof", "b", expires_at=SOON)
        assert not await guard.claim("proof", "b", expires_at=SOON)
        await other.close()

    async def test_what_has_expired_cannot_be_claimed(
        self, guard: SqlReplayGuard, clock: ManualClock
    ) -> None:
        """Fail closed: it would be forgotten at once, and could come again."""
        assert not await guard.claim("proof", "a", expires_at=clock.now())
        assert await guard.claim("proof", "b", expires_at=clock.now() + timedelta(microseconds=1))

    async def test_a_full_guard_refuses_rather_than_forgets(
        self, guard: SqlReplayGuard, clock: ManualClock
    ) -> None:
        """Port ReplayGuard: full is Unavailable; nothing is forgotten before it expires."""
        for number in range(5):
            expires_at = SOON + timedelta(seconds=number)
            assert await guard.claim("proof", f"{number}", expires_at=expires_at)
        for token_id in ("new", "0"):
            with pytest.raises(Unavailable):
                await guard.claim("proof", token_id, expires_at=SOON)
        await clock.advance(62)  # the first three have expired
        later = clock.now() + timedelta(seconds=60)
        for token_id in ("new", "1", "2"):
            assert await guard.claim("proof", token_id, expires_at=later)
        with pytest.raises(Unavailable):
            await guard.claim("proof", "3", expires_at=later)
        await clock.advance(1)
        assert await guard.claim("proof", "3", expires_at=later)

    async def test_a_full_guard_can_be_opened(
        self, guard: SqlReplayGuard, new_guard: NewGuard, clock: ManualClock
    ) -> None:
        """A connector that was flooded can start anew, and still knows what was used."""
        for number in range(5):
            assert await guard.claim("proof", f"{number}", expires_at=SOON)
        other = new_guard(clock)
        await other.open()
        with pytest.raises(Unavailable):
            await other.claim("proof", "new", expires_at=SOON)
        await clock.advance(60)
        assert await other.claim("proof", "new", expires_at=SOON + timedelta(seconds=60))
        await other.close()

    @pytest.mark.parametrize("token_id", ["", "\0", "\ud800", "x" * 100_000, "'--"])
    async def test_ids_are_a_strangers_text(self, guard: SqlReplayGuard, token_id: str) -> None:
        """Hostile input: any text is an id, and costs the same room."""
        assert await guard.claim("proof", token_id, expires_at=SOON)
        assert not await guard.claim("proof", token_id, expires_at=SOON)

    async def test_a_closed_guard_is_unavailable(self, guard: SqlReplayGuard) -> None:
        """No answer is a denial."""
        await guard.close()
        with pytest.raises(Unavailable):
            await guard.claim("proof", "a", expires_at=SOON)


class TestSqliteReplayGuard(ReplayGuardContract):
    """The twin: a file of its own, so that tokens do not wait for the store's writer."""

    @pytest.fixture
    def new_guard(self, tmp_path: Path) -> NewGuard:
        return lambda clock: SqliteReplayGuard(tmp_path / "replay.db", clock, at_most=5)

    async def test_its_file_is_for_its_owner_only_and_holds_no_ids(
        self, guard: SqlReplayGuard, tmp_path: Path
    ) -> None:
        """Ids are kept as hashes: a stolen file names no token."""
        assert await guard.claim("proof", "a-very-special-jti", expires_at=SOON)
        await guard.close()
        check_file(tmp_path)


def check_file(folder: Path) -> None:
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"special" not in file.read_bytes()


class TestPostgresReplayGuard(ReplayGuardContract):
    """The real one: single use over all replicas, beside the store in one database."""

    @pytest.fixture
    async def new_guard(self, postgres_server: PostgresServer) -> NewGuard:
        dsn = fresh_database(postgres_server)
        store = PostgresStore(dsn)
        await store.open()
        await store.close()
        return lambda clock: SqlReplayGuard(PostgresDatabase(dsn, connections=3), clock, at_most=5)
