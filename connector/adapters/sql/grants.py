"""Grants and their epochs, as port Transaction has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from connector.adapters.sql.connection import Connection, Parameter, Row
from connector.adapters.sql.documents import decode, encode
from connector.errors import Conflict
from connector.model.transfer import Grant, GrantState
from connector.ports import GrantSelector


class Grants:
    """An epoch only rises and an ending is for good, whoever saves what they read before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def grant(self, grant_id: str) -> Grant | None:
        row = await self._connection.fetchone("grant", grant_id)
        return _grant(row) if row else None

    async def grants(self, selector: GrantSelector) -> Sequence[Grant]:
        """By id, whatever their state."""
        rows = await self._connection.fetch("grants", *_selected(selector))
        return [_grant(row) for row in rows]

    async def save_grant(self, grant: Grant) -> None:
        """Raises Conflict when it has ended, when its epoch was raised since it was read, or when
        another grant has its id (agreement, transfer, consumer, dataset, purpose, format never change)."""
        touched = await self._connection.execute(
            "save_grant",
            grant.id,
            grant.agreement_id,
            grant.transfer_pid,
            grant.consumer,
            grant.dataset_id,
            grant.purpose,
            grant.format,
            grant.epoch,
            grant.state,
            grant.ended_reason,
            encode(grant),
        )
        if touched != 1:
            raise Conflict("This grant has ended, or was stopped by someone else in the meantime.")

    async def bump_grants(self, selector: GrantSelector, *, ended_reason: str = "") -> Sequence[Grant]:
        rows = await self._connection.fetch("bump_grants", *_selected(selector), ended_reason)
        return sorted((_grant(row) for row in rows), key=lambda grant: grant.id)


def _selected(selector: GrantSelector) -> tuple[Parameter, ...]:
    datasets = selector.dataset_ids
    return (
        selector.agreement_id,
        selector.transfer_pid,
        selector.consumer,
        selector.purpose,
        0 if datasets is None else 1,
        json.dumps(sorted(datasets or ())),
    )


def _grant(row: Row) -> Grant:
    document, epoch, state, ended_reason = row
    return replace(decode(Grant, document), epoch=epoch, state=GrantState(state), ended_reason=ended_reason)
