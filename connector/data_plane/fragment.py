"""A consumer's SQL text, rebuilt into the closed grammar of `model.fragment`.

The text is never filtered and passed on: sqlglot parses it, and from its tree our own values are built.
A node or an argument that is not on a list here refuses the whole. What leaves this module names one
dataset, exposed columns, typed literals and nothing else, whatever came in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from connector.access.pseudonym import INVERTIBLE, is_pseudonym, normalise_id
from connector.data_plane.columns import (
    INTERNAL,
    ExposedColumn,
    accepts_pseudonyms,
    aggregates_only,
    exposed_columns,
    typed_value,
)
from connector.errors import NotPermitted, Reason, SqlInvalid
from connector.model.catalog import Dataset
from connector.model.decision import (
    EVERY_ROW,
    CompoundCondition,
    Condition,
    FieldCondition,
    Permit,
    Scalar,
)
from connector.model.fragment import Aggregate, Fragment

if TYPE_CHECKING:
    from sqlglot import exp

MAX_BYTES = 16_384
MAX_NODES = 400
MAX_IN_ITEMS = 1_000
MAX_DEPTH = 40
MAX_LIMIT = 2**53

_GRAMMAR = (
    "It selects columns or COUNT(*), COUNT(DISTINCT column), SUM(column), AVG(column) of one dataset, with "
    "WHERE of AND, OR, NOT over column = literal, <>, <, <=, >, >=, IN, BETWEEN, IS NULL, "
    "GROUP BY and LIMIT; names that are also SQL words stand in double quotes. "
    "The rest belongs into the query at your side."
)
_ALIAS = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_INTEGER = re.compile(r"\d{1,19}")
_DECIMAL = re.compile(r"\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?")
_FLIPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def parse_fragment(sql: str, dataset: Dataset, permit: Permit) -> Fragment:
    """Raises SqlInvalid outside the grammar or the exposed columns, NotPermitted for what the permit bars.

    A hidden column and one that never was give the same error: no schema is told.
    """
    columns = exposed_columns(dataset, permit)
    try:
        fragment = _Rebuild(dataset, columns).fragment(_parsed(sql))
    except RecursionError:
        raise SqlInvalid("The query is nested too deeply.") from None
    require_permitted(fragment, dataset, permit)
    return fragment


def whole_view(dataset: Dataset, permit: Permit) -> Fragment:
    """Every row and column that the permit shows. Raises NotPermitted where it shows no rows as such."""
    columns = tuple(exposed_columns(dataset, permit))
    if not columns:
        _bar(permit, "columns", "no_columns", "Nothing of this dataset may be shown.")
    fragment = Fragment(dataset_id=dataset.id, columns=columns)
    require_permitted(fragment, dataset, permit)
    return fragment


def named_subjects(fragment: Fragment, dataset: Dataset) -> tuple[str, ...] | None:
    """The personal ids, normalised, that the condition holds every row to; None when it names none.

    Only a top-level conjunct counts: under OR or NOT a name narrows nothing.
    """
    for conjunct in conjuncts(fragment.condition):
        if isinstance(conjunct, FieldCondition) and conjunct.field == dataset.subject_key != "":
            if conjunct.operator == "eq":
                return _normalised([conjunct.value])
            if conjunct.operator == "in" and isinstance(conjunct.value, tuple):
                return _normalised(conjunct.value)
    return None


def column_named(columns: Mapping[str, ExposedColumn], name: str) -> ExposedColumn:
    """Raises SqlInvalid, whose text depends on what is visible only: not on `name`."""
    column = columns.get(name)
    if column is None:
        available = ", ".join(columns) or "none"
        raise SqlInvalid("The query names a column that is not available.", mend=f"Available: {available}.")
    return column


def conjuncts(condition: Condition) -> tuple[Condition, ...]:
    """What must all hold."""
    if isinstance(condition, CompoundCondition) and condition.operator == "and":
        return tuple(c for child in condition.conditions for c in conjuncts(child))
    return (condition,)


def fields_of(condition: Condition) -> frozenset[str]:
    """Every column the condition looks at."""
    if isinstance(condition, FieldCondition):
        return frozenset({condition.field})
    return frozenset().union(*map(fields_of, condition.conditions))


def _normalised(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(normalise_id(str(v)) for v in values))


# --- text -> tree ------------------------------------------------------------------------------------


_TOKENS = frozenset(
    """
    SELECT FROM WHERE AND OR NOT IN BETWEEN IS NULL TRUE FALSE LIMIT GROUP_BY DISTINCT ALIAS
    VAR IDENTIFIER STRING NUMBER L_PAREN R_PAREN COMMA STAR DASH EQ NEQ LT LTE GT GTE
    """.split()  # noqa: SIM905 - reads better than thirty lines
)
_BEFORE_PAREN = frozenset(("WHERE", "AND", "OR", "NOT", "IN", "L_PAREN"))
_CALLS = {"COUNT": ("STAR", "DISTINCT"), "SUM": ("VAR", "IDENTIFIER"), "AVG": ("VAR", "IDENTIFIER")}


def _parsed(sql: str) -> exp.Expr:
    """Exactly one SELECT made of the grammar's own words and signs, within the limits."""
    from sqlglot.dialects.dialect import Dialect

    if len(sql) > MAX_BYTES or len(sql.encode(errors="replace")) > MAX_BYTES:
        raise SqlInvalid(f"The query is longer than {MAX_BYTES} bytes.")
    if not all(c.isprintable() or c in "\n\r\t" for c in sql):
        raise SqlInvalid("The query holds an unprintable character.")
    dialect = Dialect.get_or_raise(None)
    try:
        tokens = dialect.tokenize(sql)
        if tokens and tokens[-1].token_type.name == "SEMICOLON":
            tokens = tokens[:-1]
        _require_words([(t.token_type.name, t.text.upper()) for t in tokens])
        (tree,) = dialect.parser().parse(tokens, sql)
    except (SqlInvalid, RecursionError):
        raise
    except Exception:  # whatever a parser raises on a stranger's text; its message quotes the text
        tree = None
    if tree is None:
        raise SqlInvalid("The query does not parse as SQL.")
    _require_small(tree)
    return tree


