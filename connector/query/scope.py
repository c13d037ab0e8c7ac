"""Which columns of which dataset a statement can mean, by SQL's rules of visibility.

Where this is not certain it errs to more: a column too many is landed, never one too few. A column
left out would not only be missing, it could let its name bind to something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from connector.query.description import Column, Description
from connector.query.parse import TableName, name_of, table_occurrences

_INNER = frozenset({"", "INNER", "CROSS"})


@dataclass(eq=False, slots=True)
class Occurrence:
    """One place where the statement reads a dataset.

    `names`: what can stand before the dot. `reducible`: leaving out rows that fail a WHERE condition
    changes nothing else; false on the nullable side of an outer join, under sampling, and in joins that
    count or order rows. `renamed`: its columns have other names inside (`AS t(x, y)`).
    """

    table: exp.Table
    name: TableName
    select: exp.Select
    description: Description
    names: frozenset[str]
    reducible: bool
    renamed: bool
    needed: set[str] = field(default_factory=set)

    def column(self, name: str) -> Column | None:
        return None if self.renamed else self._by_name.get(name.casefold())

    @property
    def _by_name(self) -> Mapping[str, Column]:
        return {name.casefold(): column for name, column in self.description.columns.items()}

    def need(self, name: str) -> None:
        if (column := self._by_name.get(name.casefold())) is not None:
            self.needed.add(column.name)

    def need_all(self) -> None:
        self.needed.update(self.description.columns)


class Scopes:
    """The occurrences of a statement's tree, and what its column names can refer to."""

    def __init__(self, tree: exp.Query, descriptions: Mapping[TableName, Description]) -> None:
        self._tree = tree
        self.occurrences: list[Occurrence] = []
        self._by_select: dict[int, list[Occurrence]] = {}
        for table in table_occurrences(tree):
            occurrence = _occurrence(table, descriptions[name_of(table)])
            self.occurrences.append(occurrence)
            self._by_select.setdefault(id(occurrence.select), []).append(occurrence)
        self._find_needed()

    def read_in(self, select: exp.Select) -> list[Occurrence]:
        """By FROM and JOIN of this very SELECT."""
        return self._by_select.get(id(select), [])

    def owner(self, column: exp.Column) -> Occurrence | None:
        """The dataset whose column this is, where that is certain; else None."""
        name, qualifier = column.name, column.table
        for select in selects_around(column):
            if qualifier:
                found = self._named(select, column)
                if found or _has_source(select, qualifier):
                    return found[0] if len(found) == 1 and found[0].column(name) else None
                continue
            having = [o for o in self.read_in(select) if o.column(name)]
            if having:
                return having[0] if len(having) == 1 and not _is_output_name(select, name) else None
            if _has_other_sources(select, self.read_in(select)):
                return None
        return None

    def misnamed(self, column: exp.Column) -> Occurrence | None:
        """The dataset that a qualified column is asked of and that does not show it."""
        for select in selects_around(column):
            found = self._named(select, column)
            if found or _has_source(select, column.table):
                one = found[0] if len(found) == 1 else None
                return one if one and not one.renamed and not one.column(column.name) else None
        return None

    def _named(self, select: exp.Select, column: exp.Column) -> list[Occurrence]:
        """Sources of `select` that the column's qualifier can mean."""
        qualifier, schema = column.table.casefold(), column.db.casefold()
        return [
            o
            for o in self.read_in(select)
            if qualifier in o.names and (not schema or o.name.participant == schema)
        ]

    # --- which columns must be landed ------------------------------------------------------------------

    def _find_needed(self) -> None:
        for node in self._tree.walk():
            if isinstance(node, exp.Star):
                self._need_for_star(node)
            elif isinstance(node, exp.Columns) or (isinstance(node, exp.Join) and node.method == "NATURAL"):
                self._need_all_around(node)
            elif isinstance(node, exp.Identifier):
                self._need_for_identifier(node)
        for occurrence in self.occurrences:
            if occurrence.renamed:
                occurrence.need_all()
            if not occurrence.needed:
                occurrence.need(_least_telling(occurrence.description).name)

    def _need_for_star(self, star: exp.Star) -> None:
        if isinstance(star.parent, exp.Count):
            return
        if isinstance(star.parent, exp.Column) and star.parent.table:
            for around in selects_around(star):
                for occurrence in self._named(around, star.parent):
                    occurrence.need_all()
            return
        select = star.find_ancestor(exp.Select)
        if select is not None and star.parent is select and isinstance(select.parent, exp.Exists):
            return  # EXISTS (SELECT * ...) looks at no column
        self._need_all_around(star)

    def _need_all_around(self, node: exp.Expr) -> None:
        select = node.find_ancestor(exp.Select)
        for occurrence in self.read_in(select) if select is not None else self.occurrences:
            occurrence.need_all()

    def _need_for_identifier(self, identifier: exp.Identifier) -> None:
        parent, place = identifier.parent, identifier.arg_key
        if isinstance(parent, exp.Column):
            if place == "this":
                self._need_for_column(parent)
        elif not isinstance(parent, exp.Table | exp.TableAlias | exp.CTE) and place != "alias":
            self._need_unqualified(identifier, identifier.name, binds=False)  # USING, and whatever else

    def _need_for_column(self, column: exp.Column) -> None:
        if not column.table:
            self._need_unqualified(column, column.name, binds=True)
            return
        for select in selects_around(column):
            found = self._named(select, column)
            for occurrence in found:
                occurrence.need(column.name)
            if found or _has_source(select, column.table):
                return
        self._need_unqualified(column, column.table, binds=False)  # a field of a column, not a source

    def _need_unqualified(self, node: exp.Expr, name: str, *, binds: bool) -> None:
        """`binds`: it stands for one column, found at the innermost level that has one."""
        for select in selects_around(node):
            having = [o for o in self.read_in(select) if o.column(name)]
            for occurrence in having:
                occurrence.need(name)
            for occurrence in self.read_in(select):
                if name.casefold() in occurrence.names:
                    occurrence.need_all()  # the whole row as one value
            if binds and having:
                return


