"""A peer's catalogue, page by page, read so that one bad dataset costs only itself. Pure.

Other connectors write DCAT terms with various prefixes or with full IRIs; no context is ever fetched, so the
usual spellings are listed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from connector.dsp.catalog import CatalogDataset, parse_dataset
from connector.dsp.wire import Fields
from connector.errors import MessageInvalid
from connector.model.json import JsonObject
from connector.model.peer_catalog import DatasetProblem, DatasetSummary, OfferSummary
from connector.model.policy import Offer, Policy, Rule

MAX_ID_BYTES = 2_000
MAX_LANGUAGES = 10
MAX_TITLE_CHARACTERS = 500
MAX_DESCRIPTION_CHARACTERS = 4_000
MAX_TERMS = 100
MAX_TERM_CHARACTERS = 300

_MAX_PROBLEM_CHARACTERS = 200
_DCT = ("dct:{}", "dcterms:{}", "http://purl.org/dc/terms/{}", "{}")
_DCAT = ("dcat:{}", "http://www.w3.org/ns/dcat#{}", "{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogPage:
    """`problems` names what could not be read, each dataset on its own."""

    datasets: tuple[CatalogDataset, ...]
    problems: tuple[DatasetProblem, ...]


def read_page(document: object) -> CatalogPage:
    """The datasets of a Catalog and of those nested in it. Raises MessageInvalid for what is no Catalog."""
    root = Fields(document)
    root.constant("@type", "Catalog")
    datasets: dict[str, CatalogDataset] = {}
    problems: list[DatasetProblem] = []
    for place, item in _datasets(root):
        try:
            dataset = parse_dataset(item)
            _check_id(dataset.id)
        except MessageInvalid as error:
            problems.append(_problem(item, place, "dataset_invalid", error.message))
            continue
        if dataset.id in datasets:
            problems.append(_problem(item, place, "dataset_duplicate", "is in this catalogue already"))
        else:
            datasets[dataset.id] = dataset
    return CatalogPage(datasets=tuple(datasets.values()), problems=tuple(problems))


def summary(dataset: CatalogDataset) -> DatasetSummary:
    document = dataset.document
    return DatasetSummary(
        id=dataset.id,
        titles=_texts(document, (*_DCT, "name"), "title", MAX_TITLE_CHARACTERS),
        descriptions=_texts(document, _DCT, "description", MAX_DESCRIPTION_CHARACTERS),
        themes=_terms(document, _DCAT, "theme"),
        keywords=_terms(document, _DCAT, "keyword"),
        formats=tuple(sorted(_clean(f, MAX_TERM_CHARACTERS) for f in dataset.formats))[:MAX_TERMS],
        access_rights=next(iter(_terms(document, _DCT, "accessRights")), ""),
        version=next(iter(_terms(document, _DCAT, "version")), ""),
        offers=tuple(_offer(o) for o in dataset.offers[:MAX_TERMS] if o.id.isprintable()),
    )


# --- the page ---------------------------------------------------------------------------------------------


def _datasets(root: Fields) -> Iterator[tuple[str, Any]]:
    """Every entry with its path, in order; those of the root before those of nested catalogues."""
    pending = [root]
    while pending:
        catalog = pending.pop(0)
        for position, item in enumerate(catalog.items("dataset", at_least=0)):
            yield f"{catalog.path('dataset')}[{position}]", item
        pending.extend(catalog.objects("catalog", at_least=0))


def _check_id(dataset_id: str) -> None:
    if not dataset_id.isprintable() or len(dataset_id.encode()) > MAX_ID_BYTES:
        raise MessageInvalid(f"must be printable and of at most {MAX_ID_BYTES} bytes", where="@id")


def _problem(item: Any, place: str, code: str, text: str) -> DatasetProblem:
    said = item.get("@id") if isinstance(item, Mapping) else None
    name = said if isinstance(said, str) and said else place
    return DatasetProblem(
        dataset=_clean(name, _MAX_PROBLEM_CHARACTERS), code=code, text=_clean(text, _MAX_PROBLEM_CHARACTERS)
    )


# --- the summary ------------------------------------------------------------------------------------------


def _offer(offer: Offer) -> OfferSummary:
    return OfferSummary(
        id=offer.id,
        actions=_short(sorted({rule.action for rule in offer.policy.permissions})),
        purposes=_short(sorted(_purposes(offer.policy))),
    )


def _purposes(policy: Policy) -> set[str]:
    found: set[str] = set()
    for rule in policy.permissions:
        found |= _named(rule, "purpose")
    return found


def _named(rule: Rule, left_operand: str) -> set[str]:
    """`purpose`, however a context shortens it: `odrl:purpose`, or the whole IRI."""
    values: set[str] = set()
    for leaf in rule.leaves():
        name = leaf.left_operand
        if name == left_operand or name.endswith((f":{left_operand}", f"/{left_operand}")):
            values.update(_plain(item) for item in _listed(leaf.right_operand))
    return values - {""}


def _texts(document: JsonObject, names: Iterable[str], term: str, most: int) -> Mapping[str, str]:
    """Language -> text, of the first spelling of `term` that says something."""
    for name in names:
        found: dict[str, str] = {}
        for item in _listed(document.get(name.format(term))):
            language = item.get("@language", "") if isinstance(item, Mapping) else ""
            text = _clean(_plain(item), most)
            if text and isinstance(language, str) and len(found) < MAX_LANGUAGES:
                found.setdefault(_clean(language, 35), text)
        if found:
            return found
    return {}


def _terms(document: JsonObject, names: Iterable[str], term: str) -> tuple[str, ...]:
    for name in names:
        found = _short(_plain(item) for item in _listed(document.get(name.format(term))))
        if found:
            return found
    return ()


def _short(values: Iterable[str]) -> tuple[str, ...]:
    """Without repetitions and empty ones, in order."""
    cleaned = (_clean(value, MAX_TERM_CHARACTERS) for value in values)
    return tuple(dict.fromkeys(value for value in cleaned if value))[:MAX_TERMS]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(value: Any) -> str:
    """A literal, a language-tagged or typed one, or a reference."""
    if isinstance(value, Mapping):
        value = value.get("@value", value.get("@id"))
    return value if isinstance(value, str) else ""


def _clean(text: str, most: int) -> str:
    """One line: it is shown in terminals, where control characters would act."""
    cut = text[:most]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else " " for c in cut).strip()
