"""Ordinary requests, one per stage: what a candidate policy is tried on before it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from connector.access.decision_input import Circumstances, DecisionRequest, decision_input
from connector.access.purposes import PurposeTree
from connector.access.vocabulary import BEFORE_AGREEMENT, Stage
from connector.model.catalog import Dataset, DatasetStatus, Field, Gdpr, OfferTerms, SourceRef, TransferFormat
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, Role
from connector.model.participant import Participant
from connector.model.policy import Agreement, AgreementState, Constraint, Policy, Rule

_NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
_PURPOSES = PurposeTree(parents={"statistics": ""})
_CONSUMER = Participant(
    id="city", name="City", base_url="https://city.example", jwks=(), roles=frozenset({"data-user"})
)
_MEMBERS_ONLY = Constraint(left_operand="dsc:membership", operator="eq", right_operand="active")
_TERMS = OfferTerms(
    id="open",
    terms_version="1.0",
    policy=Policy(permissions=(Rule(action="use", constraints=(_MEMBERS_ONLY,)),)),
    columns={"person": "pseudonym", "postal_code": "clear", "year": "clear"},
    approval="automatic",
)
_DATASET = Dataset(
    id="people",
    contract_id="people",
    version="1.0.0",
    status=DatasetStatus.ACTIVE,
    title={"en": "People"},
    description="",
    fields=(
        Field(name="person", type="string"),
        Field(name="postal_code", type="string"),
        Field(name="year", type="integer"),
    ),
    source=SourceRef(kind="csv", location="people.csv"),
    gdpr=Gdpr(
        personal_data=True,
        controller="register",
        legal_basis="eu-gdpr:A6-1-e",
        disclosure_basis="statute: a fixture",
        purposes=("statistics",),
    ),
    offers=(_TERMS,),
    subject_key="person",
)
_RECORD = AgreementRecord(
    agreement=Agreement(
        id="fixture",
        target=_DATASET.id,
        assigner="register",
        assignee=_CONSUMER.id,
        timestamp=_NOW,
        policy=_TERMS.policy,
        document={},
    ),
    role=Role.PROVIDER,
    negotiation_pid="fixture",
    state=AgreementState.ACTIVE,
    offer_id=_TERMS.wire_id(_DATASET.id),
    terms=_TERMS,
    terms_version=_TERMS.terms_version,
)


def fixture_inputs() -> Sequence[JsonObject]:
    """One input per stage. They judge whether a policy answers in the right form, not what it answers."""
    known = Circumstances(
        now=_NOW, participant_id="register", purposes=_PURPOSES, consumer=_CONSUMER, collaboration=None
    )
    return [decision_input(_request(stage), _TERMS, known) for stage in Stage]


def _request(stage: Stage) -> DecisionRequest:
    first = DecisionRequest(stage=stage, consumer=_CONSUMER, dataset=_DATASET, terms=_TERMS)
    if stage in BEFORE_AGREEMENT:
        return first
    agreed = replace(first, agreement=_RECORD, format=TransferFormat.FEDERATED_QUERY_PULL.value)
    if stage is Stage.TRANSFER:
        return agreed
    return replace(
        agreed,
        purpose="statistics",
        columns=frozenset({"person", "year"}),
        subjects_named=1,
        subjects_consenting=1,
    )
