"""D2: the catalogue in DCAT-AP 3.0, valid by SHACL, the same in every format; open and restricted apart."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyoxigraph as ox
import pyshacl
import pytest
import rdflib
from fastapi import FastAPI
from fastapi.requests import Request

from connector.access.purposes import PurposeTree
from connector.adapters import policy_files, rdf
from connector.adapters.descriptors import load_catalog
from connector.control_plane.catalog_pages import KEY_BYTES, PageTokens
from connector.control_plane.catalog_visibility import Sighting, Sightings
from connector.control_plane.dcat_catalogs import DcatCatalogs
from connector.dsp.dcat import PREFIXES, DcatPublisher, Links
from connector.errors import NotAuthenticated
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset, DatasetStatus, TransferFormat
from connector.model.participant import Participant
from connector.model.policy import Constraint, LogicalConstraint, Policy, Rule
from connector.web.app import App, create_app
from connector.web.dcat import dcat_router, preferred
from tests.clocks import ManualClock
from tests.pair import PURPOSE, dataset, participant, terms

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPES = Path(__file__).parent / "dcat_ap_shapes.ttl"
BASE = "https://kela.example"
FORMATS = {"jsonld": ox.RdfFormat.JSON_LD, "ttl": ox.RdfFormat.TURTLE, "rdf": ox.RdfFormat.RDF_XML}

OPEN = dataset(id="counts", access_rights="PUBLIC", title={"fi": "Määrät", "en": "Counts"}, themes=("TRAN",))
CLOSED = dataset(id="benefits", access_rights="RESTRICTED", offers=(terms(), terms(id="other")))
HIDDEN = dataset(id="secrets", access_rights="NON_PUBLIC")
DRAFT = dataset(id="draft", access_rights="PUBLIC", status=DatasetStatus.DRAFT)


@dataclass
class World:
    """A connector's DCAT-AP routes over these datasets; a peer may see the offers named in `visible`."""

    datasets: dict[str, Dataset] = field(
        default_factory=lambda: {d.id: d for d in (OPEN, CLOSED, HIDDEN, DRAFT)}
    )
    visible: frozenset[str] = frozenset({"benefits:planning:1"})
    base_url: str = BASE
    open_rights: tuple[str, ...] = ()
    page_size: int = 100
    contact: str = "data@kela.example"
    audited: list[tuple[AuditEvent, dict[str, Any]]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def app(self) -> FastAPI:
        catalogs = DcatCatalogs(
            publisher=DcatPublisher(base_url=self.base_url, name=lambda: "Kela", contact=self.contact),
            catalogue=lambda: self.datasets,
            sightings=Sightings(
                self._sight, revision=lambda: self.visible, clock=ManualClock(), seconds=30.0
            ),
            tokens=PageTokens(bytes(KEY_BYTES)),
            audit=self._audit,
            page_size=self.page_size,
            open_rights=self.open_rights,
        )
        router = dcat_router(catalogs, authenticate=self._authenticate, serialise=self._serialise)
        return create_app(App(routers=[router], health=_healthy))

    async def _sight(self, _peer: str, seen: Dataset) -> Sighting:
        return Sighting(offers=tuple(o for o in seen.offers if o.wire_id(seen.id) in self.visible))

    async def _audit(self, event: AuditEvent, **about: Any) -> None:
        self.audited.append((event, about))

    async def _authenticate(self, request: Request) -> Participant:
        if not (name := request.headers.get("authorization")):
            raise NotAuthenticated("Who asks is not known.")
        return participant(name)

    def _serialise(self, document: bytes, media_type: str, prefixes: Mapping[str, str]) -> bytes:
        self.written.append(media_type)
        return rdf.from_jsonld(document, media_type, prefixes)


async def _healthy() -> dict[str, str]:
    return {}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with client(world) as opened:
        yield opened


def client(world: World) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=world.app()), base_url=BASE)


def graph(content: bytes, name: str = "jsonld") -> ox.Dataset:
    parsed = ox.Dataset(ox.parse(content, FORMATS[name]))
    parsed.canonicalize(ox.CanonicalizationAlgorithm.UNSTABLE)
    return parsed


