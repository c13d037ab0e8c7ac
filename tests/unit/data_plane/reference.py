"""The policy in plain Python: what a permit lets a fragment see of rows in memory. Slow and obvious."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from connector.access.pseudonym import normalise_id
from connector.data_plane.columns import Pseudonymisers, exposed_columns, typed_value
from connector.model.catalog import Dataset
from connector.model.decision import (
    Bucket,
    CompoundCondition,
    Condition,
    Constant,
    FieldCondition,
    Hash,
    Mask,
    Null,
    Permit,
    Truncate,
)
from connector.model.fragment import Aggregate, Fragment

Row = Mapping[str, Any]
Cells = tuple[Any, ...]


def answer(
    fragment: Fragment,
    dataset: Dataset,
    permit: Permit,
    rows: Iterable[Row],
    *,
    consenting: Collection[str],
    pseudonymisers: Pseudonymisers,
) -> tuple[list[Cells], int]:
    """The rows that leave, without regard to LIMIT and order, and the number of hidden groups."""
    types = {f.name: f.type for f in dataset.fields}
    shown = []
    for raw in rows:
        subject = raw[dataset.subject_key]
        subject = None if subject is None else normalise_id(subject)
        if holds(permit.row_filter, raw, types) is not True or (permit.consent and subject not in consenting):
            continue
        visible = {
            name: _visible(raw[name], column.mask, pseudonymisers.get(name))
            for name, column in exposed_columns(dataset, permit).items()
        }
        visible_types = {**types, **dict.fromkeys(pseudonymisers, "string")}
        if holds(fragment.condition, visible, visible_types) is True:
            shown.append((subject, visible))
    if not fragment.aggregated:
        return [tuple(v[c] for c in fragment.columns) for _, v in shown], 0
    return _grouped(fragment, permit, shown)


def holds(condition: Condition, row: Row, types: Mapping[str, Any]) -> bool | None:
    """Kleene's three values, None for unknown."""
    if isinstance(condition, CompoundCondition):
        parts = [holds(c, row, types) for c in condition.conditions]
        if condition.operator == "not":
            (part,) = parts
            return None if part is None else not part
        decisive = condition.operator == "or"
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    left, operator = row[condition.field], condition.operator
    if operator in ("is_null", "not_null"):
        return (left is None) is (operator == "is_null")
    if operator in ("in", "not_in"):
        assert isinstance(condition.value, tuple)
        if not condition.value:
            return operator == "not_in"
        if left is None:
            return None
        found = left in [typed_value(v, types[condition.field]) for v in condition.value]
        return found is (operator == "in")
    assert not isinstance(condition.value, tuple)
    return (
        None
        if left is None
        else _COMPARE[operator](left, typed_value(condition.value, types[condition.field]))
    )


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: bool(a == b),
    "ne": lambda a, b: bool(a != b),
    "lt": lambda a, b: bool(a < b),
    "le": lambda a, b: bool(a <= b),
    "gt": lambda a, b: bool(a > b),
    "ge": lambda a, b: bool(a >= b),
}


def masked(value: Any, mask: Mask | None) -> Any:
    match mask:
        case Null():
            return None
        case Constant(value=constant):
            return constant
        case None | Hash():
            return value
    if value is None:
        return None
    match mask:
        case Truncate(unit="", length=length):
            return value[:length]
        case Truncate(unit=unit):
            assert isinstance(value, date)
            first = value.replace(day=1) if unit == "month" else value.replace(month=1, day=1)
            midnight = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}
            return first.replace(**midnight) if isinstance(first, datetime) else first  # type: ignore[arg-type]
        case Bucket(size=size):
            return value // size * size
    raise AssertionError(mask)


def _visible(value: Any, mask: Mask | None, tokeniser: Any) -> Any:
    if tokeniser is not None and value is not None:
        return tokeniser.apply([_text(value)])[0]
    return masked(value, mask)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)


def _grouped(
    fragment: Fragment, permit: Permit, shown: Sequence[tuple[str | None, Row]]
) -> tuple[list[Cells], int]:
    groups: dict[Cells, list[tuple[str | None, Row]]] = {}
    for subject, row in shown:
        groups.setdefault(tuple(row[c] for c in fragment.group_by), []).append((subject, row))
    if not fragment.group_by:
        groups.setdefault((), [])
    answer, hidden = [], 0
    for key, members in groups.items():
        if len({s for s, _ in members if s is not None}) < permit.min_group_size:
            hidden += 1
        else:
            answer.append((*key, *(_aggregate(a, [r for _, r in members]) for a in fragment.aggregates)))
    return answer, hidden


def _aggregate(aggregate: Aggregate, rows: Sequence[Row]) -> Any:
    if aggregate.column is None:
        return len(rows)
    values = [r[aggregate.column] for r in rows if r[aggregate.column] is not None]
    if aggregate.function == "count_distinct":
        return len(set(values))
    if not values:
        return None
    return sum(values) if aggregate.function == "sum" else sum(values) / len(values)


def each_field(condition: Condition) -> Iterable[FieldCondition]:
    if isinstance(condition, FieldCondition):
        yield condition
    else:
        for child in condition.conditions:
            yield from each_field(child)
