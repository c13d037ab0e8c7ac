"""Decisions with their answers: one table for both policy engines, and for whoever changes a policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from connector.model.catalog import DatasetStatus, Gdpr, TransferFormat
from connector.model.negotiation import AgreementRecord
from connector.model.policy import (
    AgreementState,
    Constraint,
    LogicalConstraint,
    Policy,
    Rule,
)
from tests.clocks import START
from tests.decisions import agreement, catalogue


@dataclass(frozen=True)
class Case:
    """`codes` are the reasons of the denial; none is a permit."""

    name: str
    dataset: str = "clients"
    offer: str = "planning"
    stage: str = "query"
    changes: dict[str, Any] = field(default_factory=dict)
    codes: frozenset[str] = frozenset()


def _case(
    name: str,
    *codes: str,
    dataset: str = "clients",
    offer: str = "planning",
    stage: str = "query",
    **changes: Any,
) -> Case:
    return Case(name, dataset, offer, stage, changes, frozenset(codes))


def constraint(left: str, operator: str, right: Any) -> Constraint:
    return Constraint(left_operand=left, operator=operator, right_operand=right)


def number(value: int) -> dict[str, str]:
    return {"@value": str(value), "@type": "xsd:integer"}


def under(
    *constraints: Constraint | LogicalConstraint, consumer: str = "city", **rules: Any
) -> AgreementRecord:
    """An agreement on clients for planning with one permission of these constraints."""
    policy = Policy(permissions=(Rule(action="use", constraints=constraints),), **rules)
    return under_policy(policy, consumer)


def under_policy(policy: Policy, consumer: str = "city") -> AgreementRecord:
    return agreement("clients", "planning", consumer, policy=policy)


def one_of(*members: Constraint | LogicalConstraint) -> LogicalConstraint:
    return LogicalConstraint(operator="or", constraints=members)


def all_of(*members: Constraint | LogicalConstraint) -> LogicalConstraint:
    return LogicalConstraint(operator="and", constraints=members)


def rfc3339(days: float) -> str:
    """That many days from the tests' now."""
    return (START + timedelta(days=days)).isoformat()


PURPOSE = constraint("purpose", "eq", "service-planning")
MARKETING = constraint("purpose", "eq", "marketing")
CITY = constraint("recipient", "eq", "city")
YOUTH = constraint("recipient", "eq", "youth")
PUSH = TransferFormat.CLOUD_EVENTS_PUSH.value


def _ended(**changes: Any) -> dict[str, Any]:
    record = agreement("clients", "planning", "city")
    return {"agreement": replace(record, **changes)}


def _signed(**changes: Any) -> dict[str, Any]:
    record = agreement("clients", "planning", "city")
    return {"agreement": replace(record, agreement=replace(record.agreement, **changes))}


ORDINARY = [
    _case("planning-at-catalog", stage="catalog"),
    _case("planning-at-negotiation", stage="negotiation"),
    _case("planning-at-transfer", stage="transfer"),
    _case("planning-at-transfer-with-its-purpose", stage="transfer", purpose="service-planning"),
    _case("planning-query"),
    _case("planning-benefits", dataset="benefits"),
    _case("planning-asks-for-open-columns", columns=frozenset({"hetu", "support_need"})),
    _case("case-work-at-catalog", dataset="benefits", offer="case-work", stage="catalog"),
    _case("case-work-query", dataset="benefits", offer="case-work"),
    _case(
        "case-work-not-counted-yet",
        dataset="benefits",
        offer="case-work",
        subjects_named=None,
        subjects_consenting=None,
    ),
    _case(
        "case-work-two-named-both-consent",
        dataset="benefits",
        offer="case-work",
        subjects_named=2,
        subjects_consenting=2,
    ),
    _case("statistics-at-catalog", dataset="benefit_statistics", offer="statistics", stage="catalog"),
    _case("statistics-query", dataset="benefit_statistics", offer="statistics"),
    _case("statistics-by-anybody", dataset="benefit_statistics", offer="statistics", consumer="youth"),
    _case("outreach-at-negotiation", dataset="leavers", offer="outreach", stage="negotiation"),
    _case("outreach-query", dataset="leavers", offer="outreach"),
    _case("outreach-event", dataset="leavers", offer="outreach", stage="event", format=PUSH),
    _case("deprecated-goes-on", dataset="clients", dataset_=DatasetStatus.DEPRECATED),
    _case("deprecated-is-shown", dataset="clients", stage="catalog", dataset_=DatasetStatus.DEPRECATED),
]

