"""What a policy answers (docs/schemas/decision-result.json), read without mercy.

Whatever is unknown, missing or of the wrong kind makes the whole answer a denial: an obligation that
is not understood must not be dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, cast

from connector.access.vocabulary import DUTIES
from connector.errors import Reason
from connector.model.catalog import Field, LogicalType
from connector.model.decision import (
    EVERY_ROW,
    Bucket,
    CompoundCondition,
    Condition,
    ConsentRequirement,
    Constant,
    Deny,
    Drop,
    DutyObligation,
    FieldCondition,
    Hash,
    Limits,
    Mask,
    Null,
    Permit,
    Scalar,
    Truncate,
)

KEYS: Final = frozenset(
    {
        *("allow", "reasons", "columns", "column_masks", "row_filter", "min_group_size"),
        *("limits", "consent", "duties", "expires_at"),
    }
)
_LIMITS = frozenset({"max_rows", "max_bytes", "max_seconds", "max_queries_per_day"})
_FIELD_OPERATORS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "is_null", "not_null"))
_MOST_CONDITIONS = 200
_MOST_DEPTH = 20
_LAST_INSTANT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()

Fields = Mapping[str, LogicalType]


class DocumentInvalid(ValueError):
    """`str()` names the part and what is wrong with it; it may name a policy's own words."""


def fields_of(fields: tuple[Field, ...]) -> Fields:
    return {field.name: field.type for field in fields}


def read_document(document: Any, source: str, fields: Fields | None) -> Deny | Permit:
    """A Permit over the dataset's `fields`, or a Deny. `source` is named in reasons and explanations.

    Raises DocumentInvalid. What a policy does not speak of, it does not narrow. `fields` None: no
    dataset is known, only the form is judged (a candidate policy, before it is taken).
    """
    answer = _object(document, "the answer", KEYS)
    allow = answer.get("allow")
    if allow is False:
        return Deny(reasons=_reasons(answer.get("reasons"), source))
    if allow is not True:
        raise DocumentInvalid("allow: neither true nor false")
    permit = Permit(
        columns=_columns(answer.get("columns"), fields),
        row_filter=_row_filter(answer.get("row_filter"), fields),
        column_masks=_masks(answer.get("column_masks"), fields),
        min_group_size=_whole(answer.get("min_group_size", 1), "min_group_size", least=1),
        consent=tuple(_each(answer.get("consent"), "consent", _consent)),
        key_exchange=True,  # a policy has no word for it, and so does not take it away
        limits=_limits(answer.get("limits")),
        duties=tuple(_each(answer.get("duties"), "duties", _duty)),
        expires_at=_instant(answer.get("expires_at")),
    )
    return replace(permit, enforced_by=imposed(permit, source, fields or {}))


def imposed(permit: Permit, source: str, fields: Fields) -> Mapping[str, str]:
    """Each obligation of this one permit, with who asks for it (`Permit.enforced_by`)."""
    parts = {
        "rows": permit.row_filter != EVERY_ROW,
        "group": permit.min_group_size > 1 or permit.aggregate_only,
        "consent": bool(permit.consent),
        "subjects": permit.subjects_named,
        "limits": permit.limits != Limits(),
        "expiry": permit.expires_at is not None,
    }
    narrowed = permit.column_masks.keys() | permit.pseudonyms.keys() | (fields.keys() - permit.columns)
    names = [
        *(f"column:{name}" for name in fields if name in narrowed),
        *(p for p, held in parts.items() if held),
    ]
    return dict.fromkeys(names, source)


def mask_problem(mask: Mask, type_: LogicalType) -> str:
    """Why this mask cannot be applied to a column of this type; "" when it can."""
    match mask:
        case Truncate(unit="", length=length):
            return "" if type_ == "string" and length >= 0 else "`length` cuts text"
        case Truncate():
            return "" if type_ in ("date", "timestamp") else "`unit` cuts dates and timestamps"
        case Bucket(size=size):
            return "" if type_ == "integer" and size >= 2 else "buckets are of integers, and at least 2 wide"
        case Constant(value=value):
            return "" if _fits(value, type_) else f"its value is no {type_}"
        case Hash():
            return "" if type_ == "string" else "a hash is text"
    return ""