def shacl_problems(turtle: bytes) -> str:
    data = rdflib.Graph().parse(data=turtle, format="turtle")
    conforms, _, text = pyshacl.validate(data, shacl_graph=rdflib.Graph().parse(SHAPES), advanced=True)
    return "" if conforms else text


def ids(answer: httpx.Response) -> list[str]:
    nodes = answer.json()["@graph"]
    return [n["dct:identifier"] for n in nodes if n["@type"] == "dcat:Dataset"]


def example_datasets() -> dict[str, Dataset]:
    purposes: PurposeTree = policy_files.project_purposes()
    policies = [p.stem for p in (EXAMPLES / "policies").glob("*.rego")]
    found: dict[str, Dataset] = {}
    for folder in sorted((EXAMPLES / "catalog").iterdir()):
        found.update(load_catalog(folder, policies=policies, purposes=purposes))
    return found


# --- what it says -----------------------------------------------------------------------------------------


async def turtles(world: World) -> list[bytes]:
    async with client(world) as http:
        return [
            (await http.get("/catalog.ttl")).content,
            (await http.get("/catalog/restricted.ttl", headers={"authorization": "city"})).content,
        ]


async def test_every_catalogue_of_the_examples_is_valid() -> None:
    """DCAT-AP 3.0 §4: mandatory classes and properties, ranges, cardinalities; with all their ODRL."""
    datasets = example_datasets()
    visible = frozenset(o.wire_id(d.id) for d in datasets.values() for o in d.offers)
    for turtle in await turtles(World(datasets, visible, open_rights=("NON_PUBLIC",))):
        assert shacl_problems(turtle) == ""


async def test_what_a_contract_can_say_is_valid_too() -> None:
    """Contacts, legislation, licence, frequency and tags of the contract; every ODRL form; every format."""
    either = LogicalConstraint(operator="or", constraints=(PURPOSE, PURPOSE))
    in_order = LogicalConstraint(operator="andSequence", constraints=(PURPOSE,))
    number = {"@value": "P30D", "@type": "xsd:duration"}
    policy = Policy(
        permissions=(Rule(action="use", constraints=(either, in_order)),),
        obligations=(
            Rule(
                action="delete",
                constraints=(Constraint(left_operand="elapsedTime", operator="lteq", right_operand=number),),
                duties=(Rule(action="inform"),),
            ),
        ),
    )
    extra = {
        "support": [
            {"channel": "Help", "url": "mailto:help@kela.example"},
            {"url": "https://kela.example/?a"},
        ],
        "authoritativeDefinitions": [
            {"type": "law", "url": "https://www.finlex.fi/eli/1"},
            {"type": "licence", "url": "https://creativecommons.org/licenses/by/4.0/"},
            {"type": "law", "url": "no address <"},
        ],
        "slaProperties": [{"property": "frequency", "value": 1, "unit": "d"}],
        "tags": ["tagged"],
    }
    full = dataset(
        id="full",
        access_rights="PUBLIC",
        extra=extra,
        offers=(terms(policy=policy),),
        formats=tuple(TransferFormat),
        status=DatasetStatus.DEPRECATED,
        description="",
    )
    bare = dataset(id="bare", access_rights="PUBLIC")
    turtle, _ = await turtles(World({"full": full, "bare": bare}, contact=""))
    assert shacl_problems(turtle) == ""
    text = turtle.decode()
    for said in (
        "<mailto:help@kela.example>",
        "<https://kela.example/?a>",
        "applicableLegislation <https://www.finlex.fi/eli/1>",
        "<https://creativecommons.org/licenses/by/4.0/>",
        "frequency/DAILY>",
        '"tagged"',
        '"P30D"^^xsd:duration',
        "planned-availability/TEMPORARY>",
        "distribution-status/DEPRECATED>",
    ):
        assert said in text
    assert "no address" not in text


