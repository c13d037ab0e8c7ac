"""Rules that only narrow an offer (Protocol, decision hook: counter-offers must be enforceable)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from connector.dsp.policy import narrows, same_rules, with_rules
from connector.errors import MessageInvalid
from connector.model.policy import PROFILE

ATOMS = st.builds(
    lambda left, right: {"leftOperand": left, "operator": "eq", "rightOperand": right},
    st.sampled_from(["purpose", "spatial", "dsc:role"]),
    st.sampled_from(["a", "b"]),
)
LISTS = st.lists(ATOMS, max_size=3)
DUTIES = st.lists(st.sampled_from([{"action": "delete"}, {"action": "inform"}]), max_size=2)


def rule(action: str, constraints: list[Any], duties: list[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"action": action}
    return {
        **made,
        **({"constraint": constraints} if constraints else {}),
        **({"duty": duties} if duties else {}),
    }


PERMISSIONS = st.builds(rule, st.sampled_from(["use", "read"]), LISTS, DUTIES)


def policy(permissions: list[Any], prohibitions: list[Any], obligations: list[Any]) -> dict[str, Any]:
    parts = {"permission": permissions, "prohibition": prohibitions, "obligation": obligations}
    return {"@id": "urn:o", "@type": "Offer", **{k: v for k, v in parts.items() if v}}


OFFERS = st.builds(
    policy,
    st.lists(PERMISSIONS, min_size=1, max_size=2),
    st.lists(st.sampled_from([{"action": "distribute"}, {"action": "dsc:reidentify"}]), max_size=2),
    DUTIES,
)


@given(OFFERS)
def test_an_offer_narrows_itself(offer: dict[str, Any]) -> None:
    """The same rules in any order are no more than themselves."""
    assert narrows(offer, offer)
    assert narrows(offer, {**offer, "permission": list(reversed(offer["permission"]))})


@st.composite
def edited(draw: st.DrawFn, offer: dict[str, Any]) -> dict[str, Any]:
    """`offer` with things added to and taken from its rules: sometimes narrower, sometimes not."""
    made = copy.deepcopy(offer)
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(made["permission"]) - 1))
        match draw(st.sampled_from(["constrain", "free", "oblige", "forbid", "drop", "widen"])):
            case "constrain":
                made["permission"][index].setdefault("constraint", []).append(draw(ATOMS))
            case "free":
                made["permission"][index].pop("constraint", None)
            case "oblige":
                made.setdefault("obligation", []).append({"action": "inform"})
            case "forbid":
                made.setdefault("prohibition", []).append({"action": "dsc:reidentify"})
            case "drop" if len(made["permission"]) > 1:
                made["permission"].pop(index)
            case "widen":
                made["permission"].append(draw(PERMISSIONS))
    return made


@st.composite
def chains(draw: st.DrawFn) -> list[dict[str, Any]]:
    offers = [draw(OFFERS)]
    for _ in range(2):
        offers.append(draw(edited(offers[-1])))
    return offers


def permits(offer: Any, action: str, facts: Mapping[str, str]) -> bool:
    """ODRL's own reading, constraint by constraint."""
    return any(
        rule["action"] == action
        and all(facts.get(c["leftOperand"]) == c["rightOperand"] for c in rule.get("constraint", ()))
        for rule in offer["permission"]
    )


FACTS = st.dictionaries(
    st.sampled_from(["purpose", "spatial", "dsc:role"]), st.sampled_from(["a", "b"]), max_size=3
)


@given(chains(), st.sampled_from(["use", "read"]), FACTS)
def test_what_narrows_permits_nothing_more(
    offers: list[dict[str, Any]], action: str, facts: dict[str, str]
) -> None:
    """Soundness, by evaluating both; and however long they counter, nothing beyond the first comes in."""
    one, two, three = offers
    if narrows(one, two):
        assert permits(one, action, facts) or not permits(two, action, facts)
        for name in ("prohibition", "obligation"):
            assert all(r in two.get(name, []) for r in one.get(name, []))
        if narrows(two, three):
            assert narrows(one, three)


@given(OFFERS, ATOMS)
def test_a_constraint_more_narrows_and_the_other_way_round_it_does_not(offer: Any, atom: Any) -> None:
    """The direction matters."""
    first, *rest = offer["permission"]
    assume(not rest and atom not in first.get("constraint", []))
    tighter = {**first, "constraint": [*first.get("constraint", []), atom]}
    assert narrows(offer, {**offer, "permission": [tighter]})
    assert not narrows({**offer, "permission": [tighter]}, offer)


@given(OFFERS, st.sampled_from(["prohibition", "obligation"]))
def test_what_we_forbid_or_ask_cannot_be_left_out(offer: Any, name: str) -> None:
    """Every one of them has to stay."""
    assume(offer.get(name))
    assert not narrows(offer, {**offer, name: offer[name][1:]}) or offer[name][0] in offer[name][1:]


USE = {"action": "use", "constraint": [{"leftOperand": "purpose", "operator": "eq", "rightOperand": "a"}]}
OFFER = policy([USE], [{"action": "distribute"}], [])


@pytest.mark.parametrize(
    "change",
    [
        {"permission": []},
        {"permission": [USE, {"action": "use"}]},
        {"permission": [{**USE, "assignee": "urn:else"}]},
        {"permission": [{**USE, "action": "distribute"}]},
        {"permission": [{"action": "use", "constraint": [{"or": USE["constraint"]}]}]},
        {"inheritFrom": "urn:else"},
        {"profile": "urn:else"},
    ],
)
def test_what_cannot_be_seen_to_narrow_does_not(change: dict[str, Any]) -> None:
    """Fail closed: members that could mean anything, operands that would have to be weighed."""
    assert not narrows(OFFER, {**OFFER, **change})


def test_rules_in_place_of_others_name_our_profile_where_they_need_it() -> None:
    """As our own offers do, so that both say the same."""
    role = {"leftOperand": "dsc:role", "operator": "eq", "rightOperand": "x"}
    made = with_rules(OFFER, {"permission": [{**USE, "constraint": [*USE["constraint"], role]}]})
    assert made["profile"] == [PROFILE]
    assert narrows(OFFER, made)
    assert same_rules(OFFER, with_rules(OFFER, {}))
    assert "prohibition" not in with_rules(OFFER, {"prohibition": []})
    with pytest.raises(MessageInvalid, match=r"offer\.permission"):
        with_rules(OFFER, {"permission": [{"constraint": []}]})
