"""The decision: the agreement's own terms, what each policy answers, and what only shows together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.access.decision import BASELINE, ODRL, Decider, Stage
from connector.access.decision_document import DocumentInvalid, read_document
from connector.access.decision_fixtures import fixture_inputs
from connector.adapters.policy_files import project_purposes
from connector.adapters.rego_engine import RegoEngine
from connector.errors import PolicyUnavailable, Reason
from connector.model.catalog import OfferTerms
from connector.model.decision import (
    Bucket,
    ConsentRequirement,
    Constant,
    Deny,
    Drop,
    Limits,
    Null,
    Permit,
    Pseudonym,
    Revisions,
    Truncate,
)
from connector.model.json import JsonObject
from connector.model.participant import CollaborationRole
from connector.model.policy import Enforcement
from tests.clocks import ManualClock
from tests.decision_cases import CASES, changes_of, constraint, number, under
from tests.decisions import (
    PLANNING,
    PROVIDERS,
    ROOT,
    SIGNED,
    Trust,
    World,
    agreement,
    ask,
    catalogue,
    input_of,
    modules,
    terms_of,
)

INPUT_SCHEMA = json.loads((ROOT / "docs/schemas/decision-input.json").read_text(encoding="utf-8"))
RESULT_SCHEMA = json.loads((ROOT / "docs/schemas/decision-result.json").read_text(encoding="utf-8"))


@pytest.fixture
async def employment() -> AsyncIterator[World]:
    engine = RegoEngine()
    await engine.load(modules())
    yield World(engine, "employment")
    await engine.close()


@pytest.fixture
async def kela(employment: World) -> World:
    return World(employment.engine, "kela")


@pytest.fixture
async def school(employment: World) -> World:
    return World(employment.engine, "school")


class Answers:
    """Port PolicyEngine that answers what a test says; `revisions` are read one after the other."""

    def __init__(self, *documents: Any, revisions: Sequence[str] = ("r1",)) -> None:
        self._documents = documents
        self._revisions = list(revisions)
        self.asked = 0

    @property
    def revision(self) -> str:
        return self._revisions.pop(0) if len(self._revisions) > 1 else self._revisions[0]

    async def load(self, modules: Mapping[str, str]) -> None: ...

    async def evaluate(self, packages: Sequence[str], request: JsonObject) -> Mapping[str, JsonObject]:
        self.asked += 1
        if not self._documents:
            raise PolicyUnavailable("gone")
        last = len(self._documents) - 1
        return {package: self._documents[min(i, last)] for i, package in enumerate(packages)}

    async def close(self) -> None: ...


def deciding(*documents: Any, revisions: Sequence[str] = ("r1",)) -> Decider:
    engine = Answers(*documents, revisions=revisions)
    return Decider(engine, Trust(), ManualClock(), "employment", project_purposes())


async def permitted(world: World, *arguments: str, **changes: Any) -> Permit:
    decision = await world.decider.decide(ask(*arguments, **changes))
    assert isinstance(decision, Permit), decision
    return decision


async def refused(world: World, *arguments: str, **changes: Any) -> Deny:
    decision = await world.decider.decide(ask(*arguments, **changes))
    assert isinstance(decision, Deny), decision
    return decision


# --- what a permit opens ------------------------------------------------------------------------------


async def test_planning_opens_what_the_offer_names_and_hides_the_rest(employment: World) -> None:
    """Mission step 4a: pseudonymised key, coarser areas, and columns that do not exist for the consumer."""
    permit = await permitted(employment, "clients", "planning")
    assert permit.exposed == {"hetu", "postal_code", "support_need", "service", "birth_year"}
    assert permit.pseudonyms == {"hetu": Pseudonym(domain="planning-2026", generation=1)}
    assert permit.column_masks == {"postal_code": Truncate(length=3), "birth_year": Bucket(size=10)}
    assert not permit.identified
    assert permit.consent == ()
    assert permit.expires_at == SIGNED + timedelta(days=365)
    assert permit.enforced_by["column:postal_code"] == "policy statutory_planning"
    assert permit.enforced_by["column:hetu"] == "offer planning"
    assert permit.enforced_by["column:name"] == "offer planning"
    assert permit.enforced_by["expiry"] == "agreement"
    assert permit.revisions == Revisions(policy=employment.engine.revision, odrl="beef", contract="c0ffee")


async def test_statistics_are_groups_only(kela: World) -> None:
    """Mission step 4b: at least k, enforced by the provider, whoever asks."""
    permit = await permitted(kela, "benefit_statistics", "statistics")
    assert permit.aggregate_only
    assert permit.min_group_size == 5
    assert permit.dimensions == {"benefit", "month", "postal_code", "birth_year", "sex"}
    assert not permit.identified
    assert permit.enforced_by["group"] == "agreement, policy open_statistics, offer statistics"


async def test_case_work_is_an_identified_disclosure_of_those_who_consent(kela: World) -> None:
    """Mission step 4c: called identified, persons named one by one, consent row by row."""
    permit = await permitted(kela, "benefits", "case-work")
    assert permit.identified
    assert permit.subjects_named
    assert permit.consent == (ConsentRequirement(purpose="case-work", recipient="employment"),)
    assert permit.limits == Limits(max_rows=1000)
    assert permit.pseudonyms == {}


async def test_outreach_pseudonyms_belong_to_the_agreement_and_can_come_back(school: World) -> None:
    """Architecture: without a collaboration each agreement is a domain; invertible only with keyExchange."""
    permit = await permitted(school, "leavers", "outreach", "event", format="CloudEvents-PUSH")
    (pseudonym,) = permit.pseudonyms.values()
    assert pseudonym == Pseudonym(
        domain="agreement:urn:agreement:leavers:outreach", generation=1, invertible=True
    )
    assert permit.key_exchange
    assert permit.identified, "name and telephone leave in the clear"
    assert [(d.action, d.enforcement) for d in permit.duties] == [
        ("delete", Enforcement.TRACKED),
        ("dsc:log", Enforcement.PROVIDER),
    ]


async def test_a_consumer_that_owns_a_joined_register_is_told_who_it_is(employment: World) -> None:
    """Architecture: it could undo the pseudonyms, so the disclosure is called identified."""
    both = {**PLANNING.members, "city": frozenset({CollaborationRole.CONSUMER, CollaborationRole.PROVIDER})}
    employment.trust.collaboration(replace(PLANNING, members=both))
    assert (await permitted(employment, "clients", "planning")).identified


async def test_the_generation_of_the_collaboration_chooses_the_key(employment: World) -> None:
    """Architecture: generation is not the grant's epoch; it moves only when the members want it."""
    employment.trust.collaboration(replace(PLANNING, generation=4))
    permit = await permitted(employment, "clients", "planning")
    assert permit.pseudonyms["hetu"].generation == 4