def _require_words(tokens: Sequence[tuple[str, str]]) -> None:
    """Refuse other words and signs, and deep nesting, before the parser sees them.

    sqlglot 30 takes time exponential in the depth of nested calls of type names (`int(int(int(1)))`,
    twenty of them run for minutes), and logs the text of statements it does not know.
    """
    if not tokens or tokens[0][0] != "SELECT":
        raise SqlInvalid("A query begins with SELECT.")
    depth, in_call = 0, False
    for (before, word), (kind, _), (after, _) in zip(
        [("", ""), *tokens], tokens, [*tokens[1:], ("", "")], strict=False
    ):
        if kind not in _TOKENS:
            raise SqlInvalid("The query holds a word or sign that no fragment has.", mend=_GRAMMAR)
        if kind == "L_PAREN":
            called = before not in _BEFORE_PAREN
            if in_call or (called and after not in _CALLS.get(word, ())):
                raise SqlInvalid("A fragment calls no function but its four aggregates.", mend=_GRAMMAR)
            depth, in_call = depth + 1, called
        elif kind == "R_PAREN":
            depth, in_call = depth - 1, False
        if depth > MAX_DEPTH:
            raise SqlInvalid("The query is nested too deeply.")


def _require_small(tree: exp.Expr) -> None:
    from sqlglot import exp

    nodes = sum(1 for node in tree.walk() if not (type(node) is exp.Literal or type(node.parent) is exp.In))
    if nodes > MAX_NODES:
        raise SqlInvalid(f"The query has more than {MAX_NODES} parts.")


# --- tree -> our values ------------------------------------------------------------------------------


