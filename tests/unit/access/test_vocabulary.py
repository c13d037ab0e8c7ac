"""The vocabulary of offers: every term has a class, everything else is refused by its name."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.access import operands, vocabulary
from connector.access.odrl import compile_policy
from connector.access.purposes import PurposeTree, purpose_tree
from connector.access.vocabulary import DUTIES, OPERANDS, PROHIBITIONS, Classified, classify
from connector.errors import ConfigurationError, RequestInvalid
from connector.model.policy import Constraint, Enforcement, LogicalConstraint, Policy, Rule

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DOCUMENT = Path(__file__).parents[3] / "docs" / "policy-vocabulary.md"


def constraint(left: str, operator: str, right: Any) -> Constraint:
    return Constraint(left_operand=left, operator=operator, right_operand=right)


def use(*constraints: Constraint | LogicalConstraint, duties: tuple[Rule, ...] = (), **rules: Any) -> Policy:
    return Policy(permissions=(Rule(action="use", constraints=constraints, duties=duties),), **rules)


PURPOSE = constraint("purpose", "eq", "statistics")
EXAMPLES: dict[str, Any] = {
    "words": "x",
    "number": {"@value": "5", "@type": "xsd:integer"},
    "instant": "2027-01-01T00:00:00Z",
    "duration": "P90D",
}


def test_the_document_says_what_the_table_says() -> None:
    """Skeleton, style: docs/policy-vocabulary.md is printed from the table.

    After a change: `python -m connector.access.vocabulary > docs/policy-vocabulary.md`.
    """
    assert DOCUMENT.read_text(encoding="utf-8") == vocabulary.as_markdown()


@pytest.mark.parametrize("name", OPERANDS)
def test_every_constraint_has_a_class_and_compiles(name: str) -> None:
    """Architecture, idea 2: each constraint has a class, and words for people."""
    term = OPERANDS[name]
    for operator in sorted(term.operators):
        right = sorted(term.only)[0] if term.only else EXAMPLES[term.value]
        policy = use(constraint(name, operator, right))
        (found,) = classify(policy, trusts_consumer=True)
        assert found.enforcement is term.enforcement
        assert found.where
        assert "{}" not in found.text
        compiled = compile_policy(policy, now=NOW, signed_at=NOW, word="agreement")
        assert len(compiled["permissions"][0]["atoms"]) == bool(term.fact)


def test_every_duty_and_prohibition_has_a_class() -> None:
    """Architecture, idea 2: duties are tracked or declared, or the provider does them itself."""
    policy = use(
        duties=tuple(Rule(action=name) for name in DUTIES),
        prohibitions=tuple(Rule(action=name) for name in PROHIBITIONS),
    )
    found = {item.term: item.enforcement for item in classify(policy, trusts_consumer=False)}
    assert found == {n: t.enforcement for n, t in {**DUTIES, **PROHIBITIONS}.items()}
    assert found["delete"] is Enforcement.TRACKED
    assert found["distribute"] is Enforcement.DECLARED


REFUSED = [
    pytest.param(
        use(constraint("moonPhase", "eq", "full")),
        "permission[0].constraint[0].leftOperand",
        "moonPhase",
        id="operand",
    ),
    pytest.param(
        use(constraint("purpose", "neq", "x")), "permission[0].constraint[0].operator", "neq", id="operator"
    ),
    pytest.param(
        use(constraint("count", "lteq", 5)),
        "permission[0].constraint[0].rightOperand",
        "bare int",
        id="bare-number",
    ),
    pytest.param(
        use(constraint("count", "lteq", "many")),
        "permission[0].constraint[0].rightOperand",
        "many",
        id="not-a-number",
    ),
    pytest.param(
        use(constraint("count", "lteq", {"@value": "5", "@type": "xsd:date"})),
        "permission[0].constraint[0].rightOperand",
        "xsd:date",
        id="type",
    ),
    pytest.param(
        use(constraint("dateTime", "lteq", "2027-01-01T00:00:00")),
        "permission[0].constraint[0].rightOperand",
        "offset",
        id="local-time",
    ),
    pytest.param(
        use(constraint("elapsedTime", "lteq", "90 days")),
        "permission[0].constraint[0].rightOperand",
        "ISO 8601",
        id="duration",
    ),
    pytest.param(
        use(constraint("purpose", "isAnyOf", [])),
        "permission[0].constraint[0].rightOperand",
        "empty",
        id="empty-list",
    ),
    pytest.param(
        use(constraint("dsc:consentStatus", "eq", "dpv:ConsentRefused")),
        "permission[0].constraint[0].rightOperand",
        "ConsentGiven",
        id="consent-status",
    ),
    pytest.param(
        use(constraint("dsc:membership", "eq", "left")),
        "permission[0].constraint[0].rightOperand",
        "active",
        id="membership",
    ),
    pytest.param(
        use(LogicalConstraint(operator="xone", constraints=(PURPOSE,))),
        "permission[0].constraint[0]",
        "xone",
        id="xone",
    ),
    pytest.param(
        use(LogicalConstraint(operator="andSequence", constraints=(PURPOSE,))),
        "permission[0].constraint[0]",
        "andSequence",
        id="andSequence",
    ),
    pytest.param(
        use(LogicalConstraint(operator="or", constraints=())),
        "permission[0].constraint[0].or",
        "nothing",
        id="empty-or",
    ),
    pytest.param(
        use(
            LogicalConstraint(
                operator="or", constraints=(PURPOSE, constraint("dsc:minGroupSize", "gteq", "5"))
            )
        ),
        "permission[0].constraint[0].or[1]",
        "alternative",
        id="shaping-under-or",
    ),
    pytest.param(
        use(
            LogicalConstraint(
                operator="or",
                constraints=(
                    LogicalConstraint(
                        operator="and", constraints=(constraint("dateTime", "lteq", EXAMPLES["instant"]),)
                    ),
                ),
            )
        ),
        "permission[0].constraint[0].or[0].and[0]",
        "alternative",
        id="time-under-or-and",
    ),
    pytest.param(
        use(
            LogicalConstraint(
                operator="and",
                constraints=(
                    LogicalConstraint(
                        operator="or",
                        constraints=(LogicalConstraint(operator="and", constraints=(PURPOSE,)),),
                    ),
                ),
            )
        ),
        "permission[0].constraint[0].and[0].or[0]",
        "levels",
        id="too-deep",
    ),
    pytest.param(Policy(permissions=(Rule(action="sell"),)), "permission[0].action", "sell", id="action"),
    pytest.param(Policy(), "permission", "nothing", id="nothing-permitted"),
    pytest.param(
        use(duties=(Rule(action="compensate"),)), "permission[0].duty[0].action", "compensate", id="duty"
    ),
    pytest.param(
        use(obligations=(Rule(action="attribute", constraints=(constraint("elapsedTime", "lteq", "P1D"),)),)),
        "obligation[0]",
        "checked",
        id="duty-without-term",
    ),
    pytest.param(
        use(obligations=(Rule(action="delete", constraints=(PURPOSE,)),)),
        "obligation[0]",
        "elapsedTime",
        id="duty-constraint",
    ),
    pytest.param(
        use(obligations=(Rule(action="delete", duties=(Rule(action="inform"),)),)),
        "obligation[0]",
        "duties",
        id="duty-of-duty",
    ),
    pytest.param(
        use(prohibitions=(Rule(action="print"),)), "prohibition[0].action", "print", id="prohibition"
    ),
    pytest.param(
        use(prohibitions=(Rule(action="distribute", constraints=(PURPOSE,)),)),
        "prohibition[0]",
        "wholly",
        id="prohibition-constraint",
    ),
]


@pytest.mark.parametrize(("policy", "where", "said"), REFUSED)
def test_what_nobody_enforces_is_refused_by_name(policy: Policy, where: str, said: str) -> None:
    """Policy and consent, fail closed at the door: publishing or accepting it is refused, naming it."""
    with pytest.raises(RequestInvalid) as raised:
        classify(policy, trusts_consumer=True)
    assert raised.value.where == where
    assert said in str(raised.value)
    with pytest.raises(RequestInvalid):
        compile_policy(policy, now=NOW, signed_at=None, word="offer")


def test_what_rests_on_the_consumers_word_needs_an_offer_that_trusts_it() -> None:
    """Architecture, idea 2: consumer-enforced only where the offer says that it trusts the consumer."""
    policy = use(constraint("dsc:role", "eq", "case_worker"))
    assert classify(policy, trusts_consumer=True)[0].enforcement is Enforcement.CONSUMER
    with pytest.raises(RequestInvalid, match="dsc:role rests on the consumer's word"):
        classify(policy, trusts_consumer=False)


def test_all_problems_of_a_policy_are_found_at_once() -> None:
    """Whoever mends an offer mends it in one go."""
    policy = use(constraint("a", "eq", "x"), constraint("b", "eq", "x"), prohibitions=(Rule(action="c"),))
    assert len(vocabulary.problems(policy, trusts_consumer=True)) == 3
    assert all(isinstance(f, Classified) for f in vocabulary.examine(use(PURPOSE), trusts_consumer=False))


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("P1M", datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 28, tzinfo=UTC)),
        ("P1Y", datetime(2028, 2, 29, tzinfo=UTC), datetime(2029, 2, 28, tzinfo=UTC)),
        ("P1Y2M3DT4H5M6S", datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 3, 4, 4, 5, 6, tzinfo=UTC)),
        ("P2W", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 15, tzinfo=UTC)),
        ("PT90M", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, 30, tzinfo=UTC)),
    ],
)
def test_durations_are_the_calendars(text: str, start: datetime, end: datetime) -> None:
    """standards.md 3: dates and durations are compiled; a month is the calendar's."""
    assert operands.duration(text).after(start) == end


