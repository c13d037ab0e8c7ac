"""Our datasets in DCAT-AP 3.0, for open-data portals and other harvesters: JSON-LD as plain objects. Pure.

The same model as the DSP catalogue. One document cannot be both: DSP's context makes `endpointURL` a literal
where DCAT-AP wants an IRI. Everything named here gets an IRI below our base URL, so that catalogues of
several participants can be merged; what DSP calls it is its `dct:identifier`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.dsp.messages import BASE_PATH
from connector.dsp.policy import uses_our_terms
from connector.model.catalog import Dataset, DatasetStatus, OfferTerms, TransferFormat
from connector.model.json import JsonObject
from connector.model.policy import PROFILE, Constraint, LogicalConstraint, Rule

Node = dict[str, Any]

PREFIXES: Mapping[str, str] = {
    "adms": "http://www.w3.org/ns/adms#",
    "dcat": "http://www.w3.org/ns/dcat#",
    "dcatap": "http://data.europa.eu/r5r/",
    "dct": "http://purl.org/dc/terms/",
    "dsc": f"{PROFILE}#",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "hydra": "http://www.w3.org/ns/hydra/core#",
    "odrl": "http://www.w3.org/ns/odrl/2/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "vcard": "http://www.w3.org/2006/vcard/ns#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
"""Written out in every document, so that nobody has to fetch a context."""

_AUTHORITY = "http://publications.europa.eu/resource/authority"
_MEDIA_TYPES = "https://www.iana.org/assignments/media-types"
_PROTOCOL = "https://w3id.org/dspace/2025/1/"

_CATALOG_TITLES = {"fi": "Tietoluettelo: {}", "sv": "Datakatalog: {}", "en": "Data catalogue: {}"}
_CATALOG_DESCRIPTIONS = {
    "fi": "Tietoaineistot, joista {} tekee sopimuksia data-avaruudessa.",
    "sv": "Datamängder som {} ingår avtal om i dataområdet.",
    "en": "Datasets that {} makes agreements on in the data space.",
}
_LANGUAGES = {"fi": "FIN", "sv": "SWE", "en": "ENG"}

_AVAILABILITY = {DatasetStatus.ACTIVE: "AVAILABLE", DatasetStatus.DEPRECATED: "TEMPORARY"}
_DISTRIBUTION_STATUS = {DatasetStatus.ACTIVE: "COMPLETED", DatasetStatus.DEPRECATED: "DEPRECATED"}
_MEDIA_TYPE = {
    TransferFormat.FEDERATED_QUERY_PULL: "application/vnd.apache.arrow.stream",
    TransferFormat.CLOUD_EVENTS_PUSH: "application/cloudevents+json",
    TransferFormat.KAFKA_PULL: "application/cloudevents+json",
}
_TRANSFER = {
    TransferFormat.FEDERATED_QUERY_PULL: "Queries in SQL, answered as Arrow streams.",
    TransferFormat.HTTP_DATA_PULL: "Requests over HTTP.",
    TransferFormat.CLOUD_EVENTS_PUSH: "CloudEvents, sent when something changes.",
    TransferFormat.KAFKA_PULL: "CloudEvents from an Apache Kafka topic.",
}
_FREQUENCY = {"y": "ANNUAL", "m": "MONTHLY", "w": "WEEKLY", "d": "DAILY", "h": "HOURLY"}
"""ODCS: `frequency` of one unit -> the EU's frequency; other rhythms have no code."""
_LEGISLATION = frozenset({"law", "legislation", "regulation", "statute"})
_LICENCES = frozenset({"license", "licence"})

