"""Looking into the stores themselves: what a connector holds, not what it says it holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from connector.adapters.postgres_store import PostgresStore
from connector.adapters.sqlite_store import SqliteStore
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.transfer import TransferProcess
from tests.crash.estate import Estate

_PENDING = "SELECT count(*) FROM outbox WHERE state = 'pending'"
_OUTBOX = "SELECT process_pid, state, last_error FROM outbox"


@dataclass(frozen=True, slots=True)
class Held:
    """Everything about contracts in one connector's store."""

    negotiations: dict[str, ContractNegotiation]
    agreements: dict[str, AgreementRecord]
    transfers: dict[str, TransferProcess]
    outbox: list[Left]


@dataclass(frozen=True, slots=True)
class Left:
    """A row of the outbox. `state`: pending, or abandoned for the reason in `error`."""

    queue: str
    state: str
    error: str


async def pending(estate: Estate, name: str) -> int:
    """How much is still to be done, while the connector runs."""
    ((count,),) = await _rows(estate, name, _PENDING)
    return int(count)


async def held(estate: Estate, name: str) -> Held:
    """Of a connector that has been stopped."""
    dsn = estate.dsns.get(name)
    store = PostgresStore(dsn) if dsn else SqliteStore(_file(estate, name))
    await store.open()
    try:
        async with store.transaction(read_only=True) as tx:
            negotiations = await tx.negotiations(limit=1_000_000)
            return Held(
                negotiations={n.pid: n for n in negotiations},
                agreements={a.agreement.id: a for a in await tx.agreements()},
                transfers={t.pid: t for t in await tx.transfers()},
                outbox=[Left(*row) for row in await _rows(estate, name, _OUTBOX)],
            )
    finally:
        await store.close()


async def _rows(estate: Estate, name: str, statement: str) -> list[tuple[Any, ...]]:
    if dsn := estate.dsns.get(name):
        connection = await asyncpg.connect(dsn)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()
    with closing(sqlite3.connect(f"{_file(estate, name).as_uri()}?mode=ro", uri=True)) as reader:
        return reader.execute(statement).fetchall()


def _file(estate: Estate, name: str) -> Path:
    return estate.participant_folder(name) / "state" / "connector.sqlite"
