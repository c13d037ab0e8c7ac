"""The join engine: the user's SQL over landed rows, and nothing else in reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connector.adapters.duckdb_join import DuckDbJoinEngine, DuckDbJoinSession, JoinLimits
from connector.errors import PeerUnreachable, RequestInvalid, SqlInvalid, Unavailable

LIMITS = JoinLimits()
TABLE = pa.table({"n": [1, 2, None], "name": ["a", "b", "seven"]})


async def batches(table: pa.Table, rows: int = 500) -> AsyncIterator[pa.RecordBatch]:
    for batch in table.to_batches(rows):
        yield batch


@asynccontextmanager
async def landed(limits: JoinLimits = LIMITS, table: pa.Table = TABLE) -> AsyncIterator[DuckDbJoinSession]:
    async with DuckDbJoinEngine(limits).session() as session:
        assert await session.land("kela", "benefits", table.schema, batches(table)) == table.num_rows
        yield session


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def rows(session: DuckDbJoinSession, sql: str, parameters: Any = None) -> Sequence[tuple[Any, ...]]:
    return [tuple(row.values()) for row in (await session.run(sql, parameters or {})).to_pylist()]


async def test_it_runs_the_statement_over_what_was_landed() -> None:
    """Port JoinEngine: schemas are participants, tables datasets; parameters by name."""
    async with landed() as session:
        await session.land("school", 'odd "name"', TABLE.schema, batches(TABLE))
        sql = 'SELECT b.n, l.name FROM kela.benefits b JOIN school."odd ""name""" l USING (n) WHERE n >= $p1'
        assert await rows(session, sql, {"p1": 2}) == [(2, "b")]
        assert await rows(session, "SELECT n FROM kela.benefits ORDER BY n DESC") == [(2,), (1,), (None,)]


async def test_no_rows_is_a_table_too() -> None:
    """An empty fragment lands with its columns."""
    async with landed(table=TABLE.slice(0, 0)) as session:
        answer = await session.run("SELECT name, count(*) AS c FROM kela.benefits GROUP BY name", {})
        assert (answer.column_names, answer.num_rows) == (["name", "c"], 0)


async def test_sessions_do_not_see_each_other() -> None:
    """One query's rows are never in reach of another's."""
    engine = DuckDbJoinEngine()
    async with engine.session() as one, engine.session() as other:
        await one.land("kela", "benefits", TABLE.schema, batches(TABLE))
        with pytest.raises(SqlInvalid):
            await other.run("SELECT * FROM kela.benefits", {})


ESCAPES = [
    "SELECT * FROM 'x.csv'",
    "SELECT * FROM read_csv('x.csv')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM glob('*')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM pg_class",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM memory.kela.benefits",
    "SELECT * FROM TABLE_THAT_IS_A_PYTHON_VARIABLE",
    "SELECT * FROM __incoming",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM unnest([1])",
    "SELECT * FROM (SHOW TABLES)",
    "SELECT * FROM (DESCRIBE kela.benefits)",
    "SELECT * FROM kela.benefits, range(3)",
    "WITH x AS (SELECT * FROM pg_class) SELECT * FROM x",
    "SELECT (SELECT max(name) FROM pg_class) FROM kela.benefits",
    "SELECT n FROM kela.benefits UNION SELECT oid FROM pg_class",
    "SELECT current_setting('memory_limit')",
    "SELECT getvariable('x')",
    "SELECT pg_sleep(1)",
    "SELECT list_transform([1], x -> json_serialize_sql('SELECT 1'))",
    "PIVOT kela.benefits ON name USING sum(n)",
    "SELECT 1; SELECT 2",
    "SET memory_limit = '10GB'",
    "ATTACH 'x.db'",
    "COPY kela.benefits TO 'x.csv'",
    "INSTALL httpfs",
    "DROP TABLE kela.benefits",
    "INSERT INTO kela.benefits VALUES (4, 'x')",
    "CREATE TABLE x AS SELECT 1",
    "EXPLAIN SELECT 1",
    "CALL pragma_version()",
    "",
]


