"""Values of the model for the store's and the buses' contracts: plain ones, and Hypothesis strategies."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from connector.model.catalog import OfferTerms, TransferFormat
from connector.model.consent import ConsentEvent, ConsentRecord, ConsentState, Notice
from connector.model.decision import Bucket, Constant, Drop, Hash, Null, Truncate
from connector.model.event import CloudEvent
from connector.model.negotiation import AgreementRecord, ContractNegotiation, NegotiationState, Role
from connector.model.policy import Agreement, AgreementState, Constraint, LogicalConstraint, Policy, Rule
from connector.model.transfer import DataAddress, Grant, GrantState, TransferProcess, TransferState
from connector.ports import OutboxMessage

NOW = datetime(2026, 11, 22, 9, 0, 0, 123456, tzinfo=UTC)


def negotiation(pid: str = "urn:uuid:n1", *, peer_pid: str = "", **changes: Any) -> ContractNegotiation:
    return replace(
        ContractNegotiation(
            pid=pid,
            peer_pid=peer_pid,
            role=Role.PROVIDER,
            state=NegotiationState.REQUESTED,
            counter_party="youth",
            peer_address="http://127.0.0.1:7104/dsp/2025-1",
            dataset_id="clients",
            offer={"@id": "clients:planning:1", "permission": [{"action": "use"}]},
            created_at=NOW,
            updated_at=NOW,
        ),
        **changes,
    )


def transfer(pid: str = "urn:uuid:t1", *, peer_pid: str = "", **changes: Any) -> TransferProcess:
    return replace(
        TransferProcess(
            pid=pid,
            peer_pid=peer_pid,
            role=Role.PROVIDER,
            state=TransferState.REQUESTED,
            counter_party="youth",
            peer_address="http://127.0.0.1:7104/dsp/2025-1",
            agreement_id="urn:uuid:a1",
            format=TransferFormat.FEDERATED_QUERY_PULL,
            created_at=NOW,
            updated_at=NOW,
        ),
        **changes,
    )


def agreement_record(agreement_id: str = "urn:uuid:a1", **changes: Any) -> AgreementRecord:
    agreement = Agreement(
        id=agreement_id,
        target="clients",
        assigner="employment",
        assignee=changes.pop("assignee", "youth"),
        timestamp=NOW,
        policy=Policy(permissions=(Rule(action="use"),)),
        document={"@id": agreement_id, "@type": "Agreement", "target": "clients"},
    )
    return replace(
        AgreementRecord(
            agreement=agreement,
            role=Role.PROVIDER,
            negotiation_pid="urn:uuid:n1",
            state=AgreementState.ACTIVE,
            offer_id="clients:planning:1",
        ),
        **changes,
    )


def message(message_id: str, *, process_pid: str = "urn:uuid:n1", **changes: Any) -> OutboxMessage:
    return replace(
        OutboxMessage(
            id=message_id,
            process_pid=process_pid,
            kind="negotiation",
            recipient="youth",
            url="http://127.0.0.1:7104/dsp/2025-1/negotiations/1/agreement",
            body={"@type": "ContractAgreementMessage"},
            created_at=NOW,
            due_at=NOW,
        ),
        **changes,
    )


def consent(record_id: str = "c1", *states: ConsentState, **changes: Any) -> ConsentRecord:
    return replace(
        ConsentRecord(
            id=record_id,
            subject="siv:1",
            controller="kela",
            purpose="outreach",
            recipient="youth",
            legal_basis="gdpr:6.1.a",
            disclosure_basis="consent",
            notice=Notice(url="https://example.org/notice", language="sv"),
            events=tuple(
                ConsentEvent(state=state, at=NOW + timedelta(minutes=number))
                for number, state in enumerate(states or (ConsentState.GIVEN,))
            ),
        ),
        **changes,
    )


def grant(grant_id: str = "g1", **changes: Any) -> Grant:
    return replace(
        Grant(
            id=grant_id,
            agreement_id="urn:uuid:a1",
            transfer_pid="urn:uuid:t1",
            consumer="youth",
            dataset_id="clients",
            purpose="outreach",
            format=TransferFormat.FEDERATED_QUERY_PULL,
            policy_revision="p1",
            consent_version=1,
            epoch=1,
            state=GrantState.ACTIVE,
            created_at=NOW,
        ),
        **changes,
    )


def event(event_id: str, *, subject: str = "s1", **changes: Any) -> CloudEvent:
    """Its time has whole milliseconds: all that travels."""
    return replace(
        CloudEvent(
            id=event_id,
            source="urn:participant:kela",
            type="fi.kela.benefit.granted.v1",
            time=NOW.replace(microsecond=123000),
            subject=subject,
            data={"n": event_id},
        ),
        **changes,
    )


# --- strategies ----------------------------------------------------------------------------------------

keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
"""What a database can have in a key; documents can hold the rest of Unicode too."""

texts = st.text(max_size=20)
instants = st.integers(-(10**15), 10**16).map(lambda micros: NOW + timedelta(microseconds=micros))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
masks = st.one_of(
    st.just(Drop()),
    st.just(Null()),
    st.builds(Constant, value=scalars),
    st.builds(Truncate, length=st.integers(0, 9), unit=st.sampled_from(["", "year", "month"])),
    st.builds(Bucket, size=st.integers(1, 99)),
    st.just(Hash()),
)
exposures = st.sampled_from(["clear", "pseudonym"]) | masks
constraints: st.SearchStrategy[Constraint | LogicalConstraint] = st.recursive(
    st.builds(Constraint, left_operand=texts, operator=texts, right_operand=json_values),
    lambda inner: st.builds(
        LogicalConstraint, operator=st.just("or"), constraints=st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=5,
)
rules: st.SearchStrategy[Rule] = st.recursive(
    st.builds(Rule, action=texts, constraints=st.lists(constraints, max_size=2).map(tuple)),
    lambda inner: st.builds(Rule, action=texts, duties=st.lists(inner, max_size=2).map(tuple)),
    max_leaves=3,
)
several_rules = st.lists(rules, max_size=2).map(tuple)
policies = st.builds(Policy, permissions=several_rules, prohibitions=several_rules, obligations=several_rules)
offer_terms = st.builds(
    OfferTerms,
    id=texts,
    terms_version=texts,
    policy=policies,
    columns=st.dictionaries(texts, exposures, max_size=4),
    dimensions=st.lists(texts, max_size=2).map(tuple),
)
agreement_records = st.builds(
    AgreementRecord,
    agreement=st.builds(
        Agreement,
        id=keys,
        assigner=keys,
        assignee=keys,
        timestamp=instants,
        policy=policies,
        document=json_objects,
    ),
    role=st.sampled_from(Role),
    state=st.just(AgreementState.ACTIVE),
    terms=st.none() | offer_terms,
    ended_at=st.none() | instants,
)
negotiations = st.builds(
    ContractNegotiation,
    pid=keys,
    peer_pid=keys,
    counter_party=keys,
    waiting_for=st.sampled_from(["", "approval"]),
    offer=json_objects,
    created_at=instants,
    updated_at=instants,
    version=st.just(0),
)
transfers = st.builds(
    TransferProcess,
    pid=keys,
    peer_pid=keys,
    counter_party=keys,
    agreement_id=keys,
    data_address=st.none() | st.builds(DataAddress, properties=st.dictionaries(texts, texts, max_size=3)),
    created_at=instants,
    updated_at=instants,
    version=st.just(0),
)
consents = st.builds(
    ConsentRecord,
    id=keys,
    subject=keys,
    purpose=keys,
    recipient=keys,
    events=st.lists(st.builds(ConsentEvent, at=instants, valid_until=st.none() | instants), max_size=3).map(
        tuple
    ),
)
grants = st.builds(
    Grant,
    id=keys,
    agreement_id=keys,
    transfer_pid=keys,
    consumer=keys,
    dataset_id=keys,
    purpose=keys,
    ended_reason=keys,
    consent_version=st.integers(0, 2**62),
    epoch=st.integers(0, 2**62),
    created_at=instants,
    expires_at=st.none() | instants,
)
messages = st.builds(
    OutboxMessage,
    id=keys,
    process_pid=keys,
    body=json_objects,
    created_at=instants,
    due_at=instants.filter(lambda due_at: due_at < NOW),
    attempts=st.integers(0, 99),
    last_error=keys,
)
