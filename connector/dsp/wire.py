"""JSON at the door: bytes -> a value that is safe to keep, and typed reading that names paths."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import rfc8785

from connector.errors import MessageInvalid
from connector.model.json import JsonObject

MAX_DEPTH = 64
MAX_IDENTIFIER_CHARACTERS = 1024
_MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8785 (I-JSON): beyond it, two readers may see two numbers
_UNFIT_FOR_IDENTIFIERS = re.compile(r"[\s\x00-\x1f\x7f]")


def read_json(body: bytes, *, max_depth: int = MAX_DEPTH) -> JsonObject:
    """The object in `body`. Raises MessageInvalid for what is not I-JSON (RFC 7493) or nests too deep.

    Duplicate names, numbers outside the safe range and lone surrogates are refused: what is signed or
    compared must read the same everywhere.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_safe_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise _too_deep(max_depth) from None
    except UnicodeDecodeError:
        raise MessageInvalid("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise MessageInvalid(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    if not isinstance(value, dict):
        raise MessageInvalid("The body is not a JSON object.")
    if body.count(b"{") + body.count(b"[") > max_depth:
        _check_depth(value, max_depth)
    if b"\\u" in body:
        _check_text(value)
    return value


def canonical(value: Any) -> bytes:
    """RFC 8785 canonical JSON. Raises ValueError for what `read_json` would have refused."""
    encoded: bytes = rfc8785.dumps(value)
    return encoded


def compact_json(value: Any) -> bytes:
    """As short as JSON gets, in the order of its members: for what goes out and is not signed."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def sha256_hex(value: Any) -> str:
    """SHA-256 over canonical JSON, hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


class Fields:
    """A JSON object read member by member. Raises MessageInvalid naming the path of what is wrong."""

    __slots__ = ("_path", "document")

    def __init__(self, value: object, path: str = "") -> None:
        self._path = path
        if not isinstance(value, Mapping):
            raise MessageInvalid("must be an object", where=path or "message")
        self.document: JsonObject = value

    def __contains__(self, name: str) -> bool:
        return name in self.document

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def invalid(self, name: str, problem: str) -> NoReturn:
        raise MessageInvalid(problem, where=self.path(name))

    def text(self, name: str) -> str:
        """A string that says something."""
        value = self.document.get(name)
        if not isinstance(value, str) or not value:
            self.invalid(name, "must be a string" if name in self.document else "is required")
        return value

    def any_text(self, name: str) -> str:
        """A string that must be there and may be empty."""
        value = self.document.get(name)
        if not isinstance(value, str):
            self.invalid(name, "must be a string" if name in self.document else "is required")
        return value

    def optional_text(self, name: str) -> str:
        """ "" where absent."""
        value = self.document.get(name, "")
        if not isinstance(value, str):
            self.invalid(name, "must be a string")
        return value

    def identifier(self, name: str) -> str:
        """A string that can stand in an IRI and, percent-encoded, as one segment of a path."""
        value = self.text(name)
        if len(value) > MAX_IDENTIFIER_CHARACTERS or _UNFIT_FOR_IDENTIFIERS.search(value):
            self.invalid(name, f"must be at most {MAX_IDENTIFIER_CHARACTERS} characters without spaces")
        if value in (".", ".."):
            self.invalid(name, "must not be a path step")
        return value

    def optional_identifier(self, name: str) -> str:
        return self.identifier(name) if name in self.document else ""

    def one_of(self, name: str, allowed: Iterable[str]) -> str:
        value = self.text(name)
        if value not in (names := tuple(allowed)):
            self.invalid(name, f"must be one of {', '.join(names)}")
        return value

    def constant(self, name: str, value: str) -> None:
        if self.text(name) != value:
            self.invalid(name, f"must be {value}")

    def object(self, name: str) -> Fields:
        if name not in self.document:
            self.invalid(name, "is required")
        return Fields(self.document[name], self.path(name))

    def items(self, name: str, *, at_least: int = 1) -> Sequence[Any]:
        """The array's items; empty where absent. DSP's arrays, where present, mostly hold something."""
        value = self.document.get(name, ())
        if name in self.document and not isinstance(value, list):
            self.invalid(name, "must be an array")
        if name in self.document and len(value) < at_least:
            self.invalid(name, "must not be empty: leave it out")
        return tuple(value)

    def objects(self, name: str, *, at_least: int = 1) -> Iterator[Fields]:
        for position, item in enumerate(self.items(name, at_least=at_least)):
            yield Fields(item, f"{self.path(name)}[{position}]")

    def besides(self, known: Iterable[str]) -> JsonObject:
        """What the protocol does not know: kept as it came, never acted on."""
        names = frozenset(known)
        return {k: v for k, v in self.document.items() if k not in names}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MessageInvalid("An object of the body names a member twice.")
    return members


def _safe_integer(digits: str) -> int:
    if len(digits) > len(str(_MAX_SAFE_INTEGER)) + 1 or abs(int(digits)) > _MAX_SAFE_INTEGER:
        raise MessageInvalid("The body holds an integer beyond 2^53 - 1.")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise MessageInvalid("The body holds a number that is too large.")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise MessageInvalid(f"The body holds {name}, which is not JSON.")


def _too_deep(max_depth: int) -> MessageInvalid:
    return MessageInvalid(f"The body nests deeper than {max_depth} levels.")


def _check_depth(value: Any, max_depth: int) -> None:
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, dict | list):
            if depth > max_depth:
                raise _too_deep(max_depth)
            children = item.values() if isinstance(item, dict) else item
            pending.extend((child, depth + 1) for child in children)


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MessageInvalid("The body holds text that is not Unicode.") from None
