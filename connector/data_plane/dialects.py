"""Masks, comparisons and aggregates as SQL, written by hand for each engine and tested on it.

Nothing here is transpiled: `/` alone changes meaning between engines, and then a mask shows the exact
value. Every expression is total: for no stored value can it raise, so that no error tells of a row
that is hidden. `e` is always SQL text of ours; values enter as `?`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from connector.access.pseudonym import BLANKS, DASHES, LOWER
from connector.data_plane.columns import INT64_MIN
from connector.errors import ConfigurationError
from connector.model.catalog import LogicalType

Unit = Literal["year", "month"]


class Dialect(ABC):
    """Templates that are the same everywhere, and the names of those that are not."""

    name: ClassVar[str]
    types: ClassVar[dict[LogicalType, str]]

    @staticmethod
    def quote(identifier: str) -> str:
        if not identifier or "\0" in identifier:
            raise ConfigurationError("A physical name in the descriptor is empty or holds NUL.")
        return '"' + identifier.replace('"', '""') + '"'

    def placeholder(self, type_: LogicalType) -> str:
        """Typed, so that the engine never guesses, and never narrows a literal to a smaller column type."""
        return f"CAST(? AS {self.types[type_]})"

    def null(self, type_: LogicalType) -> str:
        return f"CAST(NULL AS {self.types[type_]})"

    def column(self, e: str, type_: LogicalType) -> str:  # noqa: ARG002 - some engines look at the type
        """A stored column as its logical type."""
        return e

    def text_of_integer(self, e: str) -> str:
        return f"CAST({e} AS {self.types['string']})"

    def first_characters(self, e: str, length: int) -> str:
        return f"SUBSTR({e}, 1, {int(length)})"

    def bucket(self, e: str, size: int) -> str:
        """The lower bound, also below zero (`%` keeps the sign of its left side in all three engines).

        A value whose lower bound would lie below the smallest integer shows as NULL instead of failing.
        """
        whole = f"CAST({e} AS {self.types['integer']})"
        bound = f"{whole} - (({whole} % {int(size)}) + {int(size)}) % {int(size)}"
        return f"CASE WHEN {whole} >= {INT64_MIN + 1 + int(size)} THEN {bound} END"

    @abstractmethod
    def binary(self, e: str) -> str:
        """A text to compare, group and count by its code points, whatever the column's collation."""

    def ordered(self, e: str) -> str:
        """The same for `<` and its kin."""
        return self.binary(e)

    @abstractmethod
    def truncated_time(self, e: str, type_: LogicalType, unit: Unit) -> str:
        """The first instant of the year or month."""

    @abstractmethod
    def normal_id(self, e: str) -> str:
        """As access.pseudonym.normalise_id."""

    @abstractmethod
    def among_keys(self, e: str, key_list: str) -> str:
        """Whether a text is in a key list that the source adapter places."""


class Sqlite(Dialect):
    """Dates are ISO text. Timestamps are whatever SQLite's own functions read, in UTC, to the millisecond.

    Booleans are 0 and 1. What is garbage to those functions is NULL. Placeholders are bare: a cast
    would cost the index and SQLite compares by the stored type anyway.
    """

    name = "sqlite"
    types: ClassVar = {
        "string": "TEXT",
        "integer": "INTEGER",
        "number": "REAL",
        "boolean": "INTEGER",
        "date": "TEXT",
        "timestamp": "TEXT",
    }

    def placeholder(self, type_: LogicalType) -> str:  # noqa: ARG002
        return "?"

    def column(self, e: str, type_: LogicalType) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%f', {e})" if type_ == "timestamp" else e

    def first_characters(self, e: str, length: int) -> str:
        return super().first_characters(f"CAST({e} AS TEXT)", length)  # SUBSTR of a blob counts bytes

    def binary(self, e: str) -> str:
        return f"{e} COLLATE BINARY"

    def truncated_time(self, e: str, type_: LogicalType, unit: Unit) -> str:
        day = {"year": "%Y-01-01", "month": "%Y-%m-01"}[unit]
        return f"strftime('{day}{' 00:00:00.000' if type_ == 'timestamp' else ''}', {e})"

    def normal_id(self, e: str) -> str:
        trimmed = f"TRIM(CAST({e} AS TEXT), {_characters('char({})', BLANKS)})"
        for dash in DASHES:
            trimmed = f"REPLACE({trimmed}, char({ord(dash)}), '-')"
        return f"UPPER({trimmed})"  # ASCII only, in SQLite

    def among_keys(self, e: str, key_list: str) -> str:
        return f"{self.binary(e)} IN (SELECT k FROM temp.{self.quote(key_list)})"  # noqa: S608 - ours