@pytest.mark.parametrize(
    "text", ["P", "PT", "P1", "1D", "P-1D", "P1.5D", "P1DT", "P1H", "p1d", "P9999Y", "P١D", ""]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Fail closed: an unclear duration is not zero, and not for ever."""
    with pytest.raises(ValueError, match=r".+"):
        operands.duration(text)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
        lambda i: (
            st.lists(i, max_size=3)
            | st.dictionaries(st.sampled_from(["@value", "@type", "@id", "x"]), i, max_size=3)
        ),
    )
)
def test_any_right_operand_is_read_or_refused(value: Any) -> None:
    """Hostile values end in a ValueError that a person can read, never in another error."""
    for read in (operands.words, operands.number, operands.instant, operands.duration):
        with suppress(ValueError):
            assert read(value) is not None


def test_elapsed_time_and_expiry_are_compiled_to_epoch_seconds() -> None:
    """standards.md 3: the evaluator compares numbers; the expiry is when the first bound ends."""
    signed = NOW - timedelta(days=1)
    policy = use(
        constraint("elapsedTime", "lteq", "P1M"),
        constraint("dateTime", "lteq", "2026-12-01T00:00:00+02:00"),
        obligations=(Rule(action="delete", constraints=(constraint("elapsedTime", "lteq", "P90D"),)),),
    )
    compiled = compile_policy(policy, now=NOW, signed_at=signed, word="agreement")
    elapsed, until = compiled["permissions"][0]["atoms"]
    assert elapsed["value"] == 30 * 86_400
    assert until["value"] == int(datetime(2026, 11, 30, 22, 0, tzinfo=UTC).timestamp())
    assert compiled["permissions"][0]["expires_at"] == until["value"]
    assert compiled["duties"] == [{"action": "delete", "within_seconds": 90 * 86_400}]


# --- purposes -----------------------------------------------------------------------------------------


def _entry(parent: str = "") -> dict[str, Any]:
    return {"label": {"fi": "a", "sv": "b", "en": "c"}, **({"parent": parent} if parent else {})}


def test_a_purpose_is_one_of_all_above_it() -> None:
    """standards.md 3: ODRL has no "subclass of": the tree is resolved before evaluation."""
    tree = purpose_tree({"a": _entry(), "b": _entry("a"), "c": _entry("b")}, "purposes.json")
    assert tree.ancestors("c") == ("c", "b", "a")
    assert tree.covers("a", "c")
    assert not tree.covers("c", "a")
    assert tree.ancestors("unknown") == ("unknown",)
    assert "a" in tree


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"a": {}},
        {"a": {"label": {"fi": "x"}}},
        {"a": {**_entry(), "color": "red"}},
        {"a": _entry("b")},
        {"a": _entry("b"), "b": _entry("a")},
        {"a": _entry("a")},
    ],
)
def test_a_tree_that_is_none_is_refused(document: Any) -> None:
    """Skeleton, bad input: the file and the purpose are named."""
    with pytest.raises(ConfigurationError, match=r"purposes\.json"):
        purpose_tree(document, "purposes.json")


def test_a_cycle_never_hangs() -> None:
    """A tree made by hand is walked once."""
    assert PurposeTree(parents={"a": "b", "b": "a"}).ancestors("a") == ("a", "b")
