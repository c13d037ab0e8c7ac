"""Agreements: what both sides hold, whether it is in force now, and its end.

DSP has no message that ends an agreement after FINALIZED. Its transfers are terminated instead, with a
code by which the other side knows that the agreement went with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from connector.control_plane.unit import (
    AGREEMENT_FINALIZED,
    AGREEMENT_TERMINATED,
    Environment,
    Unit,
    audit_codes,
    retried,
)
from connector.dsp.policy import policy_hash
from connector.errors import Conflict, NotFound, NotPermitted, Reason
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset
from connector.model.json import from_rfc3339
from connector.model.negotiation import AgreementRecord, ContractNegotiation, Role
from connector.model.policy import Agreement, AgreementState, Constraint, LogicalConstraint, Policy, Rule
from connector.ports import GrantSelector

ENDED = "agreement_terminated"
"""The code of a TransferTerminationMessage that ends the agreement as well; the reason of ended grants."""


class TransferEnder(Protocol):
    """What ends transfers: connector.control_plane.transfer."""

    async def end_under(self, unit: Unit, agreement_id: str, reasons: tuple[str, ...], by: str) -> None:
        """Terminate every live transfer under the agreement, with code `agreement_terminated`."""
        ...


class Agreements:
    def __init__(self, environment: Environment, transfers: TransferEnder) -> None:
        self._environment = environment
        self._transfers = transfers

    async def get(self, agreement_id: str) -> AgreementRecord:
        """Whatever its state. Raises NotFound."""
        async with self._environment.store.transaction(read_only=True) as tx:
            record = await tx.agreement(agreement_id)
        if record is None:
            raise NotFound("There is no such agreement.")
        return record

    async def list(self, *, counter_party: str | None = None) -> Sequence[AgreementRecord]:
        async with self._environment.store.transaction(read_only=True) as tx:
            return await tx.agreements(counter_party=counter_party)

    async def valid(self, agreement_id: str) -> AgreementRecord:
        """In force at this moment. Raises NotFound, or NotPermitted with the reason."""
        record = await self.get(agreement_id)
        require_in_force(record, self._environment.clock.now())
        return record

    async def terminate(self, agreement_id: str, reason: str, *, by: str = "") -> AgreementRecord:
        """End it, its transfers and its grants at once; the peer hears of it by its transfers' termination.

        `reason` goes to the peer: no personal data in it. Raises NotFound, or Conflict where it has ended.
        """
        actor = by or self._environment.participant_id

        async def step() -> AgreementRecord:
            async with self._environment.unit() as unit:
                if await unit.tx.agreement(agreement_id) is None:
                    raise NotFound("There is no such agreement.")
                ended = await end_agreement(unit, agreement_id, reason, actor, code=ENDED)
                if ended is None:
                    raise Conflict("The agreement has ended already.", code="agreement_ended")
                await self._transfers.end_under(unit, agreement_id, (reason,), actor)
                return ended

        return await retried(step)


# --- steps of a unit, for negotiation and transfer ------------------------------------------------------


async def sign(
    unit: Unit, negotiation: ContractNegotiation, agreement: Agreement, dataset: Dataset | None, actor: str
) -> None:
    """Keep what both sides are about to hold; it is not in force before `put_into_force`.

    `dataset`: the provider's own, whose terms are kept as they are now. Raises Conflict where the id is
    taken: a peer must not replace somebody else's agreement.
    """
    if await unit.tx.agreement(agreement.id) is not None:
        raise Conflict("This agreement id is in use already.", code="agreement_id_taken")
    offer_id = str(negotiation.offer.get("@id", ""))
    terms = dataset.offer_with_wire_id(offer_id) if dataset else None
    record = AgreementRecord(
        agreement=agreement,
        role=negotiation.role,
        negotiation_pid=negotiation.pid,
        state=AgreementState.PENDING,
        offer_id=offer_id,
        terms=terms,
        contract_hash=dataset.contract_hash if dataset else "",
        terms_version=terms.terms_version if terms else "",
        policy_hash=policy_hash(agreement.document),
    )
    await unit.tx.save_agreement(record)
    await _record(unit, AuditEvent.AGREEMENT_AGREED, record, actor)


async def put_into_force(unit: Unit, agreement_id: str, actor: str) -> None:
    record = await unit.tx.agreement(agreement_id)
    if record is None:
        raise NotFound("There is no such agreement.")
    await unit.tx.save_agreement(replace(record, state=AgreementState.ACTIVE))
    await _record(unit, AuditEvent.AGREEMENT_FINALIZED, record, actor)


async def announce_in_force(unit: Unit, agreement_id: str) -> None:
    """Both sides hold it: tell our own consumers of the control topic."""
    if (record := await unit.tx.agreement(agreement_id)) is not None:
        await unit.announce(AGREEMENT_FINALIZED, record)


async def end_agreement(
    unit: Unit, agreement_id: str, reason: str, actor: str, *, code: str
) -> AgreementRecord | None:
    """Mark it terminated and stop its grants; None where there is none or it has ended already."""
    record = await unit.tx.agreement(agreement_id)
    if record is None or record.state is AgreementState.TERMINATED:
        return None
    ended = replace(record, state=AgreementState.TERMINATED, ended_at=unit.now, ended_reason=reason or code)
    await unit.tx.save_agreement(ended)
    await unit.stop_grants(GrantSelector(agreement_id=agreement_id), ENDED)
    if record.state is AgreementState.ACTIVE:
        await _record(unit, AuditEvent.AGREEMENT_TERMINATED, ended, actor, reasons=audit_codes(code))
        await unit.announce(AGREEMENT_TERMINATED, ended)
    return ended


async def _record(
    unit: Unit, event: AuditEvent, record: AgreementRecord, actor: str, *, reasons: tuple[str, ...] = ()
) -> None:
    await unit.record(
        event,
        record.negotiation_pid or record.agreement.id,
        actor=actor,
        object=record.agreement.target,
        agreement=record.agreement.id,
        contract_revision=record.contract_hash,
        reasons=reasons,
    )


# --- validity -------------------------------------------------------------------------------------------


def require_in_force(record: AgreementRecord, now: datetime) -> None:
    """Raises NotPermitted with the reason. Dates that an `or` makes optional are the evaluator's business."""
    if record.state is AgreementState.TERMINATED:
        raise _not_in_force(ENDED, "The agreement has ended.")
    if record.state is not AgreementState.ACTIVE:
        raise _not_in_force("agreement_not_final", "The agreement is not in force yet.")
    if not _within_dates(record.agreement.policy, now):
        raise _not_in_force("agreement_out_of_time", "The agreement's time has run out or not come yet.")