async def test_the_group_size_of_an_agreement_becomes_an_obligation(employment: World) -> None:
    """standards.md 3: minGroupSize is no condition, it shapes the answer."""
    record = under(
        constraint("purpose", "eq", "service-planning"), constraint("dsc:minGroupSize", "gteq", number(7))
    )
    assert (await permitted(employment, "clients", "planning", agreement=record)).min_group_size == 7


async def test_a_limit_that_nothing_applies_is_a_denial(employment: World) -> None:
    """Fail closed: a quota that is not counted would be a promise; `count` denies until it is."""
    record = under(constraint("count", "lteq", number(9)))
    denial = await refused(employment, "clients", "planning", agreement=record)
    assert [r.code for r in denial.reasons] == ["limit_not_applied"]
    slow = await deciding({**GOOD, "limits": {"max_seconds": 5}}).decide(ask("clients", "planning"))
    assert isinstance(slow, Deny)


# --- whose terms --------------------------------------------------------------------------------------


async def test_an_agreement_keeps_its_terms(employment: World) -> None:
    """Skeleton, data shapes: the snapshot at signing decides, not today's offer."""
    old = replace(terms_of("clients", "planning"), columns={"hetu": "pseudonym", "service": "clear"})
    record = replace(agreement("clients", "planning", "city"), terms=old)
    permit = await permitted(employment, "clients", "planning", agreement=record)
    assert permit.exposed == {"hetu", "service"}