_WEB = re.compile(r"https?://[^\s<>\"{}|\\^`]+")
_MAIL = re.compile(r"(mailto:)?[^\s<>\"{}|\\^`@:/]+@[^\s<>\"{}|\\^`@:/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Where a page and its neighbours are, as absolute URLs; "" where there is none."""

    page: str = ""
    first: str = ""
    next: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DcatPublisher:
    """`base_url`: ours, without a trailing slash. `name`: how our organisation is called now. `contact`: a
    web or mail address for datasets that name none, "" for none."""

    base_url: str
    name: Callable[[], str]
    contact: str = ""

    @property
    def context(self) -> JsonObject:
        return dict(PREFIXES)

    def frame(self, path: str, datasets: Sequence[Dataset], links: Links) -> list[Node]:
        """The Catalog at `path` below our base, who publishes it, and the service; not the datasets."""
        name = self.name()
        catalog = {
            "@id": f"{self.base_url}{path}",
            "@type": "dcat:Catalog",
            "dct:title": _in_languages({k: v.format(name) for k, v in _CATALOG_TITLES.items()}),
            "dct:description": _in_languages({k: v.format(name) for k, v in _CATALOG_DESCRIPTIONS.items()}),
            "dct:publisher": _ref(self._publisher),
            "dct:language": [_authority("language", code) for code in _LANGUAGES.values()],
            "dcat:themeTaxonomy": _ref(f"{_AUTHORITY}/data-theme"),
            "foaf:homepage": {"@id": self.base_url, "@type": "foaf:Document"},
            "dcat:service": _ref(self._service),
            "dcat:dataset": [_ref(self.dataset_iri(d)) for d in datasets],
        }
        publisher = {"@id": self._publisher, "@type": "foaf:Agent", "foaf:name": name}
        contact = _contact(self._contact_iri, name, [self.contact])
        return [
            _present(catalog),
            publisher,
            self._service_node(name, datasets),
            *([contact] if contact else []),
            *_concepts(datasets),
            *_hydra(links),
        ]

    def dataset_iri(self, dataset: Dataset) -> str:
        return f"{self.base_url}/catalog/datasets/{dataset.id}"

    def entry(self, dataset: Dataset, offers: Iterable[OfferTerms]) -> Node:
        """A Dataset with its Distributions, and these of its offers as ODRL."""
        iri = self.dataset_iri(dataset)
        laws = [url for url, kind in _definitions(dataset) if kind in _LEGISLATION]
        return _present(
            {
                "@id": iri,
                "@type": "dcat:Dataset",
                "dct:identifier": dataset.id,
                "dct:title": _in_languages(dataset.title),
                "dct:description": dataset.description or _in_languages(dataset.title),
                "dct:publisher": _ref(self._publisher),
                "dcat:contactPoint": self._dataset_contact(dataset, iri),
                "dcat:theme": [_authority("data-theme", theme) for theme in dataset.themes],
                "dcat:keyword": list(dict.fromkeys([*dataset.keywords, *_texts(dataset.extra.get("tags"))])),
                "dct:accessRights": _authority("access-right", dataset.access_rights),
                "dcat:version": dataset.version,
                "dct:accrualPeriodicity": _frequency(dataset),
                "dcatap:applicableLegislation": [_ref(url) for url in laws],
                "odrl:hasPolicy": [self._offer(iri, dataset, terms) for terms in offers],
                "dcat:distribution": [self._distribution(iri, dataset, f) for f in dataset.formats],
            }
        )

    def _distribution(self, iri: str, dataset: Dataset, transfer_format: TransferFormat) -> Node:
        licences = [url for url, kind in _definitions(dataset) if kind in _LICENCES]
        media_type = _media_type(transfer_format)
        return _present(
            {
                "@id": f"{iri}#{transfer_format.value}",
                "@type": "dcat:Distribution",
                "dct:title": transfer_format.value,
                "dct:description": {"@value": _TRANSFER[transfer_format], "@language": "en"},
                "dcat:accessURL": _ref(self._dsp_url),
                "dcat:accessService": _ref(self._service),
                "dcat:mediaType": _ref(media_type) if media_type else None,
                "dct:license": _ref(licences[0]) if licences else None,
                "dcatap:availability": _authority("planned-availability", _AVAILABILITY[dataset.status]),
                "adms:status": _authority("distribution-status", _DISTRIBUTION_STATUS[dataset.status]),
            }
        )

    # --- who, and where ------------------------------------------------------------------------------

    @property
    def _publisher(self) -> str:
        return f"{self.base_url}/catalog#publisher"

    @property
    def _contact_iri(self) -> str:
        return f"{self.base_url}/catalog#contact"

    @property
    def _service(self) -> str:
        return f"{self.base_url}/catalog#dsp"

    @property
    def _dsp_url(self) -> str:
        return f"{self.base_url}{BASE_PATH}"

    def _service_node(self, name: str, datasets: Sequence[Dataset]) -> Node:
        return _present(
            {
                "@id": self._service,
                "@type": "dcat:DataService",
                "dct:title": f"Dataspace Protocol: {name}",
                "dcat:endpointURL": _ref(self._dsp_url),
                "dcat:endpointDescription": _ref(f"{self.base_url}/.well-known/dspace-version"),
                "dct:publisher": _ref(self._publisher),
                "dcat:contactPoint": _ref(self._contact_iri) if _address(self.contact) else None,
                "dct:conformsTo": {"@id": _PROTOCOL, "@type": "dct:Standard"},
                "dcat:servesDataset": [_ref(self.dataset_iri(d)) for d in datasets],
            }
        )

    def _dataset_contact(self, dataset: Dataset, iri: str) -> Node | None:
        """What the contract says under `support`, else the connector's own."""
        channels = [c for c in _items(dataset.extra.get("support")) if isinstance(c, Mapping)]
        names = _texts([c.get("channel") for c in channels])
        own = _contact(f"{iri}#contact", ", ".join(names), _texts([c.get("url") for c in channels]))
        return own or (_ref(self._contact_iri) if _address(self.contact) else None)

    # --- ODRL ----------------------------------------------------------------------------------------

    def _offer(self, iri: str, dataset: Dataset, terms: OfferTerms) -> Node:
        policy = terms.policy
        return _present(
            {
                "@id": f"{iri}#offer-{terms.id}-{terms.terms_version}",
                "@type": "odrl:Offer",
                "dct:identifier": terms.wire_id(dataset.id),
                "odrl:profile": _ref(PROFILE) if uses_our_terms(policy) else None,
                "odrl:assigner": _ref(self._publisher),
                "odrl:target": _ref(iri),
                "odrl:permission": [_rule(r) for r in policy.permissions],
                "odrl:prohibition": [_rule(r) for r in policy.prohibitions],
                "odrl:obligation": [_rule(r) for r in policy.obligations],
            }
        )


def _rule(rule: Rule) -> Node:
    return _present(
        {
            "odrl:action": _term(rule.action),
            "odrl:constraint": [_constraint(c) for c in rule.constraints],
            "odrl:duty": [_rule(duty) for duty in rule.duties],
        }
    )


def _constraint(item: Constraint | LogicalConstraint) -> Node:
    if isinstance(item, LogicalConstraint):
        members = [_constraint(c) for c in item.constraints]
        return {f"odrl:{item.operator}": {"@list": members} if item.operator == "andSequence" else members}
    return {
        "odrl:leftOperand": _term(item.left_operand),
        "odrl:operator": _term(item.operator),
        "odrl:rightOperand": _right_operand(item.right_operand),
    }


def _term(word: str) -> Node:
    """A bare word is one of ODRL's own."""
    return _ref(word if ":" in word else f"odrl:{word}")


def _right_operand(value: Any) -> Any:
    if isinstance(value, list):
        return {"@list": [_right_operand(v) for v in value]}
    if isinstance(value, Mapping):
        text, kind = str(value.get("@value", value.get("@id", ""))), value.get("@type")
        return {"@value": text, "@type": kind} if isinstance(kind, str) and kind.startswith("xsd:") else text
    return str(value)


# --- small things -----------------------------------------------------------------------------------------


def _hydra(links: Links) -> Iterator[Node]:
    """Pages, as harvesters of CKAN's follow them."""
    if not (links.next or links.previous):
        return
    places = {"first": links.first, "next": links.next, "previous": links.previous}
    view: Node = {"@id": links.page, "@type": "hydra:PartialCollectionView"}
    yield view | {f"hydra:{name}": _ref(url) for name, url in places.items() if url}


def _concepts(datasets: Sequence[Dataset]) -> Iterator[Node]:
    """What kind of thing every code is that is used here: who validates ranges need not fetch the tables."""
    kinds = {_authority("language", code)["@id"]: "dct:LinguisticSystem" for code in _LANGUAGES.values()}
    for dataset in datasets:
        used = {"dct:RightsStatement": [_authority("access-right", dataset.access_rights)]}
        used["dct:Frequency"] = [f for f in (_frequency(dataset),) if f]
        used["skos:Concept"] = [
            *(_authority("data-theme", theme) for theme in dataset.themes),
            _authority("planned-availability", _AVAILABILITY[dataset.status]),
            _authority("distribution-status", _DISTRIBUTION_STATUS[dataset.status]),
        ]
        used["dct:MediaType"] = [_ref(m) for m in map(_media_type, dataset.formats) if m]
        kinds |= {node["@id"]: kind for kind, nodes in used.items() for node in nodes}
    yield {"@id": f"{_AUTHORITY}/data-theme", "@type": "skos:ConceptScheme", "dct:title": "Data themes"}
    for iri, kind in sorted(kinds.items()):
        label = {"skos:prefLabel": iri.rsplit("/", 1)[1]} if kind == "skos:Concept" else {}
        yield {"@id": iri, "@type": kind, **label}


def _media_type(transfer_format: TransferFormat) -> str:
    """Its IRI; "" where the format leaves it open."""
    name = _MEDIA_TYPE.get(transfer_format)
    return f"{_MEDIA_TYPES}/{name}" if name else ""


def _definitions(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """ODCS `authoritativeDefinitions` with a web address: (address, type)."""
    for entry in _items(dataset.extra.get("authoritativeDefinitions")):
        if isinstance(entry, Mapping) and _WEB.fullmatch(str(entry.get("url", ""))):
            yield str(entry["url"]), str(entry.get("type", "")).lower()


def _frequency(dataset: Dataset) -> Node | None:
    for entry in _items(dataset.extra.get("slaProperties")):
        if isinstance(entry, Mapping) and entry.get("property") == "frequency" and entry.get("value") == 1:
            code = _FREQUENCY.get(str(entry.get("unit", ""))[:1].lower())
            return _authority("frequency", code) if code else None
    return None


def _contact(iri: str, name: str, addresses: Iterable[str]) -> Node | None:
    reached = [pair for pair in map(_address, addresses) if pair]
    if not reached:
        return None
    node = _present({"@id": iri, "@type": ["vcard:Organization", "vcard:Kind"], "vcard:fn": name})
    for member, address in reached:
        node.setdefault(member, []).append(_ref(address))
    return node


def _address(text: str) -> tuple[str, str] | None:
    """vCard's property and the IRI; None for what is no address."""
    if _WEB.fullmatch(text):
        return "vcard:hasURL", text
    if _MAIL.fullmatch(text):
        return "vcard:hasEmail", f"mailto:{text.removeprefix('mailto:')}"
    return None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [v for v in _items(value) if isinstance(v, str)]


def _in_languages(texts: Mapping[str, str]) -> list[Node]:
    return [{"@value": text, "@language": language} for language, text in texts.items() if text]


def _authority(table: str, code: str) -> Node:
    return _ref(f"{_AUTHORITY}/{table}/{code}")


def _ref(iri: str) -> Node:
    return {"@id": iri}


def _present(node: Node) -> Node:
    return {name: value for name, value in node.items() if value not in ("", None, [])}