class _Rebuild:
    """Every method takes a node of sqlglot's and returns a value of ours."""

    def __init__(self, dataset: Dataset, columns: Mapping[str, ExposedColumn]) -> None:
        from sqlglot import exp

        self._exp = exp
        self._dataset = dataset
        self._columns = columns
        self._comparisons: dict[type[exp.Expr], str] = {
            exp.EQ: "eq",
            exp.NEQ: "ne",
            exp.LT: "lt",
            exp.LTE: "le",
            exp.GT: "gt",
            exp.GTE: "ge",
        }

    def fragment(self, node: exp.Expr) -> Fragment:
        exp = self._exp
        select = _args(node, exp.Select, "expressions", "from_", "where", "group", "limit")
        self._require_dataset(select.get("from_"))
        columns, aggregates = self._outputs(select.get("expressions") or [])
        group_by = self._group_by(select.get("group"))
        if aggregates and sorted(group_by) != sorted(columns):
            raise SqlInvalid("Beside aggregates, SELECT and GROUP BY name the same columns.")
        if group_by and not aggregates:
            raise SqlInvalid("GROUP BY needs an aggregate in SELECT.")
        limit = self._limit(select.get("limit"))
        if aggregates and limit is not None:
            raise SqlInvalid("LIMIT does not go with aggregates.", mend="Take fewer groups from the answer.")
        where = select.get("where")
        return Fragment(
            dataset_id=self._dataset.id,
            columns=() if aggregates else columns,
            condition=self._condition(_args(where, exp.Where, "this")["this"], 0) if where else EVERY_ROW,
            aggregates=aggregates,
            group_by=columns if aggregates else (),
            limit=limit,
        )

    def _require_dataset(self, node: exp.Expr | None) -> None:
        exp = self._exp
        if node is None:
            raise SqlInvalid("The query names no dataset.", mend=f'Write FROM "{self._dataset.id}".')
        table = _args(_args(node, exp.From, "this")["this"], exp.Table, "this")
        if self._identifier(table["this"]) != self._dataset.id:
            raise SqlInvalid(
                "The query names another dataset than the token.", mend=f'Write FROM "{self._dataset.id}".'
            )

    def _outputs(self, nodes: Sequence[exp.Expr]) -> tuple[tuple[str, ...], tuple[Aggregate, ...]]:
        exp = self._exp
        columns: list[str] = []
        aggregates: list[Aggregate] = []
        for node in nodes:
            alias = None
            if type(node) is exp.Alias:
                parts = _args(node, exp.Alias, "this", "alias")
                node, alias = parts["this"], self._identifier(parts["alias"])
            if type(node) is not exp.Column:
                aggregates.append(self._aggregate(node, alias))
            elif aggregates:
                raise SqlInvalid("In SELECT, columns stand before aggregates.")
            else:
                columns.append(self._column(node).name)
                if alias not in (None, columns[-1]):
                    raise SqlInvalid("A column keeps its name.", mend="Rename it in your own query.")
        names = [*columns, *(a.alias for a in aggregates)]
        if not names or len(set(names)) != len(names):
            raise SqlInvalid("SELECT names each column once, and at least one.")
        return tuple(columns), tuple(aggregates)

    def _aggregate(self, node: exp.Expr, alias: str | None) -> Aggregate:
        exp = self._exp
        if type(node) is exp.Count:
            counted = _args(node, exp.Count, "this", "big_int")["this"]
            if type(counted) is exp.Star:
                _args(counted, exp.Star)
                return Aggregate(function="count", column=None, alias=_alias(alias))
            distinct = _args(counted, exp.Distinct, "expressions")["expressions"]
            if len(distinct) != 1:
                raise _outside(counted)
            name = self._column(distinct[0]).name
            return Aggregate(function="count_distinct", column=name, alias=_alias(alias))
        if type(node) is exp.Sum or type(node) is exp.Avg:
            column = self._column(_args(node, type(node), "this")["this"])
            if column.comparable and column.type not in ("integer", "number"):
                raise SqlInvalid(f"SUM and AVG need numbers; {column.name} is of type {column.type}.")
            return Aggregate(
                function="sum" if type(node) is exp.Sum else "avg", column=column.name, alias=_alias(alias)
            )
        raise _outside(node)

    def _group_by(self, node: exp.Expr | None) -> tuple[str, ...]:
        if node is None:
            return ()
        group = _args(node, self._exp.Group, "expressions")
        return tuple(self._column(n).name for n in group.get("expressions") or [])

    def _limit(self, node: exp.Expr | None) -> int | None:
        if node is None:
            return None
        limit = self._number(_args(node, self._exp.Limit, "expression")["expression"])
        if not isinstance(limit, int) or not 0 <= limit <= MAX_LIMIT:  # below zero, SQLite knows no limit
            raise SqlInvalid("LIMIT takes a whole number from 0.")
        return limit

    # conditions

    def _condition(self, node: exp.Expr, depth: int) -> Condition:
        exp = self._exp
        if depth > MAX_DEPTH:
            raise SqlInvalid("The query is nested too deeply.")
        node = self._bare(node)
        kind = type(node)
        if kind is exp.And or kind is exp.Or:
            parts = [self._condition(n, depth + 1) for n in self._operands(node, kind)]
            return _joined("and" if kind is exp.And else "or", parts)
        if kind is exp.Not:
            return _negated(self._condition(_args(node, exp.Not, "this")["this"], depth + 1))
        if kind is exp.In:
            return self._in(node)
        if kind is exp.Between:
            return self._between(node)
        if kind is exp.Is:
            return self._is_null(node)
        if kind in self._comparisons:
            return self._comparison(node)
        raise _outside(node)

    def _bare(self, node: exp.Expr) -> exp.Expr:
        while type(node) is self._exp.Paren:
            node = _args(node, self._exp.Paren, "this")["this"]
        return node

    def _operands(self, node: exp.Expr, kind: type[exp.Expr]) -> Iterator[exp.Expr]:
        """The operands of a chain of one operator, left to right, without recursion."""
        pending = [node]
        while pending:
            current = self._bare(pending.pop())
            if type(current) is kind:
                sides = _args(current, kind, "this", "expression")
                pending += [sides["expression"], sides["this"]]
            else:
                yield current

    def _comparison(self, node: exp.Expr) -> FieldCondition:
        sides = _args(node, type(node), "this", "expression")
        left, right = self._bare(sides["this"]), self._bare(sides["expression"])
        operator = self._comparisons[type(node)]
        if type(left) is not self._exp.Column:
            left, right, operator = right, left, _FLIPPED[operator]
        column = self._column(left)
        return _field_condition(column, operator, self._value(right, column))

    def _in(self, node: exp.Expr) -> FieldCondition:
        parts = _args(node, self._exp.In, "this", "expressions")
        items = parts.get("expressions") or []
        if not 1 <= len(items) <= MAX_IN_ITEMS:
            raise SqlInvalid(f"An IN list names 1 to {MAX_IN_ITEMS} values.")
        column = self._column(parts["this"])
        return _field_condition(column, "in", tuple(self._value(i, column) for i in items))

    def _between(self, node: exp.Expr) -> CompoundCondition:
        parts = _args(node, self._exp.Between, "this", "low", "high")
        column = self._column(parts["this"])
        bounds = (("ge", parts["low"]), ("le", parts["high"]))
        return CompoundCondition(
            operator="and",
            conditions=tuple(_field_condition(column, op, self._value(n, column)) for op, n in bounds),
        )

    def _is_null(self, node: exp.Expr) -> FieldCondition:
        parts = _args(node, self._exp.Is, "this", "expression")
        _args(parts["expression"], self._exp.Null)
        return _field_condition(self._column(parts["this"]), "is_null", None)

    # leaves

    def _column(self, node: exp.Expr) -> ExposedColumn:
        name = self._identifier(_args(self._bare(node), self._exp.Column, "this")["this"])
        return column_named(self._columns, name)

    def _identifier(self, node: exp.Expr) -> str:
        return str(_args(node, self._exp.Identifier, "this", "quoted")["this"])

    def _value(self, node: exp.Expr, column: ExposedColumn) -> Scalar:
        """In the one form that the wire knows for the column's type."""
        value = self._literal(self._bare(node))
        if not column.comparable:
            return value  # whether it may stand here is for require_permitted to say
        try:
            typed = typed_value(value, column.type)
        except ValueError:
            raise SqlInvalid(
                f"A literal does not fit {column.name}, which is of type {column.type}.",
                mend="Dates are '2026-11-22', timestamps '2026-11-22T12:00:00Z'.",
            ) from None
        if isinstance(typed, datetime):
            return typed.isoformat().replace("+00:00", "Z")
        return cast(Scalar, typed) if column.type in ("number", "integer", "boolean") else value

    def _literal(self, node: exp.Expr) -> Scalar:
        exp = self._exp
        if type(node) is exp.Boolean:
            return bool(_args(node, exp.Boolean, "this").get("this"))
        if type(node) is exp.Null:
            raise SqlInvalid("Nothing equals NULL.", mend="Write IS NULL.")
        if type(node) is exp.Literal and node.args.get("is_string"):
            text = str(_args(node, exp.Literal, "this", "is_string").get("this") or "")
            if not text.isprintable() or "\\" in text:
                raise SqlInvalid("A text literal is printable and holds no backslash.")
            return text
        return self._number(node)

    def _number(self, node: exp.Expr) -> int | float:
        exp = self._exp
        if type(node) is exp.Neg:
            inner = _args(node, exp.Neg, "this")["this"]
            if type(inner) is not exp.Literal:
                raise _outside(inner)
            return -self._number(inner)
        parts = _args(node, exp.Literal, "this", "is_string")
        text = str(parts.get("this"))
        if not parts.get("is_string"):
            if _INTEGER.fullmatch(text):
                return int(text)
            if _DECIMAL.fullmatch(text):
                return float(text)
        raise _outside(node)