async def test_a_column_that_has_gone_or_changed_its_type_is_not_shown(employment: World) -> None:
    """Fail closed: an exposure that no longer fits the dataset shows nothing."""
    held = catalogue()["clients"]
    fields = tuple(
        replace(f, type="string") if f.name == "birth_year" else f for f in held.fields if f.name != "service"
    )
    permit = await permitted(employment, "clients", "planning", dataset=replace(held, fields=fields))
    assert permit.exposed == {"hetu", "postal_code", "support_need"}
    assert permit.column_masks["birth_year"] == Drop()


async def test_policies_of_the_dataset_and_of_the_offer_all_decide(kela: World) -> None:
    """Architecture: local Rego can only narrow; every policy named has to permit."""
    dataset = replace(catalogue()["benefits"], policies=("case_work",))
    reasons = (await refused(kela, "benefits", "planning", dataset=dataset)).reasons
    assert {r.source for r in reasons} == {"policy case_work"}


async def test_a_policy_that_is_no_longer_loaded_denies(employment: World) -> None:
    """Fail closed: an offer names a policy that the operator has removed."""
    terms = replace(terms_of("clients", "planning"), policies=("gone",))
    record = replace(agreement("clients", "planning", "city"), terms=terms)
    denial = await refused(employment, "clients", "planning", agreement=record)
    assert [r.code for r in denial.reasons] == ["policy_unavailable"]


# --- the world changes --------------------------------------------------------------------------------


async def test_the_trust_list_of_now_decides_not_the_token(employment: World) -> None:
    """Idea 3: expelling a participant takes effect at once, whatever was known when the token was made."""
    held = employment.trust.list
    assert held is not None
    employment.trust.list = replace(
        held, participants={k: v for k, v in held.participants.items() if k != "city"}
    )
    codes = {r.code for r in (await refused(employment, "clients", "planning")).reasons}
    assert {"participant_active", "constraint:dsc:membership"} <= codes


async def test_without_a_trust_list_everything_is_denied(employment: World) -> None:
    """Architecture, registry: expires after 24 h, then deny."""
    employment.trust.list = None
    denial = await refused(employment, "clients", "planning")
    assert [r.code for r in denial.reasons] == ["trust_unavailable"]


async def test_a_collaboration_that_is_over_or_unknown_denies(employment: World) -> None:
    """Architecture: the pseudonym domain is signed in the registry; no entry, no domain."""
    over = replace(PLANNING, valid_until=employment.clock.now())
    for changed in (over, None, replace(PLANNING, members={"city": frozenset({CollaborationRole.CONSUMER})})):
        employment.trust.collaboration(changed)
        codes = {r.code for r in (await refused(employment, "clients", "planning")).reasons}
        assert "collaboration" in codes


async def test_another_collaboration_than_the_offers_does_not_help(employment: World) -> None:
    """The request cannot choose the domain."""
    employment.trust.collaboration(None)
    other = replace(PLANNING, id="planning-2027")
    denial = await refused(employment, "clients", "planning", collaboration=other)
    assert "collaboration" in {r.code for r in denial.reasons}


async def test_time_passes(employment: World) -> None:
    """An agreement over twelve months denies on the day after."""
    record = agreement("clients", "planning", "city", signed_at=employment.clock.now())
    await permitted(employment, "clients", "planning", agreement=record)
    await employment.clock.advance(366 * 86_400)
    denial = await refused(employment, "clients", "planning", agreement=record)
    assert [r.code for r in denial.reasons] == ["constraint:elapsedTime"]


# --- reasons ------------------------------------------------------------------------------------------


