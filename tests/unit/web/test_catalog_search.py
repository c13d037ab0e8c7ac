"""GET /v1/catalog/search, POST /v1/catalog/refresh: the index over HTTP, filled from a provider's routes.

The provider is a connector's DSP application in process: its pages, entity tags and links are real.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from connector.access.peers import Peers
from connector.adapters.catalog_index import SqliteCatalogIndex
from connector.control_plane.crawler import Crawler
from connector.control_plane.federated_catalog import FederatedCatalog
from connector.control_plane.peer_catalogs import PeerCatalogs
from connector.model.audit import AuditEvent
from connector.model.person import Person, PersonRole
from connector.web.app import App, create_app
from connector.web.client_api import ClientServices, client_router
from tests.clocks import ManualClock
from tests.pair import Side, dataset, participant
from tests.peers import InProcessPeer
from tests.unit.access.world import StaticRegistry
from tests.unit.control_plane.catalogue_sites import NoCredentials

VIEWER = {"Authorization": "viewer"}
OPERATOR = {"Authorization": "operator"}
DATASETS = {
    f"d{n:03}": dataset(
        id=f"d{n:03}", title={"fi": f"Työllisyys {n}", "en": f"Employment {n}"}, themes=("SOCI",)
    )
    for n in range(250)
}


class OpenDoor:
    """Whoever comes is somebody in the role that they name."""

    async def person(self, asked: Any) -> Person:
        roles = frozenset({PersonRole(asked.authorization)})
        return Person(subject="aino", roles=roles, purposes=frozenset())


class Youth:
    """Our side: crawler, index and client API. `kela` has 250 datasets, `city` is not there."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.kela = Side("kela", self.clock, datasets=DATASETS)
        self.registry = StaticRegistry(self.clock, [participant(n) for n in ("youth", "kela", "city")])
        self.index = SqliteCatalogIndex(folder / "catalog-index.sqlite")
        peer = InProcessPeer({"http://kela.example": self.kela.app(lambda _: participant("youth"))})
        peers = Peers(self.registry, cast("Any", NoCredentials()), peer)
        about: dict[str, Any] = {
            "participant_id": "youth",
            "trust": self.registry,
            "index": self.index,
            "clock": self.clock,
            "wake": SimpleNamespace(set=lambda: None),
        }
        self.crawler = Crawler(
            catalogs=PeerCatalogs(peers, self.clock),
            chance=lambda: 0.5,
            new_id=iter("abcdef").__next__,
            **about,
        )
        services = SimpleNamespace(door=OpenDoor(), federated_catalog=FederatedCatalog(**about))
        router = client_router(cast(ClientServices, services))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(App(routers=[router], health=_well, title="youth"))),
            base_url="http://youth.example/v1",
        )

    async def search(self, **params: Any) -> dict[str, Any]:
        answer = await self.http.get("/catalog/search", params=params, headers=VIEWER)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def _well() -> dict[str, str]:
    return {}


@pytest.fixture
async def youth(tmp_path: Path) -> AsyncIterator[Youth]:
    made = Youth(tmp_path)
    await made.index.open()
    yield made
    await made.http.aclose()
    await made.index.close()


async def test_a_connectors_catalogue_is_crawled_page_by_page_and_then_by_tag(youth: Youth) -> None:
    """Protocol, crawler and catalogue at scale: both ends agree on paging and on conditional requests."""
    await youth.crawler.step()
    assert len(youth.kela.audited) == 3  # pages of a hundred
    found = await youth.search(q="tyolli", limit=100)
    assert (found["total"], len(found["datasets"])) == (250, 100)
    youth.kela.datasets["d120"] = dataset(id="d120", title={"en": "Renamed"})
    await youth.clock.advance(330)
    await youth.crawler.step()
    assert [d["id"] for d in (await youth.search(q="renamed"))["datasets"]] == ["d120"]
    assert (await youth.search())["total"] == 250
    assert {event for event, _ in youth.kela.audited} == {AuditEvent.CATALOG_SERVED}


async def test_what_the_provider_no_longer_shows_us_vanishes(youth: Youth) -> None:
    """Crawler: what policy lets us see is per consumer, at the provider."""
    await youth.crawler.step()
    youth.kela.visible = False
    await youth.clock.advance(330)
    await youth.crawler.step()
    found = await youth.search()
    assert (found["total"], found["datasets"]) == (0, [])
    assert found["participants"][0]["lastSuccess"] is not None


