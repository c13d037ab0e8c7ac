"""A small data space for tests of decisions: the demo's descriptors, policies and participants, one clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from connector.access.decision import Decider
from connector.access.decision_input import Circumstances, DecisionRequest, decision_input
from connector.access.vocabulary import BEFORE_AGREEMENT, USE
from connector.adapters.descriptors import load_catalog
from connector.adapters.policy_files import policy_names, project_modules, project_purposes
from connector.errors import Unavailable
from connector.model.catalog import Dataset, OfferTerms, TransferFormat
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, Role
from connector.model.participant import (
    Collaboration,
    CollaborationRole,
    Participant,
    ParticipantStatus,
    TrustList,
)
from connector.model.policy import Agreement, AgreementState, Policy
from connector.ports import PolicyEngine
from tests.clocks import START, ManualClock

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SIGNED = START - timedelta(days=10)


@cache
def modules() -> Mapping[str, str]:
    """The project's policies and the examples, as a connector loads them."""
    own = {
        f"policies/{file.name}": file.read_text(encoding="utf-8")
        for file in sorted((EXAMPLES / "policies").glob("*.rego"))
        if not file.name.endswith("_test.rego")
    }
    return {**project_modules(), **own}


@cache
def catalogue() -> Mapping[str, Dataset]:
    """Every dataset of the demo by id."""
    found: dict[str, Dataset] = {}
    for folder in sorted((EXAMPLES / "catalog").iterdir()):
        found |= load_catalog(folder, policies=policy_names(modules()), purposes=project_purposes())
    return found


def participant(name: str, sector: str, **changes: Any) -> Participant:
    base_url = f"https://{name}.example"
    given = {"country": "FI", "rulebook_version": "1.0", **changes}
    return Participant(id=name, name=name.title(), base_url=base_url, jwks=(), sector=sector, **given)


PARTICIPANTS = {
    p.id: p
    for p in (
        participant("employment", "employment"),
        participant("kela", "social-insurance"),
        participant("school", "education"),
        participant("youth", "youth"),
        participant("city", "city"),
        participant("oslo", "city", country="NO", rulebook_version=""),
        participant("lima", "city", country="PE"),
        participant("nowhere", "city", country=""),
        participant("gone", "city", status=ParticipantStatus.LEFT),
        participant("paused", "city", status=ParticipantStatus.SUSPENDED),
    )
}
PLANNING = Collaboration(
    id="planning-2026",
    purpose="service-planning",
    lead="kela",
    members={
        "kela": frozenset({CollaborationRole.PROVIDER}),
        "employment": frozenset({CollaborationRole.PROVIDER}),
        "city": frozenset({CollaborationRole.CONSUMER}),
        "oslo": frozenset({CollaborationRole.CONSUMER}),
        "paused": frozenset({CollaborationRole.CONSUMER}),
        "gone": frozenset({CollaborationRole.CONSUMER}),
    },
)


class Trust:
    """Port TrustRegistry over one list that a test may change; None has expired."""

    def __init__(self) -> None:
        self.list: TrustList | None = TrustList(
            issuer="registry",
            version=1,
            issued_at=START,
            expires_at=START + timedelta(days=1),
            participants=PARTICIPANTS,
            collaborations={PLANNING.id: PLANNING},
        )

    def current(self) -> TrustList:
        if self.list is None:
            raise Unavailable("the trust list has expired")
        return self.list

    def collaboration(self, changed: Collaboration | None) -> None:
        held = {} if changed is None else {changed.id: changed}
        assert self.list is not None
        self.list = replace(self.list, collaborations=held)


@dataclass
class World:
    """One provider's decider over an engine, and requests to it."""

    engine: PolicyEngine
    provider: str
    clock: ManualClock = field(default_factory=ManualClock)
    trust: Trust = field(default_factory=Trust)

    @property
    def decider(self) -> Decider:
        return Decider(self.engine, self.trust, self.clock, self.provider, project_purposes())


PROVIDERS = {"clients": "employment", "benefits": "kela", "benefit_statistics": "kela", "leavers": "school"}
PURPOSES = {
    "planning": "service-planning",
    "case-work": "case-work",
    "statistics": "statistics",
    "outreach": "outreach",
}
CONSUMERS = {"planning": "city", "case-work": "employment", "statistics": "city", "outreach": "youth"}


def terms_of(dataset: str, offer: str) -> OfferTerms:
    return next(o for o in catalogue()[dataset].offers if o.id == offer)


def agreement(
    dataset: str, offer: str, consumer: str, *, signed_at: datetime = SIGNED, policy: Policy | None = None
) -> AgreementRecord:
    terms = terms_of(dataset, offer)
    return AgreementRecord(
        agreement=Agreement(
            id=f"urn:agreement:{dataset}:{offer}",
            target=dataset,
            assigner=PROVIDERS[dataset],
            assignee=consumer,
            timestamp=signed_at,
            policy=policy or terms.policy,
            document={},
        ),
        role=Role.PROVIDER,
        negotiation_pid="urn:negotiation:1",
        state=AgreementState.ACTIVE,
        offer_id=terms.wire_id(dataset),
        terms=terms,
        contract_hash="c0ffee",
        terms_version=terms.terms_version,
        policy_hash="beef",
    )


def ask(dataset: str, offer: str, stage: str = "query", /, **changes: Any) -> DecisionRequest:
    """An ordinary request that the demo's policies permit, with `changes` made to it.

    `consumer` is an id; one that is not in the trust list is a stranger.
    """
    consumer = changes.pop("consumer", CONSUMERS[offer])
    who = PARTICIPANTS.get(consumer) or participant(consumer, "city")
    before = stage in BEFORE_AGREEMENT
    named = offer == "case-work" and stage in USE
    request = DecisionRequest(
        stage=stage,
        consumer=who,
        dataset=catalogue()[dataset],
        terms=terms_of(dataset, offer),
        agreement=None if before else agreement(dataset, offer, who.id),
        purpose=PURPOSES[offer] if stage in USE else "",
        format="" if before else TransferFormat.FEDERATED_QUERY_PULL.value,
        actor_roles=frozenset({"case_worker"}) if named else frozenset(),
        subjects_named=1 if named else None,
        subjects_consenting=1 if named else None,
    )
    return replace(request, **changes)


def input_of(request: DecisionRequest, provider: str) -> JsonObject:
    """The input document that the policies read for this request."""
    terms = request.terms_in_force
    assert terms is not None
    trust = Trust().current()
    known = Circumstances(
        now=START,
        participant_id=provider,
        purposes=project_purposes(),
        consumer=trust.participants.get(request.consumer.id),
        collaboration=trust.collaborations.get(terms.collaboration),
    )
    return decision_input(request, terms, known)
