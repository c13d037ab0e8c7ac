"""Conditions that can travel to a provider: `column op literal`, and what AND, OR, NOT make of them.

A condition that travels may let too many rows through (the statement itself runs again over them at our
side), never too few. So it only travels where the provider's engine and ours must agree on it: a typed
literal beside a column of that type. The closed grammar compares texts by their code points, as DuckDB
does. Instants stay here, because a literal without an offset means another one in each time zone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from sqlglot import exp

from connector.access import pseudonym
from connector.model.decision import CompoundCondition, Condition, FieldCondition, Scalar
from connector.query.description import Column
from connector.query.fragment_sql import fits
from connector.query.parse import Value
from connector.query.scope import Occurrence, Scopes, is_inner, joins

Operator = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "is_null", "not_null"]

_COMPARISONS: dict[type[exp.Expr], Operator] = {
    exp.EQ: "eq",
    exp.NEQ: "ne",
    exp.LT: "lt",
    exp.LTE: "le",
    exp.GT: "gt",
    exp.GTE: "ge",
}
_FLIPPED: dict[Operator, Operator] = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_LOOSER: dict[Operator, Operator] = {"lt": "le", "gt": "ge"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Pushable:
    """`exact`: it lets through what the statement's own condition does, not more."""

    occurrence: Occurrence
    condition: Condition
    exact: bool = True


class NoLiteral(Exception):
    """The expression has no value before the query runs."""


class Conditions:
    """Reads conditions of one statement; parameters count as the literals they stand for."""

    def __init__(self, scopes: Scopes, parameters: Mapping[str, Value]) -> None:
        self._scopes = scopes
        self._parameters = parameters

    def pushable(self, expression: exp.Expr) -> Pushable | None:
        """None: it stays at our side."""
        found = self._read(bare(expression))
        return found if found is not None and fits(found.condition) else None

    def literal(self, expression: exp.Expr) -> Value:
        """Raises NoLiteral."""
        node = bare(expression)
        match node:
            case exp.Placeholder():
                return self._parameters[str(node.this)]
            case exp.Null():
                return None
            case exp.Boolean():
                return bool(node.this)
            case exp.Literal(is_string=True):
                return str(node.this)
            case exp.Literal():
                return _number(str(node.this))
            case exp.Neg():
                number = self.literal(node.this)
                if isinstance(number, int | float | Decimal) and not isinstance(number, bool):
                    return -number
            case exp.Cast() if type(node) is exp.Cast and node.to.sql() == "DATE":
                text = self.literal(node.this)
                if isinstance(text, str) and _DATE.fullmatch(text):
                    return _date(text)
        raise NoLiteral

    def _read(self, node: exp.Expr) -> Pushable | None:
        match node:
            case exp.And() | exp.Or():
                return self._compound(node, "and" if isinstance(node, exp.And) else "or")
            case exp.Not():
                return self._negated(bare(node.this))
            case exp.In() if not node.args.get("query") and not node.args.get("unnest"):
                return self._in(node, "in")
            case exp.Between() if not node.args.get("symmetric"):
                return self._between(node)
            case exp.Is() if isinstance(node.expression, exp.Null):
                return self._null(node, "is_null")
        operator = _COMPARISONS.get(type(node))
        return self._comparison(node, operator) if operator else None

    def _compound(self, node: exp.Expr, operator: Literal["and", "or"]) -> Pushable | None:
        parts = [self._read(bare(part)) for part in _flattened(node, type(node))]
        known = [part for part in parts if part is not None]
        if len(known) != len(parts) or any(p.occurrence is not known[0].occurrence for p in known):
            return None
        condition = CompoundCondition(operator=operator, conditions=tuple(p.condition for p in known))
        return Pushable(known[0].occurrence, condition, all(p.exact for p in known))

    def _negated(self, node: exp.Expr) -> Pushable | None:
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return self._null(node, "not_null")
        if isinstance(node, exp.In) and not node.args.get("query") and not node.args.get("unnest"):
            return self._in(node, "not_in")
        inner = self._read(node)
        if inner is None or not inner.exact:
            return None
        condition = CompoundCondition(operator="not", conditions=(inner.condition,))
        return Pushable(inner.occurrence, condition)

    def _null(self, node: exp.Is, operator: Operator) -> Pushable | None:
        found = self._column(node.this)
        if found is None or not found[1].comparable:
            return None
        return Pushable(found[0], FieldCondition(field=found[1].name, operator=operator))

    def _comparison(self, node: exp.Expr, operator: Operator) -> Pushable | None:
        left, right = bare(node.this), bare(node.expression)
        if not isinstance(left, exp.Column):
            left, right, operator = right, left, _FLIPPED.get(operator, operator)
        return self._field(left, operator, [right])

    def _in(self, node: exp.In, operator: Operator) -> Pushable | None:
        return self._field(node.this, operator, node.expressions)

    def _between(self, node: exp.Between) -> Pushable | None:
        low = self._field(node.this, "ge", [node.args["low"]])
        high = self._field(node.this, "le", [node.args["high"]])
        if low is None or high is None:
            return None
        both = CompoundCondition(operator="and", conditions=(low.condition, high.condition))
        return Pushable(low.occurrence, both, low.exact and high.exact)

    def _field(self, side: exp.Expr, operator: Operator, literals: list[exp.Expr]) -> Pushable | None:
        found = self._column(side)
        if found is None or not literals:
            return None
        occurrence, column = found
        try:
            values = [_typed(column, operator, self.literal(node)) for node in literals]
        except NoLiteral:
            return None
        exact = column.type != "number"
        value = tuple(values) if operator in ("in", "not_in") else values[0]
        # a provider may keep more digits than the double that arrives here: <= lets through both
        loose = operator if exact else _LOOSER.get(operator, operator)
        return Pushable(occurrence, FieldCondition(field=column.name, operator=loose, value=value), exact)

    def _column(self, side: exp.Expr) -> tuple[Occurrence, Column] | None:
        node = bare(side)
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return None
        occurrence = self._scopes.owner(node)
        column = occurrence.column(node.name) if occurrence is not None else None
        if occurrence is None or column is None or not column.filterable:
            return None
        return occurrence, column


