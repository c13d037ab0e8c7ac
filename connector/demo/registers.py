"""The synthetic registers as files, each in the technology its owner is imagined to use.

Every writer replaces what was at `path`; the directory must exist.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import fields
from operator import attrgetter
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from connector.demo.population import Client, Consent, LeaverMonth, Population

BENEFITS_ROW_GROUP_ROWS = 20_000

# STRICT: SQLite would otherwise take text in an integer column. Dates are ISO text, which sorts as dates do.
_CREATE_CLIENTS = """
CREATE TABLE clients (
    hetu              TEXT    NOT NULL PRIMARY KEY,
    name              TEXT    NOT NULL,
    birth_year        INTEGER NOT NULL,
    postal_code       TEXT    NOT NULL,
    registered_on     TEXT    NOT NULL,
    unemployed_months INTEGER NOT NULL CHECK (unemployed_months >= 0),
    occupation_code   TEXT    NOT NULL,
    service           TEXT    NOT NULL CHECK (
        service IN ('guidance', 'work_trial', 'training', 'rehabilitation', 'none')),
    support_need      TEXT    NOT NULL CHECK (support_need IN ('none', 'low', 'medium', 'high'))
) STRICT
"""

_INSERT_CLIENT = """
INSERT INTO clients (hetu, name, birth_year, postal_code, registered_on, unemployed_months,
                     occupation_code, service, support_need)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_BENEFITS_SCHEMA = pa.schema(
    [
        pa.field("hetu", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("postal_code", pa.string(), nullable=False),
        pa.field("birth_year", pa.int32(), nullable=False),
        pa.field("sex", pa.string(), nullable=False),
        pa.field("benefit", pa.string(), nullable=False),
        pa.field("month", pa.date32(), nullable=False),
        pa.field("sick_days", pa.int32(), nullable=False),
        pa.field("work_capacity_pct", pa.int32(), nullable=True),
    ]
)


def write_clients_sqlite(path: str | PathLike[str], population: Population) -> None:
    """Write employment.clients as table `clients`; the primary key on hetu is also its index."""
    Path(path).unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_CREATE_CLIENTS)
        connection.executemany(_INSERT_CLIENT, map(_client_values, population.clients))


def _client_values(client: Client) -> tuple[str | int, ...]:
    return (
        client.hetu,
        client.name,
        client.birth_year,
        client.postal_code,
        client.registered_on.isoformat(),
        client.unemployed_months,
        client.occupation_code,
        client.service,
        client.support_need,
    )


def write_benefits_parquet(path: str | PathLike[str], population: Population) -> None:
    """Write kela.benefits in order of month, then hetu, so that a month's rows share few row groups."""
    arrays = [
        pa.array(map(attrgetter(field.name), population.benefits), field.type, size=len(population.benefits))
        for field in _BENEFITS_SCHEMA
    ]
    table = pa.Table.from_arrays(arrays, schema=_BENEFITS_SCHEMA)
    pq.write_table(table, path, row_group_size=BENEFITS_ROW_GROUP_ROWS)


def write_leavers_csv(path: str | PathLike[str], population: Population) -> None:
    """Write school.leavers in order of month, then hetu; read postal codes as text, they begin with zeros."""
    _write_csv(path, LeaverMonth, population.leavers)


def write_consents_csv(path: str | PathLike[str], consents: Iterable[Consent]) -> None:
    """Write one controller's consent register, one line per person who was ever asked and answered."""
    _write_csv(path, Consent, consents)


def _write_csv(
    path: str | PathLike[str],
    row_type: type[LeaverMonth | Consent],
    rows: Iterable[LeaverMonth] | Iterable[Consent],
) -> None:
    names = [field.name for field in fields(row_type)]
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(map(attrgetter(*names), rows))
