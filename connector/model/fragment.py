"""The part of a query that one provider runs: a closed grammar, small enough to be total.

On the wire a fragment is SQL text of exactly this grammar; the provider parses it, rebuilds these
values from it and trusts nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from connector.errors import SqlInvalid
from connector.model.decision import EVERY_ROW, CompoundCondition, Condition, FieldCondition, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """`count` of no column is COUNT(*)."""

    function: Literal["count", "count_distinct", "sum", "avg"]
    column: str | None
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """`SELECT columns FROM dataset WHERE condition LIMIT limit`, or, with aggregates,
    `SELECT group_by, aggregates FROM dataset WHERE condition GROUP BY group_by`.

    `columns` and `group_by` are exposed names. The condition sees masked values only.
    """

    dataset_id: str
    columns: tuple[str, ...] = ()
    condition: Condition = EVERY_ROW
    aggregates: tuple[Aggregate, ...] = ()
    group_by: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def aggregated(self) -> bool:
        return bool(self.aggregates)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenPart:
    """One line of "what was hidden": the obligation, why, and who enforced it where."""

    what: str
    why: str
    enforced_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRecord:
    """The provider's signed last word on a fragment. Missing or wrong: the consumer discards the rows.

    `digest` is the SHA-256 over every byte of the Arrow stream before the end record, hex.
    """

    rows: int
    digest: str
    audit_id: str
    grant_id: str
    policy_revision: str
    identified: bool
    groups_hidden: int = 0
    hidden: tuple[HiddenPart, ...] = ()
    error: str = ""
    """Code of what stopped the stream (`consent_changed`, `agreement_terminated`, ...), "" when complete."""


# --- the wire form -----------------------------------------------------------------------------------

_OPERATORS = {
    "eq": "=",
    "ne": "<>",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "in": "IN",
    "not_in": "NOT IN",
}


def render_wire(fragment: Fragment) -> str:
    """The SQL text of a fragment, as a consumer sends it.

    Raises SqlInvalid for what the grammar cannot say: a literal with a backslash or an unprintable
    character, an empty IN list, a comparison with nothing.
    """
    outputs = fragment.group_by if fragment.aggregated else fragment.columns
    selected = [*map(_identifier, outputs), *map(_aggregate, fragment.aggregates)]
    if not selected:
        raise SqlInvalid("A fragment selects at least one column.")
    parts = [f"SELECT {', '.join(selected)} FROM {_identifier(fragment.dataset_id)}"]  # noqa: S608 - names and literals are quoted here
    if fragment.condition != EVERY_ROW:
        parts.append(f"WHERE {_condition(fragment.condition)}")
    if fragment.group_by:
        parts.append(f"GROUP BY {', '.join(map(_identifier, fragment.group_by))}")
    if fragment.limit is not None:
        parts.append(f"LIMIT {int(fragment.limit)}")
    return " ".join(parts)


def _identifier(name: str) -> str:
    if not name or not name.isprintable() or "\\" in name:
        raise SqlInvalid("A name holds a character that SQL names cannot carry here.")
    return '"' + name.replace('"', '""') + '"'


def _aggregate(aggregate: Aggregate) -> str:
    match aggregate:
        case Aggregate(function="count", column=None):
            call = "COUNT(*)"
        case Aggregate(function="count_distinct", column=str(column)):
            call = f"COUNT(DISTINCT {_identifier(column)})"
        case Aggregate(function="sum" | "avg" as function, column=str(column)):
            call = f"{function.upper()}({_identifier(column)})"
        case _:
            raise SqlInvalid("Aggregates are COUNT(*), COUNT(DISTINCT column), SUM(column) and AVG(column).")
    return f"{call} AS {_identifier(aggregate.alias)}"


def _condition(condition: Condition) -> str:
    if isinstance(condition, FieldCondition):
        return _comparison(condition)
    parts = [_condition(c) for c in condition.conditions]
    if condition.operator == "not" and len(parts) == 1:
        return f"NOT ({parts[0]})"
    if condition.operator in ("and", "or") and parts:
        return f" {condition.operator.upper()} ".join(
            f"({part})" if isinstance(child, CompoundCondition) else part
            for child, part in zip(condition.conditions, parts, strict=True)
        )
    raise SqlInvalid("AND and OR join at least one condition, NOT turns exactly one.")


def _comparison(condition: FieldCondition) -> str:
    column, operator, value = _identifier(condition.field), condition.operator, condition.value
    if operator in ("is_null", "not_null"):
        return f"{column} IS NULL" if operator == "is_null" else f"{column} IS NOT NULL"
    if operator in ("in", "not_in"):
        if not isinstance(value, tuple) or not value:
            raise SqlInvalid("An IN list names at least one value.")
        return f"{column} {_OPERATORS[operator]} ({', '.join(map(_literal, value))})"
    if isinstance(value, tuple):
        raise SqlInvalid("Only IN compares with a list.")
    return f"{column} {_OPERATORS[operator]} {_literal(value)}"


def _literal(value: Scalar) -> str:
    """Backslash is refused: engines disagree on whether it escapes the quote that follows."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str) and value.isprintable() and "\\" not in value:
        return "'" + value.replace("'", "''") + "'"
    raise SqlInvalid(
        "A literal is a finite number, TRUE, FALSE, or printable text without a backslash.",
        mend="Test for absence with IS NULL.",
    )
