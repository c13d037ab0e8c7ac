"""A SELECT of aggregates over one dataset, answered by the provider as a whole.

The only way to ask a dataset that shows no rows, and the frugal way to ask any other: groups travel,
rows do not. What the provider computes is landed, and the SELECT is rewritten to read it from there;
ORDER BY, LIMIT, HAVING and expressions over the aggregates stay at our side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from sqlglot import exp

from connector.errors import Reason
from connector.model.decision import EVERY_ROW, Condition, FieldCondition
from connector.model.fragment import Aggregate, Fragment
from connector.query.conditions import Conditions, bare, conjuncts
from connector.query.fragment_sql import all_of, fits
from connector.query.parse import DIALECT
from connector.query.scope import Occurrence, joins

_Node = tuple[exp.Expr, Aggregate]
_Function = Literal["count", "count_distinct", "sum", "avg"]


class Unfit(Exception):
    """Why this SELECT cannot be answered by the provider as a whole; `reason` is for a person."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reason = Reason(code="aggregate_only", text=text)


@dataclass(frozen=True, slots=True)
class Pushed:
    """`nodes`: each aggregate in the SELECT and the output of `fragment` that takes its place."""

    occurrence: Occurrence
    fragment: Fragment
    nodes: tuple[_Node, ...]


def push_whole(occurrence: Occurrence, conditions: Conditions) -> Pushed:
    """Raises Unfit."""
    select = occurrence.select
    _require_plain(occurrence)
    found = list(_aggregate_nodes(select))
    if not found:
        raise Unfit("it selects rows and not aggregates")
    group_by = _group_by(occurrence)
    _require_grouped(occurrence, found, group_by)
    nodes = tuple(_named(occurrence, found, group_by))
    fragment = Fragment(
        dataset_id=occurrence.name.dataset,
        condition=_condition(occurrence, conditions),
        aggregates=tuple(dict.fromkeys(aggregate for _, aggregate in nodes)),
        group_by=tuple(group_by),
    )
    if not occurrence.description.shows_rows:
        _require_dimensions(fragment, occurrence)
    return Pushed(occurrence, fragment, nodes)


def rewrite(pushed: Pushed, landing: str) -> None:
    """Make the SELECT read `landing`, where the fragment's answer is. Changes the tree."""
    occurrence, select = pushed.occurrence, pushed.occurrence.select
    select.set("expressions", [keeping_its_name(output) for output in select.expressions])
    whole = not pushed.fragment.group_by and occurrence.description.shows_rows
    for node, aggregate in pushed.nodes:
        node.replace(_over_one_row(aggregate) if whole else exp.column(aggregate.alias, quoted=True))
    select.set("where", None)
    select.set("group", None)
    if not whole and (having := select.args.get("having")) is not None:
        select.set("having", None)
        select.set("where", exp.Where(this=having.this))
    for column in select.find_all(exp.Column):
        column.set("db", None)
    alias = occurrence.table.alias_or_name
    occurrence.table.replace(
        exp.table_(
            landing, db=occurrence.name.participant, alias=exp.to_identifier(alias, quoted=True), quoted=True
        )
    )


def _over_one_row(aggregate: Aggregate) -> exp.Expr:
    """Of a whole dataset: one row even where the provider's answer has none, as SQL has it."""
    value = exp.Max(this=exp.column(aggregate.alias, quoted=True))
    counts = aggregate.function in ("count", "count_distinct")
    return exp.Coalesce(this=value, expressions=[exp.Literal.number(0)]) if counts else value


def keeping_its_name(output: exp.Expr) -> exp.Expr:
    """Columns of an answer are named by their text; give one whose text is about to change its name now."""
    if isinstance(output, exp.Alias | exp.Column):
        return output
    is_count = isinstance(output, exp.Count) and isinstance(output.this, exp.Star)
    text = "count_star()" if is_count else output.sql(DIALECT, normalize_functions="lower", comments=False)
    named = exp.Alias(alias=exp.to_identifier(text, quoted=True))
    named.set("this", output)
    return named


