"""Our connector as the consumer of EDC: catalogue, negotiation, transfer, and the bytes at the end of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from connector.local_api import ApiProblem
from tests.interop.conftest import ASSET, ASSET_BYTES
from tests.interop.data_plane import EDC as NAMESPACE
from tests.interop.data_plane import DataPlane
from tests.interop.management import Edc
from tests.interop.ours import PURPOSE, Ours, until

pytestmark = pytest.mark.slow

ATTEMPTS = 3
AGREED_TWICE = "ContractAgreementMessage from the provider is not allowed in state AGREED"


def offered(edc: Edc, ours: Ours) -> dict[str, Any]:
    """EDC's asset in its catalogue, as our people see it."""
    (provider,) = ours.api.get("/v1/catalog", participant=edc.id)["participants"]
    return next(dataset for dataset in provider["datasets"] if dataset["id"] == ASSET)


def asked(edc: Edc, ours: Ours) -> str:
    """EDC gives its offers new ids at each look, so the offer is named by all that the catalogue shows."""
    body = {"provider": edc.id, "dataset": ASSET, "offer": offered(edc, ours)["offers"][0]}
    return str(ours.api.post("/v1/negotiations", body)["pid"])


def agreed(edc: Edc, ours: Ours) -> str:
    """The id of an agreement that both hold as final.

    Now and then EDC's state machine sends two agreements, milliseconds apart and with different ids, before
    it has heard our answer to the first. The second is refused (DSP §6.1), EDC ends the negotiation, and one
    asks again.
    """
    for _ in range(ATTEMPTS):
        found = ours.settled(f"/v1/negotiations/{asked(edc, ours)}", "FINALIZED", "TERMINATED")
        if found["state"] == "FINALIZED":
            edc.negotiation(found["peerPid"], "FINALIZED")
            return str(found["agreement"])
        assert AGREED_TWICE in found["reasons"][0], found["reasons"]
    raise AssertionError("EDC agreed twice, time and again")


def started(edc: Edc, ours: Ours) -> tuple[str, str]:
    """The ids, here and there, of a transfer that both hold as started."""
    body = {"agreement": agreed(edc, ours), "format": "HttpData-PULL"}
    pid = ours.api.post("/v1/transfers", body)["pid"]
    found = ours.settled(f"/v1/transfers/{pid}", "STARTED", "TERMINATED")
    assert found["state"] == "STARTED", found["reasons"]
    edc.transfer_process(found["peerPid"], "STARTED")
    return str(pid), str(found["peerPid"])


def token_of(ours: Ours, pid: str) -> str:
    properties = ours.api.get(f"/v1/transfers/{pid}/data-address")["properties"]
    return str(properties[f"{NAMESPACE}authorization"])


def read(ours: Ours, pid: str) -> httpx.Response:
    """The data of a transfer, through our own connector, as one of our people asks for it."""
    headers = {"Authorization": f"Bearer {ours.api.token()}"}
    url = f"{ours.base_url}/v1/transfers/{pid}/data"
    return httpx.get(url, params={"purpose": PURPOSE}, headers=headers, trust_env=False)


def test_we_read_edcs_catalogue(edc: Edc, ours: Ours) -> None:
    """DSP §5: EDC's own properties and second context do not disturb us; its offer ids come as they are."""
    dataset = offered(edc, ours)
    assert "HttpData-PULL" in dataset["formats"]
    assert dataset["offers"][0]["id"].count(":") == 2  # EDC finds definition and asset again in it


def test_our_crawler_indexes_edcs_catalogue(edc: Edc, ours: Ours) -> None:
    """Crawler: another implementation's catalogue, its own spellings and paging, is searched like ours."""
    ours.api.post("/v1/catalog/refresh", {"participant": edc.id})
    search = {"q": ASSET[:5], "participant": edc.id}
    (hit,) = until(lambda: ours.api.get("/v1/catalog/search", **search)["datasets"], "EDC is not indexed")
    assert (hit["participant"], hit["id"], hit["offers"][0]["actions"]) == (edc.id, ASSET, ["use"])
    (source,) = ours.api.get("/v1/catalog/search", **search)["participants"]
    assert (source["error"], source["rejected"], source["truncated"]) == (None, 0, None)


def test_we_read_bytes_under_an_agreement_with_edc(edc: Edc, ours: Ours) -> None:
    """DSP §6 to §8: negotiated, started, and the bytes of EDC's data plane arrive whole."""
    pid, _ = started(edc, ours)
    answer = read(ours, pid)
    assert answer.status_code == 200
    assert answer.content == ASSET_BYTES


