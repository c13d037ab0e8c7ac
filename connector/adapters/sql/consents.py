"""Consent records and the versions of their sets, as port Transaction has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from connector.adapters.sql.connection import Connection
from connector.adapters.sql.documents import decode, encode
from connector.errors import Conflict
from connector.model.consent import ConsentRecord


class Consents:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def consent(self, record_id: str) -> ConsentRecord | None:
        row = await self._connection.fetchone("consent", record_id)
        return decode(ConsentRecord, row[0]) if row else None

    async def consents_of(self, subject: str) -> Sequence[ConsentRecord]:
        rows = await self._connection.fetch("consents_of", subject)
        return [decode(ConsentRecord, row[0]) for row in rows]

    async def consents_for(self, purpose: str, recipient: str) -> Sequence[ConsentRecord]:
        rows = await self._connection.fetch("consents_for", purpose, recipient)
        return [decode(ConsentRecord, row[0]) for row in rows]

    async def save_consents(self, records: Sequence[ConsentRecord]) -> None:
        """Raises Conflict when a record's stored events are not the beginning of its new ones:
        somebody else added one (perhaps a withdrawal), and it must not be lost."""
        stored = await self._stored([record.id for record in records])
        for record in records:
            before = stored[record.id].events if record.id in stored else ()
            if record.events[: len(before)] != before:
                raise Conflict("This consent record was changed by someone else in the meantime.")
        for query, known in (("insert_consent", False), ("replace_consent", True)):
            await self._connection.execute_many(
                query,
                [
                    (record.id, record.subject, record.purpose, record.recipient, encode(record))
                    for record in records
                    if (record.id in stored) is known
                ],
            )

    async def _stored(self, ids: Sequence[str]) -> Mapping[str, ConsentRecord]:
        rows = await self._connection.fetch("consents_to_replace", json.dumps(ids))
        records = (decode(ConsentRecord, row[0]) for row in rows)
        return {record.id: record for record in records}

    async def consent_version(self, purpose: str, recipient: str) -> int:
        """0 before the first change."""
        row = await self._connection.fetchone("consent_version", purpose, recipient)
        return int(row[0]) if row else 0

    async def bump_consent_version(self, purpose: str, recipient: str) -> int:
        row = await self._connection.fetchone("bump_consent_version", purpose, recipient)
        assert row is not None, "an upsert without a condition returns its row"
        return int(row[0])
