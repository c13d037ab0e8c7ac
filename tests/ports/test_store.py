"""Port Store on SQLite and PostgreSQL: the contract, then what each promises beyond it."""

import asyncio
import os
import re
import sqlite3
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.adapters.postgres_store import PostgresStore
from connector.adapters.sql.connection import Dialect
from connector.adapters.sql.migrate import Component, migrate, migrations
from connector.adapters.sql.queries import queries
from connector.adapters.sql.store import SqlStore
from connector.adapters.sqlite_store import SqliteDatabase, SqliteStore
from connector.errors import ConfigurationError, Unavailable
from tests.parts.postgres import PostgresServer, fresh_database
from tests.ports.store_contract import NewStore, RollBack, StoreContract, check_round_trips

DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql")


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


class TestSqliteStore(StoreContract):
    """The twin: nothing to install, one machine."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "store.db"

    @pytest.fixture
    def readable_file(self, path: Path) -> Path:
        path.touch()
        path.chmod(0o644)
        return path

    @pytest.fixture
    def new_store(self, path: Path) -> NewStore:
        return lambda: SqliteStore(path)

    @pytest.fixture
    def committer(self, path: Path) -> Sequence[str]:
        return ("sqlite", str(path))

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    async def test_what_is_read_equals_what_was_written(self, store: SqlStore, data: st.DataObject) -> None:
        """Protocol: both sides store the same bytes; an agreement's document, operands and masks come back as
        they were, types included (1, 1.0, true and "1" differ)."""
        with pytest.raises(RollBack):
            await check_round_trips(store, data)

    async def test_its_files_are_for_their_owner_only(self, store: SqlStore, path: Path) -> None:
        """Skeleton: agreements and encrypted ids are in the file, whatever the umask says."""
        async with store.transaction() as transaction:
            await transaction.put_value("k", {})
        assert modes_in(path.parent) == dict.fromkeys(("store.db", "store.db-shm", "store.db-wal"), 0o600)

    async def test_a_file_that_was_open_to_others_is_closed_to_them(
        self, readable_file: Path, store: SqlStore
    ) -> None:
        """Skeleton: also a file that somebody restored from a backup."""
        assert modes_in(readable_file.parent)["store.db"] == 0o600

    async def test_commits_are_synced_within_10_ms_many_at_once(self, path: Path) -> None:
        """Architecture, Store: "on record" = in the write-ahead log, synced within 10 ms; one sync covers
        every commit before it. (The middle of the delays: the machine may be busy.)"""
        syncs: list[float] = []

        def record(descriptor: int) -> None:
            assert os.fstat(descriptor).st_ino == path.with_name("store.db-wal").stat().st_ino
            syncs.append(time.monotonic())

        store = SqlStore(SqliteDatabase(path, fdatasync=record))
        await store.open()
        syncs.clear()
        commits: list[float] = []
        for number in range(200):
            async with store.transaction() as transaction:
                await transaction.put_value("k", {"n": number})
            commits.append(time.monotonic())
        await store.close()
        delays = [next(sync for sync in syncs if sync >= commit) - commit for commit in commits]
        assert sorted(delays)[len(delays) // 2] < 0.010
        assert len(syncs) < len(commits)

    async def test_a_disk_that_does_not_sync_ends_the_store(self, path: Path) -> None:
        """Architecture, Store: after a failed sync nothing may be called on record any more."""
        failing = False

        def fdatasync(_: int) -> None:
            if failing:
                raise OSError(5, "Input/output error")

        store = SqlStore(SqliteDatabase(path, fdatasync=fdatasync))
        await store.open()
        failing = True

        async def write_often() -> None:
            for _ in range(1000):
                async with store.transaction() as transaction:
                    await transaction.put_value("k", {})

        with pytest.raises(Unavailable, match="disk"):
            await write_often()
        with pytest.raises(Unavailable, match="disk"):
            await store.ping()
        await store.close()

    async def test_a_transaction_inside_another_is_refused(self, store: SqlStore) -> None:
        """Port Store: not re-entrant; it would wait for itself for ever."""
        async with store.transaction() as transaction:
            with pytest.raises(RuntimeError):
                async with store.transaction():
                    pass
            await transaction.put_value("k", {})

    async def test_another_process_writing_blocks_no_event_loop(self, store: SqlStore, path: Path) -> None:
        """Brief: no blocking of the event loop, also while SQLite waits for its lock."""
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")

        async def write() -> None:
            async with store.transaction() as transaction:
                await transaction.put_value("k", {})

        writing = asyncio.create_task(write())
        gaps = []
        for _ in range(20):
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - begun)
        assert not writing.done()
        other.execute("rollback")
        other.close()
        await writing
        assert sorted(gaps)[len(gaps) // 2] < 0.05

    async def test_a_busy_event_loop_does_not_starve_the_store(self, store: SqlStore) -> None:
        """Architecture idea 3: the stop signal is a transaction; it must not wait until the load is over."""
        stopped = False

        async def busy() -> None:
            while not stopped:
                sum(range(20_000))
                await asyncio.sleep(0)

        load = asyncio.create_task(busy())
        async with asyncio.timeout(20):
            for number in range(40):
                async with store.transaction() as transaction:
                    await transaction.put_value("k", {"n": number})
        stopped = True
        await load

    @pytest.mark.parametrize("content", [b"this is no database", b"SQLite format 3\0" + b"\xff" * 4096])
    def test_a_file_that_is_no_database_is_the_operators_mistake(self, path: Path, content: bytes) -> None:
        """Skeleton: bad files fail at the start, with the path, and are left as they are."""
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"store\.db"):
            asyncio.run(SqliteStore(path).open())
        assert path.read_bytes() == content

    async def test_a_folder_that_is_missing_is_the_operators_mistake(self, tmp_path: Path) -> None:
        """Skeleton: bad settings fail at the start, with the path."""
        with pytest.raises(ConfigurationError, match="nowhere"):
            await SqliteStore(tmp_path / "nowhere" / "store.db").open()

    async def test_every_statement_is_valid(self, store: SqlStore, path: Path) -> None:
        """queries.sql: a statement that only one dialect understands is found here, not in production."""
        await migrate(store.database, "replay")
        await migrate(store.database, "catalog_index")
        with sqlite3.connect(path) as raw:
            for name, sql in queries("sqlite").items():
                wanted = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=0)
                assert raw.execute(f"explain {sql}", [None] * wanted).fetchall(), name
        raw.close()


class TestPostgresStore(StoreContract):
    """The real one: replicas over one database."""

    @pytest.fixture
    def dsn(self, postgres_server: PostgresServer) -> str:
        return fresh_database(postgres_server)

    @pytest.fixture
    def new_store(self, dsn: str) -> NewStore:
        return lambda: PostgresStore(dsn)

    @pytest.fixture
    def committer(self, dsn: str) -> Sequence[str]:
        return ("postgresql", dsn)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    async def test_what_is_read_equals_what_was_written(self, store: SqlStore, data: st.DataObject) -> None:
        """Protocol: both sides store the same bytes; an agreement's document, operands and masks come back as
        they were, types included (1, 1.0, true and "1" differ)."""
        with pytest.raises(RollBack):
            await check_round_trips(store, data)

    async def test_it_recovers_when_its_connections_are_cut(self, store: SqlStore, dsn: str) -> None:
        """Protocol: PostgreSQL restarted under the connector; what was under way is rolled back."""
        async with store.transaction() as transaction:
            await transaction.put_value("kept", {})
        other = await asyncpg.connect(dsn)

        async def write_while_cut() -> None:
            async with store.transaction() as transaction:
                await transaction.put_value("lost", {})
                await other.execute(
                    "select pg_terminate_backend(pid, 1000) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
                await transaction.put_value("lost", {})

        with pytest.raises(Unavailable) as caught:
            await write_while_cut()
        assert "127.0.0.1" not in str(caught.value)
        await other.close()
        async with store.transaction() as transaction:
            assert list(await transaction.values("")) == ["kept"]

    @pytest.mark.parametrize(
        "wrong",
        ["postgresql://nobody:hunter2@{place}", "postgresql://postgres:hunter2@{place}_not"],
        ids=["user", "database"],
    )
    async def test_a_refused_login_is_the_operators_mistake_and_shows_no_secret(
        self, dsn: str, wrong: str
    ) -> None:
        """Skeleton: no secrets in error texts."""
        with pytest.raises(ConfigurationError) as caught:
            await PostgresStore(wrong.format(place=dsn.rpartition("@")[2])).open()
        for secret in ("hunter2", "nobody", "127.0.0.1", dsn.rpartition("/")[2]):
            assert secret not in str(caught.value)
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize("dsn", ["mysql://root@localhost/x", "postgresql://a:b@host:port/x", "nonsense"])
    async def test_a_dsn_that_is_none_is_the_operators_mistake(self, dsn: str) -> None:
        """Skeleton: bad settings fail at the start, without showing them."""
        with pytest.raises(ConfigurationError) as caught:
            await PostgresStore(dsn).open()
        assert dsn not in str(caught.value)

    async def test_a_server_that_is_away_is_unavailable(self) -> None:
        """Protocol: worth a retry; without the DSN in the text."""
        with pytest.raises(Unavailable) as caught:
            await PostgresStore("postgresql://u:hunter2@127.0.0.1:1/x").open()
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1" not in str(caught.value)

    async def test_more_transactions_than_connections_wait_their_turn(self, dsn: str) -> None:
        """Protocol: a burst is served, not refused."""
        store = PostgresStore(dsn, connections=2)
        await store.open()

        async def write(number: int) -> None:
            async with store.transaction() as transaction:
                await transaction.put_value(f"k{number:02}", {})

        await asyncio.gather(*(write(number) for number in range(30)))
        async with store.transaction(read_only=True) as transaction:
            assert len(await transaction.values("k")) == 30
        await store.close()

    async def test_every_statement_is_valid(self, store: SqlStore, dsn: str) -> None:
        """queries.sql: a statement that only one dialect understands is found here, not in production."""
        await migrate(store.database, "replay")
        await migrate(store.database, "catalog_index")
        raw = await asyncpg.connect(dsn)
        for name, sql in queries("postgresql").items():
            assert await raw.prepare(sql), name
        await raw.close()


def test_both_dialects_have_the_same_statements_and_migrations() -> None:
    """One SqlTransaction serves both: nothing may exist for one only."""
    assert queries("sqlite").keys() == queries("postgresql").keys()
    components: tuple[Component, ...] = ("store", "replay", "catalog_index")
    for component in components:
        names = [
            [(each.version, each.name) for each in migrations(dialect, component)] for dialect in DIALECTS
        ]
        assert names[0] == names[1]
