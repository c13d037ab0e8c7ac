"""What a consumer is told of a dataset: exactly what it may see, and of everything hidden why and by whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.data_plane.columns import exposed_columns, filterable
from connector.data_plane.explain import describe, hidden_parts, mask_in_words
from connector.model.catalog import Field
from connector.model.decision import (
    Bucket,
    ConsentRequirement,
    Constant,
    Drop,
    FieldCondition,
    Hash,
    Mask,
    Null,
    Permit,
    Pseudonym,
    Truncate,
)
from tests.agreed import benefits
from tests.ports.examples import grant

FIELDS = (
    Field(name="hetu", type="string"),
    Field(name="amount", type="integer"),
    Field(name="born", type="date"),
    Field(name="postcode", type="string"),
    Field(name="note", type="string"),
    Field(name="clerk", type="integer"),
)
DATASET = benefits(fields=FIELDS)
PERMIT = Permit(
    columns=frozenset({"hetu", "amount", "born", "postcode", "note", "clerk"}),
    column_masks={
        "amount": Bucket(size=100),
        "born": Truncate(unit="year"),
        "postcode": Truncate(length=3),
        "note": Drop(),
        "clerk": Hash(),
    },
    pseudonyms={"hetu": Pseudonym(domain="planning-2026", generation=1, invertible=True)},
    consent=(ConsentRequirement(purpose="outreach", recipient="youth"),),
    row_filter=FieldCondition(field="postcode", operator="eq", value="00100"),
    key_exchange=True,
    enforced_by={"column:hetu": "offer planning", "rows": "region, baseline", "consent": "baseline"},
)


def description(permit: Permit = PERMIT) -> dict[str, Any]:
    return describe(DATASET, permit, grant("g1", agreement_id="a1", purpose="outreach"), "kela", "p1")


def test_a_description_names_what_may_be_seen_and_how() -> None:
    """The data API's description: a dropped column does not exist, a token has the type of a text."""
    told = description()
    assert {c["name"]: (c["type"], c["exposure"], c["filterable"]) for c in told["columns"]} == {
        "hetu": ("string", "pseudonym", True),
        "amount": ("integer", "mask:bucket", True),
        "born": ("date", "mask:truncate", True),
        "postcode": ("string", "mask:truncate", True),
        "clerk": ("string", "mask:hash", False),
    }
    assert (told["dataset"], told["participant"], told["agreement"]) == ("benefits", "kela", "a1")
    assert (told["purpose"], told["policyRevision"]) == ("outreach", "p1")
    assert (told["collaboration"], told["keyExchange"], told["aggregateOnly"]) == (
        "planning-2026",
        True,
        False,
    )


def test_everything_hidden_says_why_and_by_whom() -> None:
    """One line per obligation; who imposed it, and the offer where nobody else did."""
    told = {h.what: (h.why, h.enforced_by) for h in hidden_parts(DATASET, PERMIT, "kela")}
    assert told == {
        "column hetu": ("left as a pseudonym of planning-2026", "kela (offer planning)"),
        "column amount": ("rounded down to steps of 100", "kela (offer)"),
        "column born": ("cut to the year", "kela (offer)"),
        "column postcode": ("cut to its first 3 characters", "kela (offer)"),
        "column note": ("the agreement does not open it for this purpose", "kela (offer)"),
        "column clerk": ("replaced by a keyed hash", "kela (offer)"),
        "rows of persons": ("no valid consent to outreach by youth", "kela (baseline)"),
        "rows": ("outside the policy's row filter", "kela (region, baseline)"),
    }
    assert "00100" not in repr(told)


@pytest.mark.parametrize(
    ("permit", "lines"),
    [
        (Permit(columns=frozenset({"hetu"})), []),
        (Permit(columns=frozenset(), aggregate_only=True), ["single rows"]),
        (Permit(columns=frozenset(), min_group_size=5), ["single rows", "groups under 5 persons"]),
        (Permit(columns=frozenset(), subjects_named=True), ["every person not named"]),
    ],
)
def test_groups_and_names(permit: Permit, lines: list[str]) -> None:
    """A minimum group shows no rows either: a row is a group of one."""
    told = [h.what for h in hidden_parts(DATASET, permit, "kela") if not h.what.startswith("column ")]
    assert told == lines


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Null(), "replaced by nothing"),
        (Constant(value="secret"), "replaced by a fixed value"),
        (Truncate(unit="month"), "cut to the month"),
    ],
)
def test_masks_in_words(mask: Mask, words: str) -> None:
    """For people; a constant's value is not told."""
    assert mask_in_words(mask) == words


names = st.sampled_from([f.name for f in FIELDS])


@given(
    columns=st.frozensets(names),
    dropped=st.frozensets(names),
    hashed=st.frozensets(names),
    dimensions=st.frozensets(names),
    group=st.sampled_from([1, 5]),
    exchange=st.booleans(),
)
def test_the_description_is_the_gates_own(
    columns: frozenset[str],
    dropped: frozenset[str],
    hashed: frozenset[str],
    dimensions: frozenset[str],
    group: int,
    exchange: bool,
) -> None:
    """What is told and what the fragment's gate accepts come from one place: they never differ."""
    masks: dict[str, Mask] = {**dict.fromkeys(hashed, Hash()), **dict.fromkeys(dropped, Drop())}
    permit = Permit(
        columns=columns,
        column_masks=masks,
        min_group_size=group,
        dimensions=dimensions,
        key_exchange=exchange,
    )
    told = {c["name"]: c for c in description(permit)["columns"]}
    gate = exposed_columns(DATASET, permit)
    assert told.keys() == gate.keys() == columns - dropped
    assert all(told[n]["filterable"] is filterable(gate[n], permit) for n in told)
    hidden = {h.what.removeprefix("column ") for h in hidden_parts(DATASET, permit, "kela")}
    assert hidden >= {f.name for f in FIELDS} - told.keys()
