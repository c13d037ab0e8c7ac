"""One small register in every technology a source may have, for tests of sources and of the policy."""

from __future__ import annotations

import csv
import itertools
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq

from connector.adapters.sources.duckdb_source import DuckDbSource
from connector.adapters.sources.postgres_source import PostgresSource
from connector.adapters.sources.sqlite_source import SqliteSource
from connector.model.catalog import Dataset, DatasetStatus, Field, Gdpr, SourceRef
from connector.ports import Source
from tests.parts import run_apart

KINDS = ("sqlite", "parquet", "csv", "postgres")
"""An engine or a reader each: what policies are tried on."""
PLACES = (*KINDS, "json", "duckdb", "parquet folder", "csv folder", "json folder")
"""Every kind of register that a descriptor can name."""
TABLE = 'the "register"'
Row = Mapping[str, Any]

FIELDS = (
    Field(name="hetu", type="string", physical_name='person "id" ?'),  # a name that wants quoting
    Field(name="area", type="string"),
    Field(name="age", type="integer"),
    Field(name="income", type="number", physical_name="Income"),
    Field(name="active", type="boolean"),
    Field(name="born", type="date"),
    Field(name="seen", type="timestamp"),
    Field(name="note", type="string"),
    Field(name="secret", type="string"),
)
SQL_TYPES = {
    "string": ("TEXT COLLATE NOCASE", "text"),  # whose own idea of equality must not matter
    "integer": ("INTEGER", "integer"),  # narrower than ours in PostgreSQL, on purpose
    "number": ("REAL", "double precision"),
    "boolean": ("INTEGER", "boolean"),
    "date": ("TEXT", "date"),
    "timestamp": ("TEXT", "timestamptz"),
}
TIMES = ("date", "timestamp")
ARROW_TYPES = {
    "string": pa.string(),
    "integer": pa.int32(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("ms", "UTC"),
}


def dataset(subject_key: str = "hetu", fields: Sequence[Field] = FIELDS) -> Dataset:
    return Dataset(
        id="persons-1",
        contract_id="c",
        version="1.0.0",
        status=DatasetStatus.ACTIVE,
        title={"en": "Persons"},
        description="",
        fields=tuple(fields),
        source=SourceRef(kind="sqlite", location="x", table=TABLE),
        gdpr=Gdpr(personal_data=True),
        offers=(),
        subject_key=subject_key,
    )


def row(number: int, **values: Any) -> Row:
    """A person whose every value follows from a number, but for those given."""
    person: dict[str, Any] = {
        "hetu": f"010190-9{number:02d}A",
        "area": f"area {number % 3}",
        "age": 20 + number % 50,
        "income": 1000.5 + number,
        "active": number % 2 == 0,
        "born": date(1990, 1 + number % 12, 1 + number % 28),
        "seen": datetime(2026, 1, 1 + number % 28, 12, 30, 15, 250_000, UTC),
        "note": f"note {number}",
        "secret": f"secret {number}",
    }
    return {**person, **values}


def ids() -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"incident-{next(counter)}"


def physical(field: Field) -> str:
    return field.physical_name or field.name


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def write_sqlite(path: Path, rows: Iterable[Row]) -> None:
    columns = ", ".join(f"{quoted(physical(f))} {SQL_TYPES[f.type][0]}" for f in FIELDS)
    marks = ", ".join("?" for _ in FIELDS)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"DROP TABLE IF EXISTS {quoted(TABLE)}")
        connection.execute(f"CREATE TABLE {quoted(TABLE)} ({columns})")
        values = ([_plain(r[f.name]) for f in FIELDS] for r in rows)
        connection.executemany(f"INSERT INTO {quoted(TABLE)} VALUES ({marks})", values)


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    listed = list(rows)
    arrays = [pa.array([r[f.name] for r in listed], ARROW_TYPES[f.type]) for f in FIELDS]
    pq.write_table(pa.table(arrays, names=[physical(f) for f in FIELDS]), path)


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Absent is nothing between two commas, the empty text is `""`; columns in another order than ours."""
    fields = FIELDS[::-1]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow([physical(f) for f in fields])
        for r in rows:
            file.write(",".join(_cell(r[f.name]) for f in fields) + "\n")


def write_json(path: Path, rows: Iterable[Row]) -> None:
    """One object a line; an absent value has no member."""
    with path.open("w", encoding="utf-8") as file:
        for r in rows:
            members = {physical(f): _plain(r[f.name]) for f in FIELDS if r[f.name] is not None}
            file.write(json.dumps(members, ensure_ascii=False) + "\n")


def write_duckdb(path: Path, rows: Iterable[Row]) -> None:
    import duckdb

    listed = list(rows)
    arrays = [pa.array([r[f.name] for r in listed], ARROW_TYPES[f.type]) for f in FIELDS]
    with duckdb.connect(str(path)) as connection:
        connection.register("rows", pa.table(arrays, names=[physical(f) for f in FIELDS]))
        connection.execute(f"CREATE OR REPLACE TABLE {quoted(TABLE)} AS SELECT * FROM rows")


def write(kind: str, path: Path, rows: Sequence[Row]) -> None:
    """A register in a file or a folder; a folder's is in two files, beside one that is not of it."""
    kind, _, folder = kind.partition(" ")
    if folder:
        path.mkdir()
        (path / "README.txt").write_text("not a register")
        write(kind, path / f"1.{kind}", rows[:7])
        write(kind, path / f"2.{kind}", rows[7:])
        return
    writers = {
        "sqlite": write_sqlite,
        "parquet": write_parquet,
        "csv": write_csv,
        "json": write_json,
        "duckdb": write_duckdb,
    }
    writers[kind](path, rows)