@pytest.mark.parametrize("sql", ESCAPES)
async def test_nothing_but_landed_tables(sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even past our parser: DuckDB's own must find one SELECT over landed tables and harmless functions."""
    TABLE_THAT_IS_A_PYTHON_VARIABLE = TABLE  # noqa: F841, N806 - bait for replacement scans
    monkeypatch.chdir(tmp_path)
    async with landed() as session:
        with pytest.raises(SqlInvalid):
            await session.run(sql, {})
        assert await rows(session, "SELECT count(*) FROM kela.benefits") == [(3,)]
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t WHERE x < 3) "
        "SELECT * FROM t, kela.benefits",
        "SELECT * FROM (VALUES (1), (2)) v(a), LATERAL (SELECT a + n FROM kela.benefits) l",
        "SELECT n BETWEEN 1 AND 2, CAST(n AS VARCHAR), name LIKE 'a%', n IN (1, 2), -n, [n], {'a': n} "
        "FROM kela.benefits",
        "SELECT rank() OVER (ORDER BY n), count(*) FILTER (WHERE n > 1) OVER () FROM kela.benefits",
        "SELECT * FROM kela.benefits a ASOF JOIN kela.benefits b ON a.n >= b.n",
        "SELECT EXISTS (SELECT 1 FROM kela.benefits), n = ANY (SELECT 1) FROM kela.benefits",
        "SELECT COLUMNS('n.*') FROM kela.benefits UNION ALL BY NAME SELECT name FROM KELA.Benefits",
        "SELECT list_transform([n], lambda x : x + 1), current_date, year(now()) FROM kela.benefits",
    ],
)
async def test_what_analysts_write_passes_both_checks(sql: str) -> None:
    """Query: everything DuckDB runs."""
    async with landed() as session:
        await session.run(sql, {})


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT nope FROM kela.benefits", '"nope" not found'),
        ("SELECT nope(n) FROM kela.benefits", "nope does not exist"),
        ("SELECT sum(name) FROM kela.benefits", "sum"),
        ("SELECT n, count(*) FROM kela.benefits", "GROUP BY"),
        ("SELECT a.n FROM kela.benefits a, kela.benefits a", "a"),
    ],
)
async def test_a_statement_that_is_wrong(sql: str, text: str) -> None:
    """What is wrong with the statement is said in DuckDB's words, in one line or two."""
    async with landed() as session:
        with pytest.raises(SqlInvalid) as caught:
            await session.run(sql, {})
    assert text in caught.value.message
    assert "LINE 1" not in caught.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(name AS INTEGER) FROM kela.benefits",
        "SELECT name::DATE FROM kela.benefits",
        "SELECT CASE WHEN n IS NULL THEN CAST(name AS INTEGER) END FROM kela.benefits",
        "SELECT n + 9223372036854775807 FROM kela.benefits",
        "SELECT strptime(name, '%Y') FROM kela.benefits",
    ],
)
async def test_a_value_that_does_not_fit_is_not_quoted(sql: str) -> None:
    """DuckDB's text would show a row; ours does not."""
    async with landed() as session:
        with pytest.raises(SqlInvalid) as caught:
            await session.run(sql, {})
    assert "seven" not in str(caught.value)
    assert "TRY_CAST" in caught.value.mend


async def test_an_error_in_the_middle_of_an_answer() -> None:
    """Half an answer is none, and its text is ours as well."""
    many = pa.table({"n": list(range(300_000)), "name": ["1"] * 299_999 + ["seven"]})
    async with landed(table=many) as session:
        with pytest.raises(SqlInvalid) as caught:
            await session.run("SELECT n, CAST(name AS INTEGER) FROM kela.benefits", {})
        assert "seven" not in str(caught.value)


async def test_memory_is_bounded_and_nothing_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of others are never written to disk: what does not fit is refused."""
    monkeypatch.chdir(tmp_path)
    many = pa.table({"n": list(range(100_000)), "name": [f"{n:030}" for n in range(100_000)]})
    pairs = "SELECT a.name || b.name AS x FROM kela.benefits a, kela.benefits b WHERE a.n % 100 = b.n % 100"
    async with landed(JoinLimits(memory_mb=64), many) as session:
        with pytest.raises(RequestInvalid) as caught:
            await session.run(f"SELECT count(DISTINCT x) FROM ({pairs})", {})
    assert caught.value.code == "query_too_large"
    assert files(tmp_path) == []


async def test_landing_more_than_fits() -> None:
    """A fragment too large for the session is refused while it arrives."""
    big = pa.table({"n": list(range(100_000)), "name": [f"{n:0600}" for n in range(100_000)]})
    with pytest.raises(RequestInvalid, match="memory"):
        async with landed(JoinLimits(memory_mb=16), big):
            pass


async def test_an_answer_too_large() -> None:
    """A cross join that fits the engine need not fit the reader."""
    many = pa.table({"n": list(range(3_000)), "name": ["x"] * 3_000})
    async with landed(JoinLimits(answer_bytes=1 << 20), many) as session:
        with pytest.raises(RequestInvalid) as caught:
            await session.run("SELECT a.n, b.n FROM kela.benefits a, kela.benefits b", {})
    assert caught.value.code == "answer_too_large"


ENDLESS = "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT max(x) FROM t"


async def test_a_statement_that_takes_too_long() -> None:
    """A limit in seconds, after which the engine is free again."""
    async with landed(JoinLimits(run_seconds=0.2)) as session:
        with pytest.raises(RequestInvalid) as caught:
            await session.run(ENDLESS, {})
    assert caught.value.code == "query_too_long"


async def test_cancelling_interrupts_the_engine() -> None:
    """Query: cancel. The thread is free when the cancelled caller goes on."""
    async with landed() as session:
        task = asyncio.create_task(session.run(ENDLESS, {}))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 5
        assert await rows(session, "SELECT count(*) FROM kela.benefits") == [(3,)]


async def test_what_a_fragment_raises_passes() -> None:
    """A provider that fails while its rows are landed keeps its name."""

    async def failing() -> AsyncIterator[pa.RecordBatch]:
        yield TABLE.to_batches()[0]
        raise PeerUnreachable("gone", participant="kela")

    async with DuckDbJoinEngine().session() as session:
        with pytest.raises(PeerUnreachable, match="kela"):
            await session.land("kela", "benefits", TABLE.schema, failing())


async def test_only_so_many_at_once() -> None:
    """Beyond the limit a query is told to come back; a session that ends makes room; closed is closed."""
    engine = DuckDbJoinEngine(JoinLimits(sessions=1))
    async with engine.session():
        with pytest.raises(Unavailable):
            async with engine.session():
                pass
    async with engine.session():
        pass
    await engine.close()
    with pytest.raises(Unavailable):
        async with engine.session():
            pass
