"""A consumer and a provider that are Eclipse EDC, with default JVM settings but for the heap's size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from benchmarks.control_plane.catalogue import DSP_CONTEXT, Catalogue
from benchmarks.control_plane.load import Failed, Pair
from benchmarks.control_plane.processes import resident_mb
from tests.interop.data_plane import DataPlane
from tests.interop.management import (
    ODRL,
    Edc,
    as_json_ld,
    managing,
    negotiation_request,
    transfer_request,
)
from tests.parts.edc import MEMORY, EdcServer, running_edc

ASSET = "stations"
POLICY = {"@context": ODRL, "@type": "Set", "permission": [{"action": "use"}]}
JVM = (MEMORY,)
CONNECTIONS = httpx.Limits(max_connections=200, max_keepalive_connections=200, keepalive_expiry=2)


class EdcPair:
    """Driven through the consumer's management API."""

    def __init__(
        self, consumer: EdcServer, provider: EdcServer, offer: Mapping[str, Any], *, slow: bool
    ) -> None:
        self.slow = slow
        self._servers = {"consumer": consumer, "provider": provider}
        dsp_url = provider.dsp_url
        request = negotiation_request(provider.participant_id, dsp_url, ASSET, offer)
        self._negotiation = as_json_ld(request)
        self._transfer_to = (provider.participant_id, dsp_url)
        self._http = httpx.AsyncClient(
            base_url=consumer.management_url, timeout=60, trust_env=False, limits=CONNECTIONS
        )

    async def __aenter__(self) -> EdcPair:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def negotiate(self) -> str:
        return await self._made("/v3/contractnegotiations", self._negotiation)

    async def agreement(self, negotiation_id: str) -> str:
        found = await self._look(f"/v3/contractnegotiations/{negotiation_id}")
        return str(found["contractAgreementId"]) if found["state"] == "FINALIZED" else ""

    async def transfer(self, agreement_id: str) -> str:
        body = as_json_ld(transfer_request(*self._transfer_to, agreement_id))
        return await self._made("/v3/transferprocesses", body)

    async def started(self, transfer_id: str) -> str:
        found = await self._look(f"/v3/transferprocesses/{transfer_id}")
        return transfer_id if found["state"] == "STARTED" else ""

    def resident_mb(self) -> Mapping[str, float]:
        return {role: resident_mb(server.pid) for role, server in self._servers.items()}

    async def _made(self, path: str, body: Mapping[str, Any]) -> str:
        answer = await self._http.post(path, json=body)
        return str(answer.raise_for_status().json()["@id"])

    async def _look(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self._http.get(path)).raise_for_status().json()
        if found["state"] == "TERMINATED":
            # tuned, EDC's consumer may verify before its provider has saved that it agreed: a 409, the end
            raise Failed(f"{path} ended: {found.get('errorDetail')}")
        return found


@contextmanager
def running(settings: Mapping[str, str], *, slow: bool = False) -> Iterator[Pair]:
    with ExitStack() as stack:
        provider = stack.enter_context(running_edc("provider", settings, JVM))
        consumer = stack.enter_context(running_edc("consumer", settings, JVM))
        plane = stack.enter_context(_data_plane())
        with managing(provider) as theirs, managing(consumer) as ours:
            theirs.register(plane)
            theirs.add_asset(ASSET)
            theirs.offer_all(POLICY)
            catalog = ours.catalog(provider.participant_id, provider.dsp_url)
        offer = catalog["dataset"][0]["hasPolicy"][0]
        yield EdcPair(consumer, provider, offer, slow=slow)


@contextmanager
def catalogue(size: int) -> Iterator[Catalogue]:
    """A provider with `size` assets, asked as a peer asks it."""
    with ExitStack() as stack:
        provider = stack.enter_context(running_edc("provider", {}, JVM))
        plane = stack.enter_context(_data_plane())
        with managing(provider) as theirs:
            _fill(theirs, plane, size)
        dsp_url = provider.dsp_url
        token = {"clientId": "consumer", "audience": dsp_url, "region": "eu"}
        headers = {"Authorization": json.dumps(token)}

        async def prove(_url: str, _refused: httpx.Response | None) -> Mapping[str, str]:
            return headers

        body = {"@context": [DSP_CONTEXT], "@type": "CatalogRequestMessage"}
        yield Catalogue(f"{dsp_url}/catalog/request", body, prove, pid=provider.pid)


def _fill(theirs: Edc, plane: DataPlane, size: int) -> None:
    theirs.register(plane)
    for number in range(size):
        theirs.add_asset(f"dataset-{number:05}")
    theirs.offer_all(POLICY)


@contextmanager
def _data_plane() -> Iterator[DataPlane]:
    """In a process of its own, so that it takes nothing from the load."""
    command = [sys.executable, "-m", "tests.interop.data_plane", ASSET]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield DataPlane(process.stdout.readline().strip(), {})
        finally:
            process.kill()
