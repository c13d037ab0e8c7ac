"""What a consumer sees of each column under one permit, and the types that values and batches have."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from connector.errors import DescriptorInvalid, PolicyInvalid
from connector.model.catalog import Dataset, Field, LogicalType
from connector.model.decision import (
    Bucket,
    Constant,
    Drop,
    Hash,
    Mask,
    Null,
    Permit,
    Pseudonym,
    Scalar,
    Truncate,
)

if TYPE_CHECKING:
    import pyarrow as pa

INTERNAL = "__"
"""Columns of ours that never leave begin so; none of a dataset may."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
FLOAT_MAX = sys.float_info.max  # NaN and infinities are no literals
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})?")


class Tokeniser(Protocol):
    """What turns the values of one column into what leaves for them (access.pseudonym)."""

    def apply(self, values: Sequence[str | None]) -> list[str | None]: ...


@runtime_checkable
class Inverter(Protocol):
    """A Tokeniser whose pseudonyms can come back as literals."""

    def invert(self, pseudonym: str) -> str:
        """Raises RequestInvalid."""
        ...


Pseudonymisers = Mapping[str, Tokeniser]
"""By column: one for each pseudonymised and each hashed column. An invertible one is an Inverter too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedColumn:
    """A column as the consumer meets it. At most one of `mask` and `pseudonym` is set."""

    field: Field
    mask: Mask | None = None
    pseudonym: Pseudonym | None = None

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def hashed(self) -> bool:
        return isinstance(self.mask, Hash)

    @property
    def clear(self) -> bool:
        return self.mask is None and self.pseudonym is None

    @property
    def comparable(self) -> bool:
        """Whether a literal can stand beside it: what leaves as a token is no value to compare with."""
        return self.pseudonym is None and not self.hashed

    @property
    def type(self) -> LogicalType:
        """Of the value that leaves."""
        return self.field.type if self.comparable else "string"

    @property
    def exposure(self) -> str:
        """`clear`, `pseudonym`, or `mask:<kind>`."""
        if self.pseudonym is not None:
            return "pseudonym"
        return "clear" if self.mask is None else f"mask:{self.mask.kind}"


def exposed_columns(dataset: Dataset, permit: Permit) -> Mapping[str, ExposedColumn]:
    """By name, in the descriptor's order; what is hidden is not among them.

    Raises PolicyInvalid for a mask that does not fit its column: better no answer than an unmasked one.
    """
    exposed = permit.exposed
    return {f.name: _exposed(f, permit) for f in dataset.fields if f.name in exposed}


def filterable(column: ExposedColumn, permit: Permit) -> bool:
    """Whether a condition may name the column, in whatever narrow way its exposure allows."""
    if aggregates_only(permit) and column.name not in permit.dimensions:
        return False
    return column.comparable or accepts_pseudonyms(column, permit)


def accepts_pseudonyms(column: ExposedColumn, permit: Permit) -> bool:
    """Whether pseudonyms may come back as literals: they must be invertible and the exchange agreed."""
    return column.pseudonym is not None and column.pseudonym.invertible and permit.key_exchange


def aggregates_only(permit: Permit) -> bool:
    """A row is a group of one: a permit for groups of at least k shows no rows either."""
    return permit.aggregate_only or permit.min_group_size > 1


def _exposed(field: Field, permit: Permit) -> ExposedColumn:
    if field.name.startswith(INTERNAL):
        raise DescriptorInvalid(f"The column name {field.name} begins with {INTERNAL}.", mend="Rename it.")
    mask = permit.column_masks.get(field.name)
    pseudonym = permit.pseudonyms.get(field.name)
    if mask is not None and pseudonym is not None:
        # neither shows less than the other, as in decision.strictest
        mask, pseudonym = mask if isinstance(mask, Null | Constant) else Null(), None
    if mask is not None:
        _require_fitting(field, mask)
    if pseudonym is not None and field.type not in ("string", "integer"):
        raise _misfit(field, "pseudonym")
    return ExposedColumn(field=field, mask=mask, pseudonym=pseudonym)


def _require_fitting(field: Field, mask: Mask) -> None:
    match mask:
        case Null() | Hash():
            fits = True
        case Constant(value=value):
            fits = _fits(value, field.type)
        case Truncate(unit="", length=length):
            fits = field.type == "string" and type(length) is int and length >= 0
        case Truncate(unit="year" | "month"):
            fits = field.type in ("date", "timestamp")
        case Bucket(size=size):
            fits = field.type == "integer" and type(size) is int and 0 < size <= 2**62
        case Drop() | _:
            fits = False
    if not fits:
        raise _misfit(field, str(getattr(mask, "kind", "unknown")))


def _fits(value: Scalar, type_: LogicalType) -> bool:
    try:
        return value is None or typed_value(value, type_) is not None
    except ValueError:
        return False


def _misfit(field: Field, kind: str) -> PolicyInvalid:
    return PolicyInvalid(
        f"The mask or pseudonym `{kind}` does not fit the column {field.name} of type {field.type}.",
        mend="Correct the offer's columns or the policy.",
    )


# --- values ------------------------------------------------------------------------------------------


def typed_value(value: Scalar, type_: LogicalType) -> Any:
    """The value to compare a column of this type with, as drivers bind it. Raises ValueError on a misfit.

    Dates are ISO text (`2026-11-22`); timestamps too, and without an offset they are UTC.
    """
    match type_, value:
        case "string", str():
            return value
        case "boolean", bool():
            return value
        case "integer", int() if not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX:
            return value
        case "number", int() | float() if not isinstance(value, bool) and abs(value) <= FLOAT_MAX:
            return float(value)
        case "date", str() if _DATE.fullmatch(value):
            return date.fromisoformat(value)
        case "timestamp", str() if _TIMESTAMP.fullmatch(value):
            instant = datetime.fromisoformat(value)
            return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    raise ValueError(f"not a {type_}")


# --- batches -----------------------------------------------------------------------------------------


def arrow_schema(columns: Sequence[Field]) -> pa.Schema:
    """Every source yields exactly this for its `result`, and everything that leaves has it."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema([pa.field(c.name, types[c.type]) for c in columns])
