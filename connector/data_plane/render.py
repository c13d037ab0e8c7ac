"""A fragment as SQL over the policy relation, and the plan of what is done to its columns afterwards.

    SELECT t0."area", ... FROM (
        SELECT <exposed columns, masked> FROM <relation> AS b
        WHERE <row filter> AND <consent> AND <the consumer's conditions on clear columns>
    ) AS t0 WHERE <the consumer's conditions on masked values>

Masked before filtered: the consumer's conditions see what the consumer may see. Those on clear columns
sink into the relation, where the source's indexes serve them; nothing distinguishes the two but speed.

There is no fence (`OFFSET 0`) between the two levels. A fence keeps an engine from evaluating the
consumer's expression on rows the policy hides, which shows when the expression can fail or be slow. The
grammar has no such expression: a typed column beside a typed literal, no arithmetic, no cast, no LIKE, no
function, and the masks are total. Whoever adds an expression that can raise adds the fence with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from connector.access.pseudonym import normalise_id
from connector.data_plane.columns import (
    INTERNAL,
    ExposedColumn,
    Inverter,
    Pseudonymisers,
    arrow_schema,
    exposed_columns,
    typed_value,
)
from connector.data_plane.dialects import Dialect, dialect_named
from connector.data_plane.fragment import column_named, conjuncts, fields_of, require_permitted
from connector.errors import DescriptorInvalid, PolicyInvalid, RequestInvalid, SqlInvalid, Unavailable
from connector.model.catalog import Dataset, Field, LogicalType
from connector.model.decision import (
    Bucket,
    Condition,
    Constant,
    FieldCondition,
    Hash,
    Limits,
    Null,
    Permit,
    Scalar,
    Truncate,
)
from connector.model.fragment import Aggregate, Fragment
from connector.ports import SourceQuery

if TYPE_CHECKING:
    import pyarrow as pa

SUBJECT = f"{INTERNAL}subject"
GROUP_SUBJECTS = f"{INTERNAL}group_subjects"
CONSENTING = f"{INTERNAL}consenting"
_FILLER = f"{INTERNAL}row"

_COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputColumn:
    """One column of the answer. `post`: what obligations do to its values once they have been read."""

    name: str
    type: LogicalType
    post: Literal["none", "pseudonym", "hash"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedQuery:
    """`subject_column` and `group_size_column` are internal: they come from the source and never leave."""

    query: SourceQuery
    columns: tuple[OutputColumn, ...]
    subject_column: str
    group_size_column: str
    min_group_size: int
    limits: Limits

    def schema(self) -> pa.Schema:
        """Of what leaves."""
        return arrow_schema([Field(name=c.name, type=c.type) for c in self.columns])


def render(
    fragment: Fragment,
    dataset: Dataset,
    permit: Permit,
    *,
    dialect: str,
    relation: str,
    consenting: Iterable[str] | None = None,
    pseudonymisers: Pseudonymisers | None = None,
) -> RenderedQuery:
    """`consenting`: the personal ids whose consent meets the permit; must be given where it asks for any.

    `pseudonymisers` turn pseudonyms in the condition back into ids. Raises NotPermitted or SqlInvalid for
    a fragment outside its permit, PolicyInvalid or DescriptorInvalid where these do not fit together,
    RequestInvalid for a pseudonym that is not ours, Unavailable where consents or keys are missing.
    """
    require_permitted(fragment, dataset, permit)
    renderer = _Renderer(dataset, permit, dialect_named(dialect), pseudonymisers or {})
    return renderer.render(fragment, relation, consenting)


@dataclass(frozen=True, slots=True)
class _Operand:
    """What stands left of a comparison, and how a literal becomes the value to bind on its right."""

    sql: str
    type: LogicalType
    bound: Callable[[Scalar], Any]


class _Renderer:
    """Parameters are positional: they are collected in the order in which their SQL is written."""

    def __init__(
        self, dataset: Dataset, permit: Permit, dialect: Dialect, pseudonymisers: Pseudonymisers
    ) -> None:
        self._dataset = dataset
        self._permit = permit
        self._dialect = dialect
        self._pseudonymisers = pseudonymisers
        self._columns = exposed_columns(dataset, permit)
        self._parameters: list[Any] = []
        self._key_lists: dict[str, tuple[str, ...]] = {}

    def render(self, fragment: Fragment, relation: str, consenting: Iterable[str] | None) -> RenderedQuery:
        below, above = self._split(fragment.condition)
        inner = self._policy_relation(fragment, relation, below, above, consenting)
        where = [self._condition(c, self._masked_operand) for c in above]
        names = fragment.group_by if fragment.aggregated else fragment.columns
        selected = [f"{self._t0(name)} AS {self._quote(name)}" for name in names]
        selected += [f"{self._aggregate(a)} AS {self._quote(a.alias)}" for a in fragment.aggregates]
        internal = self._internal_columns(fragment)
        selected += [f"{sql} AS {self._quote(field.name)}" for field, sql in internal.items()]
        sql = f"SELECT {', '.join(selected)} FROM ({inner}) AS t0{_where(where)}"  # noqa: S608 - all ours
        if fragment.group_by:
            sql += f" GROUP BY {', '.join(self._binary_t0(name) for name in fragment.group_by)}"
        if (limit := self._limit(fragment)) is not None:
            sql += f" LIMIT {limit}"
        return self._planned(fragment, sql, tuple(internal))

    def _planned(self, fragment: Fragment, sql: str, internal: tuple[Field, ...]) -> RenderedQuery:
        names = fragment.group_by if fragment.aggregated else fragment.columns
        columns = [column_named(self._columns, n) for n in names]
        aggregates = [Field(name=a.alias, type=self._aggregate_type(a)) for a in fragment.aggregates]
        raw = [Field(name=c.name, type=c.field.type) for c in columns]
        outputs = [OutputColumn(name=c.name, type=c.type, post=_post(c)) for c in columns]
        outputs += [OutputColumn(name=f.name, type=f.type) for f in aggregates]
        internal_names = {f.name for f in internal}
        return RenderedQuery(
            query=SourceQuery(
                sql=sql,
                parameters=tuple(self._parameters),
                key_lists=self._key_lists,
                result=(*raw, *aggregates, *internal),
            ),
            columns=tuple(outputs),
            subject_column=SUBJECT if SUBJECT in internal_names else "",
            group_size_column=GROUP_SUBJECTS if GROUP_SUBJECTS in internal_names else "",
            min_group_size=self._permit.min_group_size,
            limits=self._permit.limits,
        )

    # the policy relation

    def _policy_relation(
        self,
        fragment: Fragment,
        relation: str,
        below: list[Condition],
        above: list[Condition],
        consenting: Iterable[str] | None,
    ) -> str:
        used = [*fragment.columns, *fragment.group_by]
        used += [a.column for a in fragment.aggregates if a.column is not None]
        used += [name for condition in above for name in sorted(fields_of(condition))]
        selected = [f"{self._shown(name)} AS {self._quote(name)}" for name in dict.fromkeys(used)]
        if self._dataset.subject_key:
            selected.append(f"{self._subject()} AS {self._quote(SUBJECT)}")
        where = [self._condition(self._permit.row_filter, self._policy_operand)]
        where += self._consent(consenting)
        where += [self._condition(c, self._clear_operand) for c in below]
        columns = ", ".join(selected) or f"1 AS {self._quote(_FILLER)}"
        return f"SELECT {columns} FROM {relation} AS b{_where(where)}"  # noqa: S608 - all ours

    def _split(self, condition: Condition) -> tuple[list[Condition], list[Condition]]:
        """Top-level conjuncts: those that see only stored values as they are shown, and the others."""
        below: list[Condition] = []
        above: list[Condition] = []
        for conjunct in conjuncts(condition):
            columns = [column_named(self._columns, name) for name in fields_of(conjunct)]
            (below if all(c.mask is None for c in columns) else above).append(conjunct)
        return below, above

    def _shown(self, name: str) -> str:
        column = column_named(self._columns, name)
        dialect, type_ = self._dialect, column.field.type
        stored = self._stored(column.field)
        match column.mask:
            case None if column.pseudonym is not None and type_ == "string":
                return dialect.normal_id(self._physical(column.field))  # equal ids have equal pseudonyms
            case None | Hash():
                return stored
            case Null() | Constant(value=None):
                return dialect.null(type_)
            case Constant(value=value):
                return self._bind(typed_value(value, type_), type_)
            case Truncate(unit="", length=length):
                return dialect.first_characters(stored, length)
            case Truncate(unit="year" | "month" as unit):
                return dialect.truncated_time(stored, type_, unit)
            case Bucket(size=size):
                return dialect.bucket(stored, size)
        raise PolicyInvalid(f"There is no template for the mask of the column {name}.")

    def _subject(self) -> str:
        field = self._dataset.field_named(self._dataset.subject_key)
        if field is None or field.type not in ("string", "integer"):
            raise DescriptorInvalid(
                f"The subject key of {self._dataset.id} is not one of its text or integer columns.",
                where=self._dataset.where,
            )
        stored = self._physical(field)
        string = field.type == "string"
        return self._dialect.normal_id(stored) if string else self._dialect.text_of_integer(stored)

    def _consent(self, consenting: Iterable[str] | None) -> list[str]:
        if not self._permit.consent:
            return []
        if consenting is None:
            raise Unavailable("Consent is required, and who has consented is not known.")
        if not self._dataset.subject_key:
            raise DescriptorInvalid(
                f"Consent is required, and {self._dataset.id} does not say whom its rows are about.",
                where=self._dataset.where,
                mend="Name its subject key in the descriptor.",
            )
        self._key_lists[CONSENTING] = tuple(sorted(set(map(normalise_id, consenting))))
        return [self._dialect.among_keys(self._subject(), CONSENTING)]

    # conditions

    def _condition(self, condition: Condition, operand: Callable[[str], _Operand]) -> str:
        """Three-valued, as SQL is: a row for which it is unknown does not show."""
        if isinstance(condition, FieldCondition):
            return self._comparison(condition, operand(condition.field))
        parts = [f"({self._condition(c, operand)})" for c in condition.conditions]
        if condition.operator == "not":
            if len(parts) != 1:
                raise PolicyInvalid("NOT turns exactly one condition.")
            return f"NOT {parts[0]}"
        if not parts:
            return "1 = 1" if condition.operator == "and" else "1 = 0"
        return f" {condition.operator.upper()} ".join(parts)

    def _comparison(self, condition: FieldCondition, left: _Operand) -> str:
        dialect, value = self._dialect, condition.value
        text = left.type == "string"
        equal = dialect.binary(left.sql) if text else left.sql
        match condition.operator:
            case "is_null":
                return f"{left.sql} IS NULL"
            case "not_null":
                return f"{left.sql} IS NOT NULL"
            case "in" | "not_in":
                if not isinstance(value, tuple):
                    raise PolicyInvalid(f"The condition on {condition.field} needs a list of values.")
                if not value:
                    return "1 = 0" if condition.operator == "in" else "1 = 1"
                bound = ", ".join(self._bind(left.bound(v), left.type) for v in value)
                return f"{equal} {'IN' if condition.operator == 'in' else 'NOT IN'} ({bound})"
        if isinstance(value, tuple):
            raise PolicyInvalid(f"The condition on {condition.field} compares with a list.")
        ordering = text and condition.operator in ("lt", "le", "gt", "ge")
        side = dialect.ordered(left.sql) if ordering else equal
        return f"{side} {_COMPARISONS[condition.operator]} {self._bind(left.bound(value), left.type)}"

    def _policy_operand(self, name: str) -> _Operand:
        """Row filters see stored values of any column, hidden ones too."""
        field = self._dataset.field_named(name)
        if field is None:
            raise PolicyInvalid(f"A row filter names {name}, which {self._dataset.id} does not have.")

        def bound(value: Scalar) -> Any:
            try:
                return typed_value(value, field.type)
            except ValueError:
                raise PolicyInvalid(
                    f"A row filter compares {name} with a value that is not a {field.type}.",
                    mend="Test for absence with is_null.",
                ) from None

        return _Operand(self._stored(field), field.type, bound)

    def _clear_operand(self, name: str) -> _Operand:
        column = column_named(self._columns, name)
        return _Operand(self._shown(name), column.field.type, self._literals_of(column))

    def _masked_operand(self, name: str) -> _Operand:
        column = column_named(self._columns, name)
        return _Operand(self._t0(name), column.field.type, self._literals_of(column))

    def _literals_of(self, column: ExposedColumn) -> Callable[[Scalar], Any]:
        def bound(value: Scalar) -> Any:
            try:
                if column.pseudonym is not None:
                    value = self._inverted(column, value)
                return typed_value(value, column.field.type)
            except ValueError:
                raise SqlInvalid(f"A literal does not fit the column {column.name}.") from None

        return bound

    def _inverted(self, column: ExposedColumn, value: Scalar) -> Scalar:
        inverter = self._pseudonymisers.get(column.name)
        if not isinstance(inverter, Inverter):
            raise Unavailable(f"The key for the pseudonyms of {column.name} is not at hand.")
        identifier = inverter.invert(str(value))
        if column.field.type == "string":
            return identifier
        try:
            return int(identifier)
        except ValueError:
            raise RequestInvalid("This is not a pseudonym of this column.") from None

    # the outer query

    def _aggregate(self, aggregate: Aggregate) -> str:
        if aggregate.column is None:
            return "COUNT(*)"
        if aggregate.function == "count_distinct":
            return f"COUNT(DISTINCT {self._binary_t0(aggregate.column)})"
        return f"{'SUM' if aggregate.function == 'sum' else 'AVG'}({self._t0(aggregate.column)})"

    def _aggregate_type(self, aggregate: Aggregate) -> LogicalType:
        if aggregate.function == "sum" and aggregate.column is not None:
            return column_named(self._columns, aggregate.column).type
        return "number" if aggregate.function == "avg" else "integer"

    def _internal_columns(self, fragment: Fragment) -> dict[Field, str]:
        """Rows carry their subject; groups the number of their subjects, or of rows where rows have none."""
        subject = f"t0.{self._quote(SUBJECT)}" if self._dataset.subject_key else ""
        if fragment.aggregated:
            counted = f"COUNT(DISTINCT {self._dialect.binary(subject)})" if subject else "COUNT(*)"
            return {Field(name=GROUP_SUBJECTS, type="integer"): counted}
        return {Field(name=SUBJECT, type="string"): subject} if subject else {}

    def _limit(self, fragment: Fragment) -> int | None:
        """One row more than allowed, so that too many is noticed and never cut off in silence.

        Groups are not limited here: which of them are too small is not known yet.
        """
        most = self._permit.limits.max_rows
        if fragment.aggregated or most is None:
            return fragment.limit
        return most + 1 if fragment.limit is None else min(fragment.limit, most + 1)

    # leaves

    def _bind(self, value: Any, type_: LogicalType) -> str:
        self._parameters.append(value)
        return self._dialect.placeholder(type_)

    def _physical(self, field: Field) -> str:
        """Always behind its alias: SQLite takes an unknown name in quotes for a text."""
        return f"b.{self._quote(field.physical_name or field.name)}"

    def _stored(self, field: Field) -> str:
        return self._dialect.column(self._physical(field), field.type)

    def _t0(self, name: str) -> str:
        return f"t0.{self._quote(name)}"

    def _binary_t0(self, name: str) -> str:
        column = column_named(self._columns, name)
        return self._dialect.binary(self._t0(name)) if column.field.type == "string" else self._t0(name)

    def _quote(self, name: str) -> str:
        return self._dialect.quote(name)


def _where(conditions: list[str]) -> str:
    needed = [f"({c})" for c in conditions if c != "1 = 1"]
    return f" WHERE {' AND '.join(needed)}" if needed else ""


def _post(column: ExposedColumn) -> Literal["none", "pseudonym", "hash"]:
    if column.pseudonym is not None:
        return "pseudonym"
    return "hash" if column.hashed else "none"
