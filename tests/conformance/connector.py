"""The connector under test: the product's own app on its own server, with what only a test may decide."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, Request

from connector.adapters import participant_folder
from connector.bootstrap.application import running_application
from connector.bootstrap.parts import Parts
from connector.bootstrap.services import Services
from connector.control_plane.hooks import NegotiationHook, TransferHook
from connector.dsp.messages import BASE_PATH
from connector.dsp.policy import render_offer
from connector.errors import NotAuthenticated
from connector.model.participant import Participant, TrustList
from connector.model.transfer import TransferFormat
from connector.ports import PeerIdentity
from connector.settings import Settings, load_settings
from tests.conformance import script
from tests.pair import POLICY
from tests.parts import HOST

TOKEN = "Bearer conformance"
"""What proves either side to the other."""

DECISION_DELAY = timedelta(seconds=0.3)
"""The kit looks at its own state every 0.1 s before it waits for what comes next; what comes sooner gets a
404, which is a refusal. Measured: 0.05 s fails some tests, 0.1 s none."""

SOURCE = "data/nothing.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """`base_url` is the connector's root; its DSP is below it. The two hooks make it begin a conversation."""

    base_url: str

    @property
    def dsp_url(self) -> str:
        return f"{self.base_url}{BASE_PATH}"

    @property
    def negotiate_url(self) -> str:
        return f"{self.base_url}/conformance/negotiations"

    @property
    def transfer_url(self) -> str:
        return f"{self.base_url}/conformance/transfers"


@asynccontextmanager
async def running_connector(
    folder: Path, *, peer_url: str, store_dsn: str = "", scripts: script.Scripts = script.SCRIPTS
) -> AsyncIterator[Running]:
    """`folder` is empty; `peer_url` is where the counter-party listens; no `store_dsn` means SQLite."""
    peer = Participant(id=script.KIT, name="Conformance kit", base_url=peer_url, jwks=())
    with socket.create_server((HOST, 0), backlog=128) as listener:
        base_url = f"http://{HOST}:{listener.getsockname()[1]}"
        settings = _settings(folder, base_url, store_dsn)
        assembled = _assembly(peer, scripts)
        async with running_application(settings, services=assembled) as app:
            services = assembled.built
            app.include_router(_webhooks(services, peer))
            async with services.parts.store.transaction() as tx:
                for record in script.agreements(datetime.now(UTC) - timedelta(hours=1)):
                    await tx.save_agreement(record)
            async with _serving(app, listener):
                yield Running(base_url=base_url)


def _settings(folder: Path, base_url: str, store_dsn: str) -> Settings:
    new = participant_folder.NewParticipant(
        id=script.OURS,
        public_url=base_url,
        port=8080,  # the listener is bound already
        registry_url="http://registry.invalid",
        registry_jwks=[],
        mode="development",
        peer_private_addresses=True,
    )
    participant_folder.create(folder, new)
    (folder / SOURCE).touch()
    with (folder / participant_folder.SETTINGS_FILE).open("a") as file:
        file.write(f'unsigned_peers = ["{script.KIT}"]\n')  # it knows DSP's messages and none beyond
        file.write("catalog_refresh_seconds = 0\n")  # nor does it expect to be asked for its catalogue
        if store_dsn:
            file.write(f'store_dsn = "{store_dsn}"\n')
    return load_settings(folder)


# --- what is not the product's choice here ----------------------------------------------------------------


class _Assembly(Services):
    """`built` is the one instance."""

    built: Services


def _assembly(peer: Participant, scripts: script.Scripts) -> type[_Assembly]:
    """Services that know one peer, by a static token, and do what the script says."""

    class Assembly(_Assembly):
        decision_delay = DECISION_DELAY

        def __init__(
            self, settings: Settings, parts: Parts, registry_jwks: Sequence[Mapping[str, Any]]
        ) -> None:
            super().__init__(settings, replace(parts, catalogue=script.catalogue(SOURCE)), registry_jwks)
            Assembly.built = self

        def _build_trust(self, registry_jwks: Sequence[Mapping[str, Any]]) -> None:
            super()._build_trust(registry_jwks)
            self.trust = OnePeer(peer)  # type: ignore[assignment]
            self.parts.allowed_hosts.trust = self.trust

        def _identity(self) -> PeerIdentity:
            return StaticIdentity(peer)

        def _negotiation_hook(self) -> NegotiationHook:
            return script.ScriptedHook(scripts)

        def _transfer_hook(self) -> TransferHook:
            return script.ScriptedHook(scripts)

    return Assembly


class OnePeer:
    """Port TrustRegistry: the kit has no registry, and its id is no slug."""

    problem = ""

    def __init__(self, peer: Participant) -> None:
        now = datetime.now(UTC)
        self._list = TrustList(
            issuer="conformance",
            version=1,
            issued_at=now,
            expires_at=now + timedelta(days=1),
            participants={peer.id: peer},
        )

    def current(self) -> TrustList:
        return self._list

    async def open(self) -> None:
        """Nothing is fetched."""

    async def run(self) -> None:
        await asyncio.Event().wait()


class StaticIdentity:
    """Port PeerIdentity: one token, which either side sends."""

    def __init__(self, peer: Participant) -> None:
        self._peer = peer

    async def headers(
        self, participant: Participant, method: str, url: str, **_scope: Any
    ) -> Mapping[str, str]:
        return {"Authorization": TOKEN}

    def forget(self, participant: Participant, **_scope: Any) -> None:
        """There is no other."""

    async def identify(self, method: str, url: str, headers: Mapping[str, Sequence[str]]) -> Participant:
        if list(headers.get("authorization", ())) != [TOKEN]:
            raise NotAuthenticated("The token is not the one of this run.")
        return self._peer


# --- serving ----------------------------------------------------------------------------------------------


def _webhooks(services: Services, peer: Participant) -> APIRouter:
    """By which the kit tells us to begin (dsp.md 3.4)."""
    router = APIRouter(prefix="/conformance")

    @router.post("/negotiations")
    async def negotiate(request: Request) -> dict[str, str]:
        asked = await request.json()
        offer = render_offer(asked["offerId"], POLICY)
        address = asked["connectorAddress"]
        begun = await services.negotiations.request(peer, asked["datasetId"], offer, dsp_url=address)
        return {"pid": begun.pid}

    @router.post("/transfers")
    async def transfer(request: Request) -> dict[str, str]:
        asked = await request.json()
        format_ = TransferFormat(asked["format"])
        begun = await services.transfers.request(
            asked["agreementId"], format_, dsp_url=asked["connectorAddress"]
        )
        return {"pid": begun.pid}

    return router


@asynccontextmanager
async def _serving(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))  # who comes earlier waits in the backlog
    try:
        yield
    finally:
        server.should_exit = True
        await task
