"""Grants opened, loaded and decided on: the one door that queries, HTTP and events all pass.

open   at the token endpoint: agreement live, transfer started, policy permits the purpose
load   at each use: everything still live, now
decide policy + consent for this use; on record before anything leaves
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from connector.access.audit import Auditor
from connector.access.decision import Decider, DecisionRequest
from connector.access.stopping import STOPPED, stop_in_force
from connector.access.validity import NOBODY, ends_at, require_in_force
from connector.errors import ConnectorError, GrantStopped, NotPermitted, Reason
from connector.model.audit import AuditEvent, Receipt
from connector.model.catalog import Dataset, TransferFormat
from connector.model.decision import Deny, Permit
from connector.model.negotiation import AgreementRecord, Role
from connector.model.participant import Participant, ParticipantStatus
from connector.model.policy import DSC_CONSENT_STATUS
from connector.model.token import Actor, AuthorizationDetail, roles_of
from connector.model.transfer import Grant, GrantState, TransferProcess
from connector.ports import Clock, GrantSelector, Store, Transaction, TrustRegistry

ACTION_FORMATS: Mapping[str, TransferFormat] = {
    "query": TransferFormat.FEDERATED_QUERY_PULL,
    "push": TransferFormat.CLOUD_EVENTS_PUSH,
    "read": TransferFormat.HTTP_DATA_PULL,
}
ACTIONS = {fmt: action for action, fmt in ACTION_FORMATS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGrant:
    """A grant with everything it stands on, all checked to be live at one moment."""

    grant: Grant
    record: AgreementRecord
    transfer: TransferProcess
    dataset: Dataset
    consumer: Participant

    @property
    def needs_consent(self) -> bool:
        return bool(self.record.agreement.policy.values_of(DSC_CONSENT_STATUS))


class Disclosures(Protocol):
    async def disclose(self, live: LiveGrant, audit_id: str, subjects: Collection[str], rows: int) -> str:
        """Write the ledger's entry for what left; its SHA-256. No subjects: no entry, and ""."""
        ...


