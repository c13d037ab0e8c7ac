"""A provider (kela) with an agreement in force with a consumer (youth): what access and pushes stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any, cast

from connector.access.admission import Admission
from connector.access.audit import Auditor
from connector.access.decision import Decider, DecisionRequest
from connector.access.grants import EpochBoard
from connector.access.pseudonym import SubjectTokens
from connector.control_plane.consent import ConsentGiven, ConsentRegister
from connector.errors import Unavailable
from connector.model.audit import AuditEvent, AuditLeaf, Receipt, TreeHead
from connector.model.catalog import Dataset, Field, Gdpr, TransferFormat
from connector.model.consent import ConsentState
from connector.model.decision import ConsentRequirement, Decision, Permit, Pseudonym
from connector.model.negotiation import AgreementRecord, AgreementSignature, Role
from connector.model.participant import Participant, ParticipantStatus
from connector.model.policy import Agreement, AgreementState, Constraint, Policy, Rule
from connector.model.token import AuthorizationDetail
from connector.model.transfer import DataAddress, TransferProcess, TransferState
from connector.ports import Store, Transaction
from tests.clocks import START, ManualClock
from tests.fakes import MemoryStore
from tests.pair import dataset, terms
from tests.unit.access.world import StaticRegistry, fresh_keys, participant

PURPOSE, CONSUMER, PROVIDER = "outreach", "youth", "kela"
STATUS_CHANGED = "fi.kela.benefit.changed.v1"
PERSONS = ("010190-123A", "020291-234B", "030392-345C", "040493-456D")
QUERY, PUSH = TransferFormat.FEDERATED_QUERY_PULL, TransferFormat.CLOUD_EVENTS_PUSH

POLICY = Policy(
    permissions=(
        Rule(
            action="use",
            constraints=(Constraint(left_operand="purpose", operator="eq", right_operand=PURPOSE),),
        ),
    )
)
CONSENTED = (ConsentRequirement(purpose=PURPOSE, recipient=CONSUMER),)
PERMIT = Permit(
    columns=frozenset({"hetu", "status"}),
    pseudonyms={"hetu": Pseudonym(domain="agreement:a1", generation=1)},
    consent=CONSENTED,
)


def benefits(**changes: Any) -> Dataset:
    return replace(
        dataset(
            fields=(Field(name="hetu", type="string"), Field(name="status", type="string")),
            subject_key="hetu",
            gdpr=Gdpr(personal_data=True, legal_basis="eu-gdpr:A6-1-a", disclosure_basis="consent"),
            event_types=(
                "fi.dataspace.consent.given.v1",
                "fi.dataspace.consent.withdrawn.v1",
                STATUS_CHANGED,
            ),
        ),
        **changes,
    )


def signature_by(name: str) -> AgreementSignature:
    """Verified before it was kept: what stands on an agreement asks only whether it is there."""
    return AgreementSignature(participant=name, jws="", jwk={}, at=START)


def record(agreement_id: str = "a1", **changes: Any) -> AgreementRecord:
    consumer = changes.pop("consumer", CONSUMER)
    target = changes.pop("target", "benefits")
    agreement = Agreement(
        id=agreement_id,
        target=target,
        assigner=PROVIDER,
        assignee=consumer,
        timestamp=START - timedelta(days=1),
        policy=changes.pop("policy", POLICY),
        document={"@id": agreement_id},
    )
    made = AgreementRecord(
        agreement=agreement,
        role=Role.PROVIDER,
        negotiation_pid=f"n-{agreement_id}",
        state=AgreementState.ACTIVE,
        offer_id="benefits:planning:1",
        terms=terms(),
        terms_version="1",
        signatures=tuple(signature_by(name) for name in (PROVIDER, consumer)),
    )
    return replace(made, **changes)


def transfer(pid: str = "t-query", format_: TransferFormat = QUERY, **changes: Any) -> TransferProcess:
    made = TransferProcess(
        pid=pid,
        peer_pid=f"peer-{pid}",
        role=Role.PROVIDER,
        state=TransferState.STARTED,
        counter_party=CONSUMER,
        peer_address=f"https://{CONSUMER}.example/dsp/2025-1",
        agreement_id="a1",
        format=format_,
        data_address=DataAddress(endpoint_type="x", endpoint=f"https://{CONSUMER}.example/events/v1"),
        created_at=START,
        updated_at=START,
    )
    return replace(made, **changes)


def detail(**changes: Any) -> AuthorizationDetail:
    values: dict[str, Any] = {
        "agreement_id": "a1",
        "dataset_id": "benefits",
        "actions": frozenset({"query"}),
        "purpose": PURPOSE,
    }
    return AuthorizationDetail(**{**values, **changes})


def answer(person: str, state: ConsentState = ConsentState.GIVEN, **changes: Any) -> ConsentGiven:
    values: dict[str, Any] = {"purpose": PURPOSE, "recipient": CONSUMER, "state": state}
    return ConsentGiven(personal_id=person, **{**values, **changes})


@dataclass
class MemoryAuditLog:
    """`connector.ports.AuditLog` that a test reads, and breaks."""

    kept: list[AuditLeaf] = field(default_factory=list)
    down: bool = False

    async def append(self, leaf: AuditLeaf) -> Receipt:
        if self.down:
            raise Unavailable("the audit log does not answer")
        known = next((i for i, held in enumerate(self.kept) if held.id == leaf.id), None)
        if known is None:
            self.kept.append(leaf)
        return Receipt(audit_id=leaf.id, index=len(self.kept) - 1 if known is None else known, leaf_hash="")

    async def head(self) -> TreeHead:
        raise NotImplementedError

    async def leaves(self, *, after: int = -1, limit: int = 100) -> Any:
        return list(enumerate(self.kept))[after + 1 :][:limit]

    async def close(self) -> None: ...

    def of(self, event: AuditEvent) -> list[AuditLeaf]:
        return [leaf for leaf in self.kept if leaf.event is event]


@dataclass
class StubDecider:
    """Answers every request alike. `meanwhile` runs while the policies are asked."""

    answer: Decision = PERMIT
    asked: list[DecisionRequest] = field(default_factory=list)
    meanwhile: Callable[[], Any] | None = None

    async def decide(self, request: DecisionRequest) -> Decision:
        self.asked.append(request)
        if self.meanwhile is not None:
            await self.meanwhile()
        return self.answer


class Agreed:
    """kela's access layer. `store` must be open; `set_up` writes the agreement and its transfers into it."""

    def __init__(self, store: Store | None = None, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.store: Store = store or MemoryStore(self.clock)
        self.keys = {name: fresh_keys(name) for name in (PROVIDER, CONSUMER, "city")}
        self.registry = StaticRegistry(
            cast("Any", self.clock), [participant(keys) for keys in self.keys.values()]
        )
        self.datasets = {"benefits": benefits()}
        self.decider = StubDecider()
        self.audit = MemoryAuditLog()
        numbers = count(1)
        self.new_id = lambda: f"id-{next(numbers):06}"
        self.auditor = Auditor(self.audit, self.clock, self.new_id, PROVIDER, self.keys[PROVIDER])
        self.board = EpochBoard(self.store, self.clock)
        self.policy_revision = "policy-1"
        self.admission = Admission(
            store=self.store,
            clock=self.clock,
            new_id=self.new_id,
            trust=self.registry,
            catalogue=lambda: self.datasets,
            decider=cast("Decider", self.decider),
            auditor=self.auditor,
            policy_revision=lambda: self.policy_revision,
        )
        self.subjects = SubjectTokens(self.keys[PROVIDER].derive("consent-subjects"))
        self.topics: list[str] = ["dataset.benefits"]
        self.consents = ConsentRegister(
            participant_id=PROVIDER,
            store=self.store,
            clock=self.clock,
            new_id=self.new_id,
            subjects=self.subjects,
            board=self.board,
            record=self.auditor.record,
            topics_for=lambda _purpose, _recipient: self.topics,
        )

    async def set_up(self) -> Agreed:
        async with self.store.transaction() as tx:
            await tx.save_agreement(record())
            await tx.save_transfer(transfer())
            await tx.save_transfer(transfer("t-push", PUSH))
        return self

    @property
    def consumer(self) -> Participant:
        return self.registry.participants[CONSUMER]

    def suspend_consumer(self) -> None:
        self.registry.set_status(CONSUMER, ParticipantStatus.SUSPENDED)

    async def write(self, step: Callable[[Transaction], Any]) -> Any:
        """One step of a test in a transaction of its own."""
        async with self.store.transaction() as tx:
            return await step(tx)

    async def change_agreement(self, **changes: Any) -> None:
        async with self.store.transaction() as tx:
            held = await tx.agreement("a1")
            assert held is not None
            await tx.save_agreement(replace(held, **changes))

    async def change_transfer(self, pid: str = "t-query", **changes: Any) -> None:
        async with self.store.transaction() as tx:
            held = await tx.transfer(pid)
            assert held is not None
            await tx.save_transfer(replace(held, **changes))

    async def forget_agreement(self) -> None:
        """For tables whose rows begin without one."""
        assert isinstance(self.store, MemoryStore)
        self.store.state.agreements.clear()


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """For what happens in another task."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)
