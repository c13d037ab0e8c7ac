"""EDC's management API (v3, which all its releases up to 0.18 have), as far as the tests need it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from tests.interop.data_plane import TRANSFER_TYPE, DataPlane
from tests.parts.edc import EdcServer

VOCAB = {"@vocab": "https://w3id.org/edc/v0.0.1/ns/"}
ODRL = "http://www.w3.org/ns/odrl.jsonld"
PROTOCOL = "dataspace-protocol-http:2025-1"
WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.05


class Edc:
    """One EDC, driven as its operator does."""

    def __init__(self, server: EdcServer, client: httpx.Client) -> None:
        self.server = server
        self._http = client

    @property
    def id(self) -> str:
        return self.server.participant_id

    # --- as provider ------------------------------------------------------------------------------------

    def register(self, plane: DataPlane) -> None:
        """Without a data plane that serves the transfer type, EDC's catalogue has no distributions."""
        body = {
            "@context": VOCAB,
            "@type": "DataPlaneInstance",
            "@id": "data-plane",
            "url": plane.signaling_url,
            "allowedSourceTypes": ["HttpData"],
            "allowedDestTypes": ["HttpData"],
            "allowedTransferTypes": [TRANSFER_TYPE],
        }
        _checked(self._http.post(f"{self.server.control_url}/v1/dataplanes", json=body))
        _until(lambda: self._plane_is_available(), "EDC did not reach its data plane")

    def add_asset(self, asset: str) -> None:
        """Its bytes are at the data plane, by its id; EDC wants an address of its own for it all the same."""
        address = {"type": "HttpData", "baseUrl": "http://unused.example"}
        self._post("/v3/assets", {"@id": asset, "properties": {"name": asset}, "dataAddress": address})

    def offer_all(self, policy: Mapping[str, Any]) -> None:
        """A contract definition that offers every asset to everybody under `policy`."""
        self._define("all", policy, [])

    def offer(self, asset: str, policy: Mapping[str, Any]) -> None:
        """An asset, and a contract definition that offers it to everybody under `policy`."""
        self.add_asset(asset)
        selector = {"operandLeft": f"{VOCAB['@vocab']}id", "operator": "=", "operandRight": asset}
        self._define(asset, policy, [selector])

    def _define(self, name: str, policy: Mapping[str, Any], selector: Sequence[Mapping[str, str]]) -> None:
        self._post("/v3/policydefinitions", {"@id": f"{name}-policy", "policy": dict(policy)})
        self._post(
            "/v3/contractdefinitions",
            {
                "@id": f"{name}-definition",
                "accessPolicyId": f"{name}-policy",
                "contractPolicyId": f"{name}-policy",
                "assetsSelector": selector,
            },
        )

    # --- as consumer ------------------------------------------------------------------------------------

    def catalog(self, provider: str, dsp_url: str) -> Any:
        return self._post(
            "/v3/catalog/request",
            {"counterPartyId": provider, "counterPartyAddress": dsp_url, "protocol": PROTOCOL},
        )

    def negotiate(self, provider: str, dsp_url: str, dataset: str, offer: Mapping[str, Any]) -> str:
        """Ask for `offer` as the catalogue shows it; returns the negotiation's id."""
        body = negotiation_request(provider, dsp_url, dataset, offer)
        return str(self._post("/v3/contractnegotiations", body)["@id"])

    def negotiation(self, negotiation_id: str, *states: str) -> Mapping[str, Any]:
        """As it is once it has one of `states`."""
        return self._settled(f"/v3/contractnegotiations/{negotiation_id}", states)

    def agreement_of(self, negotiation_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._get(f"/v3/contractnegotiations/{negotiation_id}/agreement")
        return found

    def transfer(self, provider: str, dsp_url: str, agreement: str, *, told_at: str = "") -> str:
        """Ask for the data; `told_at`: where EDC is to send its events, the data address among them."""
        body = transfer_request(provider, dsp_url, agreement, told_at=told_at)
        return str(self._post("/v3/transferprocesses", body)["@id"])

    def transfer_process(self, transfer_id: str, *states: str) -> Mapping[str, Any]:
        return self._settled(f"/v3/transferprocesses/{transfer_id}", states)

    def ended(self, transfer_id: str) -> None:
        """A provider's EDC goes on from TERMINATED and COMPLETED at once, and forgets which it was."""
        self.transfer_process(transfer_id, "TERMINATED", "COMPLETED", "DEPROVISIONED")

    # --- either -----------------------------------------------------------------------------------------

    def transfers(self) -> Sequence[Mapping[str, Any]]:
        return list(self._post("/v3/transferprocesses/request", {"@type": "QuerySpec"}))

    def negotiations(self) -> Sequence[Mapping[str, Any]]:
        return list(self._post("/v3/contractnegotiations/request", {"@type": "QuerySpec"}))

    def suspend(self, transfer_id: str) -> None:
        self._post(
            f"/v3/transferprocesses/{transfer_id}/suspend", {"@type": "SuspendTransfer", "reason": "held"}
        )

    def resume(self, transfer_id: str) -> None:
        self._post(f"/v3/transferprocesses/{transfer_id}/resume", {})

    def terminate(self, transfer_id: str) -> None:
        self._post(
            f"/v3/transferprocesses/{transfer_id}/terminate", {"@type": "TerminateTransfer", "reason": "over"}
        )

    def terminate_negotiation(self, negotiation_id: str, reason: str) -> None:
        self._post(
            f"/v3/contractnegotiations/{negotiation_id}/terminate",
            {"@type": "TerminateNegotiation", "@id": negotiation_id, "reason": reason},
        )

    # --- underneath -------------------------------------------------------------------------------------

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = _checked(self._http.post(self.server.management_url + path, json=as_json_ld(body)))
        return answer.json() if answer.content else None

    def _get(self, path: str) -> Any:
        return _checked(self._http.get(self.server.management_url + path)).json()

    def _settled(self, path: str, states: Sequence[str]) -> Mapping[str, Any]:
        seen: dict[str, Any] = {}

        def there() -> bool:
            seen.update(self._get(path))
            return not states or seen["state"] in states

        _until(there, f"not {' or '.join(states)}", seen)
        return seen

    def _plane_is_available(self) -> bool:
        found = self._get("/v3/dataplanes")
        return any(plane.get("state") == "AVAILABLE" for plane in found)


def as_json_ld(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"@context": VOCAB, **body}


def negotiation_request(
    provider: str, dsp_url: str, dataset: str, offer: Mapping[str, Any]
) -> Mapping[str, Any]:
    policy = {
        **offer,
        "@context": ODRL,
        "@type": "Offer",
        "assigner": {"@id": provider},
        "target": {"@id": dataset},
    }
    return {
        "@type": "ContractRequest",
        "counterPartyAddress": dsp_url,
        "protocol": PROTOCOL,
        "policy": policy,
    }


def transfer_request(provider: str, dsp_url: str, agreement: str, *, told_at: str = "") -> Mapping[str, Any]:
    events = {"transactional": False, "uri": told_at, "events": ["transfer.process"]}
    return {
        "@type": "TransferRequest",
        "counterPartyAddress": dsp_url,
        "connectorId": provider,
        "contractId": agreement,
        "protocol": PROTOCOL,
        "transferType": TRANSFER_TYPE,
        "callbackAddresses": [events] if told_at else [],
    }


@contextmanager
def managing(server: EdcServer) -> Iterator[Edc]:
    with httpx.Client(timeout=WAIT_SECONDS, trust_env=False) as client:
        yield Edc(server, client)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise AssertionError(f"EDC answered {answer.status_code}: {answer.text[:2000]}")
    return answer


def _until(there: Any, otherwise: str, seen: Mapping[str, Any] | None = None) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise AssertionError(f"{otherwise}: {dict(seen or {})}")
        time.sleep(LOOK_SECONDS)
