"""Right operands of ODRL constraints as typed values: words, whole numbers, instants, durations.

DSP knows no bare numbers: a value is a string, `{"@value": ..., "@type": ...}`, `{"@id": ...}`, or a list
of these. Everything here raises ValueError with a text for people.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from connector.model.json import from_rfc3339

_DURATION = re.compile(
    r"P(?=.)(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?",
    re.ASCII,
)
_LONGEST_YEARS = 200
_TYPES_OF = {
    "number": frozenset({"xsd:integer", "xsd:nonNegativeInteger", "xsd:positiveInteger"}),
    "instant": frozenset({"xsd:dateTime", "xsd:dateTimeStamp"}),
    "duration": frozenset({"xsd:duration", "xsd:dayTimeDuration", "xsd:yearMonthDuration"}),
    "words": frozenset({"xsd:string", "xsd:token", "xsd:anyURI"}),
}


@dataclass(frozen=True, slots=True)
class Duration:
    """An ISO 8601 duration. Months and years are the calendar's, so its length depends on where it starts."""

    months: int
    seconds: int

    def after(self, start: datetime) -> datetime:
        """`start` and this later; the last day of a month stays within its month."""
        month = start.month - 1 + self.months
        year, month = start.year + month // 12, month % 12 + 1
        day = min(start.day, monthrange(year, month)[1])
        return start.replace(year=year, month=month, day=day) + timedelta(seconds=self.seconds)


def words(value: Any) -> tuple[str, ...]:
    """One or more non-empty strings."""
    items = value if isinstance(value, list | tuple) else [value]
    found = tuple(_text(item, "words") for item in items)
    if not found:
        raise ValueError("an empty list: nothing could ever match it")
    return found


def number(value: Any) -> int:
    text = _text(value, "number")
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise ValueError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def instant(value: Any) -> datetime:
    text = _text(value, "instant")
    try:
        return from_rfc3339(text)
    except (ValueError, OverflowError):  # the last hours of the year 9999, with an offset
        raise ValueError(f"{text!r} is not an instant with its offset, as 2027-12-31T23:59:59Z is") from None


def duration(value: Any) -> Duration:
    text = _text(value, "duration")
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an ISO 8601 duration in whole units, as P90D or P12M are")
    part = {unit: int(digits) for unit, digits in match.groupdict(default="0").items()}
    months = part["years"] * 12 + part["months"]
    days = part["weeks"] * 7 + part["days"]
    seconds = ((days * 24 + part["hours"]) * 60 + part["minutes"]) * 60 + part["seconds"]
    if months > _LONGEST_YEARS * 12 or seconds > _LONGEST_YEARS * 366 * 86_400:
        raise ValueError(f"{text!r} is longer than {_LONGEST_YEARS} years")
    return Duration(months, seconds)


def _text(value: Any, kind: str) -> str:
    if isinstance(value, dict):
        value = _typed(value, kind)
    if not isinstance(value, str):
        raise ValueError(
            f"{value!r} is a bare {type(value).__name__}, which DSP does not know: "
            'write a string, or {"@value": "...", "@type": "xsd:..."}'
        )
    if not value.strip():
        raise ValueError("an empty string")
    return value


def _typed(value: dict[str, Any], kind: str) -> Any:
    if set(value) == {"@id"} and kind == "words":
        return value["@id"]
    if set(value) - {"@value", "@type"} or "@value" not in value:
        raise ValueError('an object other than {"@value": ..., "@type": ...}')
    stated = value.get("@type", "xsd:string")
    if not isinstance(stated, str) or stated not in _TYPES_OF[kind] | _TYPES_OF["words"]:
        raise ValueError(f"@type {stated!r}, where one of {', '.join(sorted(_TYPES_OF[kind]))} is due")
    plain = value["@value"]
    return str(plain) if type(plain) is int else plain