# --- does it fit? ---------------------------------------------------------------------------------------


def _require_plain(occurrence: Occurrence) -> None:
    select = occurrence.select
    from_ = select.args.get("from_")
    if joins(select) or from_ is None or from_.this is not occurrence.table:
        raise Unfit("it joins the dataset with another")
    if occurrence.renamed or occurrence.table.args.get("sample") or select.args.get("sample"):
        raise Unfit("it renames or samples the dataset's columns")
    if select.args.get("windows"):
        raise Unfit("it names a window")
    distinct = select.args.get("distinct")
    if distinct is not None and distinct.args.get("on"):
        raise Unfit("it uses DISTINCT ON")
    if any(node is not select for node in select.find_all(exp.Select)):
        raise Unfit("it contains another SELECT")
    if any(select.find_all(exp.Anonymous, exp.AnonymousAggFunc, exp.Columns)):
        raise Unfit("it calls a function that may be an aggregate of its own")


def _aggregate_nodes(select: exp.Select) -> Iterator[exp.Expr]:
    for part in _parts(select):
        yield from (node for node in part.find_all(exp.AggFunc) if not _is_window_function(node))


def _is_window_function(node: exp.Expr) -> bool:
    child, parent = node, node.parent
    while isinstance(parent, exp.IgnoreNulls | exp.RespectNulls | exp.Filter) and parent.this is child:
        child, parent = parent, parent.parent
    return isinstance(parent, exp.Window) and parent.this is child


def _group_by(occurrence: Occurrence) -> list[str]:
    select = occurrence.select
    group = select.args.get("group")
    if group is None:
        return []
    members = {name for name, value in group.args.items() if value not in (None, False, [])}
    if members - {"expressions", "all"} or ("all" in members and select.find(exp.Window)):
        raise Unfit("it groups in a way of its own")
    nodes = _all_but_aggregates(select) if "all" in members else group.expressions
    return list(dict.fromkeys(_grouped_column(occurrence, node) for node in nodes))


def _all_but_aggregates(select: exp.Select) -> list[exp.Expr]:
    return [output for output in select.expressions if output.find(exp.AggFunc) is None]


def _grouped_column(occurrence: Occurrence, node: exp.Expr) -> str:
    """By name, by place (`GROUP BY 1`) or by the name the SELECT gives to it."""
    outputs = occurrence.select.expressions
    node = bare(node)
    if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdecimal():
        place = int(node.this)
        node = outputs[place - 1] if 0 < place <= len(outputs) else node
    elif isinstance(node, exp.Column) and not node.table and occurrence.column(node.name) is None:
        called = [
            o for o in outputs if isinstance(o, exp.Alias) and o.alias.casefold() == node.name.casefold()
        ]
        node = called[0] if len(called) == 1 else node
    name = _own_column(node.this if isinstance(node, exp.Alias) else node, occurrence)
    if name is None:
        raise Unfit("it groups by something else than columns")
    return name


def _require_grouped(occurrence: Occurrence, aggregates: list[exp.Expr], group_by: list[str]) -> None:
    """Outside of aggregates stand only grouped columns, and names that the SELECT itself gives."""
    select = occurrence.select
    aliases = {o.alias.casefold(): o.this for o in select.expressions if isinstance(o, exp.Alias)}
    for name in group_by:
        if name.casefold() in aliases and _own_column(aliases[name.casefold()], occurrence) != name:
            raise Unfit(f"it gives the name of the column {name} to something else")
    inside = {id(column) for node in aggregates for column in node.find_all(exp.Column)}
    for part in _parts(select):
        if any(not isinstance(star.parent, exp.Count) for star in part.find_all(exp.Star)):
            raise Unfit("it selects rows and not aggregates")
        for column in part.find_all(exp.Column):
            given = not column.table and column.name.casefold() in aliases
            if id(column) not in inside and not given and _own_column(column, occurrence) not in group_by:
                raise Unfit(f"it shows {column.name}, by which it does not group")