def test_both_hold_one_agreement(edc: Edc, ours: Ours) -> None:
    """DSP §6: the same rules and parties; what EDC signed is kept as it came."""
    document = ours.api.get(f"/v1/agreements/{agreed(edc, ours)}")["document"]
    assert (document["assigner"], document["assignee"], document["target"]) == (edc.id, "helsinki", ASSET)
    assert document["permission"] == [{"action": "use"}]


def test_the_token_is_shown_to_nobody_but_an_operator(edc: Edc, ours: Ours) -> None:
    """Security: EDC's token stands in no other answer of ours."""
    pid, _ = started(edc, ours)
    token = token_of(ours, pid)
    assert token not in str(ours.api.get(f"/v1/transfers/{pid}"))


def test_edc_suspends_and_resumes_with_a_new_token(edc: Edc, ours: Ours, data_plane: DataPlane) -> None:
    """DSP §8: the provider's suspension; reading is refused meanwhile, and goes on with the new token."""
    pid, theirs = started(edc, ours)
    first = token_of(ours, pid)
    edc.suspend(theirs)
    ours.settled(f"/v1/transfers/{pid}", "SUSPENDED")
    assert read(ours, pid).status_code >= 400
    edc.resume(theirs)
    ours.settled(f"/v1/transfers/{pid}", "STARTED")
    until(lambda: token_of(ours, pid) != first, "the new token has not come")
    assert read(ours, pid).content == ASSET_BYTES


@pytest.mark.parametrize(("step", "state"), [("terminate", "TERMINATED"), ("complete", "COMPLETED")])
def test_we_end_the_transfer(edc: Edc, ours: Ours, data_plane: DataPlane, step: str, state: str) -> None:
    """DSP §8: EDC closes its data plane, so its token is worth nothing any more; ours keeps none."""
    pid, theirs = started(edc, ours)
    token = token_of(ours, pid)
    body = {"reason": "We have what we need."} if step == "terminate" else None
    ours.api.post(f"/v1/transfers/{pid}/{step}", body)
    edc.ended(theirs)
    ours.settled(f"/v1/transfers/{pid}", state)
    assert read(ours, pid).status_code >= 400
    with pytest.raises(ApiProblem):
        ours.api.get(f"/v1/transfers/{pid}/data-address")
    if step == "terminate":
        until(lambda: theirs not in data_plane.tokens, "EDC has not told its data plane")
        headers = {"Authorization": f"Bearer {token}"}
        endpoint = f"{data_plane.base_url}/data/{theirs}"
        assert httpx.get(endpoint, headers=headers, trust_env=False).status_code == 403


def test_edc_refuses_an_offer_of_yesterday(edc: Edc, ours: Ours) -> None:
    """DSP §6: EDC answers an offer that it does not know with a 4xx; ours ends and says why."""
    peers = ours.services.peers
    stale = {"@id": "eW9uZGVy:eWVzdGVyZGF5:bm90aGluZw==", "@type": "Offer", "permission": [{"action": "use"}]}
    negotiations = ours.services.negotiations
    made = ours.do(negotiations.request(peers.participant(edc.id), ASSET, stale, by="interop"))
    ended = ours.settled(f"/v1/negotiations/{made.pid}", "TERMINATED")
    assert edc.id in ended["reasons"][0]
    assert ended["agreement"] == ""


def test_edc_cannot_serve_the_format(edc: Edc, ours: Ours) -> None:
    """DSP §8: EDC ends a transfer in a format of which it has no data plane; ours ends with it."""
    body = {"agreement": agreed(edc, ours), "format": "FederatedQuery-PULL"}
    pid = ours.api.post("/v1/transfers", body)["pid"]
    ended = ours.settled(f"/v1/transfers/{pid}", "TERMINATED")
    assert ended["reasons"]


def test_an_agreement_that_we_end_ends_edcs_transfer(edc: Edc, ours: Ours) -> None:
    """An agreement that we end as consumer: EDC's transfer under it ends as well."""
    pid, theirs = started(edc, ours)
    agreement = ours.api.get(f"/v1/transfers/{pid}")["agreement"]
    ours.api.post(f"/v1/agreements/{agreement}/terminate", {"reason": "The project is over."})
    edc.ended(theirs)
    assert read(ours, pid).status_code >= 400
