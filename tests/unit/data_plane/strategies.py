"""Random permits over the test register, and fragments that mostly keep to them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st

from connector.access.pseudonym import ColumnHash, Pseudonymiser
from connector.data_plane.columns import (
    ExposedColumn,
    Pseudonymisers,
    Tokeniser,
    accepts_pseudonyms,
    aggregates_only,
    exposed_columns,
)
from connector.model.catalog import LogicalType
from connector.model.decision import (
    EVERY_ROW,
    Bucket,
    CompoundCondition,
    Condition,
    ConsentRequirement,
    Constant,
    FieldCondition,
    Hash,
    Null,
    Permit,
    Pseudonym,
    Truncate,
)
from connector.model.fragment import Aggregate, Fragment
from tests.unit.data_plane.registers import FIELDS, Row, dataset

DATASET = dataset()
MORE = int(os.environ.get("EXAMPLES", "1"))
"""`EXAMPLES=100 pytest tests/unit/data_plane` runs the random tests a hundred times as long."""
TEXTS = [
    "",
    "a",
    "B",
    "Z",
    "z",
    "ä",
    "Ä",
    "å",
    "a b",
    "ab",
    "abc",
    "😀x",
    "x😀",
    "日本",
    "\uffff",
    "it's",
    "100%",
]
AREAS = ["north", "North", "south", "söder"]
AGES = [-25, -10, -1, 0, 1, 9, 10, 19, 35, 64]
INCOMES = [-2.5, -0.25, 0.0, 0.25, 1000.5, 2000.75]
DAYS = [date(1, 1, 1), date(1899, 12, 31), date(1990, 2, 28), date(2024, 2, 29), date(9999, 12, 31)]
INSTANTS = [
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, 999_000, UTC),
    datetime(2026, 6, 15, 12, 0, 0, 250_000, UTC),
]
PEOPLE = [f"{d:02d}0190-9{d:02d}A" for d in range(1, 13)]
SLOPPY = {0: " 010190-901a", 1: "020190\u2013902A\u00a0"}  # the same persons, badly typed
LITERALS: Mapping[LogicalType, Sequence[Any]] = {
    "string": [t for t in (*TEXTS, *AREAS) if t.isprintable()],
    "integer": [*AGES, 2**40, -(2**63), 2**63 - 1],
    "number": [*INCOMES, 0.1, 1e300],
    "boolean": [True, False],
    "date": [d.isoformat() for d in DAYS],
    "timestamp": [i.isoformat().replace("+00:00", "Z") for i in INSTANTS],
}


def rows() -> list[Row]:
    """Every value meets every other's neighbourhood; persons have several rows; some cells are empty."""
    made = []
    for n in range(72):
        person = n % len(PEOPLE)
        made.append(
            {
                "hetu": None
                if n == 70
                else SLOPPY.get(person, PEOPLE[person])
                if n % 5 == 0
                else PEOPLE[person],
                "area": None if n % 17 == 3 else AREAS[n % 7 % 4],
                "age": None if n % 13 == 5 else AGES[n % len(AGES)],
                "income": None if n % 11 == 4 else INCOMES[n % len(INCOMES)],
                "active": None if n % 19 == 2 else n % 3 == 0,
                "born": None if n % 23 == 6 else DAYS[n % len(DAYS)],
                "seen": None if n % 29 == 7 else INSTANTS[n % len(INSTANTS)],
                "note": None if n % 31 == 8 else TEXTS[n % len(TEXTS)],
                "secret": TEXTS[(n * 5) % len(TEXTS)],
            }
        )
    return made


def pseudonymisers_for(permit: Permit) -> Pseudonymisers:
    made: dict[str, Tokeniser] = {}
    for name, column in exposed_columns(DATASET, permit).items():
        if column.pseudonym is not None:
            p = column.pseudonym
            made[name] = Pseudonymiser(b"k" * 32, f"{p.domain}/{p.generation}", invertible=p.invertible)
        elif column.hashed:
            made[name] = ColumnHash(b"h" * 32, name)
    return made


MASKS: Mapping[LogicalType, Sequence[Any]] = {
    "string": [
        Null(),
        Hash(),
        Constant(value="x"),
        Constant(value=None),
        *(Truncate(length=n) for n in (0, 1, 2)),
    ],
    "integer": [Null(), Hash(), Constant(value=7), *(Bucket(size=n) for n in (1, 7, 10))],
    "number": [Null(), Hash(), Constant(value=0.5)],
    "boolean": [Null(), Hash(), Constant(value=True)],
    "date": [Null(), Hash(), Constant(value=None), Truncate(unit="year"), Truncate(unit="month")],
    "timestamp": [Null(), Hash(), Truncate(unit="year"), Truncate(unit="month")],
}


@st.composite
def permits(draw: st.DrawFn) -> Permit:
    names = [f.name for f in FIELDS]
    columns = draw(st.sets(st.sampled_from(names), min_size=3))
    masks = {
        f.name: draw(st.sampled_from(MASKS[f.type]))
        for f in FIELDS
        if f.name in columns and draw(st.integers(0, 2)) == 0
    }
    pseudonym = draw(
        st.sampled_from(
            [None, Pseudonym(domain="c", generation=1), Pseudonym(domain="c", generation=1, invertible=True)]
        )
    )
    groups = draw(st.integers(0, 3)) == 0
    return Permit(
        columns=frozenset(columns),
        column_masks=masks,
        pseudonyms={"hetu": pseudonym} if pseudonym else {},
        key_exchange=draw(st.booleans()),
        row_filter=_row_filters(draw),
        consent=(ConsentRequirement(purpose="p", recipient="r"),) if draw(st.booleans()) else (),
        aggregate_only=groups,
        min_group_size=draw(st.integers(1, 6)) if groups else 1,
        dimensions=frozenset(draw(st.sets(st.sampled_from(sorted(columns))))) if groups else frozenset(),
    )