class Admission:
    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        new_id: Callable[[], str],
        trust: TrustRegistry,
        catalogue: Callable[[], Mapping[str, Dataset]],
        decider: Decider,
        auditor: Auditor,
        policy_revision: Callable[[], str],
        unsigned_peers: Container[str] = NOBODY,
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._trust = trust
        self._catalogue = catalogue
        self._decider = decider
        self._auditor = auditor
        self._policy_revision = policy_revision
        self._unsigned_peers = unsigned_peers

    async def open(
        self,
        consumer: Participant,
        detail: AuthorizationDetail,
        actor: Actor | None = None,
        *,
        transfer_pid: str = "",
    ) -> Grant:
        """The grant for this agreement, purpose and way of access, made on first use.

        `transfer_pid`: under that transfer and no other. Raises NotPermitted with reasons. An agreement of
        somebody else reads as an unknown one.
        """
        format_ = self._format(detail)
        async with self._store.transaction(read_only=True) as tx:
            record, transfer = await self._live_process(
                tx, consumer, detail.agreement_id, format_, transfer_pid
            )
        if record.agreement.target != detail.dataset_id:
            raise _not_permitted("agreement_dataset", "The agreement is not about this dataset.")
        dataset = self._dataset(record)
        request = self._request(
            "transfer", consumer, dataset, record, detail.purpose, format_, roles_of(actor)
        )
        decision = await self._decider.decide(request)
        if isinstance(decision, Deny):
            raise NotPermitted(decision.reasons)
        async with self._store.transaction() as tx:
            # the world may have moved while the policies were asked
            record, transfer = await self._live_process(
                tx, consumer, detail.agreement_id, format_, transfer_pid
            )
            dates = (decision.expires_at, ends_at(record, dataset))
            expires_at = min((d for d in dates if d is not None), default=None)
            selector = GrantSelector(
                agreement_id=record.agreement.id, transfer_pid=transfer.pid, purpose=detail.purpose
            )
            if (held := await self._usable(tx, selector)) is not None:
                current = replace(held, policy_revision=self._policy_revision(), expires_at=expires_at)
                if current != held:
                    await tx.save_grant(current)
                return current
            grant = Grant(
                id=self._new_id(),
                agreement_id=record.agreement.id,
                transfer_pid=transfer.pid,
                consumer=consumer.id,
                dataset_id=dataset.id,
                purpose=detail.purpose,
                format=format_,
                policy_revision=self._policy_revision(),
                consent_version=await tx.consent_version(detail.purpose, consumer.id),
                epoch=1,
                state=GrantState.ACTIVE,
                created_at=self._clock.now(),
                expires_at=expires_at,
            )
            await tx.save_grant(grant)
            return grant

    async def load(self, grant_id: str) -> LiveGrant:
        """Raises GrantStopped with the reason's code, or NotPermitted where the agreement is not live; the
        refusal is on record by then."""
        async with self._store.transaction(read_only=True) as tx:
            grant = await tx.grant(grant_id)
            if grant is None:
                raise _not_permitted("grant_unknown", "There is no such grant.")
            try:
                return await self._standing(tx, grant)
            except (GrantStopped, NotPermitted) as error:
                refused = error
        receipt = await self._auditor.record(
            AuditEvent.ACCESS_REFUSED,
            actor=grant.consumer,
            object=grant.dataset_id,
            purpose=grant.purpose,
            agreement=grant.agreement_id,
            transfer=grant.transfer_pid,
            grant=grant.id,
            epoch=grant.epoch,
            outcome="deny",
            reasons=_codes(refused),
        )
        if isinstance(refused, NotPermitted):
            raise NotPermitted(refused.reasons, mend=refused.mend, audit_id=receipt.audit_id)
        raise refused

    async def decide(self, live: LiveGrant, stage: str, *, actor: Actor | None = None) -> Permit:
        """Policy and consent for one use. Raises NotPermitted; nothing is on record yet."""
        grant = live.grant
        request = self._request(
            stage, live.consumer, live.dataset, live.record, grant.purpose, grant.format, roles_of(actor)
        )
        decision = await self._decider.decide(request)
        if isinstance(decision, Deny):
            raise NotPermitted(decision.reasons)
        if any((c.purpose, c.recipient) != (grant.purpose, grant.consumer) for c in decision.consent):
            raise NotPermitted([_FOREIGN_CONSENT])
        return decision

    @asynccontextmanager
    async def refusals_on_record(
        self, live: LiveGrant, event: AuditEvent, *, statement: str = "", actor: Actor | None = None
    ) -> AsyncIterator[None]:
        """Around everything that may refuse a use: the refusal is on record before anybody hears of it."""
        try:
            yield
        except NotPermitted as refused:
            receipt = await self.on_record(
                live, event, Deny(reasons=refused.reasons), statement=statement, actor=actor
            )
            raise NotPermitted(refused.reasons, mend=refused.mend, audit_id=receipt.audit_id) from None
        except ConnectorError as failed:  # what we cannot do is denied as well
            reason = Reason(code=failed.code, text=failed.message)
            await self.on_record(live, event, Deny(reasons=(reason,)), statement=statement, actor=actor)
            raise

    async def on_record(
        self,
        live: LiveGrant,
        event: AuditEvent,
        decision: Permit | Deny,
        *,
        statement: str = "",
        refers: str = "",
        actor: Actor | None = None,
    ) -> Receipt:
        """The decision becomes a leaf of the audit log; await it before the first byte leaves."""
        grant = live.grant
        return await self._auditor.record(
            event,
            actor=live.consumer.id,
            on_behalf_of=actor.subject if actor else "",
            object=live.dataset.id,
            purpose=grant.purpose,
            legal_basis=live.dataset.gdpr.legal_basis,
            agreement=grant.agreement_id,
            transfer=grant.transfer_pid,
            grant=grant.id,
            epoch=grant.epoch,
            outcome="deny" if isinstance(decision, Deny) else "permit",
            reasons=tuple(r.code for r in decision.reasons) if isinstance(decision, Deny) else (),
            policy_revision=decision.revisions.policy or self._policy_revision(),
            contract_revision=live.dataset.contract_hash,
            consent_version=grant.consent_version,
            identified=None if isinstance(decision, Deny) else decision.identified,
            statement=self._auditor.statement_hash(statement) if statement else "",
            refers=refers,
        )

    def _request(
        self,
        stage: str,
        consumer: Participant,
        dataset: Dataset,
        record: AgreementRecord,
        purpose: str,
        format_: TransferFormat,
        actor_roles: frozenset[str] = frozenset(),
    ) -> DecisionRequest:
        terms = record.terms
        collaborations = self._trust.current().collaborations
        return DecisionRequest(
            stage=stage,
            consumer=consumer,
            dataset=dataset,
            terms=terms,
            agreement=record,
            purpose=purpose,
            action="use",
            format=format_.value,
            actor_roles=actor_roles,
            collaboration=collaborations.get(terms.collaboration) if terms else None,
        )

    async def _usable(self, tx: Transaction, selector: GrantSelector) -> Grant | None:
        """The active grant there is; one whose time is over ends here, so that a new one can stand."""
        now = self._clock.now()
        active = [g for g in await tx.grants(selector) if g.state is GrantState.ACTIVE]
        for grant in active:
            if grant.expires_at is None or now < grant.expires_at:
                return grant
        if active:
            await tx.bump_grants(selector, ended_reason="grant_expired")
        return None

    async def _standing(self, tx: Transaction, grant: Grant) -> LiveGrant:
        """Everything that the grant stands on, as of now."""
        if grant.state is GrantState.ENDED:
            code = grant.ended_reason or "grant_ended"
            raise GrantStopped(_ENDED.get(code, "the grant has ended"), code=code)
        if grant.expires_at is not None and self._clock.now() >= grant.expires_at:
            raise GrantStopped(_ENDED["grant_expired"], code="grant_expired")
        consumer = self.participant(grant.consumer)
        record, transfer = await self._live_process(
            tx, consumer, grant.agreement_id, grant.format, grant.transfer_pid
        )
        dataset = self._dataset(record)
        version = await tx.consent_version(grant.purpose, grant.consumer)
        grant = replace(grant, consent_version=version)
        return LiveGrant(grant=grant, record=record, transfer=transfer, dataset=dataset, consumer=consumer)

    async def _live_process(
        self,
        tx: Transaction,
        consumer: Participant,
        agreement_id: str,
        format_: TransferFormat,
        transfer_pid: str = "",
    ) -> tuple[AgreementRecord, TransferProcess]:
        """`transfer_pid`: that one and no other."""
        if await stop_in_force(tx) is not None:
            raise _not_permitted(STOPPED, "This connector gives nothing out for the time being.")
        record = await tx.agreement(agreement_id)
        if record is None or record.role is not Role.PROVIDER or record.counter_party != consumer.id:
            raise _not_permitted("agreement_unknown", "You have no such agreement here.")
        require_in_force(
            record,
            self._clock.now(),
            unsigned_peers=self._unsigned_peers,
            dataset=self._catalogue().get(record.agreement.target),
        )
        for transfer in await tx.transfers(agreement_id=agreement_id):
            if transfer.format is format_ and transfer.open and transfer_pid in ("", transfer.pid):
                return record, transfer
        raise _not_permitted(
            "transfer_not_started",
            f"No transfer in the format {format_.value} is started under this agreement.",
        )

    def _dataset(self, record: AgreementRecord) -> Dataset:
        dataset = self._catalogue().get(record.agreement.target)
        if dataset is None or record.terms is None:
            raise _not_permitted("dataset_unavailable", "The dataset is no longer offered.")
        return dataset

    def participant(self, participant_id: str) -> Participant:
        """Who is active in the trust list right now. Raises GrantStopped."""
        participant = self._trust.current().participants.get(participant_id)
        if participant is None or participant.status is not ParticipantStatus.ACTIVE:
            raise GrantStopped("the participant is not active in the registry", code="participant_inactive")
        return participant

    @staticmethod
    def _format(detail: AuthorizationDetail) -> TransferFormat:
        if len(detail.actions) != 1 or not detail.actions <= ACTION_FORMATS.keys():
            raise _not_permitted(
                "action_unknown", f"Ask for one action of: {', '.join(sorted(ACTION_FORMATS))}."
            )
        return ACTION_FORMATS[next(iter(detail.actions))]


_FOREIGN_CONSENT = Reason(
    code="consent_not_enforceable",
    text="A policy asks for consent to another purpose or recipient: its withdrawal could not stop this use.",
    source="provider",
)
_ENDED = {
    "agreement_terminated": "the agreement has ended",
    "transfer_suspended": "the transfer is suspended",
    "transfer_ended": "the transfer has ended",
    STOPPED: "this connector gives nothing out for the time being",
    "participant_inactive": "the participant is not active in the registry",
    "terms_sunset": "the terms of the agreement have ended",
    "dataset_retired": "the dataset is retired",
    "grant_expired": "the grant has expired",
}


def _not_permitted(code: str, text: str) -> NotPermitted:
    return NotPermitted([Reason(code=code, text=text, source="agreement")])


def _codes(refused: GrantStopped | NotPermitted) -> tuple[str, ...]:
    return tuple(r.code for r in refused.reasons) if isinstance(refused, NotPermitted) else (refused.code,)