async def test_reasons_are_sentences_that_name_who_said_so(employment: World) -> None:
    """Mission step 5: denied with reasons a person understands."""
    reasons = (await refused(employment, "clients", "planning", purpose="marketing")).reasons
    assert reasons[0] == Reason(
        code="constraint:purpose",
        text="purpose 'marketing' is not among the purposes of the agreement: service-planning",
        source="agreement",
    )
    assert {r.source for r in reasons} == {"agreement", "baseline", "policy statutory_planning"}


async def test_a_hidden_column_and_one_that_is_not_there_read_the_same(employment: World) -> None:
    """Two worlds that differ only in hidden columns refuse in the same words."""
    told = set()
    for column in ("name", "nonsense"):
        denial = await refused(employment, "clients", "planning", columns=frozenset({column}))
        told.add(tuple(r.text.replace(column, "…") for r in denial.reasons))
    assert len(told) == 1


# --- what policies answer -----------------------------------------------------------------------------

GOOD: dict[str, Any] = {"allow": True, "reasons": []}


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [],
        "allow",
        {"allow": "true"},
        {"allow": 1},
        {"allow": None},
        {**GOOD, "rows": []},
        {**GOOD, "columns": ["nonsense"]},
        {**GOOD, "columns": "hetu"},
        {**GOOD, "columns": [1]},
        {**GOOD, "column_masks": {"nonsense": {"kind": "drop"}}},
        {**GOOD, "column_masks": {"service": {"kind": "blur"}}},
        {**GOOD, "column_masks": {"service": "drop"}},
        {**GOOD, "column_masks": {"service": {"kind": ["drop"]}}},
        {**GOOD, "column_masks": {"service": {"kind": "truncate"}}},
        {**GOOD, "column_masks": {"service": {"kind": "truncate", "length": -1}}},
        {**GOOD, "column_masks": {"service": {"kind": "truncate", "length": 2, "unit": "year"}}},
        {**GOOD, "column_masks": {"service": {"kind": "truncate", "unit": "year"}}},
        {**GOOD, "column_masks": {"service": {"kind": "bucket", "size": 10}}},
        {**GOOD, "column_masks": {"birth_year": {"kind": "bucket", "size": 0}}},
        {**GOOD, "column_masks": {"birth_year": {"kind": "constant", "value": "x"}}},
        {**GOOD, "column_masks": {"birth_year": {"kind": "constant"}}},
        {**GOOD, "column_masks": {"birth_year": {"kind": "hash"}}},
        {**GOOD, "column_masks": {"service": {"kind": "drop", "value": 1}}},
        {**GOOD, "row_filter": {"type": "field", "field": "nonsense", "operator": "eq", "value": 1}},
        {**GOOD, "row_filter": {"type": "field", "field": "service", "operator": "like", "value": "x"}},
        {**GOOD, "row_filter": {"type": "field", "field": "service", "operator": "eq", "value": 1}},
        {**GOOD, "row_filter": {"type": "field", "field": "service", "operator": "in", "value": "x"}},
        {**GOOD, "row_filter": {"type": "field", "field": "service", "operator": "in"}},
        {**GOOD, "row_filter": {"type": "field", "field": "service", "operator": "is_null", "value": 1}},
        {
            **GOOD,
            "row_filter": {"type": "field", "field": "registered_on", "operator": "lt", "value": "soon"},
        },
        {**GOOD, "row_filter": {"type": "field", "field": "service", "operator": ["eq"], "value": "x"}},
        {**GOOD, "row_filter": {"type": "field", "field": ["service"], "operator": "eq", "value": "x"}},
        {**GOOD, "row_filter": {"type": ["field"], "field": "service", "operator": "eq", "value": "x"}},
        {**GOOD, "row_filter": {"type": "compound", "operator": ["and"], "value": []}},
        {**GOOD, "row_filter": {"type": "compound", "operator": "xor", "value": []}},
        {**GOOD, "duties": [{"action": ["delete"]}]},
        {**GOOD, "column_masks": {"registered_on": {"kind": "truncate", "unit": ["year"]}}},
        {**GOOD, "row_filter": {"type": "compound", "operator": "not", "value": []}},
        {**GOOD, "row_filter": {"type": "compound", "operator": "and", "value": {}}},
        {**GOOD, "row_filter": {"type": "sql", "value": "1=1"}},
        {**GOOD, "row_filter": {}},
        {**GOOD, "row_filter": []},
        {**GOOD, "min_group_size": 0},
        {**GOOD, "min_group_size": "5"},
        {**GOOD, "min_group_size": True},
        {**GOOD, "min_group_size": None},
        {**GOOD, "limits": {"max_rows": -1}},
        {**GOOD, "limits": {"max_rows": "10"}},
        {**GOOD, "limits": {"rows": 10}},
        {**GOOD, "limits": []},
        {**GOOD, "limits": {"max_seconds": 0}},
        {**GOOD, "consent": [{"purpose": "x"}]},
        {**GOOD, "consent": [{"purpose": "", "recipient": "x"}]},
        {**GOOD, "consent": {"purpose": "x", "recipient": "y"}},
        {**GOOD, "duties": [{"action": "sing"}]},
        {**GOOD, "duties": [{"action": "delete", "within_seconds": -1}]},
        {**GOOD, "duties": ["delete"]},
        {**GOOD, "expires_at": "2027-01-01"},
        {**GOOD, "expires_at": True},
        {**GOOD, "expires_at": 1e300},
        {**GOOD, "expires_at": float("nan")},
        {"allow": False, "reasons": [{"code": "x"}]},
        {"allow": False, "reasons": "no"},
        {"allow": False, "reasons": [], "because": "x"},
    ],
    ids=lambda d: json.dumps(d)[:60],
)
async def test_an_answer_that_is_not_understood_is_a_denial(document: Any) -> None:
    """Idea 1: anything unknown, missing or of the wrong kind is Deny; no obligation is dropped."""
    decision = await deciding(GOOD, document, GOOD).decide(ask("clients", "planning"))
    assert isinstance(decision, Deny)
    assert [(r.code, r.source) for r in decision.reasons] == [("policy_result_invalid", "baseline")]


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({**GOOD, "columns": None}, {}),
        ({**GOOD, "columns": ["hetu", "service"]}, {"columns": frozenset({"hetu", "service"})}),
        ({**GOOD, "column_masks": {"service": {"kind": "null"}}}, {"column_masks.service": Null()}),
        (
            {**GOOD, "column_masks": {"service": {"kind": "constant", "value": "?"}}},
            {"column_masks.service": Constant(value="?")},
        ),
        ({**GOOD, "min_group_size": 3.0}, {"min_group_size": 3}),
        ({**GOOD, "limits": {"max_rows": None, "max_bytes": 15}}, {"limits": Limits(max_bytes=15)}),
        (
            {**GOOD, "duties": None, "consent": None, "row_filter": None, "expires_at": None, "limits": None},
            {},
        ),
    ],
)
async def test_an_answer_narrows_what_it_speaks_of_and_nothing_else(
    document: Any, what: dict[str, Any]
) -> None:
    """docs/schemas/decision-result.json: what a policy does not speak of stays as it is."""
    plain = await deciding(GOOD).decide(ask("clients", "planning"))
    narrowed = await deciding(GOOD, document, GOOD).decide(ask("clients", "planning"))
    assert isinstance(plain, Permit)
    assert isinstance(narrowed, Permit)
    for name, value in what.items():
        part, _, key = name.partition(".")
        found = getattr(narrowed, part)
        assert (found[key] if key else found) == value
    if not what:
        assert narrowed == plain
    assert narrowed.exposed <= plain.exposed