def _row_filters(draw: st.DrawFn) -> Condition:
    """Policies filter on stored values of any column."""
    leaves = [Leaf(f.name, f.type, LITERALS[f.type]) for f in FIELDS if f.name != "hetu"]
    return _condition(draw, leaves, empty=True) if draw(st.booleans()) else EVERY_ROW


@st.composite
def fragments(draw: st.DrawFn, permit: Permit) -> Fragment:
    """Within the permit as a rule: what may be asked is asked often."""
    columns = exposed_columns(DATASET, permit)
    groups = aggregates_only(permit)
    condition = _permitted_condition(draw, permit, columns)
    if not groups and draw(st.integers(0, 2)):
        names = draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, unique=True))
        limit = draw(st.none() | st.integers(0, 20))
        return Fragment(dataset_id=DATASET.id, columns=tuple(names), condition=condition, limit=limit)
    by = sorted(permit.dimensions & columns.keys()) if groups else sorted(columns)
    return Fragment(
        dataset_id=DATASET.id,
        condition=condition,
        aggregates=tuple(_aggregates(draw, columns)),
        group_by=tuple(draw(st.lists(st.sampled_from(by), max_size=2, unique=True))) if by else (),
    )


def _aggregates(draw: st.DrawFn, columns: Mapping[str, ExposedColumn]) -> list[Aggregate]:
    numbers = [c.name for c in columns.values() if c.comparable and c.type in ("integer", "number")]
    made = []
    for n in range(draw(st.integers(1, 3))):
        function = draw(st.sampled_from(["count", "count_distinct", *(("sum", "avg") if numbers else ())]))
        among = numbers if function in ("sum", "avg") else sorted(columns)
        column = None if function == "count" else draw(st.sampled_from(among))
        made.append(Aggregate(function=function, column=column, alias=f"out_{n}"))
    return made


@dataclass(frozen=True)
class Leaf:
    """A column that a condition may name, what it can be compared with, and how."""

    name: str
    type: LogicalType
    values: Sequence[Any]
    equality_only: bool = False


def _permitted_condition(draw: st.DrawFn, permit: Permit, columns: Mapping[str, ExposedColumn]) -> Condition:
    groups = aggregates_only(permit)
    leaves = []
    for column in columns.values():
        if groups and column.name not in permit.dimensions:
            continue
        if column.comparable:
            leaves.append(Leaf(column.name, column.type, LITERALS[column.type], groups))
        elif accepts_pseudonyms(column, permit):
            known = [p for p in pseudonymisers_for(permit)[column.name].apply([*PEOPLE, "010101-999X"]) if p]
            leaves.append(Leaf(column.name, "string", known, True))
    if not leaves or not draw(st.integers(0, 3)):
        return EVERY_ROW
    if groups:
        several = [_comparison(draw, leaves) for _ in range(draw(st.integers(1, 2)))]
        return CompoundCondition(operator="and", conditions=tuple(several))
    return _condition(draw, leaves)


def _comparison(draw: st.DrawFn, leaves: Sequence[Leaf]) -> FieldCondition:
    leaf = draw(st.sampled_from(leaves))
    operators = ["eq", "in"]
    if not leaf.equality_only:
        operators += ["ne", "not_in", "is_null", "not_null"]
        operators += ["lt", "le", "gt", "ge"] if leaf.type != "boolean" else []
    operator = draw(st.sampled_from(operators))
    value: Any = None
    if operator in ("in", "not_in"):
        value = tuple(draw(st.sampled_from(leaf.values)) for _ in range(draw(st.integers(1, 4))))
    elif operator not in ("is_null", "not_null"):
        value = draw(st.sampled_from(leaf.values))
    return FieldCondition(field=leaf.name, operator=operator, value=value)  # type: ignore[arg-type]


def _condition(draw: st.DrawFn, leaves: Sequence[Leaf], *, empty: bool = False, depth: int = 0) -> Condition:
    kind = draw(st.integers(0, 6)) if depth < 3 else 0
    if kind <= 2:
        return _comparison(draw, leaves)
    if kind == 3:
        turnable = [leaf for leaf in leaves if not leaf.equality_only]
        if not turnable:
            return _comparison(draw, leaves)
        inner = _condition(draw, turnable, empty=empty, depth=depth + 1)
        return CompoundCondition(operator="not", conditions=(inner,))
    count = draw(st.integers(0 if empty else 2, 3))
    parts = tuple(_condition(draw, leaves, empty=empty, depth=depth + 1) for _ in range(count))
    return CompoundCondition(operator="and" if kind <= 5 else "or", conditions=parts)


def canonical(condition: Condition) -> Condition:
    """As the parser builds it: chains of one operator are flat, NOT IN and IS NOT NULL are one step."""
    if isinstance(condition, FieldCondition):
        return condition
    parts = [canonical(c) for c in condition.conditions]
    if condition.operator != "not" and len(parts) == 1:
        return parts[0]
    if condition.operator == "not":
        (part,) = parts
        if isinstance(part, FieldCondition) and part.operator in ("in", "is_null"):
            positive = {"in": "not_in", "is_null": "not_null"}
            return FieldCondition(field=part.field, operator=positive[part.operator], value=part.value)  # type: ignore[arg-type]
        return CompoundCondition(operator="not", conditions=(part,))
    nested = (
        p.conditions if isinstance(p, CompoundCondition) and p.operator == condition.operator else (p,)
        for p in parts
    )
    return CompoundCondition(operator=condition.operator, conditions=tuple(itertools.chain(*nested)))