def _args(node: Any, kind: type[exp.Expr], *allowed: str) -> dict[str, Any]:
    """The arguments of a node of exactly this kind, if it has no others. An empty argument is none."""
    if type(node) is not kind:
        raise _outside(node)
    given = {k: v for k, v in node.args.items() if v is not None and v is not False and v != []}
    if not given.keys() <= set(allowed):
        raise _outside(node)
    return given


def _outside(node: object) -> SqlInvalid:
    return SqlInvalid(f"A fragment cannot hold this use of {type(node).__name__}.", mend=_GRAMMAR)


def _alias(alias: str | None) -> str:
    if alias is None or not _ALIAS.fullmatch(alias) or alias.startswith(INTERNAL):
        raise SqlInvalid("An aggregate has a name: AS and a lower-case word.")
    return alias


def _field_condition(
    column: ExposedColumn, operator: str, value: Scalar | tuple[Scalar, ...]
) -> FieldCondition:
    return FieldCondition(field=column.name, operator=cast(Any, operator), value=value)


def _joined(operator: Literal["and", "or"], parts: Sequence[Condition]) -> CompoundCondition:
    """BETWEEN, an AND of two, dissolves into the AND around it."""
    flat: list[Condition] = []
    for part in parts:
        if isinstance(part, CompoundCondition) and part.operator == operator:
            flat.extend(part.conditions)
        else:
            flat.append(part)
    return CompoundCondition(operator=operator, conditions=tuple(flat))


