"""The consumer's statement: one query over `participant.dataset` tables, or a refusal that says where.

Imports sqlglot: load this module with the first query, not at the start. What runs in the end is
generated from the tree that was checked here, never the text that came in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import ErrorLevel, ParseError, SqlglotError, TokenError

from connector.errors import RequestInvalid, SqlInvalid
from connector.query import functions

DIALECT = "duckdb"
MAX_CHARS = 65_536
MAX_NODES = 10_000
MAX_TABLES = 32

Value = str | int | float | bool | Decimal | date | datetime | None
Parameters = Sequence[Value] | Mapping[str, Value]

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_ENGINE_SCHEMAS = frozenset({"main", "temp", "system", "information_schema", "pg_catalog"})

_REFUSED_NODES = (
    exp.DDL,
    exp.DML,
    exp.Command,
    exp.Set,
    exp.Pragma,
    exp.Attach,
    exp.Detach,
    exp.Copy,
    exp.Describe,
    exp.Summarize,
    exp.Show,
    exp.Use,
    exp.Into,
    exp.Lock,
    exp.Pivot,
    exp.Unnest,
    exp.HistoricalData,
    exp.MatchRecognize,
    exp.Parameter,
    exp.SessionParameter,
)
_BEGINNINGS = frozenset({TokenType.SELECT, TokenType.WITH, TokenType.FROM, TokenType.L_PAREN})
_MODIFIERS = "with_ order limit offset sample"
_MEMBERS: dict[type[exp.Expr], frozenset[str]] = {
    kind: frozenset(members.split())
    for kind, members in (
        (exp.Select, f"expressions distinct from_ joins where group having qualify windows {_MODIFIERS}"),
        (exp.SetOperation, f"this expression distinct by_name {_MODIFIERS}"),
        (exp.Subquery, f"this alias {_MODIFIERS}"),
        (exp.Table, "this db alias joins sample"),
        (exp.Join, "this on side kind using method"),
    )
}
"""Every other clause sqlglot knows belongs to some other dialect: the engine would drop or misread it."""

_SIZES: dict[type[exp.Expr], tuple[str, ...]] = {
    exp.Repeat: ("times",),
    exp.Pad: ("expression",),
    exp.GenerateSeries: ("start", "end"),
}
_SIZED = frozenset({"repeat", "lpad", "rpad", "range", "generate_series"})


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    participant: str
    dataset: str

    def __str__(self) -> str:
        return f"{self.participant}.{self.dataset}"


@dataclass(frozen=True, slots=True)
class Statement:
    """`tree` is ours to copy, never to change. Every parameter in it is named; `parameters` has its value."""

    tree: exp.Query
    tables: tuple[TableName, ...]
    parameters: Mapping[str, Value]


def parse(sql: str, parameters: Parameters = ()) -> Statement:
    """Raises SqlInvalid (with line and column where they are known) or RequestInvalid (parameters)."""
    tree = _tree(_numbered(sql))
    _check(tree)
    values = _bind(tree, parameters)
    occurrences = list(table_occurrences(tree))
    if len(occurrences) > MAX_TABLES:
        raise SqlInvalid(f"The statement names more than {MAX_TABLES} tables.")
    tables = tuple(dict.fromkeys(name_of(table) for table in occurrences))
    if not tables:
        raise SqlInvalid("The statement names no dataset.", mend=_NAMES)
    return Statement(tree, tables, values)


def table_occurrences(tree: exp.Expr) -> Iterator[exp.Table]:
    """Every place where a dataset is read, in a fixed order; references to CTEs are not among them."""
    return (table for table in tree.find_all(exp.Table, bfs=False) if table.db)


def name_of(table: exp.Table) -> TableName:
    return TableName(table.db.lower(), table.name if _quoted(table) else table.name.lower())


def generate(tree: exp.Expr) -> str:
    """For the join engine. Raises SqlInvalid for what cannot be written down again."""
    try:
        return tree.sql(dialect=DIALECT, comments=False, unsupported_level=ErrorLevel.RAISE)
    except (SqlglotError, RecursionError) as error:
        raise SqlInvalid("The statement uses SQL that cannot be carried over.") from error


_NAMES = "Tables are named participant.dataset, for example kela.benefits."
_ROWS = "Rows of your own go into VALUES."
_ONE_QUERY = "Send one SELECT; WITH and set operations are welcome."


def _quoted(table: exp.Table) -> bool:
    return bool(table.this.args.get("quoted"))


# --- text -> tree ---------------------------------------------------------------------------------------


def _numbered(sql: str) -> str:
    """`?` written as `$1`, `$2`, ...: a name keeps its meaning when clauses are written in another order."""
    if len(sql) > MAX_CHARS:
        raise SqlInvalid(f"The statement is longer than {MAX_CHARS} characters.")
    if "\0" in sql or any("\ud800" <= character <= "\udfff" for character in sql):
        raise SqlInvalid("The statement holds a character that is no text.")
    try:
        tokens = sqlglot.tokenize(sql, read=DIALECT)
    except (TokenError, RecursionError) as error:
        raise SqlInvalid("The statement breaks off, perhaps inside a text or a comment.") from error
    _require_one_query(tokens)
    marks = [token for token in tokens if token.token_type == TokenType.PLACEHOLDER]
    named = any(token.token_type == TokenType.PARAMETER for token in tokens)
    if marks and named:
        raise RequestInvalid("Parameters are either all `?` or all `$name`.", where="parameters")
    for number, mark in reversed(list(enumerate(marks, start=1))):
        sql = f"{sql[: mark.start]}${number}{sql[mark.end + 1 :]}"
    return sql


def _require_one_query(tokens: Sequence[sqlglot.Token]) -> None:
    """Before parsing: statements that sqlglot does not know it would keep as text, and log."""
    ends = [place for place, token in enumerate(tokens) if token.token_type == TokenType.SEMICOLON]
    if not tokens or tokens[0].token_type not in _BEGINNINGS:
        raise SqlInvalid("Only queries are answered.", mend=_ONE_QUERY)
    if any(place != len(tokens) - 1 for place in ends):
        raise SqlInvalid("There is more than one statement.", mend=_ONE_QUERY)


def _tree(sql: str) -> exp.Query:
    try:
        statements = sqlglot.parse(sql, read=DIALECT, error_level=ErrorLevel.IMMEDIATE)
    except ParseError as error:
        raise _not_sql(error) from error
    except (SqlglotError, RecursionError, ValueError) as error:
        raise SqlInvalid("The statement does not parse as SQL.", mend=_ONE_QUERY) from error
    tree = statements[0] if statements else None
    if not isinstance(tree, exp.Select | exp.SetOperation | exp.Subquery):
        raise SqlInvalid("Only queries are answered.", mend=_ONE_QUERY)
    return tree


def _not_sql(error: ParseError) -> SqlInvalid:
    first = error.errors[0] if error.errors else {}
    near = f" near {first['highlight']!r}" if first.get("highlight") else ""
    return SqlInvalid(
        f"The statement does not parse{near}: {first.get('description', 'it breaks off')}.",
        where=_place(first.get("line"), first.get("col")),
        mend=_ONE_QUERY,
    )


def _place(line: object, column: object) -> str:
    return f"line {line}, column {column}" if line and column else ""


# --- what may stand in it -------------------------------------------------------------------------------


def _check(tree: exp.Query) -> None:
    for count, node in enumerate(tree.walk(), start=1):
        if count > MAX_NODES:
            raise SqlInvalid(f"The statement has more than {MAX_NODES} parts.")
        if isinstance(node, _REFUSED_NODES):
            raise _refused(node, f"{node.key.upper()} cannot stand in a query", mend=_ONE_QUERY)
        for kind, members in _MEMBERS.items():
            if isinstance(node, kind):
                _check_members(node, members)
        if isinstance(node, exp.Table):
            _check_table(node)
        elif isinstance(node, exp.Lateral) and not isinstance(node.this, exp.Subquery):
            raise _refused(node, "A function cannot stand in FROM", mend=_ROWS)
        elif isinstance(node, exp.Func):
            _check_function(node)


def _check_members(node: exp.Expr, allowed: frozenset[str]) -> None:
    strange = {name for name, value in node.args.items() if value not in (None, False, [])} - allowed
    if strange:
        clauses = ", ".join(sorted(name.strip("_").upper() for name in strange))
        raise _refused(node, f"{clauses} cannot stand here")


def _check_table(table: exp.Table) -> None:
    if not isinstance(table.this, exp.Identifier):
        raise _refused(table, "A function cannot stand in FROM", mend=_ROWS)
    if not table.db:
        if not _is_cte(table):
            raise _refused(table, f"There is no table {table.name!r}", mend=_NAMES)
    elif table.db.lower() in _ENGINE_SCHEMAS or not (_ID.fullmatch(table.db) and _ID.fullmatch(table.name)):
        raise _refused(table, f"{table.db}.{table.name} is not a dataset", mend=_NAMES)


def _is_cte(table: exp.Table) -> bool:
    """Whether an enclosing query defines the name."""
    wanted, node = table.name.lower(), table.parent
    while node is not None:
        with_ = node.args.get("with_")
        if with_ is not None and any(cte.alias.lower() == wanted for cte in with_.expressions):
            return True
        node = node.parent
    return False


def _check_function(function: exp.Func) -> None:
    names = [function.name] if isinstance(function, exp.Anonymous) else function.sql_names()
    name = names[0].lower()
    # written as a method, `'x'.repeat(9)`, a sized function comes without its usual shape
    if any(map(functions.refused, names)) or (isinstance(function, exp.Anonymous) and name in _SIZED):
        raise _refused(function, f"The function {name} cannot be called here")
    sizes = _SIZES.get(type(function))
    if sizes is None:
        return
    nested = function.find_ancestor(*_SIZES) is not None
    if nested or not all(_is_small(function.args.get(argument)) for argument in sizes):
        raise _refused(
            function,
            f"{name} takes its size as a number up to {functions.MAX_SIZE}, and no other of its kind",
        )


def _is_small(size: object) -> bool:
    inner = size.this if isinstance(size, exp.Neg) else size
    if not isinstance(inner, exp.Literal) or inner.is_string or not str(inner.this).isdecimal():
        return False
    return int(inner.this) <= functions.MAX_SIZE


def _refused(node: exp.Expr, what: str, *, mend: str = "") -> SqlInvalid:
    named = node.find(exp.Identifier)
    meta = named.meta if named is not None else {}
    return SqlInvalid(f"{what}.", where=_place(meta.get("line"), meta.get("col")), mend=mend)


# --- parameters -----------------------------------------------------------------------------------------


def _bind(tree: exp.Query, given: Parameters) -> dict[str, Value]:
    """Name each parameter `p1` or `p_name`; exactly those used must be given."""
    values = _given(given)
    used: set[str] = set()
    for placeholder in tree.find_all(exp.Placeholder):
        name = str(placeholder.this or "")
        used.add(name)
        placeholder.set("this", _engine_name(name))
    if missing := sorted(used - values.keys()):
        raise RequestInvalid(f"No value for {_listed(missing)}.", where="parameters")
    if unused := sorted(values.keys() - used):
        raise RequestInvalid(f"The statement does not use {_listed(unused)}.", where="parameters")
    return {_engine_name(name): values[name] for name in sorted(used)}


def _given(given: Parameters) -> dict[str, Value]:
    if isinstance(given, Mapping):
        values = {str(name): value for name, value in given.items()}
    else:
        values = {str(number): value for number, value in enumerate(given, start=1)}
    for name, value in values.items():
        if value is not None and not isinstance(value, str | int | float | Decimal | date):
            raise RequestInvalid(
                "A value is a text, a number, a boolean, a date or null.", where=f"parameters.{name}"
            )
    return values


def _engine_name(name: str) -> str:
    return f"p{name}" if name.isdecimal() else f"p_{name}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"${name}" for name in names)