async def test_a_denial_without_a_reason_is_one_all_the_same() -> None:
    """The text then names who said so."""
    decision = await deciding(GOOD, {"allow": False, "reasons": []}).decide(ask("clients", "planning"))
    assert isinstance(decision, Deny)
    assert decision.reasons[0].text == "baseline does not permit it"


async def test_no_engine_is_a_denial() -> None:
    """Style, habit 5: OPA down is Deny."""
    decision = await deciding().decide(ask("clients", "planning"))
    assert isinstance(decision, Deny)
    assert decision.reasons[0].code == "policy_unavailable"


async def test_no_policy_in_force_is_a_denial() -> None:
    """Four eyes: before the first approval nothing is permitted, and the reason says so."""
    decision = await deciding(revisions=("",)).decide(ask("clients", "planning"))
    assert isinstance(decision, Deny)
    assert decision.reasons[0].code == "policy_not_approved"


async def test_a_decision_is_of_one_revision() -> None:
    """A policy that is replaced while OPA answers: the decision is taken again, wholly under the new one."""
    decider = deciding(GOOD, revisions=("r1", "r2", "r2", "r2"))
    decision = await decider.decide(ask("clients", "planning"))
    assert decision.revisions.policy == "r2"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = [
    "allow",
    "reasons",
    "columns",
    "column_masks",
    "row_filter",
    "min_group_size",
    "limits",
    "consent",
    "duties",
    "expires_at",
]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(keys), json_values), st.booleans())
def test_any_answer_is_read_or_refused(document: dict[str, Any], allow: bool) -> None:
    """Hostile or careless policies: never an exception that could pass for something else."""
    try:
        read_document({**document, "allow": allow}, "policy x", {"hetu": "string"})
    except DocumentInvalid:
        return


