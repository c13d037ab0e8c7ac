"""A consumer and a provider of ours, as `connector serve` runs them, with the registry that knows them."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.control_plane.catalogue import DSP_CONTEXT, Catalogue
from connector.access.tokens import PeerTokens
from connector.adapters import file_keys, participant_folder, registry_files
from connector.adapters.clock import SystemClock
from connector.adapters.http_peer import HttpPeer
from connector.demo.processes import Process, free_ports
from connector.local_api import Api
from connector.model.participant import Participant
from connector.model.person import PersonRole
from connector.model.token import SCOPE_DSP
from connector.ports import PeerResponse
from tests.interop.ours import descriptor, make_source

NAMES = ("consumer", "provider")
DATASET = "stations"
TOKEN_SECONDS = 200.0
READY_SECONDS = 240.0  # ten thousand descriptors are read and checked before it answers
CONNECTIONS = httpx.Limits(max_connections=200, max_keepalive_connections=200, keepalive_expiry=2)


class OurPair:
    """Driven through the consumer's client API."""

    slow = False

    def __init__(self, processes: Mapping[str, Process], api: Api, offer: str) -> None:
        self._processes = processes
        self._api = api
        self._offer = offer
        self._token, self._token_until = "", 0.0
        self._http = httpx.AsyncClient(
            base_url=f"{processes['consumer'].base_url}/v1", timeout=60, trust_env=False, limits=CONNECTIONS
        )

    async def __aenter__(self) -> OurPair:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def negotiate(self) -> str:
        return await self._made(
            "/negotiations", {"provider": "provider", "dataset": DATASET, "offer": self._offer}
        )

    async def agreement(self, negotiation_id: str) -> str:
        found = await self._look(f"/negotiations/{negotiation_id}")
        return str(found["agreement"]) if found["state"] == "FINALIZED" else ""

    async def transfer(self, agreement_id: str) -> str:
        return await self._made("/transfers", {"agreement": agreement_id, "format": "HttpData-PULL"})

    async def started(self, transfer_id: str) -> str:
        found = await self._look(f"/transfers/{transfer_id}")
        return transfer_id if found["state"] == "STARTED" else ""

    def sample_anew(self) -> None:
        """For processes that are sampled: what was until now does not count."""
        for name in NAMES:
            os.kill(self._processes[name].pid, signal.SIGUSR1)

    def resident_mb(self) -> Mapping[str, float]:
        return {name: self._processes[name].resident_mb() for name in NAMES}

    async def _made(self, path: str, body: Mapping[str, Any]) -> str:
        answer = await self._http.post(path, json=body, headers=self._headers())
        return str(answer.raise_for_status().json()["pid"])

    async def _look(self, path: str) -> dict[str, Any]:
        answer = await self._http.get(path, headers=self._headers())
        found: dict[str, Any] = answer.raise_for_status().json()
        if found["state"] == "TERMINATED":
            raise RuntimeError(f"{path} ended: {found['reasons']}")
        return found

    def _headers(self) -> Mapping[str, str]:
        if time.monotonic() > self._token_until:
            self._token, self._token_until = self._api.token(), time.monotonic() + TOKEN_SECONDS
        return {"Authorization": f"Bearer {self._token}"}


@contextmanager
def running(store_dsns: Mapping[str, str] | None = None, *, samples: Path | None = None) -> Iterator[OurPair]:
    """`store_dsns`: PostgreSQL for each; none means SQLite. `samples`: where each leaves its processor time
    by area once it has stopped."""
    with (
        _dataspace(datasets=[DATASET], store_dsns=store_dsns or {}, samples=samples) as (folder, processes),
        Api(folder / "consumer", roles=[PersonRole.OPERATOR, PersonRole.VIEWER]) as api,
    ):
        (seen,) = api.get("/v1/catalog", participant="provider")["participants"]
        yield OurPair(processes, api, seen["datasets"][0]["offers"][0]["id"])


