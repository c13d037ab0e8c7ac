"""Dates that end what an agreement gives: the sunset of its terms version, the retirement of its dataset.

Uses check these dates themselves (access/validity.py). Here running things are ended when a date comes, or
has come while nothing ran: grants, and with them streams; transfers, by which the consumer is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from connector.access.validity import lapsed
from connector.control_plane.agreements import TransferEnder
from connector.control_plane.unit import Environment, retried
from connector.errors import ConnectorError, Reason
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset
from connector.model.negotiation import AgreementRecord, Role
from connector.model.policy import AgreementState
from connector.ports import GrantSelector

_log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""The longest pause between two looks: a clock may be set."""


class SunsetKeeper:
    def __init__(
        self,
        environment: Environment,
        transfers: TransferEnder,
        catalogue: Callable[[], Mapping[str, Dataset]],
    ) -> None:
        self._environment = environment
        self._transfers = transfers
        self._catalogue = catalogue
        self._done: frozenset[datetime] = frozenset()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except ConnectorError as error:
                _log.warning("agreements past their dates wait to be ended: %s", error.code)
            await self._environment.clock.sleep(self._pause())

    async def step(self) -> int:
        """End what the dates that have come end; how many agreements lapsed that something ran under."""
        now = self._environment.clock.now()
        come = frozenset(d for d in self._dates() if d <= now)
        if come <= self._done:
            return 0
        async with self._environment.store.transaction(read_only=True) as tx:
            records = await tx.agreements()
        ended = 0
        for record in records:
            if record.role is Role.PROVIDER and record.state is AgreementState.ACTIVE:
                dataset = self._catalogue().get(record.agreement.target)
                reason = lapsed(record, dataset, now)
                ended += await self._end(record, reason) if reason is not None else False
        self._done = come
        return ended

    async def _end(self, record: AgreementRecord, reason: Reason) -> bool:
        agreement_id, us = record.agreement.id, self._environment.participant_id

        async def step() -> bool:
            async with self._environment.unit() as unit:
                await unit.stop_grants(GrantSelector(agreement_id=agreement_id), reason.code)
                told = await self._transfers.end_under(
                    unit, agreement_id, (reason.text,), us, code=reason.code
                )
                if not told and not unit.grants:
                    return False
                await unit.record(
                    AuditEvent.AGREEMENT_LAPSED,
                    record.negotiation_pid or agreement_id,
                    actor=us,
                    object=record.agreement.target,
                    agreement=agreement_id,
                    contract_revision=record.contract_hash,
                    reasons=(reason.code,),
                )
                return True

        return await retried(step)

    def _dates(self) -> list[datetime]:
        found: list[datetime] = []
        for dataset in self._catalogue().values():
            found += [dataset.retires_at] if dataset.retires_at is not None else []
            found += [p.sunset for o in dataset.offers for p in o.previous]
        return found

    def _pause(self) -> float:
        now = self._environment.clock.now()
        to_come = [(d - now).total_seconds() for d in self._dates() if d > now]
        return min([LOOK_SECONDS, *to_come])
