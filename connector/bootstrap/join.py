"""The join engine, made for the first query: DuckDB and Arrow weigh more than the rest of the connector."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from connector.ports import JoinEngine, JoinSession


class JoinOnFirstUse:
    """`connector.ports.JoinEngine`."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._engine: JoinEngine | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[JoinSession]:
        if self._engine is None:
            from connector.adapters.duckdb_join import DuckDbJoinEngine, JoinLimits

            self._engine = DuckDbJoinEngine(JoinLimits(memory_mb=self._memory_mb))
        async with self._engine.session() as session:
            yield session

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()
