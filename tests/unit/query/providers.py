"""An ecosystem in memory: participants that answer fragments over Arrow tables, as the data API does.

What a provider is sent goes through the real parser of the closed grammar, so that what the planner
writes is known to be accepted; it is then run in DuckDB over the provider's own table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from random import Random
from typing import Any

import duckdb
import pyarrow as pa

from connector.access import end_record
from connector.adapters.duckdb_join import DuckDbJoinEngine
from connector.data_plane import transport
from connector.data_plane.fragment import parse_fragment
from connector.model.catalog import Dataset, DatasetStatus, Field, Gdpr, LogicalType, SourceRef
from connector.model.decision import Mask, Permit, Pseudonym
from connector.model.fragment import EndRecord, HiddenPart
from connector.query.federate import Access, Federation
from connector.query.fragment_sql import fragment_sql
from tests.unit.access.evidence import fresh_keys

PURPOSE = "service-planning"
KEYS = {name: fresh_keys(name) for name in ("kela", "employment", "school")}
_TYPES: dict[pa.DataType, LogicalType] = {
    pa.string(): "string",
    pa.int64(): "integer",
    pa.float64(): "number",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamp",
}


class Unhashed:
    """A table as a key of a cache: by identity."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __hash__(self) -> int:
        return id(self.table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashed) and other.table is self.table


@lru_cache(maxsize=4)
def _database(tables: tuple[tuple[tuple[str, str], Unhashed], ...]) -> Database:
    return Database({name: held.table for name, held in tables})


def forget() -> None:
    """Close what samples share."""
    _database.cache_clear()


@dataclass(kw_only=True)
class Provided:
    """A dataset of one participant: its rows as this consumer may see them, and under what permit."""

    table: pa.Table
    pseudonyms: frozenset[str] = frozenset()
    masks: Mapping[str, Mask] = field(default_factory=dict)
    invertible: bool = False
    aggregate_only: bool = False
    dimensions: frozenset[str] = frozenset()
    min_group_size: int = 1
    identified: bool = False

    def permit(self) -> Permit:
        domain = Pseudonym(domain="planning-2026", generation=1, invertible=self.invertible)
        return Permit(
            columns=frozenset(self.table.column_names),
            pseudonyms=dict.fromkeys(self.pseudonyms, domain),
            column_masks=self.masks,
            aggregate_only=self.aggregate_only,
            dimensions=self.dimensions,
            min_group_size=self.min_group_size,
            key_exchange=self.invertible,
            identified=self.identified,
        )

    def dataset(self, name: str) -> Dataset:
        return Dataset(
            id=name,
            contract_id=name,
            version="1",
            status=DatasetStatus.ACTIVE,
            title={"en": name},
            description="",
            fields=tuple(Field(name=f.name, type=_TYPES[f.type]) for f in self.table.schema),
            source=SourceRef(kind="parquet", location="x"),
            gdpr=Gdpr(personal_data=True),
            offers=(),
        )

    def described(self, access: Access) -> dict[str, Any]:
        filterable = {c for c in self.table.column_names if c not in self.pseudonyms or self.invertible}
        if self.aggregate_only:
            filterable &= self.dimensions
        return {
            "dataset": access.dataset,
            "participant": access.participant,
            "agreement": access.agreement_id,
            "purpose": access.purpose,
            "columns": [
                {
                    "name": f.name,
                    "type": _TYPES[f.type],
                    "exposure": self._exposure(f.name),
                    "filterable": f.name in filterable and self._exposure(f.name) != "mask:hash",
                }
                for f in self.table.schema
            ],
            "aggregateOnly": self.aggregate_only,
            "dimensions": sorted(self.dimensions),
            "minGroupSize": self.min_group_size,
            "subjectsNamed": False,
            "keyExchange": self.invertible,
            "identified": self.identified,
            "collaboration": "planning-2026" if self.pseudonyms else "",
            "policyRevision": f"policy-of-{access.participant}",
            "hidden": [{"what": "column name", "why": "not opened", "enforcedBy": access.participant}],
        }

    def _exposure(self, column: str) -> str:
        if column in self.pseudonyms:
            return "pseudonym"
        return f"mask:{self.masks[column].kind}" if column in self.masks else "clear"


@dataclass
class Raises:
    """The source fails behind its last row. A fresh exception each time: a kept one keeps its frames."""

    make: Callable[[], Exception]