def test_the_shapes_notice_what_is_missing() -> None:
    """The test above is worth something: each mandatory property, taken away, is a finding."""
    publisher = DcatPublisher(base_url=BASE, name=lambda: "Kela")
    nodes = [*publisher.frame("/catalog", [OPEN], Links()), publisher.entry(OPEN, OPEN.offers)]
    for kind, name in (
        ("dcat:Catalog", "dct:publisher"),
        ("dcat:Catalog", "dct:description"),
        ("dcat:Dataset", "dct:title"),
        ("dcat:DataService", "dcat:endpointURL"),
        ("foaf:Agent", "foaf:name"),
    ):
        left = [{k: v for k, v in n.items() if not (n["@type"] == kind and k == name)} for n in nodes]
        document = json.dumps({"@context": dict(PREFIXES), "@graph": left}).encode()
        assert name.split(":")[1] in shacl_problems(rdf.from_jsonld(document, "text/turtle", PREFIXES))


@pytest.mark.parametrize("path", ["/catalog", "/catalog/restricted"])
async def test_the_three_formats_are_one_graph(http: httpx.AsyncClient, path: str) -> None:
    """JSON-LD, Turtle and RDF/XML: isomorphic, blank nodes and all."""
    graphs = [
        graph((await http.get(f"{path}.{name}", headers={"authorization": "city"})).content, name)
        for name in FORMATS
    ]
    assert len(graphs[0]) > 20
    assert graphs[0] == graphs[1] == graphs[2]


async def test_catalogues_of_two_connectors_merge() -> None:
    """Both have a dataset `benefits` with an offer of the same id: nothing of theirs falls together but the
    codes that mean the same everywhere."""
    graphs = []
    for base in ("https://a.example", "https://b.example"):
        async with client(World(base_url=base, open_rights=("RESTRICTED",))) as http:
            graphs.append(graph((await http.get("/catalog.jsonld")).content))
    one, other = ({q.subject.value for q in g if isinstance(q.subject, ox.NamedNode)} for g in graphs)
    common = ("http://publications.europa.eu/", "https://www.iana.org/", "https://w3id.org/")
    assert one & other
    assert all(subject.startswith(common) for subject in one & other)


async def test_an_offer_is_there_as_odrl(http: httpx.AsyncClient) -> None:
    """The policy of the DSP offer, under the id that a negotiation needs."""
    answer = await http.get("/catalog.jsonld")
    (shown,) = [n for n in answer.json()["@graph"] if n["@type"] == "dcat:Dataset"]
    (offer,) = shown["odrl:hasPolicy"]
    assert offer["dct:identifier"] == "counts:planning:1"
    (permission,) = offer["odrl:permission"]
    assert permission["odrl:action"] == {"@id": "odrl:use"}
    assert permission["odrl:constraint"][0]["odrl:rightOperand"] == {"@list": ["service-planning"]}
    assert offer["odrl:prohibition"][0]["odrl:action"] == {"@id": "dsc:reidentify"}


# --- who sees what ----------------------------------------------------------------------------------------


async def test_open_and_restricted_are_apart(http: httpx.AsyncClient, world: World) -> None:
    """The open part names what is public to anybody; the other, only to a peer, only what it may see."""
    assert ids(await http.get("/catalog.jsonld")) == ["counts"]
    refused = await http.get("/catalog/restricted.jsonld")
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert world.audited == []
    seen = await http.get("/catalog/restricted.jsonld", headers={"authorization": "city"})
    assert ids(seen) == ["benefits"]
    assert world.audited == [(AuditEvent.CATALOG_SERVED, {"actor": "city", "outcome": "1 datasets"})]
    assert "benefits:planning:1" in seen.text
    assert "benefits:other:1" not in seen.text, "an offer that this peer may not see"
    assert "secrets" not in seen.text


async def test_metadata_can_be_open_where_the_data_is_not(world: World) -> None:
    """`catalog_open`: for portals of protected data; the terms stay with those who may have it."""
    world.open_rights = ("RESTRICTED",)
    async with client(world) as http:
        answer = await http.get("/catalog.jsonld")
        assert ids(answer) == ["benefits", "counts"]
        assert "benefits:planning:1" not in answer.text
        restricted = await http.get("/catalog/restricted.jsonld", headers={"authorization": "city"})
    assert ids(restricted) == []


