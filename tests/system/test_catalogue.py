"""The catalogue of a whole connector: what its policies let each peer see, and how soon a change is seen."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from connector.adapters import participant_folder, policy_files
from connector.bootstrap.application import running_application
from connector.bootstrap.parts import Parts
from connector.bootstrap.services import Services
from connector.dsp.messages import CatalogRequestMessage
from connector.errors import NotAuthenticated, Unavailable
from connector.model.participant import Participant, ParticipantStatus, TrustList
from connector.ports import PeerIdentity
from connector.settings import Settings, load_settings
from tests.decisions import PARTICIPANTS, PLANNING
from tests.many import dataset_id, write_many

EXAMPLES = Path(__file__).parents[2] / "examples"
BASE_URL = "http://kela.example"
URL = "/dsp/2025-1/catalog/request"
COUNT = 12
OPEN = [dataset_id(number) for number in range(COUNT)]


class List:
    """Port TrustRegistry, as the orchestrator would have it now."""

    problem = ""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.now: TrustList | None = TrustList(
            issuer="test",
            version=1,
            issued_at=now,
            expires_at=now + timedelta(days=1),
            participants=dict(PARTICIPANTS),
            collaborations={PLANNING.id: replace(PLANNING, valid_until=None)},
        )

    def current(self) -> TrustList:
        if self.now is None:
            raise Unavailable("The trust list has expired.")
        return self.now

    def change(self, participant_id: str, status: ParticipantStatus) -> None:
        held = self.current()
        changed = replace(held.participants[participant_id], status=status)
        self.now = replace(
            held, version=held.version + 1, participants={**held.participants, participant_id: changed}
        )

    async def open(self) -> None:
        """Nothing is fetched."""

    async def run(self) -> None:
        await asyncio.Event().wait()


class ByName:
    """Port PeerIdentity: the header says who asks."""

    async def headers(self, participant: Participant, *_: Any, **__: Any) -> Mapping[str, str]:
        return {}

    def forget(self, participant: Participant, **_: Any) -> None:
        """There are no tokens."""

    async def identify(self, method: str, url: str, headers: Mapping[str, Sequence[str]]) -> Participant:
        name = "".join(headers.get("authorization", ()))
        if name not in PARTICIPANTS:
            raise NotAuthenticated("Nobody is known by that name.")
        return PARTICIPANTS[name]


class World:
    def __init__(self, http: httpx.AsyncClient, services: Services, trust: List) -> None:
        self.http, self.services, self.trust = http, services, trust

    async def asks(self, peer: str) -> httpx.Response:
        body = CatalogRequestMessage().document()
        return await self.http.post(URL, json=body, headers={"authorization": peer})

    async def sees(self, peer: str) -> dict[str, list[str]]:
        """Dataset -> the offers of it."""
        answer = await self.asks(peer)
        assert answer.status_code == 200, answer.text
        datasets = answer.json().get("dataset", [])
        return {d["@id"]: sorted(o["@id"] for o in d["hasPolicy"]) for d in datasets}


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    """Kela with the demo's descriptors and policies, some open datasets beside them, and no peers to call."""
    trust = List()
    built: list[Services] = []

    class Assembly(Services):
        def __init__(self, settings: Settings, parts: Parts, registry_jwks: Any) -> None:
            super().__init__(settings, parts, registry_jwks)
            built.append(self)

        def _build_trust(self, registry_jwks: Any) -> None:
            super()._build_trust(registry_jwks)
            self.trust = trust  # type: ignore[assignment]

        def _identity(self) -> PeerIdentity:
            return ByName()

    async with running_application(_settings(folder), services=Assembly) as app:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http:
            yield World(http, built[0], trust)


def _settings(folder: Path) -> Settings:
    new = participant_folder.NewParticipant(
        id="kela",
        public_url=BASE_URL,
        port=8080,  # nothing listens
        registry_url="http://registry.invalid",
        registry_jwks=[],
        mode="development",
        peer_private_addresses=True,
    )
    participant_folder.create(folder, new)
    write_many(folder, COUNT)
    for file in (EXAMPLES / "catalog/kela").iterdir():
        shutil.copy(file, folder / "catalog")
    for name in ("case_work", "open_statistics", "statutory_planning"):
        shutil.copy(EXAMPLES / f"policies/{name}.rego", folder / "policies")
    (folder / "data/benefits.parquet").touch()
    return load_settings(folder)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path / "kela") as found:
        yield found


async def test_everybody_sees_what_policy_lets_them_see(world: World) -> None:
    """D2, Protocol: datasets and offers; an offer that a peer could not have is not named to it."""
    city, youth = await world.sees("city"), await world.sees("youth")
    assert set(OPEN) <= city.keys()
    assert set(OPEN) <= youth.keys()
    assert city["benefit_statistics"] == youth["benefit_statistics"]
    assert city["benefits"] == ["benefits:planning:1.0"]
    assert "benefits" not in youth
    assert (await world.sees("employment"))["benefits"] == ["benefits:case-work:1.0"]
    assert await world.sees("gone") == {}


async def test_a_change_shows_at_once(world: World) -> None:
    """Nothing remembered outlives the trust list or the policies that it was decided under."""
    assert OPEN[0] in await world.sees("city")
    world.trust.change("city", ParticipantStatus.SUSPENDED)
    assert await world.sees("city") == {}
    world.trust.change("city", ParticipantStatus.ACTIVE)
    before = await world.sees("city")
    engine = world.services.parts.engine
    modules = dict(policy_files.all_modules(world.services.settings.path("policies")))
    name = next(n for n in modules if n.endswith("open_statistics.rego"))
    modules[name] = modules[name].replace('required := {"aggregate_only",', 'required := {"never",')
    await engine.load(modules)
    after = await world.sees("city")
    assert before.keys() - after.keys() == {"benefit_statistics"}


async def test_without_a_trust_list_the_catalogue_is_closed(world: World) -> None:
    """Fail closed: 503 and a reason, also for what was seen a moment ago; what is open to everybody stays."""
    await world.sees("city")
    world.trust.now = None
    answer = await world.asks("city")
    assert (answer.status_code, answer.json()["@type"]) == (503, "CatalogError")
    assert (await world.http.get("/catalog.ttl")).status_code == 200
    restricted = await world.http.get("/catalog/restricted.ttl", headers={"authorization": "city"})
    assert restricted.status_code == 503


async def test_the_open_part_asks_nobody_who_they_are(world: World) -> None:
    """D2: the same datasets in DCAT-AP; PUBLIC ones to everybody, the others to peers."""
    everybody = await world.http.get("/catalog", headers={"accept": "text/turtle"})
    assert everybody.text.count(" a dcat:Dataset") == COUNT / 2
    assert "benefits" not in everybody.text
    assert (await world.http.get("/catalog/restricted.ttl")).status_code == 401
    peers = await world.http.get("/catalog/restricted.ttl", headers={"authorization": "city"})
    assert peers.text.count(" a dcat:Dataset") == COUNT / 2 + 2
    assert "benefits:planning:1.0" in peers.text
