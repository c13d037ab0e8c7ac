"""From a statement to what each participant is asked, and what runs here over the answers.

Reduce, then run the statement itself: each place that reads a dataset becomes a fragment that filters
and projects, and the user's own statement runs over what was landed. Filters are idempotent, so the
answer is that of the whole tables, whatever was pushed down. Only SELECTs of aggregates over one dataset
are answered by the provider as a whole (aggregates.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count

from sqlglot import exp

from connector.errors import NotPermitted, Reason
from connector.model.decision import EVERY_ROW
from connector.model.fragment import Fragment
from connector.query import aggregates, checks
from connector.query.aggregates import Pushed, Unfit
from connector.query.conditions import Conditions, NoLiteral, Pushable, conjuncts
from connector.query.description import Description
from connector.query.fragment_sql import all_of, fits, fragment_sql
from connector.query.parse import Statement, TableName, Value, generate
from connector.query.scope import Occurrence, Scopes


@dataclass(frozen=True, slots=True)
class PlannedFragment:
    """`landing`: the table, in a schema named after the participant, that its answer goes into."""

    table: TableName
    fragment: Fragment
    sql: str
    landing: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of its answer, in order."""
        f = self.fragment
        return (*f.group_by, *f.columns, *(a.alias for a in f.aggregates))


@dataclass(frozen=True, slots=True)
class Plan:
    """`sql` with `parameters` is what the join engine runs once every fragment is landed."""

    fragments: tuple[PlannedFragment, ...]
    sql: str
    parameters: Mapping[str, Value]


def plan(statement: Statement, descriptions: Mapping[TableName, Description]) -> Plan:
    """Raises NotPermitted (with reasons) for what no provider would answer, SqlInvalid."""
    tree = statement.tree.copy()
    scopes = Scopes(tree, descriptions)
    conditions = Conditions(scopes, statement.parameters)
    checks.refuse_hidden_columns(tree, scopes)
    checks.refuse_identifiers_beside_pseudonyms(tree, scopes, conditions)
    asked = _Asked(statement.tables)
    for occurrence in scopes.occurrences:
        try:
            asked.whole.append(aggregates.push_whole(occurrence, conditions))
        except Unfit as unfit:
            if not occurrence.description.shows_rows:
                raise _shows_no_rows(occurrence, unfit) from None
            asked.rows.append((occurrence, _rows(occurrence, conditions)))
    _keep_names(tree)
    fragments = asked.land()
    sql = generate(tree)
    left = {str(placeholder.this) for placeholder in tree.find_all(exp.Placeholder)}
    parameters = {name: value for name, value in statement.parameters.items() if name in left}
    return Plan(tuple(fragments), sql, parameters)


def _keep_names(tree: exp.Query) -> None:
    """Of the answer's columns: a subquery is renamed to what is landed, a column named by its text is not."""
    first: exp.Expr = tree
    while isinstance(first, exp.SetOperation | exp.Subquery):
        first = first.this
    if isinstance(first, exp.Select):
        outputs = [aggregates.keeping_its_name(o) if o.find(exp.Select) else o for o in first.expressions]
        first.set("expressions", outputs)