def write_postgres(dsn: str, rows: Iterable[Row]) -> str:
    """Returns the DSN of a role that may only read. Fails unless `dsn` is a superuser's."""
    reader = f"reader_{uuid.uuid4().hex[:12]}"

    async def fill() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            order = await _human_collation(connection)
            columns = ", ".join(
                f"{quoted(physical(f))} {SQL_TYPES[f.type][1]}{order if f.type == 'string' else ''}"
                for f in FIELDS
            )
            await connection.execute(f"DROP TABLE IF EXISTS {quoted(TABLE)}")
            await connection.execute(f"CREATE TABLE {quoted(TABLE)} ({columns})")
            values = [[_plain(r[f.name]) if f.type in TIMES else r[f.name] for f in FIELDS] for r in rows]
            marks = ", ".join(_mark(n, f) for n, f in enumerate(FIELDS, 1))
            await connection.executemany(f"INSERT INTO {quoted(TABLE)} VALUES ({marks})", values)
            await connection.execute(f"CREATE ROLE {reader} LOGIN")
            await connection.execute(f"GRANT SELECT ON {quoted(TABLE)} TO {reader}")
        finally:
            await connection.close()

    run_apart(fill)
    return dsn.replace("//postgres@", f"//{reader}@")


async def _human_collation(connection: asyncpg.Connection) -> str:
    """Texts ordered as people do, not by code points, where this PostgreSQL can: it must not matter."""
    name = "SELECT collname FROM pg_collation WHERE collname = 'en-x-icu'"
    return ' COLLATE "en-x-icu"' if await connection.fetchval(name) else ""


def _mark(number: int, field: Field) -> str:
    """asyncpg would write the last of all dates as infinity."""
    return (
        f"CAST(CAST(${number} AS text) AS {SQL_TYPES[field.type][1]})"
        if field.type in TIMES
        else f"${number}"
    )


def open_source(kind: str, location: str, fields: Sequence[Field] = FIELDS) -> Source:
    """`location`: what `write_...` wrote to, or the DSN it returned."""
    common: dict[str, Any] = {"name": "persons-1", "fields": fields, "new_id": ids()}
    if kind == "sqlite":
        return SqliteSource(path=Path(location), table=TABLE, **common)
    if kind == "postgres":
        return PostgresSource(dsn=location, table=TABLE, statement_seconds=20, **common)
    own: Any = kind.removesuffix(" folder")
    return DuckDbSource(path=Path(location), kind=own, table=TABLE, **common)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return str(_plain(value))