# --- schemas ------------------------------------------------------------------------------------------


def test_every_input_fits_its_schema() -> None:
    """Policy and consent: the schema of decision input is published for policy authors, and true."""
    validator = jsonschema.Draft7Validator(INPUT_SCHEMA)
    jsonschema.Draft7Validator.check_schema(INPUT_SCHEMA)
    for document in fixture_inputs():
        validator.validate(document)
    for case in CASES:
        if case.stage != "publish" and not case.codes & {"terms_missing", "policy_not_enforceable"}:
            request = ask(case.dataset, case.offer, case.stage, **changes_of(case))
            validator.validate(json.loads(json.dumps(input_of(request, PROVIDERS[case.dataset]))))


async def test_every_answer_fits_its_schema(employment: World) -> None:
    """Policy and consent: and of decision output; what we refuse, the schema refuses."""
    jsonschema.Draft7Validator.check_schema(RESULT_SCHEMA)
    validator = jsonschema.Draft7Validator(RESULT_SCHEMA)
    packages = [
        ODRL,
        BASELINE,
        *(f"dataspace.policies.{n}" for n in ("case_work", "outreach", "open_statistics")),
    ]
    for document in fixture_inputs():
        for answer in (await employment.engine.evaluate(packages, document)).values():
            validator.validate(answer)
    assert not validator.is_valid({"allow": True, "rows": 1})
    assert not validator.is_valid({"allow": True, "column_masks": {"x": {"kind": "blur"}}})


# --- explain ------------------------------------------------------------------------------------------


async def test_explain_names_class_and_who_for_every_part(kela: World) -> None:
    """Architecture, idea 2: `explain` shows, per constraint, its class, who enforces it and where."""
    lines = kela.decider.explain(catalogue()["benefits"])
    held = {(line.offer, line.path): line for line in lines}
    purpose = held["planning", "permission[0].constraint[0]"]
    assert (purpose.enforcement, purpose.who) == (Enforcement.PROVIDER, "kela")
    role = held["case-work", "permission[0].constraint[2]"]
    assert (role.enforcement, role.who) == (Enforcement.CONSUMER, "the consumer")
    assert held["case-work", "obligation[0]"].enforcement is Enforcement.TRACKED
    assert held["planning", "prohibition[0]"].who.startswith("nobody")
    assert all(line.where and line.text for line in lines)
    assert ("planning", "policies") in held
    assert ("planning", "approval") in held


async def test_the_world_of_the_tests_is_that_of_the_stages() -> None:
    """All five stages are decided on; a sixth is denied."""
    assert [s.value for s in Stage] == ["catalog", "negotiation", "transfer", "query", "event"]
    assert isinstance(terms_of("clients", "planning"), OfferTerms)