def _negated(condition: Condition) -> Condition:
    match condition:
        case FieldCondition(operator="in", field=name, value=value):
            return FieldCondition(field=name, operator="not_in", value=value)
        case FieldCondition(operator="is_null", field=name):
            return FieldCondition(field=name, operator="not_null")
    return CompoundCondition(operator="not", conditions=(condition,))


# --- what the permit bars ----------------------------------------------------------------------------


def require_permitted(fragment: Fragment, dataset: Dataset, permit: Permit) -> None:
    """Raises NotPermitted. `render` asks again, so that no fragment runs that was not held to its permit."""
    columns = exposed_columns(dataset, permit)
    for condition, turned in _field_conditions(fragment.condition):
        _require_comparable(condition, turned, column_named(columns, condition.field), permit)
    for aggregate in fragment.aggregates:
        if aggregate.function in ("sum", "avg") and aggregate.column is not None:
            _require_countable(column_named(columns, aggregate.column), permit)
    if aggregates_only(permit):
        _require_aggregates(fragment, permit)
    if permit.subjects_named and named_subjects(fragment, dataset) is None:
        text = "This agreement answers only about persons named one by one."
        _bar(permit, "subjects", "subjects_not_named", text, mend=_naming(dataset, columns))


def _naming(dataset: Dataset, columns: Mapping[str, ExposedColumn]) -> str:
    key = dataset.subject_key
    return f"Add {key} = '...' or {key} IN ('...') to WHERE." if key in columns else ""