async def test_a_hit_and_how_fresh_it_is(youth: Youth) -> None:
    """Crawler: each hit says whose it is and when it was seen; the answer, how fresh each part is."""
    await youth.crawler.step()
    found = await youth.search(q="employment 7", limit=1)
    (hit,) = found["datasets"]
    assert hit == {
        "participant": "kela",
        "id": hit["id"],
        "title": hit["titles"]["en"],
        "titles": hit["titles"],
        "description": "Benefits in payment.",
        "themes": ["SOCI"],
        "keywords": [],
        "formats": ["CloudEvents-PUSH", "FederatedQuery-PULL"],
        "accessRights": hit["accessRights"],
        "version": "1.0.0",
        "offers": [{"id": f"{hit['id']}:planning:1", "actions": ["use"], "purposes": ["service-planning"]}],
        "seenAt": "2026-11-22T09:00:00.000Z",
    }
    sources = {s["id"]: s for s in found["participants"]}
    assert sources.keys() == {"kela", "city"}
    assert sources["kela"] == {
        "id": "kela",
        "name": "Kela",
        "datasets": 250,
        "lastSuccess": "2026-11-22T09:00:00.000Z",
        "lastAttempt": "2026-11-22T09:00:00.000Z",
        "nextAttempt": "2026-11-22T09:05:00.000Z",
        "failingSince": None,
        "failures": 0,
        "error": None,
        "rejected": 0,
        "problems": [],
        "truncated": None,
    }
    assert sources["city"]["error"]["code"] == "peer_unreachable"
    assert (sources["city"]["lastSuccess"], sources["city"]["failures"]) == (None, 1)


async def test_before_the_first_crawl_it_says_so(youth: Youth) -> None:
    """Nothing found, and nothing looked at yet, are two things."""
    found = await youth.search()
    assert (found["total"], found["next"]) == (0, None)
    assert found["participants"] == [{"id": "kela", "name": "Kela"}, {"id": "city", "name": "City"}]


async def test_pages_of_answers(youth: Youth) -> None:
    """Crawler: paging, and facets of all that matches."""
    await youth.crawler.step()
    seen: list[str] = []
    after = ""
    while True:
        found = await youth.search(theme="SOCI", format="CloudEvents-PUSH", limit=100, after=after)
        seen += [d["id"] for d in found["datasets"]]
        after = found["next"]
        if after is None:
            break
    assert seen == sorted(DATASETS)
    assert found["facets"]["theme"] == [{"value": "SOCI", "count": 250}]
    assert found["facets"]["participant"] == [{"value": "kela", "count": 250}]
    assert "accessRights" in found["facets"]


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"after": "nonsense"}, 400, "request_invalid"),
        ({"q": "***"}, 400, "request_invalid"),
        ({"q": "x" * 501}, 400, "request_invalid"),
        ({"limit": "0"}, 400, "request_invalid"),
        ({"limit": "many"}, 400, "request_invalid"),
        ({"participant": "nobody"}, 502, "participant_unknown"),
        ({"participant": "youth"}, 502, "participant_unknown"),
    ],
    ids=str,
)
async def test_what_cannot_be_searched_for(youth: Youth, params: Any, status: int, code: str) -> None:
    """Bad input: typed errors."""
    answer = await youth.http.get("/catalog/search", params=params, headers=VIEWER)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_the_operator_has_a_catalogue_read_anew(youth: Youth) -> None:
    """Crawler: one participant's refresh, by the operator only, never more often than is polite."""
    await youth.crawler.step()
    path, body = "/catalog/refresh", {"participant": "kela"}
    refused = await youth.http.post(path, json=body, headers=VIEWER)
    assert refused.status_code == 403
    answer = await youth.http.post(path, json=body, headers=OPERATOR)
    assert answer.status_code == 202
    assert answer.json()["nextAttempt"] == "2026-11-22T09:00:10.000Z"
    youth.kela.datasets = {"d1": replace(DATASETS["d001"], id="d1")}
    await youth.clock.advance(10)
    await youth.crawler.step()
    assert (await youth.search())["total"] == 1
    nobody = await youth.http.post(path, json={"participant": "nobody"}, headers=OPERATOR)
    assert nobody.status_code == 502