# --- HTTP -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/ld+json"),
        ("*/*", "application/ld+json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/ld+json"),
        ("text/turtle", "text/turtle"),
        ("text/*", "text/turtle"),
        ("application/rdf+xml;q=0.9, text/turtle;q=0.5", "application/rdf+xml"),
        ("application/ld+json;profile=x;q=0.4, text/turtle;q=0.6", "text/turtle"),
        ("application/json", "application/ld+json"),
        ("*/*;q=0.1, application/ld+json;q=0", "text/turtle"),
        ("text/html", None),
        ("text/turtle;q=0", None),
    ],
)
def test_the_format_is_what_the_reader_prefers(accept: str, expected: str | None) -> None:
    """RFC 9110 §12.5.1."""
    assert preferred(accept) == expected


async def test_negotiation_over_http(http: httpx.AsyncClient) -> None:
    answer = await http.get("/catalog", headers={"accept": "text/turtle"})
    assert answer.headers["content-type"] == "text/turtle; charset=utf-8"
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert answer.headers["cache-control"] == "public, no-cache"
    assert (await http.get("/catalog", headers={"accept": "image/png"})).status_code == 406
    head = await http.head("/catalog.rdf")
    assert (head.status_code, head.headers["content-type"]) == (200, "application/rdf+xml; charset=utf-8")


async def test_nothing_is_written_twice(http: httpx.AsyncClient, world: World) -> None:
    """Cached by content, ETag, 304 (RFC 9110 §13.1.2), gzip; and anew as soon as a dataset changes."""
    first = await http.get("/catalog.ttl", headers={"accept-encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    again = await http.get("/catalog.ttl", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in again.headers
    assert again.text == first.text
    assert world.written == ["text/turtle"]
    tag = first.headers["etag"]
    unchanged = await http.get("/catalog.ttl", headers={"if-none-match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    world.datasets["counts"] = dataset(id="counts", access_rights="PUBLIC", version="2.0.0")
    changed = await http.get("/catalog.ttl", headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert '"2.0.0"' in changed.text


async def test_harvesters_follow_the_pages(world: World) -> None:
    """Link (RFC 8288) and Hydra's next, in every format, to the end and each dataset once."""
    names = [f"open_{number}" for number in range(7)]
    world.datasets = {n: dataset(id=n, access_rights="PUBLIC") for n in names}
    world.page_size = 3
    async with client(world) as http:
        for suffix in FORMATS:
            found: list[str] = []
            url = f"/catalog.{suffix}"
            while url:
                answer = await http.get(url)
                parsed = graph(answer.content, suffix)
                found += _objects(parsed, "http://purl.org/dc/terms/identifier", only=lambda t: ":" not in t)
                url = answer.links.get("next", {}).get("url", "")
                assert _objects(parsed, "http://www.w3.org/ns/hydra/core#next") == ([url] if url else [])
                assert not url or url.startswith(f"{BASE}/catalog.{suffix}?continuationToken=")
            assert sorted(found) == names
        wrong = await http.get("/catalog.ttl?continuationToken=abc")
        assert (wrong.status_code, wrong.json()["code"]) == (400, "continuation_token_invalid")


def _objects(parsed: ox.Dataset, predicate: str, only: Callable[[str], bool] = lambda _: True) -> list[str]:
    found = [q.object.value for q in parsed if q.predicate.value == predicate]
    return [value for value in found if only(value)]


def test_the_writer_fetches_nothing() -> None:
    """A context by address is refused: what is served stands in the document."""
    for document in (b"{", b'{"@context": "https://example.org/c", "a": "b"}'):
        with pytest.raises((ValueError, SyntaxError)):
            rdf.from_jsonld(document, "text/turtle", {})
    with pytest.raises(ValueError, match="no RDF format"):
        rdf.from_jsonld(b"{}", "image/png", {})