@dataclass
class Ecosystem:
    """`asked`: every fragment a participant was sent. `faults`: (participant, dataset) -> what goes wrong."""

    provided: dict[tuple[str, str], Provided]
    asked: list[tuple[str, str]] = field(default_factory=list)
    faults: dict[tuple[str, str], Any] = field(default_factory=dict)
    described: list[str] = field(default_factory=list)
    open_streams: int = 0
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        self.database = _database(tuple((name, Unhashed(p.table)) for name, p in self.provided.items()))

    def federation(self, **options: Any) -> Federation:
        return Federation(
            resolve=self.resolve,
            describe=self.describe,
            open_stream=self.open_stream,
            jwks_of=lambda participant: KEYS[participant].public_jwks(),
            join_engine=options.pop("join_engine", None) or DuckDbJoinEngine(),
            **options,
        )

    async def resolve(self, participant: str, dataset: str, purpose: str, actor: str) -> Access | None:
        if (participant, dataset) not in self.provided or purpose != PURPOSE:
            return None
        return Access(
            participant=participant,
            dataset=dataset,
            agreement_id=f"agreement-{participant}-{dataset}",
            purpose=purpose,
            actor=actor,
        )

    async def describe(self, access: Access) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.described.append(f"{access.participant}.{access.dataset}")
        return self.provided[access.participant, access.dataset].described(access)

    @asynccontextmanager
    async def open_stream(
        self, access: Access, sql: str, batch_rows: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((access.participant, sql))
        self.open_streams += 1
        try:
            yield self._answer(access, sql, batch_rows)
        finally:
            self.open_streams -= 1

    async def _answer(self, access: Access, sql: str, batch_rows: int) -> AsyncIterator[bytes]:
        provided = self.provided[access.participant, access.dataset]
        fault = self.faults.get((access.participant, access.dataset))
        fragment = parse_fragment(sql, provided.dataset(access.dataset), provided.permit())
        table = self.database.run(fragment_sql(fragment), schema=access.participant)

        async def batches() -> AsyncIterator[pa.RecordBatch]:
            for batch in _as_wire(table).to_batches(batch_rows):
                await asyncio.sleep(0)
                yield batch
            if isinstance(fault, Raises):
                raise fault.make()

        async def finish(rows: int, digest: str, error: str) -> str:
            record = EndRecord(
                rows=rows,
                digest=digest,
                audit_id=f"audit-{access.participant}-{len(self.asked)}",
                grant_id="grant",
                policy_revision=f"policy-of-{access.participant}",
                identified=provided.identified,
                hidden=(HiddenPart(what="column name", why="not opened", enforced_by=access.participant),),
                error=error,
            )
            return end_record.sign(record, KEYS[access.participant])

        sent = 0
        async for chunk in transport.encode(_as_wire(table).schema, batches(), finish):
            sent += 1
            if fault is not None and not isinstance(fault, Raises):
                chunk = await fault(sent, chunk)
            yield chunk


def _as_wire(table: pa.Table) -> pa.Table:
    """The types of the data API: sums of integers are 64 bits wide there."""
    fields = [f.with_type(pa.int64()) if pa.types.is_decimal(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


class Database:
    """Every participant's tables in one DuckDB: what fragments run in, and what answers are compared with."""

    def __init__(self, tables: Mapping[tuple[str, str], pa.Table]) -> None:
        self._connection = duckdb.connect(
            ":memory:", config={"default_null_order": "nulls_last", "threads": "1"}
        )
        self._connection.execute("SET TimeZone = 'UTC'")
        for (schema, name), table in tables.items():
            self._connection.register("incoming", table)
            self._connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            self._connection.execute(f'CREATE TABLE "{schema}"."{name}" AS SELECT * FROM incoming')
            self._connection.unregister("incoming")

    def run(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), schema: str = "main"
    ) -> pa.Table:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.execute(f"SET schema = '{schema}'")
            table: pa.Table = cursor.sql(sql, params=parameters or None).to_arrow_table()
        return table


# --- data -----------------------------------------------------------------------------------------------


def sample() -> Ecosystem:
    """Three registers about the same few persons; one of them a second time, as groups only."""
    key = frozenset({"person"})
    benefits, clients, leavers = _tables()
    return Ecosystem(
        {
            ("kela", "benefits"): Provided(table=benefits, pseudonyms=key),
            ("kela", "benefit_statistics"): Provided(
                table=benefits, pseudonyms=key, aggregate_only=True, dimensions=frozenset({"area", "kind"})
            ),
            ("employment", "clients"): Provided(table=clients, pseudonyms=key),
            ("school", "leavers"): Provided(table=leavers, pseudonyms=key),
        }
    )


@lru_cache(maxsize=1)
def _tables(rows: int = 60, seed: int = 7) -> tuple[pa.Table, pa.Table, pa.Table]:
    """NULLs and repeats in every column."""
    random = Random(seed)
    people = [
        f"p1_{'abcdefghijklmnopqrstuvwxyz'[n % 26]}{'a2b3c4d5e6f7' * 2}{'ab'[n // 26]}" for n in range(40)
    ]

    def some(values: Sequence[Any], gaps: float = 0.1) -> Any:
        return None if random.random() < gaps else random.choice(values)

    def table(columns: Mapping[str, tuple[pa.DataType, Any]]) -> pa.Table:
        return pa.table(
            {name: pa.array([make() for _ in range(rows)], type_) for name, (type_, make) in columns.items()}
        )

    areas = ["00100", "00200", "00530", "02100"]
    days = [date(2024, 1, 1) + timedelta(days=30 * n) for n in range(12)]
    benefits = table(
        {
            "person": (pa.string(), lambda: some(people, 0.05)),
            "area": (pa.string(), lambda: some(areas)),
            "kind": (pa.string(), lambda: some(["housing", "basic", "sickness"])),
            "amount": (pa.int64(), lambda: some(range(0, 900, 100))),
            "rate": (pa.float64(), lambda: some([0.1, 0.25, 0.5, 1.0])),
            "started": (pa.date32(), lambda: some(days)),
            "active": (pa.bool_(), lambda: some([True, False])),
        }
    )
    clients = table(
        {
            "person": (pa.string(), lambda: some(people, 0.05)),
            "area": (pa.string(), lambda: some(areas)),
            "birth_year": (pa.int64(), lambda: some(range(1960, 2006, 5))),
            "status": (pa.string(), lambda: some(["open", "closed", "it's"])),
            "since": (pa.date32(), lambda: some(days)),
            "score": (pa.float64(), lambda: some([-1.5, 0.0, 2.25, 1e9])),
        }
    )
    leavers = table(
        {
            "person": (pa.string(), lambda: some(people, 0.05)),
            "year": (pa.int64(), lambda: some([2022, 2023, 2024])),
            "school": (pa.string(), lambda: some(["Norssi", "Ressu", ""])),
        }
    )
    return benefits, clients, leavers