class DuckDb(Dialect):
    """Timestamps with and without a zone both become UTC: `date_trunc` on a zoned one would need ICU."""

    name = "duckdb"
    types: ClassVar = {
        "string": "VARCHAR",
        "integer": "BIGINT",
        "number": "DOUBLE",
        "boolean": "BOOLEAN",
        "date": "DATE",
        "timestamp": "TIMESTAMP",
    }

    def column(self, e: str, type_: LogicalType) -> str:
        if type_ == "timestamp":
            return f"make_timestamp(epoch_us({e}))"  # an infinite one is NULL
        return f"CAST({e} AS VARCHAR)" if type_ == "string" else e

    def binary(self, e: str) -> str:
        return e  # no collations but binary unless asked for

    def truncated_time(self, e: str, type_: LogicalType, unit: Unit) -> str:
        sql_type = self.types[type_]
        span = _years_1_to_9999(e, sql_type)
        return f"CASE WHEN {span} THEN CAST(date_trunc('{unit}', {e}) AS {sql_type}) END"

    def normal_id(self, e: str) -> str:
        trimmed = f"TRIM(CAST({e} AS VARCHAR), {_characters('chr({})', BLANKS)})"
        return f"translate({trimmed}, {_lower_and_dashes()})"

    def among_keys(self, e: str, key_list: str) -> str:
        return f"{e} IN (SELECT k FROM {self.quote(key_list)})"  # noqa: S608 - ours


class Postgres(Dialect):
    """The session's time zone is UTC. `::text` costs nothing on text and varchar (indexes still serve),
    and makes char(n), citext, uuid and enums compare as what they look like."""

    name = "postgres"
    types: ClassVar = {
        "string": "text",
        "integer": "bigint",
        "number": "numeric",  # against either kind of column: float8 would overflow on a large numeric
        "boolean": "boolean",
        "date": "date",
        "timestamp": "timestamptz",
    }

    def placeholder(self, type_: LogicalType) -> str:
        """Dates and timestamps travel as ISO text: asyncpg binds 9999-12-31 as infinity."""
        mark = super().placeholder("string" if type_ in ("date", "timestamp") else type_)
        return f"CAST({mark} AS {self.types[type_]})" if type_ in ("date", "timestamp") else mark

    def column(self, e: str, type_: LogicalType) -> str:
        return f"CAST({e} AS text)" if type_ == "string" else e

    def binary(self, e: str) -> str:
        return e  # equality is by bytes under every deterministic collation; the adapter refuses others

    def ordered(self, e: str) -> str:
        return f'{e} COLLATE "C"'

    def truncated_time(self, e: str, type_: LogicalType, unit: Unit) -> str:
        sql_type = self.types[type_]
        span = _years_1_to_9999(e, sql_type)
        return f"CASE WHEN {span} THEN CAST(date_trunc('{unit}', {e}) AS {sql_type}) END"

    def normal_id(self, e: str) -> str:
        trimmed = f"btrim(CAST({e} AS text), {_characters('chr({})', BLANKS)})"
        return f"translate({trimmed}, {_lower_and_dashes()})"

    def among_keys(self, e: str, key_list: str) -> str:
        """The adapter puts an array in the place of the name."""
        return f"{e} = ANY ({self.quote(key_list)})"


def dialect_named(name: str) -> Dialect:
    """Raises ConfigurationError: an engine without templates of its own gets no SQL at all."""
    for dialect in (Sqlite(), DuckDb(), Postgres()):
        if dialect.name == name:
            return dialect
    raise ConfigurationError(f"There are no SQL templates for the dialect {name!r}.")


def _characters(call: str, characters: str) -> str:
    return " || ".join(call.format(ord(c)) for c in characters)


def _lower_and_dashes() -> str:
    upper = LOWER.upper() + "-" * len(DASHES)
    return f"'{LOWER}' || {_characters('chr({})', DASHES)}, '{upper}'"


def _years_1_to_9999(e: str, sql_type: str) -> str:
    """Where truncation cannot leave the type's range; infinities lie outside."""
    return f"{e} >= {sql_type} '0001-01-01' AND {e} < {sql_type} '10000-01-01'"