REFUSED = [
    _case("another-purpose", "constraint:purpose", "purpose", "collaboration_purpose", purpose="marketing"),
    _case("no-purpose", "constraint:purpose", "purpose", "collaboration_purpose", purpose=""),
    _case(
        "case-work-is-not-planning",
        "constraint:purpose",
        "purpose",
        "collaboration_purpose",
        purpose="case-work",
    ),
    _case(
        "the-wider-purpose-is-not-the-narrower",
        "constraint:purpose",
        "purpose",
        "collaboration_purpose",
        purpose="public-service-provision",
    ),
    _case(
        "another-purpose-at-transfer", "constraint:purpose", "purpose", stage="transfer", purpose="marketing"
    ),
    _case(
        "unknown-consumer",
        "participant_active",
        "constraint:dsc:membership",
        "collaboration",
        "constraint:dsc:collaboration",
        "consumer",
        consumer="stranger",
    ),
    _case("consumer-left", "participant_active", "constraint:dsc:membership", consumer="gone"),
    _case("consumer-suspended", "participant_active", "constraint:dsc:membership", consumer="paused"),
    _case(
        "not-in-the-collaboration",
        "collaboration",
        "constraint:dsc:collaboration",
        "consumer",
        consumer="youth",
    ),
    _case(
        "not-in-the-collaboration-at-catalog",
        "collaboration",
        "constraint:dsc:collaboration",
        "consumer",
        consumer="youth",
        stage="catalog",
    ),
    _case("agreement-of-somebody-else", "agreement", **_signed(assignee="youth")),
    _case("agreement-on-another-dataset", "agreement", **_signed(target="benefits")),
    _case("agreement-of-another-provider", "agreement", **_signed(assigner="kela")),
    _case("agreement-terminated", "agreement", **_ended(state=AgreementState.TERMINATED)),
    _case("agreement-not-finalized", "agreement", **_ended(state=AgreementState.PENDING)),
    _case("agreement-over", "constraint:elapsedTime", **_signed(timestamp=START - timedelta(days=366))),
    _case("no-agreement-at-query", "agreement", "constraint:elapsedTime", agreement=None),
    _case(
        "no-agreement-at-transfer", "agreement", "constraint:elapsedTime", stage="transfer", agreement=None
    ),
    _case("agreement-without-terms", "terms_missing", **_ended(terms=None)),
    _case("no-terms-at-catalog", "terms_missing", stage="catalog", terms=None),
    _case("unknown-stage", "stage_unknown", stage="publish"),
    _case("format-not-offered", "format", format=PUSH),
    _case("format-unknown", "format", format="Carrier-PIGEON"),
    _case("format-not-stated", "format", format=""),
    _case("action-distribute", "action_not_permitted", "prohibited", action="distribute"),
    _case("action-unknown", "action_not_permitted", action="sell"),
    _case("hidden-column", "column_not_open", columns=frozenset({"name"})),
    _case("column-that-does-not-exist", "column_not_open", columns=frozenset({"nonsense"})),
    _case("draft-dataset", "dataset_status", dataset_=DatasetStatus.DRAFT),
    _case("retired-dataset", "dataset_status", dataset_=DatasetStatus.RETIRED),
    _case(
        "deprecated-takes-no-new-agreements",
        "dataset_status",
        stage="negotiation",
        dataset_=DatasetStatus.DEPRECATED,
    ),
    _case("no-legal-basis", "legal_basis", gdpr_={"legal_basis": ""}),
    _case("no-ground-for-disclosure", "disclosure_basis", gdpr_={"disclosure_basis": ""}),
    _case("purpose-no-longer-the-dataset's", "purpose", gdpr_={"purposes": ("statistics",)}),
    _case("dataset-without-purposes", "purpose", gdpr_={"purposes": ()}),
    _case(
        "case-work-nobody-named",
        "subjects_named",
        "consenting",
        dataset="benefits",
        offer="case-work",
        subjects_named=0,
        subjects_consenting=1,
    ),
    _case(
        "case-work-one-of-two-consents",
        "consenting",
        dataset="benefits",
        offer="case-work",
        subjects_named=2,
        subjects_consenting=1,
    ),
    _case("case-work-no-consent", "consenting", dataset="benefits", offer="case-work", subjects_consenting=0),
    _case(
        "case-work-by-an-analyst",
        "role",
        "constraint:dsc:role",
        dataset="benefits",
        offer="case-work",
        actor_roles=frozenset({"analyst"}),
    ),
    _case(
        "case-work-by-nobody",
        "role",
        "constraint:dsc:role",
        dataset="benefits",
        offer="case-work",
        actor_roles=frozenset(),
    ),
    _case(
        "case-work-by-the-city",
        "constraint:recipient",
        dataset="benefits",
        offer="case-work",
        consumer="city",
    ),
    _case(
        "statistics-for-planning",
        "constraint:purpose",
        "purpose",
        dataset="benefit_statistics",
        offer="statistics",
        purpose="service-planning",
    ),
    _case(
        "statistics-name",
        "column_not_open",
        dataset="benefit_statistics",
        offer="statistics",
        columns=frozenset({"name"}),
    ),
    _case(
        "outreach-by-the-city",
        "constraint:recipient",
        "consumer",
        dataset="leavers",
        offer="outreach",
        consumer="city",
    ),
    _case(
        "outreach-event-for-another-purpose",
        "constraint:purpose",
        "purpose",
        dataset="leavers",
        offer="outreach",
        stage="event",
        format=PUSH,
        purpose="case-work",
    ),
]