def _not_in_force(code: str, text: str) -> NotPermitted:
    return NotPermitted([Reason(code=code, text=text, source="agreement")])


_HOLDS: Mapping[str, frozenset[int]] = {
    "lt": frozenset({-1}),
    "lteq": frozenset({-1, 0}),
    "eq": frozenset({0}),
    "gteq": frozenset({0, 1}),
    "gt": frozenset({1}),
}
"""ODRL operator -> which of -1, 0, 1 (now before, at, after the date) it allows."""


def _within_dates(policy: Policy, now: datetime) -> bool:
    """Whether some permission is open by its dates. Prohibitions alone are always in time."""
    return not policy.permissions or any(_open(rule, now) for rule in policy.permissions)


def _open(rule: Rule, now: datetime) -> bool:
    return all(_date_holds(c, now) for c in _required(rule.constraints) if c.left_operand == "dateTime")


def _required(constraints: Sequence[Constraint | LogicalConstraint]) -> Iterator[Constraint]:
    for constraint in constraints:
        if isinstance(constraint, Constraint):
            yield constraint
        elif constraint.operator in ("and", "andSequence"):
            yield from _required(constraint.constraints)


def _date_holds(constraint: Constraint, now: datetime) -> bool:
    right = constraint.right_operand
    text = right.get("@value") if isinstance(right, Mapping) else right
    try:
        date = from_rfc3339(text) if isinstance(text, str) else None
    except ValueError:
        date = None
    if date is None:
        return False  # a date that cannot be read opens nothing
    return ((now > date) - (now < date)) in _HOLDS.get(constraint.operator, frozenset())


def is_provider_of(record: AgreementRecord, consumer_id: str) -> bool:
    return record.role is Role.PROVIDER and record.counter_party == consumer_id
