"""The `filter` of a CatalogRequestMessage: DSP 2025-1 §5 leaves its words to us (docs/catalogue.md).

Criteria `{operandLeft, operator, operandRight}`, all of which must hold, alone or in one QuerySpec with
offset and limit: the form in which Eclipse EDC asks. What is not understood is refused, never ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from connector.errors import RequestInvalid
from connector.model.catalog import Dataset

MOST_CRITERIA = 20
MOST_VALUES = 100
MOST_CHARACTERS = 4_000
"""Of a whole filter as JSON: a page's token carries it."""

_PREFIXES = {
    "dct": "http://purl.org/dc/terms/",
    "dcat": "http://www.w3.org/ns/dcat#",
    "edc": "https://w3id.org/edc/v0.0.1/ns/",
}
_ALIASES = {"@id": "id", "edc:id": "id", "format": "dct:format", "edc:name": "dct:title", "name": "dct:title"}
_AUTHORITY = re.compile(r"http://publications\.europa\.eu/resource/authority/[a-z-]+/([A-Z_]+)")

_QUERY = frozenset({"@type", "offset", "limit", "sortOrder", "sortField", "filterExpression"})
_CRITERION = frozenset({"@type", "operandLeft", "operator", "operandRight"})

Values = Callable[[Dataset], Iterable[str]]

PROPERTIES: Mapping[str, Values] = {
    "id": lambda d: (d.id,),
    "text": lambda d: (d.id, d.description, *d.title.values(), *d.keywords),
    "dct:title": lambda d: d.title.values(),
    "dct:description": lambda d: (d.description,),
    "dct:accessRights": lambda d: (d.access_rights,),
    "dct:format": lambda d: (f.value for f in d.formats),
    "dcat:theme": lambda d: d.themes,
    "dcat:keyword": lambda d: d.keywords,
    "dcat:version": lambda d: (d.version,),
}
"""What can be asked for, and what of a dataset is held against it: one value that suits is enough."""

OPERATORS = ("=", "in", "like", "contains")


