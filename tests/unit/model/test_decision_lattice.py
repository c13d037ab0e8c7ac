"""How decisions combine: in any order, in any grouping, never adding a cell (architecture.md, idea 1)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.errors import Reason
from connector.model.decision import (
    EVERY_ROW,
    Bucket,
    CompoundCondition,
    Condition,
    ConsentRequirement,
    Constant,
    Decision,
    Deny,
    Drop,
    DutyObligation,
    FieldCondition,
    Hash,
    Limits,
    Mask,
    Null,
    Permit,
    Pseudonym,
    Truncate,
    intersect,
    strictest,
)
from connector.model.policy import Enforcement

UNHURRIED = settings(deadline=None)
"""A busy machine is no finding."""

COLUMNS = ("person", "area", "year", "day")
ROWS: list[dict[str, Any]] = [
    {"person": f"p{n}", "area": area, "year": year, "day": day}
    for n, (area, year, day) in enumerate(
        (area, year, day)
        for area in ("00100", "00120", "00530")
        for year in (1980, 1985, 1991, 2003)
        for day in ("2026-01-31", "2026-02-01", "2025-02-01")
    )
]

masks: st.SearchStrategy[Mask] = st.one_of(
    st.just(Drop()),
    st.just(Null()),
    st.just(Hash()),
    st.builds(Constant, value=st.sampled_from(["x", "y", None])),
    st.builds(Truncate, length=st.integers(0, 5)),
    st.builds(Truncate, unit=st.sampled_from(["year", "month"])),
    st.builds(Bucket, size=st.sampled_from([2, 3, 5, 6, 10, 12])),
)
pseudonyms = st.builds(
    Pseudonym,
    domain=st.sampled_from(["c1", "c2"]),
    generation=st.integers(1, 2),
    invertible=st.booleans(),
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(
        st.just(EVERY_ROW),
        st.builds(FieldCondition, field=st.just("area"), operator=st.just("eq"), value=st.just("00100")),
        st.builds(
            FieldCondition,
            field=st.just("year"),
            operator=st.sampled_from(["lt", "ge"]),
            value=st.integers(1980, 2000),
        ),
    ),
    lambda inner: st.builds(
        CompoundCondition,
        operator=st.sampled_from(["and", "or"]),
        conditions=st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=4,
)
maybe_whole = st.none() | st.integers(0, 9)
permits = st.builds(
    Permit,
    columns=st.frozensets(st.sampled_from(COLUMNS)),
    row_filter=conditions,
    column_masks=st.dictionaries(st.sampled_from(COLUMNS), masks, max_size=3),
    pseudonyms=st.dictionaries(st.sampled_from(["person", "area"]), pseudonyms),
    min_group_size=st.integers(1, 9),
    aggregate_only=st.booleans(),
    dimensions=st.frozensets(st.sampled_from(COLUMNS)),
    consent=st.lists(
        st.builds(ConsentRequirement, purpose=st.sampled_from("ab"), recipient=st.sampled_from("xy")),
        max_size=2,
    ).map(tuple),
    subjects_named=st.booleans(),
    key_exchange=st.booleans(),
    identified=st.booleans(),
    limits=st.builds(Limits, max_rows=maybe_whole, max_queries_per_day=maybe_whole),
    duties=st.lists(
        st.builds(
            DutyObligation,
            action=st.sampled_from(["delete", "inform"]),
            enforcement=st.just(Enforcement.TRACKED),
            within_seconds=maybe_whole,
        ),
        max_size=2,
    ).map(tuple),
    expires_at=st.none() | st.sampled_from([datetime(2026, 1, d, tzinfo=UTC) for d in (1, 2, 3)]),
    enforced_by=st.dictionaries(st.sampled_from(["rows", "group"]), st.sampled_from(["one", "two"])),
)
denials = st.builds(
    Deny,
    reasons=st.lists(st.builds(Reason, code=st.sampled_from("pq"), text=st.just("t")), max_size=2).map(tuple),
)
decisions: st.SearchStrategy[Decision] = st.one_of(permits, permits, permits, denials)


# --- what a decision lets through, by an oracle of its own -------------------------------------------------


def holds(condition: Condition, row: dict[str, Any]) -> bool:
    if isinstance(condition, CompoundCondition):
        inner = [holds(c, row) for c in condition.conditions]
        return {"and": all(inner), "or": any(inner), "not": not all(inner)}[condition.operator]
    value: Any = condition.value
    held = row[condition.field]
    return bool({"eq": held == value, "lt": held < value, "ge": held >= value}[condition.operator])


def masked(mask: Mask, value: Any) -> Any:
    match mask:
        case Null() | Drop():
            return None
        case Constant(value=constant):
            return constant
        case Hash():
            return ("hash", value)
        case Truncate(unit="", length=length):
            return str(value)[:length]
        case Truncate(unit=unit):
            return str(value)[: 4 if unit == "year" else 7]
        case Bucket(size=size):
            number = int("".join(c for c in str(value) if c.isdigit()))
            return number - number % size
    raise AssertionError(mask)


def shown(permit: Permit, column: str, value: Any) -> Any:
    """What leaves for one value. A pseudonym that can be undone tells as much as the value itself."""
    mask = permit.column_masks.get(column)
    pseudonym = permit.pseudonyms.get(column)
    if mask is not None and pseudonym is not None:
        return None
    if pseudonym is not None:
        return (pseudonym.domain, pseudonym.generation, value)
    return value if mask is None else masked(mask, value)


def effect(decision: Decision) -> Any:
    """Everything that a decision means; two of equal effect differ only in words."""
    if isinstance(decision, Deny):
        return frozenset(r.code for r in decision.reasons)
    rows = [row for row in ROWS if holds(decision.row_filter, row)]
    return (
        decision.exposed,
        [[(c, shown(decision, c, row[c])) for c in sorted(decision.exposed)] for row in rows],
        {c: decision.column_masks[c] for c in decision.exposed if c in decision.column_masks},
        {c: decision.pseudonyms[c] for c in decision.exposed if c in decision.pseudonyms},
        decision.min_group_size,
        decision.dimensions if decision.aggregate_only else None,
        frozenset(decision.consent),
        decision.subjects_named,
        decision.key_exchange,
        decision.identified,
        decision.limits,
        frozenset(decision.duties),
        decision.expires_at,
        {key: frozenset(who.split(", ")) for key, who in decision.enforced_by.items()},
    )


# --- masks -------------------------------------------------------------------------------------------------


@UNHURRIED
@given(masks, masks)
def test_the_strictest_mask_does_not_depend_on_the_order(one: Mask, other: Mask) -> None:
    """Architecture, idea 1: the strictest mask."""
    assert strictest(one, other) == strictest(other, one)
    assert strictest(one, one) == one


@UNHURRIED
@given(masks, masks, masks)
def test_the_strictest_mask_does_not_depend_on_the_grouping(a: Mask, b: Mask, c: Mask) -> None:
    """Architecture, idea 1: three policies give one answer, however they are taken together."""
    assert strictest(strictest(a, b), c) == strictest(a, strictest(b, c))


@UNHURRIED
@given(masks, masks, st.sampled_from(COLUMNS[1:]))
def test_the_strictest_mask_shows_no_more_than_either(one: Mask, other: Mask, column: str) -> None:
    """Values that one of the masks makes equal stay equal: nothing new can be told apart."""
    merged = strictest(one, other)
    values = [row[column] for row in ROWS]
    for mask in (one, other):
        told: dict[Any, set[Any]] = {}
        for value in values:
            told.setdefault(masked(mask, value), set()).add(masked(merged, value))
        assert all(len(seen) == 1 for seen in told.values())


# --- decisions ---------------------------------------------------------------------------------------------


@UNHURRIED
@given(decisions, decisions)
def test_the_order_does_not_matter(a: Decision, b: Decision) -> None:
    """Architecture, idea 1: everything intersects."""
    assert effect(intersect([a, b])) == effect(intersect([b, a]))


@UNHURRIED
@given(decisions, decisions, decisions)
def test_the_grouping_does_not_matter(a: Decision, b: Decision, c: Decision) -> None:
    """Architecture, idea 1: policies may be combined in stages."""
    left = intersect([intersect([a, b]), c])
    right = intersect([a, intersect([b, c])])
    assert effect(left) == effect(right) == effect(intersect([a, b, c]))


@UNHURRIED
@given(decisions)
def test_the_same_policy_twice_is_the_policy_once(a: Decision) -> None:
    """Architecture, idea 1: listing a policy twice changes nothing."""
    assert effect(intersect([a, a])) == effect(intersect([a]))


@UNHURRIED
@given(st.lists(decisions, min_size=1, max_size=4), decisions)
def test_adding_a_policy_never_adds_a_cell(held: list[Decision], added: Decision) -> None:
    """Architecture, idea 1, and Policy: neither a row, a column, a finer value nor a way to undo one."""
    before, after = intersect(held), intersect([*held, added])
    if isinstance(before, Deny):
        assert isinstance(after, Deny)
        return
    if isinstance(after, Deny):
        return
    assert after.exposed <= before.exposed
    for row in ROWS:
        assert holds(before.row_filter, row) or not holds(after.row_filter, row)
    for column in after.exposed:
        told: dict[Any, set[Any]] = {}
        for row in ROWS:
            told.setdefault(shown(before, column, row[column]), set()).add(shown(after, column, row[column]))
        assert all(len(seen) == 1 for seen in told.values())
    _assert_no_wider(before, after)


def _assert_no_wider(before: Permit, after: Permit) -> None:
    assert after.min_group_size >= before.min_group_size
    assert after.aggregate_only or not before.aggregate_only
    if before.aggregate_only:
        assert after.dimensions <= before.dimensions
    assert set(after.consent) >= set(before.consent)
    assert set(after.duties) >= set(before.duties)
    assert after.subjects_named or not before.subjects_named
    assert before.key_exchange or not after.key_exchange
    assert after.identified or not before.identified
    assert after.limits.intersect(before.limits) == after.limits
    assert before.expires_at is None or (
        after.expires_at is not None and after.expires_at <= before.expires_at
    )
    for column in after.exposed & after.pseudonyms.keys():
        held = before.pseudonyms.get(column)
        assert held is None or held.invertible or not after.pseudonyms[column].invertible


def test_no_decision_is_a_denial() -> None:
    """Style, habit 5: an empty set of policies permits nothing."""
    decision = intersect([])
    assert isinstance(decision, Deny)
    assert decision.reasons[0].code == "no_policy"


def test_pseudonyms_of_two_domains_never_meet() -> None:
    """Policy: pseudonyms of two collaborations never match; a column under both would link them."""
    one, other = (
        Permit(
            columns=frozenset({"person"}),
            pseudonyms={"person": Pseudonym(domain=d, generation=1)},
            key_exchange=True,
        )
        for d in ("c1", "c2")
    )
    merged = intersect([one, other])
    assert isinstance(merged, Permit)
    assert merged.exposed == frozenset()


def test_buckets_that_do_not_nest_meet_in_the_least_that_both_fit_into() -> None:
    """The bound of a bucket of 30 follows from that of 10, and from that of 6."""
    assert strictest(Bucket(size=10), Bucket(size=6)) == Bucket(size=30)


def test_both_who_ask_are_named() -> None:
    """Idea 2: who enforces what is told truthfully, when two policies ask for the same."""
    merged = intersect(
        [
            Permit(columns=frozenset({"area"}), enforced_by={"rows": who})
            for who in ("offer planning", "baseline")
        ]
    )
    assert isinstance(merged, Permit)
    assert merged.enforced_by == {"rows": "offer planning, baseline"}
