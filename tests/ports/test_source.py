"""Port Source: SQLite, DuckDB over its own, Parquet, CSV and JSON files, and PostgreSQL answer alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from connector.data_plane.columns import arrow_schema
from connector.data_plane.dialects import dialect_named
from connector.errors import SourceUnavailable
from connector.model.catalog import Field
from connector.ports import Source, SourceQuery
from tests.parts import run_apart
from tests.parts.postgres import fresh_database
from tests.unit.data_plane import registers
from tests.unit.data_plane.registers import FIELDS, PLACES, TABLE, physical, quoted, row

UNICODE = "Åsa 'Öö' \"x\" 日本 😀 ; -- \n\t%"
ROWS = [
    *(row(n) for n in range(20)),
    row(20, area=UNICODE, note="", age=-5, income=-0.25),
    row(21, **{f.name: None for f in FIELDS if f.name != "hetu"}),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The kind of a register and where it is."""
    kind = str(request.param)
    if kind == "postgres":
        dsn = fresh_database(request.getfixturevalue("postgres_server"))
        return kind, registers.write_postgres(dsn, ROWS)
    path = tmp_path / f"it's a {kind} register.data"
    registers.write(kind, path, ROWS)
    return kind, str(path)


@pytest.fixture
async def source(place: tuple[str, str]) -> AsyncIterator[Source]:
    source = registers.open_source(*place)
    yield source
    await source.close()


def select(source: Source, *names: str, where: str = "", **more: Any) -> SourceQuery:
    """Columns in their logical types, as `render` asks for them."""
    dialect = dialect_named(source.dialect)
    fields = [f for name in names for f in FIELDS if f.name == name]
    columns = ", ".join(dialect.column(f"b.{quoted(physical(f))}", f.type) for f in fields)
    sql = f"SELECT {columns} FROM {source.relation} AS b {where}"
    return SourceQuery(sql=sql, result=tuple(Field(name=f.name, type=f.type) for f in fields), **more)


async def read(source: Source, query: SourceQuery, batch_rows: int = 1000) -> pa.Table:
    async with aclosing(source.execute(query, batch_rows=batch_rows)) as batches:  # type: ignore[type-var]
        return pa.Table.from_batches([b async for b in batches], arrow_schema(query.result))