class _Asked:
    """What the occurrences ask for, until each distinct fragment has a table to land in."""

    def __init__(self, tables: Iterable[TableName]) -> None:
        self.rows: list[tuple[Occurrence, Fragment]] = []
        self.whole: list[Pushed] = []
        self._landed: dict[tuple[TableName, Fragment], PlannedFragment] = {}
        self._taken: set[tuple[str, str]] = set()
        self._datasets = {(table.participant, table.dataset.casefold()) for table in tables}

    def land(self) -> list[PlannedFragment]:
        """Changes the tree: occurrences read the table their fragment lands in."""
        for name in dict.fromkeys(occurrence.name for occurrence, _ in self.rows):
            self._land_rows(name, [(o, f) for o, f in self.rows if o.name == name])
        for pushed in self.whole:
            aggregates.rewrite(pushed, self._place(pushed.occurrence.name, pushed.fragment).landing)
        return list(self._landed.values())

    def _land_rows(self, name: TableName, asked: list[tuple[Occurrence, Fragment]]) -> None:
        """A place without an alias keeps the dataset's own name, because columns can be called by it."""
        plain = {fragment for occurrence, fragment in asked if not occurrence.table.alias}
        if len(plain) > 1:
            merged = _merged([fragment for _, fragment in asked], asked[0][0].description)
            asked = [(occurrence, merged) for occurrence, _ in asked]
        for occurrence, fragment in sorted(asked, key=lambda pair: bool(pair[0].table.alias)):
            landing = self._place(name, fragment).landing
            if landing != name.dataset:
                occurrence.table.set("this", exp.to_identifier(landing, quoted=True))

    def _place(self, name: TableName, fragment: Fragment) -> PlannedFragment:
        if (name, fragment) not in self._landed:
            others = (f"{name.dataset}__{number}" for number in count(2))
            unclaimed = (o for o in others if (name.participant, o.casefold()) not in self._datasets)
            landing = next(
                landing
                for landing in chain([name.dataset], unclaimed)
                if (name.participant, landing.casefold()) not in self._taken
            )
            self._taken.add((name.participant, landing.casefold()))
            self._landed[name, fragment] = PlannedFragment(name, fragment, fragment_sql(fragment), landing)
        return self._landed[name, fragment]


def _merged(fragments: list[Fragment], description: Description) -> Fragment:
    """Rows and columns for all of them: places that read one table under one name."""
    needed = {column for fragment in fragments for column in fragment.columns}
    return Fragment(
        dataset_id=fragments[0].dataset_id, columns=tuple(c for c in description.columns if c in needed)
    )


def _rows(occurrence: Occurrence, conditions: Conditions) -> Fragment:
    pushed = _pushed(occurrence, conditions) if occurrence.reducible else []
    return Fragment(
        dataset_id=occurrence.name.dataset,
        columns=tuple(name for name in occurrence.description.columns if name in occurrence.needed),
        condition=all_of([p.condition for p in pushed]) if pushed else EVERY_ROW,
        limit=_limit(occurrence, pushed, conditions),
    )


def _pushed(occurrence: Occurrence, conditions: Conditions) -> list[Pushable]:
    """As many of its conditions as fit into one fragment."""
    kept: list[Pushable] = []
    for conjunct in conjuncts(occurrence.select):
        found = conditions.pushable(conjunct)
        if found is None or found.occurrence is not occurrence:
            continue
        if fits(all_of([*(p.condition for p in kept), found.condition])):
            kept.append(found)
    return kept


def _limit(occurrence: Occurrence, pushed: list[Pushable], conditions: Conditions) -> int | None:
    """LIMIT travels where any rows will do: behind FROM only conditions that the provider answers exactly."""
    select = occurrence.select
    clauses = {name for name, value in select.args.items() if value not in (None, False, [])}
    if "limit" not in clauses or not clauses <= {"expressions", "from_", "where", "limit", "offset"}:
        return None
    if not occurrence.reducible or select.args["limit"].args.get("limit_options"):
        return None
    if len(pushed) != len(list(conjuncts(select))) or not all(p.exact for p in pushed):
        return None
    if select.find(exp.AggFunc, exp.Window, exp.Anonymous, exp.AnonymousAggFunc) is not None:
        return None  # or what may be an aggregate
    return _total([select.args["limit"], select.args.get("offset")], conditions)


def _total(clauses: list[exp.Expr | None], conditions: Conditions) -> int | None:
    total = 0
    for clause in clauses:
        if clause is None:
            continue
        try:
            number = conditions.literal(clause.expression)
        except NoLiteral:
            return None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return None
        total += number
    return total


def _shows_no_rows(occurrence: Occurrence, unfit: Unfit) -> NotPermitted:
    description = occurrence.description
    dimensions = ", ".join(sorted(description.dimensions)) or "none"
    reason = Reason(
        code="aggregate_only",
        text=f"{occurrence.name} shows no rows, only groups of at least {description.min_group_size} "
        f"persons, and this statement cannot be answered so: {unfit.reason.text}.",
        source=occurrence.name.participant,
    )
    return NotPermitted(
        [reason],
        mend="Ask in a SELECT of its own for COUNT(*), COUNT(DISTINCT column), SUM(column) or AVG(column), "
        f"grouped and filtered (by = or IN) only by: {dimensions}.",
    )
