"""Catalogue (DSP 2025-1 §5): our Datasets as a peer may see them, and a peer's catalogue as we read it. Pure.

Titles, descriptions, themes and keywords are DCAT terms beside the protocol's own; the protocol's context
defines their prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.dsp.messages import CONTEXT
from connector.dsp.policy import parse_catalog_offer, render_offer
from connector.dsp.wire import Fields
from connector.model.catalog import Dataset, DatasetStatus, OfferTerms
from connector.model.json import JsonObject
from connector.model.policy import Offer

SHOWN = frozenset({DatasetStatus.ACTIVE, DatasetStatus.DEPRECATED})
"""Statuses that a catalogue shows; the others are as good as unknown to a peer."""

Visibility = Callable[[Dataset], bool]


# --- ours -> wire ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Who publishes. `dsp_url`: the protocol's base, without a trailing slash."""

    participant_id: str
    dsp_url: str

    def catalog(self, datasets: Iterable[Dataset], visible: Visibility) -> JsonObject:
        """The root Catalog: what is shown at all and `visible` to the one who asks."""
        shown = [self.entry(d, d.offers) for d in datasets if is_shown(d) and visible(d)]
        return {**self.frame(), "dataset": shown} if shown else self.frame()

    def frame(self) -> dict[str, Any]:
        """A root Catalog without its datasets."""
        return {
            "@context": [CONTEXT],
            "@id": f"{self.dsp_url}/catalog",
            "@type": "Catalog",
            "participantId": self.participant_id,
            "service": [self._service()],
        }

    def dataset(self, dataset: Dataset, offers: Iterable[OfferTerms] | None = None) -> JsonObject:
        """One Dataset as the root of an answer, with these of its offers, or all."""
        shown = dataset.offers if offers is None else offers
        return {"@context": [CONTEXT], **self.entry(dataset, shown)}

    def entry(self, dataset: Dataset, offers: Iterable[OfferTerms]) -> dict[str, Any]:
        """A Dataset as it stands in a Catalog."""
        return {
            "@id": dataset.id,
            "@type": "Dataset",
            **_description(dataset),
            "hasPolicy": [render_offer(o.wire_id(dataset.id), o.policy) for o in offers],
            "distribution": [
                {"@type": "Distribution", "format": f.value, "accessService": self._service()}
                for f in dataset.formats
            ],
        }

    def _service(self) -> dict[str, str]:
        return {"@id": self.dsp_url, "@type": "DataService", "endpointURL": self.dsp_url}


def is_shown(dataset: Dataset) -> bool:
    """Whether anybody at all may see it; one without offers or formats cannot be negotiated about."""
    return dataset.status in SHOWN and bool(dataset.offers) and bool(dataset.formats)


def _description(dataset: Dataset) -> dict[str, Any]:
    titles = [{"@language": language, "@value": text} for language, text in dataset.title.items()]
    members: dict[str, Any] = {
        "dct:title": titles,
        "dct:description": dataset.description,
        "dcat:version": dataset.version,
        "dcat:theme": list(dataset.themes),
        "dcat:keyword": list(dataset.keywords),
        "dct:accessRights": dataset.access_rights,
    }
    return {name: value for name, value in members.items() if value}


# --- a peer's wire -> values ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogDataset:
    """A dataset of somebody else's catalogue. `document` is the wire object as it came."""

    id: str
    offers: tuple[Offer, ...]
    formats: frozenset[str]
    title: Mapping[str, str]
    description: str
    document: JsonObject

    def offer(self, offer_id: str) -> Offer | None:
        return next((o for o in self.offers if o.id == offer_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """`participant_id` is what the catalogue says of itself: who answered is the caller's to know."""

    id: str
    participant_id: str
    datasets: tuple[CatalogDataset, ...]
    document: JsonObject

    def dataset(self, dataset_id: str) -> CatalogDataset | None:
        return next((d for d in self.datasets if d.id == dataset_id), None)


def parse_catalog(document: object) -> Catalog:
    """A root Catalog with the datasets of nested ones. Raises MessageInvalid naming the path."""
    fields = Fields(document)
    fields.constant("@type", "Catalog")
    return Catalog(
        id=fields.identifier("@id"),
        participant_id=fields.identifier("participantId"),
        datasets=tuple(_parse_datasets(fields)),
        document=fields.document,
    )


def parse_dataset(document: object) -> CatalogDataset:
    return _parse_dataset(Fields(document))


def _parse_datasets(fields: Fields) -> Sequence[CatalogDataset]:
    found = [_parse_dataset(item) for item in fields.objects("dataset", at_least=0)]
    for nested in fields.objects("catalog", at_least=0):
        found.extend(_parse_datasets(nested))
    return found


def _parse_dataset(fields: Fields) -> CatalogDataset:
    for name in ("hasPolicy", "distribution"):
        if name not in fields:
            fields.invalid(name, "is required")
    return CatalogDataset(
        id=fields.identifier("@id"),
        offers=tuple(parse_catalog_offer(offer) for offer in fields.objects("hasPolicy")),
        formats=frozenset(_parse_format(item) for item in fields.objects("distribution")),
        title=_titles(fields.document.get("dct:title")),
        description=_plain_text(fields.document.get("dct:description")),
        document=fields.document,
    )


def _parse_format(fields: Fields) -> str:
    service = fields.document.get("accessService")
    if not isinstance(service, str | Mapping):
        fields.invalid("accessService", "must be the service's id or the service")
    return fields.text("format")


def _titles(value: Any) -> Mapping[str, str]:
    """Language -> title; "" for a title in no stated language. What cannot be read is left out."""
    items = value if isinstance(value, list) else [value]
    titles: dict[str, str] = {}
    for item in items:
        language = item.get("@language", "") if isinstance(item, Mapping) else ""
        text = _plain_text(item)
        if text and isinstance(language, str):
            titles[language] = text
    return titles


def _plain_text(value: Any) -> str:
    text = value.get("@value") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else ""