def _named(occurrence: Occurrence, found: list[exp.Expr], group_by: list[str]) -> Iterator[_Node]:
    """Equal aggregates are asked for once."""
    taken = {name.casefold() for name in group_by}
    free = (alias for alias in map("agg_{}".format, count(1)) if alias not in taken)
    named: dict[tuple[_Function, str | None], str] = {}
    for node in found:
        function, column = _aggregate(node, occurrence)
        if (function, column) not in named:
            named[function, column] = next(free)
        yield node, Aggregate(function=function, column=column, alias=named[function, column])


def _aggregate(node: exp.Expr, occurrence: Occurrence) -> tuple[_Function, str | None]:
    if isinstance(node.parent, exp.Filter):
        raise Unfit("it filters inside an aggregate")
    match node:
        case exp.Count(this=exp.Star()):
            return "count", None
        case exp.Count(this=exp.Distinct() as distinct) if len(distinct.expressions) == 1:
            return "count_distinct", _aggregated_column(distinct.expressions[0], occurrence)
        case exp.Sum() | exp.Avg():
            name = _aggregated_column(node.this, occurrence)
            column = occurrence.description.columns[name]
            if column.type not in ("integer", "number") or not column.comparable:
                raise Unfit(f"{name} is no number that could be added up")
            return ("sum" if isinstance(node, exp.Sum) else "avg"), name
    raise Unfit(f"{node.key.upper()} is not among COUNT(*), COUNT(DISTINCT column), SUM(column), AVG(column)")


def _aggregated_column(node: exp.Expr, occurrence: Occurrence) -> str:
    name = _own_column(node, occurrence)
    if name is None:
        raise Unfit("it aggregates something else than a column")
    return name


def _own_column(node: exp.Expr, occurrence: Occurrence) -> str | None:
    """The column of this dataset that the expression just names; not one of an outer query."""
    node = bare(node)
    if not isinstance(node, exp.Column) or (node.table and node.table.casefold() not in occurrence.names):
        return None
    column = occurrence.column(node.name)
    return column.name if column is not None else None


def _parts(select: exp.Select) -> list[exp.Expr]:
    """Where aggregates can stand."""
    others = (select.args.get(name) for name in ("having", "qualify", "order"))
    return [*select.expressions, *(part for part in others if part is not None)]


def _condition(occurrence: Occurrence, conditions: Conditions) -> Condition:
    found: list[Condition] = []
    for conjunct in conjuncts(occurrence.select):
        pushable = conditions.pushable(conjunct)
        if pushable is None or not pushable.exact or pushable.occurrence is not occurrence:
            raise Unfit("it filters by something else than a column compared with a literal")
        found.append(pushable.condition)
    if not found:
        return EVERY_ROW
    condition = all_of(found)
    if not fits(condition):
        raise Unfit("its filter is too long")
    return condition


def _require_dimensions(fragment: Fragment, occurrence: Occurrence) -> None:
    dimensions = occurrence.description.dimensions
    listed = ", ".join(sorted(dimensions)) or "none"
    if not dimensions.issuperset(fragment.group_by):
        raise Unfit(f"it groups by other columns than {listed}")
    for condition in _conjuncts_of(fragment.condition):
        narrow = isinstance(condition, FieldCondition) and condition.operator in ("eq", "in")
        if not narrow or (isinstance(condition, FieldCondition) and condition.field not in dimensions):
            raise Unfit(f"it filters by something else than = or IN on {listed}")


def _conjuncts_of(condition: Condition) -> tuple[Condition, ...]:
    if isinstance(condition, FieldCondition):
        return (condition,)
    return condition.conditions if condition.operator == "and" else (condition,)