@dataclass(frozen=True, slots=True)
class Criterion:
    """`=` and `in` compare whole values as they are; `like` (% and _) and `contains` ignore case."""

    values_of: Values
    suits: Callable[[str], bool]

    def holds(self, dataset: Dataset) -> bool:
        return any(map(self.suits, self.values_of(dataset)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFilter:
    """`offset` and `limit` count datasets that suit and may be seen; None leaves the size to the provider."""

    criteria: tuple[Criterion, ...] = ()
    offset: int = 0
    limit: int | None = None
    wire: tuple[Any, ...] = ()

    def holds(self, dataset: Dataset) -> bool:
        return all(criterion.holds(dataset) for criterion in self.criteria)


def parse_filter(items: Sequence[Any]) -> CatalogFilter:
    """Raises RequestInvalid (`filter_unsupported`), naming what would be understood."""
    if len(json.dumps(items)) > MOST_CHARACTERS:
        _refuse("filter", f"is longer than {MOST_CHARACTERS} characters")
    queries = [i for i in items if isinstance(i, Mapping) and _is_query(i)]
    if not queries:
        return CatalogFilter(criteria=_criteria(items, "filter"), wire=tuple(items))
    if len(items) > 1:
        _refuse("filter", "holds a QuerySpec and something beside it")
    return _query(queries[0], tuple(items))


def _is_query(item: Mapping[str, Any]) -> bool:
    return _local(item.get("@type")) == "QuerySpec" or "filterExpression" in {_local(k) for k in item}


def _query(item: Mapping[str, Any], wire: tuple[Any, ...]) -> CatalogFilter:
    members = _members(item, _QUERY, "filter[0]")
    if members.get("sortOrder", "ASC") != "ASC" or _alias(members.get("sortField", "id")) != "id":
        _refuse("filter[0].sortOrder", "datasets come by their id, ascending, and in no other order")
    expressions = members.get("filterExpression", [])
    if not isinstance(expressions, list):
        expressions = [expressions]
    return CatalogFilter(
        criteria=_criteria(expressions, "filter[0].filterExpression"),
        offset=_count(members, "offset", 0),
        limit=_count(members, "limit", 1) if "limit" in members else None,
        wire=wire,
    )


def _count(members: Mapping[str, Any], name: str, least: int) -> int:
    value = members.get(name, least)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        _refuse(f"filter[0].{name}", f"is no whole number of at least {least}")
    return value


def _criteria(items: Sequence[Any], where: str) -> tuple[Criterion, ...]:
    if len(items) > MOST_CRITERIA:
        _refuse(where, f"has more than {MOST_CRITERIA} criteria")
    return tuple(_criterion(item, f"{where}[{position}]") for position, item in enumerate(items))


def _criterion(item: Any, where: str) -> Criterion:
    members = _members(item, _CRITERION, where)
    values_of = PROPERTIES.get(_alias(members.get("operandLeft")))
    if values_of is None:
        _refuse(f"{where}.operandLeft", f"is not one of {', '.join(PROPERTIES)}")
    operator = members.get("operator")
    if operator not in OPERATORS:
        _refuse(f"{where}.operator", f"is not one of {', '.join(OPERATORS)}")
    texts = _texts(members.get("operandRight"), f"{where}.operandRight")
    if operator != "in" and len(texts) != 1:
        _refuse(f"{where}.operandRight", f"is not the one value that {operator!r} takes")
    return Criterion(values_of, _test(operator, texts))


def _test(operator: str, texts: tuple[str, ...]) -> Callable[[str], bool]:
    if operator in ("=", "in"):
        return frozenset(map(_code, texts)).__contains__
    sought = texts[0].casefold()
    if operator == "contains":
        return lambda value: sought in value.casefold()
    pattern = _like(sought)
    return lambda value: pattern(value.casefold())


def _like(sought: str) -> Callable[[str], bool]:
    """SQL's LIKE without backtracking: the parts between % are looked for from left to right."""
    first, *others = (_part(text) for text in sought.split("%"))

    def matches(value: str) -> bool:
        if not others:
            return first.fullmatch(value) is not None
        found = first.match(value)
        for part in others[:-1]:
            found = part.search(value, found.end()) if found else None
        last_length = len(sought.rsplit("%", 1)[1])
        start = len(value) - last_length
        return found is not None and start >= found.end() and others[-1].match(value, start) is not None

    return matches


def _part(text: str) -> re.Pattern[str]:
    """`_` is any one character: every part has a fixed length."""
    return re.compile("".join("." if c == "_" else re.escape(c) for c in text), re.DOTALL)


# --- reading ----------------------------------------------------------------------------------------------


def _members(item: Any, known: frozenset[str], where: str) -> Mapping[str, Any]:
    """By local name: a peer may write `edc:limit`, or the whole IRI."""
    if not isinstance(item, Mapping):
        _refuse(where, "is not an object")
    members = {_local(name): _plain(value) for name, value in item.items()}
    if unknown := sorted(members.keys() - known):
        _refuse(f"{where}.{unknown[0][:60]}", f"is not one of {', '.join(sorted(known))}")
    return members


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    texts = tuple(_plain(v) for v in values)
    if not texts or len(texts) > MOST_VALUES or not all(isinstance(t, str) and t for t in texts):
        _refuse(where, f"is not a text, or a list of at most {MOST_VALUES} texts")
    return texts


def _plain(value: Any) -> Any:
    """A JSON-LD value or node reference, without its wrapping."""
    if isinstance(value, Mapping):
        for keyword in ("@value", "@id"):
            if keyword in value:
                return value[keyword]
    return value


def _local(name: Any) -> str:
    if not isinstance(name, str):
        return ""
    return re.split(r"[#/:]", name)[-1]


def _alias(name: Any) -> str:
    known = name if isinstance(name, str) else ""
    for prefix, iri in _PREFIXES.items():
        if known.startswith(iri):
            known = f"{prefix}:{known.removeprefix(iri)}"
    return _ALIASES.get(known, known)


def _code(text: str) -> str:
    """`SOCI` and the authority's IRI for it are one."""
    known = _AUTHORITY.fullmatch(text)
    return text if known is None else str(known[1])


def _refuse(where: str, problem: str) -> NoReturn:
    raise RequestInvalid(
        problem,
        where=where,
        mend="Leave the filter out, or ask with operandLeft, operator and operandRight.",
        code="filter_unsupported",
    )