def _require_comparable(
    condition: FieldCondition, turned: bool, column: ExposedColumn, permit: Permit
) -> None:
    if column.comparable:
        return
    name = column.name
    if column.hashed:
        text = f"{name} leaves only as a keyed hash: it can be shown, counted and grouped, not compared."
        _bar(permit, f"column:{name}", "raw_identifier", text)
    if not accepts_pseudonyms(column, permit):
        text = f"{name} leaves only as a pseudonym: it can be shown, counted and grouped, not compared."
        _bar(permit, f"column:{name}", "raw_identifier", text)
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    pseudonyms = all(isinstance(v, str) and v.startswith(INVERTIBLE) and is_pseudonym(v) for v in values)
    if turned or condition.operator not in ("eq", "in") or not pseudonyms:
        text = (
            f"{name} leaves only as a pseudonym: it can be compared by = or IN, without NOT, with "
            "pseudonyms of this collaboration, and never with a raw identifier."
        )
        _bar(permit, f"column:{name}", "raw_identifier", text)


def _require_countable(column: ExposedColumn, permit: Permit) -> None:
    if not column.comparable:
        text = f"{column.name} leaves only as a pseudonym or hash: it cannot be added up."
        _bar(permit, f"column:{column.name}", "raw_identifier", text)


def _require_aggregates(fragment: Fragment, permit: Permit) -> None:
    dimensions = ", ".join(sorted(permit.dimensions)) or "none"
    if not fragment.aggregated:
        text = f"This agreement shows no rows, only groups of at least {permit.min_group_size} persons."
        _bar(
            permit,
            "group",
            "aggregate_only",
            text,
            mend=f"Ask for aggregates by these columns: {dimensions}.",
        )
    if not permit.dimensions.issuperset(fragment.group_by):
        text = f"This agreement groups only by these columns: {dimensions}."
        _bar(permit, "group", "aggregate_only", text)
    for conjunct in conjuncts(fragment.condition):
        narrow = isinstance(conjunct, FieldCondition) and conjunct.operator in ("eq", "in")
        if not narrow or not fields_of(conjunct) <= permit.dimensions:
            # NOT, OR and ranges would let two answers differ by one person
            text = f"This agreement filters only by = or IN, joined by AND, on these columns: {dimensions}."
            _bar(permit, "group", "aggregate_only", text)


def _field_conditions(condition: Condition, turned: bool = False) -> Iterator[tuple[FieldCondition, bool]]:
    """Every comparison, and whether it stands under a NOT."""
    if isinstance(condition, FieldCondition):
        yield condition, turned
    else:
        for child in condition.conditions:
            yield from _field_conditions(child, turned or condition.operator == "not")


def _bar(permit: Permit, obligation: str, code: str, text: str, *, mend: str = "") -> NoReturn:
    source = permit.enforced_by.get(obligation, "offer")
    raise NotPermitted([Reason(code=code, text=text, source=source)], mend=mend)