def _fits(value: Scalar, type_: LogicalType) -> bool:
    match type_:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int
        case "number":
            return type(value) in (int, float)
        case "date" | "timestamp":
            return isinstance(value, str) and _is_instant(value, date if type_ == "date" else datetime)
        case _:
            return isinstance(value, str)


def _is_instant(text: str, kind: type[date]) -> bool:
    try:
        kind.fromisoformat(text)
    except ValueError:
        return False
    return True


# --- parts -------------------------------------------------------------------------------------------


def _object(value: Any, what: str, keys: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DocumentInvalid(f"{what}: not an object")
    if unknown := sorted(set(value) - keys):
        raise DocumentInvalid(f"{what}: no {', '.join(unknown)} is known here")
    return value


def _each(value: Any, what: str, read: Callable[[Any], Any]) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise DocumentInvalid(f"{what}: not a list")
    return [read(item) for item in value]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise DocumentInvalid(f"{what}: not text")
    return value


def _whole(value: Any, what: str, *, least: int) -> int:
    """JSON knows one kind of number, and an engine may print 5 as 5.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < least:
        raise DocumentInvalid(f"{what}: not a whole number of at least {least}")
    return value


def _column(value: Any, what: str, fields: Fields | None) -> str:
    name = _text(value, what)
    if fields is not None and name not in fields:
        raise DocumentInvalid(f"{what}: the dataset has no column {name}")
    return name


def _reasons(value: Any, source: str) -> tuple[Reason, ...]:
    found = []
    for item in _each(value, "reasons", lambda item: _object(item, "reasons", frozenset({"code", "text"}))):
        code, text = _text(item.get("code"), "reasons"), _text(item.get("text"), "reasons")
        found.append(Reason(code=code, text=text, source=source))
    return tuple(found) or (Reason(code="denied", text=f"{source} does not permit it", source=source),)


def _columns(value: Any, fields: Fields | None) -> frozenset[str]:
    if value is None:
        return frozenset(fields or ())
    return frozenset(_each(value, "columns", lambda name: _column(name, "columns", fields)))


def _consent(value: Any) -> ConsentRequirement:
    item = _object(value, "consent", frozenset({"purpose", "recipient"}))
    return ConsentRequirement(
        purpose=_text(item.get("purpose"), "consent"), recipient=_text(item.get("recipient"), "consent")
    )


def _duty(value: Any) -> DutyObligation:
    item = _object(value, "duties", frozenset({"action", "within_seconds"}))
    action = _text(item.get("action"), "duties")
    if action not in DUTIES:
        raise DocumentInvalid(f"duties: no {action} is known here")
    within = item.get("within_seconds")
    return DutyObligation(
        action=action,
        enforcement=DUTIES[action].enforcement,
        within_seconds=None if within is None else _whole(within, "duties", least=0),
    )


def _limits(value: Any) -> Limits:
    if value is None:
        return Limits()
    items = {name: limit for name, limit in _object(value, "limits", _LIMITS).items() if limit is not None}
    seconds = items.pop("max_seconds", None)
    whole = {name: _whole(limit, "limits", least=0) for name, limit in items.items()}
    return Limits(max_seconds=None if seconds is None else _positive(seconds, "limits"), **whole)


def _positive(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise DocumentInvalid(f"{what}: not a number above 0")
    return float(value)


def _instant(value: Any) -> datetime | None:
    if value is None:
        return None
    seconds = _positive(value, "expires_at")
    if seconds > _LAST_INSTANT:
        raise DocumentInvalid("expires_at: not epoch seconds")
    return datetime.fromtimestamp(seconds, UTC)


# --- masks -------------------------------------------------------------------------------------------

_MASK_KEYS: Mapping[str, frozenset[str]] = {
    "drop": frozenset(),
    "null": frozenset(),
    "constant": frozenset({"value"}),
    "truncate": frozenset({"length", "unit"}),
    "bucket": frozenset({"size"}),
    "hash": frozenset(),
}


def _masks(value: Any, fields: Fields | None) -> Mapping[str, Mask]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentInvalid("column_masks: not an object")
    found: dict[str, Mask] = {}
    for name, item in value.items():
        column = _column(name, "column_masks", fields)
        found[column] = read_mask(item)
        if fields is not None and (problem := mask_problem(found[column], fields[column])):
            raise DocumentInvalid(f"column_masks: {column}: {problem}")
    return found


def read_mask(value: Any) -> Mask:
    """From `{"kind": "truncate", "length": 3}` and its like. Raises DocumentInvalid."""
    if (
        not isinstance(value, dict)
        or not isinstance(kind := value.get("kind"), str)
        or kind not in _MASK_KEYS
    ):
        raise DocumentInvalid(f"column_masks: a mask's kind is one of {', '.join(_MASK_KEYS)}")
    item = _object(value, "column_masks", _MASK_KEYS[kind] | {"kind"})
    match kind:
        case "drop":
            return Drop()
        case "null":
            return Null()
        case "hash":
            return Hash()
        case "constant":
            if "value" not in item:
                raise DocumentInvalid("column_masks: a constant needs its value")
            return Constant(value=_scalar(item["value"], "column_masks"))
        case "bucket":
            return Bucket(size=_whole(item.get("size"), "column_masks", least=2))
        case _:
            return _truncate(item)


def _truncate(item: Mapping[str, Any]) -> Truncate:
    if ("length" in item) == ("unit" in item):
        raise DocumentInvalid("column_masks: truncate takes `length` for text, or `unit` for dates")
    if "length" in item:
        return Truncate(length=_whole(item["length"], "column_masks", least=0))
    if item["unit"] not in ("year", "month"):
        raise DocumentInvalid("column_masks: truncate's unit is year or month")
    return Truncate(unit=item["unit"])


def _scalar(value: Any, what: str) -> Scalar:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise DocumentInvalid(f"{what}: not a single value")


# --- row filters -------------------------------------------------------------------------------------


def _row_filter(value: Any, fields: Fields | None) -> Condition:
    if value is None:
        return EVERY_ROW
    return _Filter(fields).read(value, depth=0)


class _Filter:
    """UCAST JSON: {"type": "field", "field", "operator", "value"}, and {"type": "compound", "operator",
    "value": [...]}. Reads one filter, and counts its conditions."""

    def __init__(self, fields: Fields | None) -> None:
        self._fields = fields
        self._left = _MOST_CONDITIONS

    def read(self, value: Any, *, depth: int) -> Condition:
        self._left -= 1
        if self._left < 0 or depth > _MOST_DEPTH:
            raise DocumentInvalid("row_filter: too large")
        item = _object(value, "row_filter", frozenset({"type", "field", "operator", "value"}))
        if item.get("type") == "field":
            return self._field(item)
        if item.get("type") == "compound" and "field" not in item:
            return self._compound(item, depth)
        raise DocumentInvalid("row_filter: a condition's type is field or compound")

    def _compound(self, item: Mapping[str, Any], depth: int) -> CompoundCondition:
        operator, members = item.get("operator"), item.get("value")
        if operator not in ("and", "or", "not") or not isinstance(members, list):
            raise DocumentInvalid("row_filter: and, or and not stand before a list")
        if operator == "not" and len(members) != 1:
            raise DocumentInvalid("row_filter: `not` takes one condition")
        return CompoundCondition(
            operator=cast("Literal['and', 'or', 'not']", operator),
            conditions=tuple(self.read(member, depth=depth + 1) for member in members),
        )

    def _field(self, item: Mapping[str, Any]) -> FieldCondition:
        column = _column(item.get("field"), "row_filter", self._fields)
        operator, value = item.get("operator"), item.get("value")
        if not isinstance(operator, str) or operator not in _FIELD_OPERATORS:
            raise DocumentInvalid("row_filter: the operator is not known here")
        read: Scalar | tuple[Scalar, ...] = None
        if operator in ("in", "not_in"):
            read = tuple(
                _each(value if value is not None else 0, "row_filter", lambda v: self._value(v, column))
            )
        elif operator not in ("is_null", "not_null"):
            read = self._value(value, column)
        elif value is not None:
            raise DocumentInvalid(f"row_filter: {operator} takes no value")
        return FieldCondition(field=column, operator=cast("Any", operator), value=read)

    def _value(self, value: Any, column: str) -> Scalar:
        scalar = _scalar(value, "row_filter")
        if self._fields is not None and not _fits(scalar, self._fields[column]):
            raise DocumentInvalid(f"row_filter: the value for {column} is no {self._fields[column]}")
        return scalar
