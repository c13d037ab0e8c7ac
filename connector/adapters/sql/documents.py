"""Model values as JSON text and back: what is read equals what was written."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from connector.errors import RequestInvalid, Unavailable

_T = TypeVar("_T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SURELY_SHALLOW = 150
"""Opening brackets in a text. The JSON parser follows 200 nested ones: fewer in all cannot be too deep."""


def encode(value: object) -> str:
    """Raises RequestInvalid for what would not come back: lone surrogates, or nesting beyond the parser's.

    Wire documents are a peer's: a value that could be written but never read again would be a trap.
    """
    try:
        # "constants": the default would quietly turn NaN and Infinity into null
        text = to_json(value, inf_nan_mode="constants")
        if text.count(b"{") + text.count(b"[") > _SURELY_SHALLOW:
            _adapter(type(value)).validate_json(text)
    except (PydanticSerializationError, ValidationError):
        raise RequestInvalid(
            "A value cannot be kept: it holds text that is not Unicode, or nests too deep.",
            code="not_storable",
        ) from None
    return text.decode()


def decode(kind: type[_T], text: str) -> _T:
    """Raises Unavailable when the database holds something else than a `kind`."""
    try:
        value: _T = _adapter(kind).validate_json(text)
    except ValidationError:
        # `from None`: pydantic's text quotes the document
        raise Unavailable(f"The store holds a {kind.__name__} that cannot be read.") from None
    return value


def to_micros(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND


def _adapter(kind: type) -> TypeAdapter[Any]:
    return _cached_adapter(cast("Hashable", kind))


@cache
def _cached_adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