class TestSource:
    async def test_tells_its_physical_columns(self, source: Source) -> None:
        """Port Source: `schema` finds every column the descriptor names, so that the two can be compared."""
        found = {f.name: f.type for f in await source.schema()}
        assert found.keys() == {physical(f) for f in FIELDS}
        if source.dialect != "sqlite":  # which has no types for dates and booleans
            assert found == {physical(f): f.type for f in FIELDS}

    async def test_every_type_arrives_as_ours(self, source: Source) -> None:
        """Query: one schema over all sources, whatever the engine's own types; instants in UTC."""
        query = select(source, *(f.name for f in FIELDS))
        table = await read(source, query)
        assert table.schema == arrow_schema(FIELDS)
        assert table.sort_by("hetu").to_pylist()[:20] == [dict(r) for r in ROWS[:20]]
        assert table.schema.field("seen").type == pa.timestamp("us", "UTC")

    async def test_unicode_and_empty_text_survive(self, source: Source) -> None:
        """Skeleton, real data: names and texts in any script; the empty text is not an absent one."""
        table = await read(source, select(source, "area", "note", "hetu", where=""))
        (found,) = [r for r in table.to_pylist() if r["hetu"] == ROWS[20]["hetu"]]
        assert found["area"] == UNICODE
        assert found["note"] == ""

    async def test_absent_values_are_null(self, source: Source) -> None:
        """Query: NULL stays NULL in every type."""
        table = await read(source, select(source, *(f.name for f in FIELDS)))
        (found,) = [r for r in table.to_pylist() if r["hetu"] == ROWS[21]["hetu"]]
        assert found == ROWS[21]

    @pytest.mark.parametrize("batch_rows", [1, 7, 1000])
    async def test_batches_are_bounded(self, source: Source, batch_rows: int) -> None:
        """Query, bounded: no batch is larger than asked, and together they are everything."""
        query = select(source, "hetu")
        batches = [b async for b in source.execute(query, batch_rows=batch_rows)]
        assert all(0 < b.num_rows <= batch_rows for b in batches)
        assert sorted(v for b in batches for v in b.column(0).to_pylist()) == [r["hetu"] for r in ROWS]

    async def test_no_rows_is_an_answer(self, source: Source) -> None:
        """An empty result is empty, not a failure."""
        assert (await read(source, select(source, "hetu", where="WHERE 1 = 0"))).num_rows == 0

    @pytest.mark.parametrize(
        "text", [UNICODE, "' OR '1'='1", "'; DROP TABLE register; --", '"', "?", "$1", "%s", "\\'"]
    )
    async def test_parameters_are_bound_never_spliced(self, source: Source, text: str) -> None:
        """fedquery 3.1.10: a literal cannot become SQL."""
        mark = dialect_named(source.dialect).placeholder("string")
        query = select(source, "area", where=f"WHERE b.area = {mark}", parameters=(text,))
        assert (await read(source, query)).num_rows == (1 if text == UNICODE else 0)

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("age", 20),
            ("age", 2**40),  # beyond the column's own width
            ("income", 1000.5),
            ("active", True),
            ("born", date(1990, 1, 1)),
            ("seen", datetime(2026, 1, 1, 12, 30, 15, 250_000, UTC)),
        ],
    )
    async def test_parameters_of_every_type(self, source: Source, column: str, value: Any) -> None:
        """Query: a literal compares as its column's type on every engine."""
        field = next(f for f in FIELDS if f.name == column)
        dialect = dialect_named(source.dialect)
        left = dialect.column(f"b.{quoted(physical(field))}", field.type)
        where = f"WHERE {left} = {dialect.placeholder(field.type)}"
        table = await read(source, select(source, "hetu", where=where, parameters=(value,)))
        assert sorted(table.column("hetu").to_pylist()) == [r["hetu"] for r in ROWS if r[column] == value]

    @pytest.mark.parametrize("count", [0, 1, 50_000])
    async def test_key_lists_of_any_length(self, source: Source, count: int) -> None:
        """Architecture, consent and the source: the semi-join runs in the provider's engine."""
        keys = [str(ROWS[3]["hetu"]), *(f"nobody's {n}" for n in range(count - 1))][:count]
        dialect = dialect_named(source.dialect)
        where = f"WHERE {dialect.among_keys(f'b.{quoted(physical(FIELDS[0]))}', '__keys')}"
        query = select(source, "hetu", where=where, key_lists={"__keys": keys})
        expected = [ROWS[3]["hetu"]] if count else []
        assert (await read(source, query)).column("hetu").to_pylist() == expected

    async def test_queries_at_once_do_not_see_each_others_keys(self, source: Source) -> None:
        """Two consumers at once: each query has its own key list of the same name."""
        dialect = dialect_named(source.dialect)
        where = f"WHERE {dialect.among_keys(f'b.{quoted(physical(FIELDS[0]))}', '__keys')}"

        async def one(number: int) -> list[Any]:
            key = str(ROWS[number]["hetu"])
            query = select(source, "note", where=where, key_lists={"__keys": [key]})
            found: list[Any] = (await read(source, query)).column("note").to_pylist()
            return found

        answers = await asyncio.gather(*(one(n) for n in range(12)))
        assert answers == [[ROWS[n]["note"]] for n in range(12)]

    async def test_closing_between_batches_stops_at_once(self, source: Source) -> None:
        """Port Source: the consumer left; the next query finds a working source."""
        begun = time.monotonic()
        batches = source.execute(endless(source), batch_rows=10)
        assert (await anext(batches)).num_rows == 10
        await batches.aclose()  # type: ignore[attr-defined]
        assert time.monotonic() - begun < 5
        assert (await read(source, select(source, "hetu"))).num_rows == len(ROWS)

    async def test_cancelling_a_running_statement_frees_the_engine(
        self, source: Source, place: tuple[str, str]
    ) -> None:
        """Query: cancel within a second of the client leaving, also before the first row."""
        task = asyncio.create_task(read(source, endless(source, rows=False)))
        await asyncio.sleep(0.3)
        assert not task.done()
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if source.dialect == "postgres":
            await no_statement_runs(place[1])
        assert time.monotonic() - begun < 1.5
        assert (await read(source, select(source, "hetu"))).num_rows == len(ROWS)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM {relation}",
            "UPDATE {relation} SET area = 'x'",
            "INSERT INTO {relation} SELECT * FROM {relation}",
            "DROP TABLE {relation}",
            "CREATE TABLE planted (a integer)",
            "CREATE TEMP TABLE planted (a integer)",
            "SELECT 1; DELETE FROM {relation}",
            "WITH gone AS (DELETE FROM {relation} RETURNING 1) SELECT * FROM gone",
            "ATTACH ':memory:' AS other",
            "COPY {relation} TO '{folder}/stolen.csv'",
            "PRAGMA writable_schema = ON",
            "SET default_transaction_read_only = off",
            "VACUUM",
        ],
    )
    async def test_cannot_write(
        self, source: Source, place: tuple[str, str], statement: str, tmp_path: Path
    ) -> None:
        """fedquery 3.1.12: even SQL that our renderer would never make changes nothing."""
        sql = statement.format(relation=source.relation, folder=tmp_path)
        files = names_in(tmp_path)
        with pytest.raises(SourceUnavailable):
            await read(source, SourceQuery(sql=sql, result=(Field(name="a", type="integer"),)))
        again = registers.open_source(*place)
        assert (await read(again, select(again, "area"))).num_rows == len(ROWS)
        await again.close()
        assert names_in(tmp_path) == files

    async def test_a_broken_statement_tells_nothing(
        self, source: Source, caplog: pytest.LogCaptureFixture
    ) -> None:
        """fedquery 3.1.7: engine errors quote values and SQL, so they never leave, not even to the log."""
        query = replace(select(source, "age"), sql=f"SELECT marker_4711 FROM {source.relation}")
        with pytest.raises(SourceUnavailable) as caught:
            await read(source, query)
        seen = f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r} {caplog.text}"
        assert "marker_4711" not in seen
        assert "incident-1" in str(caught.value)
        assert "incident-1" in caplog.text

    async def test_a_value_of_another_type_fails_without_showing_it(self, source: Source) -> None:
        """A text where the descriptor says integer is an error, never a guess."""
        query = select(source, "note", where="WHERE b.note <> ''")
        query = replace(query, result=(Field(name="note", type="integer"),))
        with pytest.raises(SourceUnavailable) as caught:
            await read(source, query)
        assert "note" not in str(caught.value)

    async def test_a_column_that_is_not_there_fails(self, place: tuple[str, str]) -> None:
        """A descriptor that promises too much: refused at the first query, the name is for the log only.

        JSON leaves out what is absent: there, only `connector contract test` can tell.
        """
        if place[0].startswith("json"):
            pytest.skip("a member that no object has is an absent value")
        fields = [*FIELDS, Field(name="promised", type="string", physical_name="missing_4711")]
        source = registers.open_source(*place, fields=fields)
        with pytest.raises(SourceUnavailable) as caught:
            await read(source, select(source, "hetu"))
        assert "missing_4711" not in str(caught.value)
        await source.close()

    async def test_a_missing_register_fails_without_its_place(
        self, place: tuple[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Skeleton: SourceUnavailable with no path, DSN or engine text in it."""
        kind, location = place
        if kind == "postgres":
            missing = location.rsplit("/", 1)[0] + "/nowhere_4711"
        else:
            missing = str(Path(location).parent / "nowhere_4711.data")
        source = registers.open_source(kind, missing)
        for attempt in (source.schema(), read(source, select(source, "hetu"))):
            with pytest.raises(SourceUnavailable) as caught:
                await attempt
            assert "nowhere_4711" not in f"{caught.value!r} {caught.value.__context__!r} {caplog.text}"
        await source.close()


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def endless(source: Source, *, rows: bool = True) -> SourceQuery:
    """A statement that runs for minutes: rows from the start, or none until its end."""
    many = f"{source.relation} AS b" + "".join(f", {source.relation} AS b{n}" for n in range(7))
    sql = f"SELECT b.age FROM {many}"
    if not rows:
        sums = " + ".join(f"b{n}.age" for n in range(7))
        sql = f"SELECT COUNT(*) FROM {many} WHERE (b.age + {sums}) % 13 = 20 % 13"
    return SourceQuery(sql=sql, result=(Field(name="age", type="integer"),))


async def no_statement_runs(dsn: str, within_seconds: float = 1.0) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        deadline = time.monotonic() + within_seconds
        count = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() "
        while await connection.fetchval(count + "AND usename = current_user"):
            assert time.monotonic() < deadline, "the backend still runs the statement"
            await asyncio.sleep(0.02)
    finally:
        await connection.close()


class TestPostgresRole:
    """Query: a source role that can write is refused."""

    @pytest.mark.parametrize(
        "right", ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "UPDATE (area)", "superuser"]
    )
    async def test_a_role_that_can_write_is_refused(
        self, postgres_server: Any, right: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """fedquery 3.1.12: the read-only role is checked, not trusted."""
        owner = fresh_database(postgres_server)
        location = registers.write_postgres(owner, ROWS)
        role = location.split("//")[1].split("@")[0]
        if right == "superuser":
            location = owner
        else:
            run_apart(lambda: execute(owner, f"GRANT {right} ON {quoted(TABLE)} TO {role}"))
        source = registers.open_source("postgres", location)
        with pytest.raises(SourceUnavailable):
            await read(source, select(source, "hetu"))
        assert "may write" in caplog.text
        await source.close()

    async def test_a_text_that_compares_loosely_is_refused(self, postgres_server: Any) -> None:
        """Text compares by code points: a column under a non-deterministic collation cannot."""
        owner = fresh_database(postgres_server)
        location = registers.write_postgres(owner, ROWS)
        loose = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        try:
            run_apart(lambda: execute(owner, loose))
        except asyncpg.PostgresError:
            pytest.skip("this PostgreSQL has no ICU collations")
        change = f"ALTER TABLE {quoted(TABLE)} ALTER COLUMN area TYPE text COLLATE loose"
        run_apart(lambda: execute(owner, change))
        source = registers.open_source("postgres", location)
        with pytest.raises(SourceUnavailable):
            await read(source, select(source, "hetu"))
        await source.close()


async def execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


class TestFiles:
    async def test_a_folder_whose_files_differ_is_refused(self, tmp_path: Path) -> None:
        """Columns of a CSV go by name: two files with other headers are not one register."""
        (tmp_path / "1.csv").write_text("a,b\n1,2\n", encoding="utf-8")
        (tmp_path / "2.csv").write_text("b,a\n1,2\n", encoding="utf-8")
        source = registers.open_source("csv", str(tmp_path), (Field(name="a", type="string"),))
        with pytest.raises(SourceUnavailable):
            await source.schema()
        await source.close()

    async def test_a_file_that_is_added_is_read(self, tmp_path: Path) -> None:
        """Issue Query, folders: the register is what is there now."""
        folder = tmp_path / "register"
        registers.write("parquet folder", folder, ROWS)
        source = registers.open_source("parquet", str(folder))
        registers.write("parquet", folder / "3.parquet", [row(30)])
        assert (await read(source, select(source, "hetu"))).num_rows == len(ROWS) + 1
        await source.close()

    async def test_a_database_file_is_free_between_queries(self, tmp_path: Path) -> None:
        """Its owner can write to it: DuckDB lets nobody write while another process reads."""
        path = tmp_path / "register.duckdb"
        registers.write("duckdb", path, ROWS)
        source = registers.open_source("duckdb", str(path))
        assert (await read(source, select(source, "hetu"))).num_rows == len(ROWS)
        registers.write("duckdb", path, [*ROWS, row(30)])
        assert (await read(source, select(source, "hetu"))).num_rows == len(ROWS) + 1
        await source.close()

    async def test_duckdb_opens_no_other_file(self, tmp_path: Path) -> None:
        """fedquery 3.2, engine escape: other files, settings and catalogues are out of reach."""
        path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
        registers.write_parquet(path, ROWS)
        registers.write_parquet(other, ROWS)
        source = registers.open_source("parquet", str(path))
        for sql in (
            f"SELECT 1 FROM read_parquet('{other}')",
            f"SELECT 1 FROM '{other}'",
            "SELECT 1 FROM read_text('/etc/passwd')",
            "SELECT 1 FROM glob('/etc/*')",
            "SELECT 1 FROM read_csv('http://127.0.0.1/x.csv')",
            "SELECT a FROM query('DROP VIEW register')",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
        ):
            with pytest.raises(SourceUnavailable):
                await read(source, SourceQuery(sql=sql, result=(Field(name="a", type="integer"),)))
        await source.close()

    async def test_a_replaced_csv_is_read_by_its_own_header(self, tmp_path: Path) -> None:
        """Columns of a CSV go by name: in a new file a hidden one may stand where an open one stood."""
        fields = (Field(name="open", type="string"), Field(name="closed", type="string"))
        path = tmp_path / "a.csv"
        path.write_text("open,closed\npublic,hidden\n", encoding="utf-8")
        source = registers.open_source("csv", str(path), fields)
        query = SourceQuery(sql='SELECT b.open FROM "register" AS b', result=(fields[0],))
        assert (await read(source, query)).to_pylist() == [{"open": "public"}]
        path.write_text("closed,open\nhidden,public 2\n", encoding="utf-8")
        assert (await read(source, query)).to_pylist() == [{"open": "public 2"}]
        await source.close()

    async def test_csv_instants_keep_their_offset(self, tmp_path: Path) -> None:
        """2026-01-01 00:00 in Helsinki is still the year before in UTC; without an offset it is UTC."""
        fields = (Field(name="seen", type="timestamp"),)
        path = tmp_path / "a.csv"
        path.write_text("seen\n2026-01-01T00:00:00+02:00\n2026-01-01 00:00:00\n", encoding="utf-8")
        source = registers.open_source("csv", str(path), fields)
        column = dialect_named("duckdb").column("b.seen", "timestamp")
        query = SourceQuery(sql=f'SELECT {column} FROM "register" AS b', result=fields)
        assert (await read(source, query)).column("seen").to_pylist() == [
            datetime(2025, 12, 31, 22, tzinfo=UTC),
            datetime(2026, 1, 1, tzinfo=UTC),
        ]
        await source.close()

    @pytest.mark.parametrize("text", ["", "a,a\n1,2\n"])
    async def test_a_csv_without_a_usable_header_fails(self, tmp_path: Path, text: str) -> None:
        """No header, or a name twice: which column is meant is never guessed."""
        path = tmp_path / "a.csv"
        path.write_text(text, encoding="utf-8")
        source = registers.open_source("csv", str(path), (Field(name="a", type="string"),))
        with pytest.raises(SourceUnavailable):
            await source.schema()
        await source.close()