@contextmanager
def catalogue(size: int) -> Iterator[Catalogue]:
    """A provider with `size` datasets, asked by the load itself with the consumer's keys."""
    names = [f"dataset_{number:05}" for number in range(size)]
    with _dataspace(datasets=names, store_dsns={}, start=("provider",)) as (folder, processes):
        provider = processes["provider"]
        keys = file_keys.load(folder / "consumer" / "keys", "consumer")
        participant = Participant(id="provider", name="", base_url=provider.base_url, jwks=())
        tokens: list[PeerTokens] = []

        async def prove(url: str, refused: httpx.Response | None) -> Mapping[str, str]:
            if not tokens:  # in the loop that is to use them
                client = HttpPeer(allow_private=True)
                tokens.append(PeerTokens(keys=keys, peer=client, clock=SystemClock(), new_id=_new_id))
            about: dict[str, Any] = {"resource": participant.dsp_url, "scope": SCOPE_DSP}
            if refused is not None:
                answer = PeerResponse(status=refused.status_code, headers=dict(refused.headers), body=b"")
                tokens[0].refused(participant, answer, **about)
            return await tokens[0].headers(participant, "POST", url, **about)

        body = {"@context": [DSP_CONTEXT], "@type": "CatalogRequestMessage"}
        yield Catalogue(f"{participant.dsp_url}/catalog/request", body, prove, pid=provider.pid)


def _new_id() -> str:
    return uuid.uuid4().hex


@contextmanager
def _dataspace(
    *,
    datasets: list[str],
    store_dsns: Mapping[str, str],
    start: tuple[str, ...] = NAMES,
    samples: Path | None = None,
) -> Iterator[tuple[Path, Mapping[str, Process]]]:
    """Folders of all, processes of the registry and of `start`."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        ports = dict(zip(("registry", *NAMES), free_ports(1 + len(NAMES)), strict=True))
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        _make_folders(folder, ports, urls, store_dsns)
        catalog = folder / "provider" / "catalog"
        for dataset in datasets:
            (catalog / f"{dataset}.odcs.yaml").write_text(descriptor(dataset), encoding="utf-8")
        make_source(folder / "provider" / "data")
        processes = {
            name: _process(folder, name, urls[name], ports[name], samples) for name in ("registry", *start)
        }
        for process in processes.values():
            process.start()
            stack.callback(process.stop)
            process.wait_ready(READY_SECONDS)
        yield folder, processes


def _make_folders(
    folder: Path, ports: Mapping[str, int], urls: Mapping[str, str], store_dsns: Mapping[str, str]
) -> None:
    registry_files.create(folder / "registry", issuer=urls["registry"])
    registry_keys = file_keys.create(folder / "registry" / "keys", "registry")
    for name in NAMES:
        keys = participant_folder.create(
            folder / name,
            participant_folder.NewParticipant(
                id=name,
                public_url=urls[name],
                port=ports[name],
                registry_url=urls["registry"],
                registry_jwks=registry_keys.public_jwks(),
                mode="development",
                peer_private_addresses=True,
            ),
        )
        if name in store_dsns:
            with (folder / name / participant_folder.SETTINGS_FILE).open("a") as settings:
                settings.write(f'store_dsn = "{store_dsns[name]}"\n')
        entry = Participant(id=name, name=name, base_url=urls[name], jwks=tuple(keys.public_jwks()))
        registry_files.add_participant(folder / "registry", entry)


def _process(folder: Path, name: str, url: str, port: int, samples: Path | None) -> Process:
    at = ["--folder", str(folder / name)]
    arguments = ["registry", "serve", *at, "--port", str(port)] if name == "registry" else ["serve", *at]
    module = "connector"
    if samples is not None and name in NAMES:
        module, arguments = "benchmarks.sampled", [str(samples / f"{name}.json"), *arguments]
    return Process(name=name, arguments=arguments, base_url=url, log=folder / f"{name}.log", module=module)