def sources(select: exp.Select) -> list[exp.Expr]:
    """What FROM and JOIN name, left to right."""
    from_ = select.args.get("from_")
    first = [from_.this] if from_ is not None else []
    return first + [join.this for join in joins(select)]


def joins(select: exp.Select) -> list[exp.Join]:
    return list(select.args.get("joins") or [])


def is_inner(join: exp.Join) -> bool:
    return not join.side and not join.method and join.kind in _INNER


def _occurrence(table: exp.Table, description: Description) -> Occurrence:
    select = table.find_ancestor(exp.Select)
    if select is None:  # the grammar has tables in SELECT only
        raise AssertionError("a table outside of a SELECT")
    names, node = {table.alias_or_name.casefold()}, table.parent
    while node is not None and node is not select:
        if isinstance(node, exp.Subquery) and node.alias:
            names.add(node.alias.casefold())
        node = node.parent
    alias = table.args.get("alias")
    return Occurrence(
        table=table,
        name=name_of(table),
        select=select,
        description=description,
        names=frozenset(names),
        reducible=_reducible(table, select),
        renamed=bool(alias is not None and alias.columns) or len(names) > 1,
    )


def _reducible(table: exp.Table, select: exp.Select) -> bool:
    if table.args.get("sample") or table.args.get("joins") or select.args.get("sample"):
        return False
    places = sources(select)
    if not any(place is table for place in places):
        return False
    optional = [False]
    for join in joins(select):
        if join.method or join.kind not in _INNER | {"OUTER", "SEMI", "ANTI"}:
            return False
        hidden = join.kind in ("SEMI", "ANTI")
        if not hidden and join.side in ("RIGHT", "FULL"):
            optional = [True] * len(optional)
        optional.append(hidden or join.side in ("LEFT", "FULL") or (join.kind == "OUTER" and not join.side))
    return not optional[next(i for i, place in enumerate(places) if place is table)]


def selects_around(node: exp.Expr) -> Iterator[exp.Select]:
    """Innermost first: the order in which a name is looked up."""
    around: exp.Select | None = node.find_ancestor(exp.Select)
    while around is not None:
        yield around
        around = around.find_ancestor(exp.Select)


def _has_source(select: exp.Select, name: str) -> bool:
    return any(source.alias_or_name.casefold() == name.casefold() for source in sources(select))


def _has_other_sources(select: exp.Select, occurrences: list[Occurrence]) -> bool:
    """Subqueries, VALUES or CTEs: whether they have a column of some name is not looked into."""
    tables = [o.table for o in occurrences]
    return any(not any(source is table for table in tables) for source in sources(select))


def _is_output_name(select: exp.Select, name: str) -> bool:
    """`SELECT a + 1 AS c ... WHERE c = 2`: which c is meant is the engine's business."""
    return any(
        isinstance(output, exp.Alias)
        and output.alias.casefold() == name.casefold()
        and not (isinstance(output.this, exp.Column) and output.this.name.casefold() == name.casefold())
        for output in select.expressions
    )


def _least_telling(description: Description) -> Column:
    """For counting rows any column does: a masked one rather than a clear one, a number before a text."""
    order = ["boolean", "integer", "number", "date", "timestamp", "string"]

    def telling(column: Column) -> tuple[int, int]:
        rank = 0 if column.exposure.startswith("mask:") else 1 if column.exposure == "clear" else 2
        return rank, order.index(column.type)

    return min(description.columns.values(), key=telling)