def conjuncts(select: exp.Select) -> Iterator[exp.Expr]:
    """What must hold of every row that FROM delivers: WHERE, and ON of inner joins."""
    if (where := select.args.get("where")) is not None:
        yield from _flattened(where.this, exp.And)
    for join in joins(select):
        if is_inner(join) and join.args.get("on") is not None:
            yield from _flattened(join.args["on"], exp.And)


def bare(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _flattened(node: exp.Expr, kind: type[exp.Expr]) -> Iterator[exp.Expr]:
    pending = [node]
    while pending:
        current = bare(pending.pop())
        if type(current) is kind:
            pending += [current.expression, current.this]
        else:
            yield current


def _typed(column: Column, operator: Operator, value: Value) -> Scalar:
    """The literal as the wire knows it for the column's type. Raises NoLiteral where the two do not match."""
    match column.type, value:
        case "string", str() if column.comparable:
            return value
        case "string", str() if operator in ("eq", "in") and value.startswith(pseudonym.INVERTIBLE):
            if pseudonym.is_pseudonym(value):
                return value
        case "integer", int() if not isinstance(value, bool) and value in _INT64:
            return value
        case "number", int() | float() | Decimal() if not isinstance(value, bool) and operator != "ne":
            if math.isfinite(number := float(value)) and operator != "not_in":
                return number
        case "boolean", bool() if operator in ("eq", "ne"):
            return value
        case "date", str() if _DATE.fullmatch(value):
            return _date(value).isoformat()
        case "date", date() if not isinstance(value, datetime):
            return value.isoformat()
    raise NoLiteral


def _number(text: str) -> int | Decimal:
    try:
        return int(text) if text.isdecimal() else Decimal(text)
    except ArithmeticError:
        raise NoLiteral from None


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise NoLiteral from None