VOCABULARY = [
    _case("no-constraints", agreement=under()),
    _case("no-permission", "policy_not_enforceable", agreement=under_policy(Policy())),
    _case("isA-the-wider", agreement=under(constraint("purpose", "isA", "public-service-provision"))),
    _case(
        "eq-the-wider",
        "constraint:purpose",
        agreement=under(constraint("purpose", "eq", "public-service-provision")),
    ),
    _case("isAnyOf-names-it", agreement=under(constraint("purpose", "isAnyOf", ["x", "service-planning"]))),
    _case("until-tomorrow", agreement=under(constraint("dateTime", "lteq", rfc3339(1)))),
    _case(
        "until-the-last-second-there-is",
        agreement=under(constraint("dateTime", "lteq", "9999-12-31T23:59:59Z")),
    ),
    _case(
        "until-after-the-last-second",
        "policy_not_enforceable",
        agreement=under(constraint("dateTime", "lteq", "9999-12-31T23:59:59-02:00")),
    ),
    _case(
        "until-yesterday", "constraint:dateTime", agreement=under(constraint("dateTime", "lteq", rfc3339(-1)))
    ),
    _case("from-yesterday", agreement=under(constraint("dateTime", "gteq", rfc3339(-1)))),
    _case("from-tomorrow", "constraint:dateTime", agreement=under(constraint("dateTime", "gt", rfc3339(1)))),
    _case("until-now-is-over", "expired", agreement=under(constraint("dateTime", "lteq", rfc3339(0)))),
    _case("elapsed-11-days", agreement=under(constraint("elapsedTime", "lteq", "P11D"))),
    _case(
        "elapsed-9-days", "constraint:elapsedTime", agreement=under(constraint("elapsedTime", "lteq", "P9D"))
    ),
    _case("in-the-EU", agreement=under(constraint("spatial", "isPartOf", "EU"))),
    _case(
        "Norway-is-not-in-the-EU",
        "constraint:spatial",
        consumer="oslo",
        agreement=under(constraint("spatial", "isPartOf", "EU"), consumer="oslo"),
    ),
    _case(
        "Norway-is-in-the-EEA",
        consumer="oslo",
        agreement=under(constraint("spatial", "isPartOf", "EEA"), consumer="oslo"),
    ),
    _case("recipient-named", agreement=under(constraint("recipient", "isAnyOf", ["city", "youth"]))),
    _case(
        "recipient-excluded",
        "constraint:recipient",
        agreement=under(constraint("recipient", "isNoneOf", ["city"])),
    ),
    _case("recipient-not-excluded", agreement=under(constraint("recipient", "isNoneOf", ["youth"]))),
    _case("legal-basis", agreement=under(constraint("dsc:legalBasis", "isAnyOf", ["eu-gdpr:A6-1-e"]))),
    _case(
        "another-legal-basis",
        "constraint:dsc:legalBasis",
        agreement=under(constraint("dsc:legalBasis", "eq", "eu-gdpr:A6-1-a")),
    ),
    _case("terms-version", agreement=under(constraint("dsc:termsVersion", "eq", "1.0"))),
    _case(
        "another-terms-version",
        "constraint:dsc:termsVersion",
        agreement=under(constraint("dsc:termsVersion", "eq", "2.0")),
    ),
    _case("framework-agreement", agreement=under(constraint("dsc:agreementRef", "eq", "1.0"))),
    _case(
        "another-framework-agreement",
        "constraint:dsc:agreementRef",
        agreement=under(constraint("dsc:agreementRef", "eq", "0.9")),
    ),
    _case(
        "role-without-a-person",
        "constraint:dsc:role",
        agreement=under(constraint("dsc:role", "eq", "planner")),
    ),
    _case(
        "role",
        actor_roles=frozenset({"planner"}),
        agreement=under(constraint("dsc:role", "isAnyOf", ["planner", "researcher"])),
    ),
    _case("or-one-holds", agreement=under(one_of(YOUTH, CITY))),
    _case(
        "or-none-holds",
        "constraint:recipient",
        "constraint:purpose",
        agreement=under(one_of(YOUTH, MARKETING)),
    ),
    _case("and-all-hold", agreement=under(all_of(PURPOSE, CITY))),
    _case("and-one-fails", "constraint:recipient", agreement=under(all_of(PURPOSE, YOUTH))),
    _case("or-of-ands", agreement=under(one_of(all_of(YOUTH, PURPOSE), all_of(CITY, PURPOSE)))),
    _case("and-of-ors", agreement=under(all_of(one_of(YOUTH, CITY), one_of(PURPOSE, MARKETING)))),
    _case(
        "and-of-ors-one-fails",
        "constraint:purpose",
        "constraint:recipient",
        agreement=under(all_of(one_of(YOUTH, CITY), one_of(MARKETING, YOUTH))),
    ),
    _case(
        "second-permission-holds",
        agreement=under_policy(
            Policy(
                permissions=(
                    Rule(action="use", constraints=(YOUTH,)),
                    Rule(action="use", constraints=(CITY,)),
                )
            )
        ),
    ),
    _case(
        "no-permission-holds",
        "constraint:recipient",
        "constraint:purpose",
        agreement=under_policy(
            Policy(
                permissions=(
                    Rule(action="use", constraints=(YOUTH,)),
                    Rule(action="use", constraints=(MARKETING,)),
                )
            )
        ),
    ),
    _case(
        "unknown-constraint", "policy_not_enforceable", agreement=under(constraint("moonPhase", "eq", "full"))
    ),
    _case("unknown-operator", "policy_not_enforceable", agreement=under(constraint("purpose", "neq", "x"))),
    _case(
        "xone-is-not-known",
        "policy_not_enforceable",
        agreement=under(LogicalConstraint(operator="xone", constraints=(CITY, YOUTH))),
    ),
    _case(
        "unknown-duty",
        "policy_not_enforceable",
        agreement=under(CITY, obligations=(Rule(action="compensate"),)),
    ),
    _case(
        "unknown-prohibition",
        "policy_not_enforceable",
        agreement=under(CITY, prohibitions=(Rule(action="print"),)),
    ),
    _case(
        "consent-asked-for",
        agreement=under(PURPOSE, constraint("dsc:consentStatus", "eq", "dpv:ConsentGiven")),
    ),
    _case(
        "a-quota-that-nobody-counts",
        "limit_not_applied",
        agreement=under(
            PURPOSE, constraint("dsc:minGroupSize", "gteq", number(7)), constraint("count", "lteq", number(9))
        ),
    ),
]

CASES = [*ORDINARY, *REFUSED, *VOCABULARY]


def changes_of(case: Case) -> dict[str, Any]:
    """The keyword arguments of `tests.decisions.ask`."""
    changes = dict(case.changes)
    if status := changes.pop("dataset_", None):
        changes["dataset"] = replace(catalogue()[case.dataset], status=status)
    if gdpr := changes.pop("gdpr_", None):
        held: Gdpr = catalogue()[case.dataset].gdpr
        changes["dataset"] = replace(catalogue()[case.dataset], gdpr=replace(held, **gdpr))
    return changes
