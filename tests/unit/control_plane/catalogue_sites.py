"""Other participants' catalogues as a crawler meets them: paged, tagged, slow, dead, hostile."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from connector.access.peers import Peers
from connector.adapters.catalog_index import SqliteCatalogIndex
from connector.control_plane.crawler import Crawler, Pace
from connector.control_plane.federated_catalog import FederatedCatalog
from connector.control_plane.outbox import Backoff
from connector.control_plane.peer_catalogs import Bounds, PeerCatalogs
from connector.errors import PeerProtocolError, PeerUnreachable
from connector.model.participant import Participant
from connector.model.peer_catalog import CatalogFound, CatalogQuery, Freshness
from connector.ports import PeerResponse
from tests.clocks import ManualClock
from tests.unit.access.world import StaticRegistry

Answer = Callable[["Asked"], PeerResponse | Awaitable[PeerResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None


def offered(dataset_id: str, title: str = "Schools", **more: Any) -> dict[str, Any]:
    return {
        "@id": dataset_id,
        "@type": "Dataset",
        "dct:title": [{"@language": "en", "@value": title}],
        "hasPolicy": [
            {"@id": f"{dataset_id}:o:1", "@type": "Offer", "permission": [{"action": "use"}]},
        ],
        "distribution": [
            {"@type": "Distribution", "format": "HttpData-PULL", "accessService": "https://x.example"}
        ],
        **more,
    }


def catalog(datasets: Sequence[Any], **more: Any) -> dict[str, Any]:
    return {
        "@context": ["https://w3id.org/dspace/2025/1/context.jsonld"],
        "@type": "Catalog",
        "@id": "c",
        "participantId": "x",
        **({"dataset": list(datasets)} if datasets else {}),
        **more,
    }


def json_answer(document: Any, status: int = 200, **headers: str) -> PeerResponse:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return PeerResponse(
        status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=body
    )


@dataclass
class Site:
    """A well-behaved catalogue at `dsp_url`. `answer` replaces what it does."""

    dsp_url: str
    datasets: list[Any] = field(default_factory=list)
    page_size: int = 1_000
    tags: bool = True
    answer: Answer | None = None
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def serve(self, asked: Asked) -> PeerResponse:
        self.asked.append(asked)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            answer = self.answer(asked) if self.answer else self.page(asked)
            return answer if isinstance(answer, PeerResponse) else await answer
        finally:
            self.at_once -= 1

    def page(self, asked: Asked) -> PeerResponse:
        query = parse_qs(urlsplit(asked.url).query)
        start = int(query.get("from", ["0"])[0])
        document = catalog(self.datasets[start : start + self.page_size])
        headers = {}
        if start + self.page_size < len(self.datasets):
            headers["link"] = self.link(start + self.page_size)
        body = json.dumps(document).encode()
        tag = f'W/"{hashlib.sha256(body + headers.get("link", "").encode()).hexdigest()[:16]}"'
        if self.tags:
            headers["etag"] = tag
            if asked.headers.get("If-None-Match") == tag:
                return PeerResponse(status=304, headers=headers, body=b"")
        return PeerResponse(status=200, headers=headers, body=body)

    def link(self, start: int) -> str:
        return f'<{self.dsp_url}/catalog/request?from={start}>; rel="next"'

    def fetched(self) -> list[str]:
        """The queries of the pages asked for."""
        return [urlsplit(a.url).query for a in self.asked]


class Network:
    """`connector.ports.PeerClient` over sites by host; without one there is no connection."""

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self.at_once = 0
        self.most_at_once = 0

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_seconds: float = 10.0,
        max_bytes: int = 10_000_000,
    ) -> PeerResponse:
        site = self.sites.get(urlsplit(url).netloc)
        if site is None:
            raise PeerUnreachable("no connection")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await site.serve(
                    Asked(method=method, url=url, headers=dict(headers or {}), content=content)
                )
        except TimeoutError:
            raise PeerUnreachable("no answer in time") from None
        finally:
            self.at_once -= 1
        if len(answer.body) > max_bytes:
            raise PeerProtocolError(f"answered more than {max_bytes} bytes")
        return answer

    @asynccontextmanager
    async def stream(self, method: str, url: str, **_: Any) -> Any:
        raise AssertionError("no catalogue is streamed")
        yield

    async def close(self) -> None: ...


class NoCredentials:
    """`connector.ports.PeerCredentials` that proves nothing."""

    async def headers(self, participant: Participant, *_: Any, **__: Any) -> Mapping[str, str]:
        return {"Authorization": f"to {participant.id}"}

    def refused(self, participant: Participant, answer: PeerResponse, **_: Any) -> bool:
        return False


class Space:
    """We are `youth`; the others have catalogues. `replica` makes another crawler of ours."""

    def __init__(self, folder: Path, others: Sequence[str]) -> None:
        self.clock = ManualClock()
        self.network = Network()
        self.bounds = Bounds()
        self.registry = StaticRegistry(self.clock, [_participant(name) for name in ("youth", *others)])
        self.sites = {name: self.site(name) for name in others}
        self.index = SqliteCatalogIndex(folder / "catalog-index.sqlite")
        self.wake = asyncio.Event()
        self.federated = FederatedCatalog(
            participant_id="youth",
            trust=self.registry,
            index=self.index,
            clock=self.clock,
            wake=self.wake,
        )
        self.crawler = self.replica()

    def replica(self, **pace: Any) -> Crawler:
        counter = itertools.count()
        name = f"replica-{id(counter)}"
        return Crawler(
            participant_id="youth",
            trust=self.registry,
            catalogs=self.catalogs(),
            index=self.index,
            clock=self.clock,
            chance=lambda: 0.5,
            new_id=lambda: f"{name}-{next(counter)}",
            wake=self.wake,
            pace=Pace(
                **{"backoff": Backoff(first_seconds=10.0, longest_seconds=3_600.0), "at_once": 9, **pace}
            ),
        )

    def catalogs(self) -> PeerCatalogs:
        peers = Peers(self.registry, cast("Any", NoCredentials()), self.network)
        return PeerCatalogs(peers, self.clock, self.bounds)

    def site(self, name: str) -> Site:
        provider = self.registry.participants[name]
        site = self.network.sites[urlsplit(provider.base_url).netloc] = Site(provider.dsp_url)
        return site

    def join(self, name: str) -> Site:
        self.registry.participants[name] = _participant(name)
        self.sites[name] = self.site(name)
        return self.sites[name]

    async def crawl(self, after_seconds: float = 0.0) -> int:
        """Let time pass, then visit whoever is due."""
        await self.clock.advance(after_seconds)
        return await self.crawler.step()

    async def found(self, **wanted: Any) -> CatalogFound:
        others = frozenset(self.registry.participants) - {"youth"}
        return await self.index.search(CatalogQuery(**{"participants": others, "limit": 100, **wanted}))

    async def ids(self, **wanted: Any) -> list[str]:
        return [hit.dataset.id for hit in (await self.found(**wanted)).hits]

    async def freshness(self, name: str) -> Freshness:
        return (await self.index.freshness())[name]


def _participant(name: str) -> Participant:
    return Participant(id=name, name=name.title(), base_url=f"https://{name}.example", jwks=())
