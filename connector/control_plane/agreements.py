"""Agreements: what both sides hold, whether it is in force now, and its end.

DSP has no message that ends an agreement after FINALIZED. Its transfers are terminated instead, with a
code (validity.ENDED) by which the other side knows that the agreement went with them. Where none is live the
other side reads it at the agreement's signatures, or learns it when it next asks for a transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from connector.access import validity
from connector.access.validity import ENDED, UNSIGNED, require_in_force
from connector.control_plane.terms import enforceable
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
from connector.model.negotiation import AgreementRecord, ContractNegotiation, Role
from connector.model.policy import Agreement, AgreementState
from connector.ports import GrantSelector

SIGNING_PATIENCE = timedelta(seconds=30)
"""How long after FINALIZED a missing signature may still be under way."""

_SOON_SECONDS = 3.0
_LOOK_AGAIN_SECONDS = 0.02


class TransferEnder(Protocol):
    """What ends transfers: connector.control_plane.transfer."""

    async def end_under(
        self, unit: Unit, agreement_id: str, reasons: tuple[str, ...], by: str, *, code: str = ENDED
    ) -> int:
        """Terminate every live transfer under the agreement; how many there were."""
        ...


class Agreements:
    def __init__(
        self,
        environment: Environment,
        transfers: TransferEnder,
        catalogue: Callable[[], Mapping[str, Dataset]],
    ) -> None:
        """`catalogue`: ours, by whose dates agreements lapse."""
        self._environment = environment
        self._transfers = transfers
        self._catalogue = catalogue

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
        if (reason := self.why_not(record)) is not None:
            raise NotPermitted([reason])
        return record

    def why_not(self, record: AgreementRecord) -> Reason | None:
        """Why it is not in force at this moment; None where it is."""
        return validity.why_not(
            record,
            self._environment.clock.now(),
            unsigned_peers=self._environment.unsigned_peers,
            dataset=self._dataset(record),
        )

    def ends_at(self, record: AgreementRecord) -> datetime | None:
        """The date, known to us as its provider, from which on it gives nothing."""
        dataset = self._dataset(record)
        return validity.ends_at(record, dataset) if dataset is not None else None

    def waived(self, record: AgreementRecord) -> bool:
        """Whether the operator's exception stands in for a signature."""
        excepted = validity.excepted(record, self._environment.unsigned_peers)
        return excepted and not record.signed_by_both

    def _dataset(self, record: AgreementRecord) -> Dataset | None:
        return self._catalogue().get(record.agreement.target) if record.role is Role.PROVIDER else None

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

    `dataset`: the provider's own, whose terms are kept as they are now; rules that they cannot enforce are
    kept without terms, and so give nothing. Raises Conflict where the id is taken: a peer must not replace
    somebody else's agreement.
    """
    if await unit.tx.agreement(agreement.id) is not None:
        raise Conflict("This agreement id is in use already.", code="agreement_id_taken")
    offer_id = str(negotiation.offer.get("@id", ""))
    published = dataset.offer_with_wire_id(offer_id) if dataset else None
    terms = enforceable(published, agreement.document) if published else None
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
        renews=negotiation.renews,
    )
    await unit.tx.save_agreement(record)
    await _record(unit, AuditEvent.AGREEMENT_AGREED, record, actor)


async def put_into_force(
    unit: Unit,
    agreement_id: str,
    actor: str,
    sign: Callable[[AgreementRecord, Unit], AgreementRecord] | None = None,
) -> AgreementRecord:
    """`sign`: adds our signature, where it is ours to sign now."""
    record = await unit.tx.agreement_for_change(agreement_id)
    if record is None:
        raise NotFound("There is no such agreement.")
    record = replace(record, state=AgreementState.ACTIVE, in_force_at=unit.now)
    record = sign(record, unit) if sign else record
    await unit.tx.save_agreement(record)
    await _record(unit, AuditEvent.AGREEMENT_FINALIZED, record, actor)
    return record


async def announce_in_force(unit: Unit, agreement_id: str) -> None:
    """Both sides hold it: tell our own consumers of the control topic."""
    if (record := await unit.tx.agreement(agreement_id)) is not None:
        await unit.announce(AGREEMENT_FINALIZED, record)


async def end_agreement(
    unit: Unit, agreement_id: str, reason: str, actor: str, *, code: str
) -> AgreementRecord | None:
    """Mark it terminated and stop its grants; None where there is none or it has ended already."""
    record = await unit.tx.agreement_for_change(agreement_id)
    if record is None or record.state is AgreementState.TERMINATED:
        return None
    ended = replace(record, state=AgreementState.TERMINATED, ended_at=unit.now, ended_reason=reason or code)
    await unit.tx.save_agreement(ended)
    await unit.stop_grants(GrantSelector(agreement_id=agreement_id), ENDED)
    if record.state is AgreementState.ACTIVE:
        await _record(unit, AuditEvent.AGREEMENT_TERMINATED, ended, actor, reasons=audit_codes(code))
        await unit.announce(AGREEMENT_TERMINATED, ended)
    return ended


# --- in force -------------------------------------------------------------------------------------------


async def usable(environment: Environment, agreement_id: str) -> AgreementRecord | None:
    """Our agreement as a consumer, in force; None where there is none. Raises NotPermitted with the reason.

    The signatures follow the FINALIZED event by a moment: what is only about to be signed is waited for.
    """
    until = environment.clock.now() + timedelta(seconds=_SOON_SECONDS)
    while True:
        async with environment.store.transaction(read_only=True) as tx:
            record = await tx.agreement(agreement_id)
        now = environment.clock.now()
        if record is None or record.role is not Role.CONSUMER:
            return None
        try:
            require_in_force(record, now, unsigned_peers=environment.unsigned_peers)
        except NotPermitted as refused:
            if refused.reasons[0].code != UNSIGNED or now >= until or not may_be_signed_yet(record, now):
                raise
        else:
            return record
        await environment.clock.sleep(_LOOK_AGAIN_SECONDS)


def may_be_signed_yet(record: AgreementRecord, now: datetime) -> bool:
    """Whether a signature that is not there may still be on its way."""
    since = record.in_force_at
    return record.signature_problem is None and since is not None and now - since < SIGNING_PATIENCE


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


def is_provider_of(record: AgreementRecord, consumer_id: str) -> bool:
    return record.role is Role.PROVIDER and record.counter_party == consumer_id
