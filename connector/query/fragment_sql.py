"""A fragment written as SQL of the closed grammar (model/fragment.py): what travels to a provider.

The provider parses it, rebuilds its own values and trusts nothing of it. What does not fit its limits is
not sent: `fits` says so beforehand, so that a condition stays at our side instead of failing at theirs.
"""

from __future__ import annotations

from connector.model.decision import EVERY_ROW, CompoundCondition, Condition, FieldCondition, Scalar
from connector.model.fragment import Aggregate, Fragment

MAX_CONDITION_CHARS = 8_192
MAX_IN_ITEMS = 500
MAX_CONDITIONS = 60

_COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def fragment_sql(fragment: Fragment) -> str:
    outputs = [_quoted(name) for name in (*fragment.group_by, *fragment.columns)]
    outputs += [f"{_aggregate(a)} AS {_quoted(a.alias)}" for a in fragment.aggregates]
    sql = f"SELECT {', '.join(outputs)} FROM {_quoted(fragment.dataset_id)}"  # noqa: S608 - all quoted
    if fragment.condition != EVERY_ROW:
        sql += f" WHERE {condition_sql(fragment.condition)}"
    if fragment.group_by:
        sql += f" GROUP BY {', '.join(map(_quoted, fragment.group_by))}"
    return sql if fragment.limit is None else f"{sql} LIMIT {fragment.limit}"


def fits(condition: Condition) -> bool:
    """Whether a provider would take it: in number, length and in the texts it compares with."""
    fields = list(_fields(condition))
    return (
        len(fields) <= MAX_CONDITIONS
        and all(_sendable(value) for field in fields for value in _values(field))
        and all(len(_values(field)) <= MAX_IN_ITEMS for field in fields)
        and len(condition_sql(condition)) <= MAX_CONDITION_CHARS
    )


def condition_sql(condition: Condition) -> str:
    if isinstance(condition, FieldCondition):
        return _field_sql(condition)
    if condition.operator == "not":
        return f"NOT ({condition_sql(condition.conditions[0])})"
    joined = f" {condition.operator.upper()} ".join(f"({condition_sql(c)})" for c in condition.conditions)
    return joined or ("TRUE" if condition.operator == "and" else "FALSE")


def all_of(conditions: list[Condition]) -> Condition:
    return (
        conditions[0]
        if len(conditions) == 1
        else CompoundCondition(operator="and", conditions=(*conditions,))
    )


def _field_sql(condition: FieldCondition) -> str:
    name = _quoted(condition.field)
    match condition.operator:
        case "is_null":
            return f"{name} IS NULL"
        case "not_null":
            return f"{name} IS NOT NULL"
        case "in" | "not_in":
            values = ", ".join(map(_literal, _values(condition)))
            return f"{name} {'IN' if condition.operator == 'in' else 'NOT IN'} ({values})"
    (value,) = _values(condition)
    return f"{name} {_COMPARISONS[condition.operator]} {_literal(value)}"


def _fields(condition: Condition) -> list[FieldCondition]:
    if isinstance(condition, FieldCondition):
        return [condition]
    return [field for child in condition.conditions for field in _fields(child)]


def _values(condition: FieldCondition) -> tuple[Scalar, ...]:
    if condition.operator in ("is_null", "not_null"):
        return ()
    return condition.value if isinstance(condition.value, tuple) else (condition.value,)


def _sendable(value: Scalar) -> bool:
    return not isinstance(value, str) or (value.isprintable() and "\\" not in value)


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def _aggregate(aggregate: Aggregate) -> str:
    if aggregate.column is None:
        return "COUNT(*)"
    if aggregate.function == "count_distinct":
        return f"COUNT(DISTINCT {_quoted(aggregate.column)})"
    return f"{aggregate.function.upper()}({_quoted(aggregate.column)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
