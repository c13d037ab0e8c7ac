"""Port Store over any SQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from connector.adapters.sql.connection import Database
from connector.adapters.sql.migrate import migrate
from connector.adapters.sql.transaction import SqlTransaction


class SqlStore:
    """`database` may be shared with an event log (adapters.event_log); the store opens and closes it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def open(self) -> None:
        await self.database.open()
        try:
            await migrate(self.database, "store")
            async with self.database.connect() as connection:
                await connection.execute("align_event_log")
        except BaseException:
            await self.database.close()
            raise

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[SqlTransaction]:
        async with self.database.connect(read_only=read_only) as connection:
            yield SqlTransaction(connection)

    async def ping(self) -> None:
        await self.database.ping()

    async def close(self) -> None:
        """Waits for the transaction under way."""
        await self.database.close()
