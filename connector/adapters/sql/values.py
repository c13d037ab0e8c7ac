"""Small state and quotas, as port Transaction has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connector.adapters.sql.connection import Connection
from connector.adapters.sql.documents import decode, encode
from connector.model.json import JsonObject


class Values:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def value(self, key: str) -> JsonObject | None:
        row = await self._connection.fetchone("value", key)
        return decode(dict, row[0]) if row else None

    async def put_value(self, key: str, value: JsonObject) -> None:
        await self._connection.execute("put_value", key, encode(value))

    async def values(self, prefix: str) -> Mapping[str, JsonObject]:
        """In order of key."""
        rows = await self._connection.fetch("values", prefix)
        return {row[0]: decode(dict, row[1]) for row in rows}

    async def delete_values(self, keys: Sequence[str]) -> None:
        await self._connection.execute_many("delete_value", [(key,) for key in keys])

    async def count_use(self, key: str, *, period: str, at_most: int) -> bool:
        if at_most < 1:
            return False
        return await self._connection.fetchone("count_use", key, period, at_most) is not None
