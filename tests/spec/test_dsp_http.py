"""The HTTPS binding: paths, status codes, typed errors, limits (dsp.md 1.3 to 1.13; Protocol, bad input)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from connector.dsp import messages as m
from connector.dsp.catalog import parse_catalog, parse_dataset
from connector.errors import NotAuthenticated, Unavailable
from connector.model.negotiation import NegotiationState
from connector.model.participant import Participant
from tests.clocks import ManualClock
from tests.pair import Side, dataset, first_offer, participant
from tests.spec import schemas

BASE = "/dsp/2025-1"


def callers(name: str) -> Participant:
    if not name:
        raise NotAuthenticated("The token is missing or not valid.")
    return participant(name)


def client_of(side: Side, caller: str = "city") -> httpx.AsyncClient:
    # what the routes raise must have become an answer
    transport = httpx.ASGITransport(app=side.app(callers), raise_app_exceptions=True)
    headers = {"authorization": caller} if caller else {}
    return httpx.AsyncClient(transport=transport, base_url="http://kela.example", headers=headers)


@pytest.fixture
def side() -> Side:
    return Side("kela", ManualClock(), datasets={"benefits": dataset()})


@pytest.fixture
async def http(side: Side) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(side) as client:
        yield client


def request_message(side: Side, **changes: Any) -> dict[str, Any]:
    document = {
        "@context": [m.CONTEXT],
        "@type": "ContractRequestMessage",
        "@id": "urn:m:1",
        "consumerPid": "urn:c",
        "callbackAddress": "http://city.example/dsp/2025-1/",
        "offer": {**first_offer(side), "target": "benefits"},
    }
    return {**document, **changes}


def assert_typed(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["@type"] == kind
    if schemas.FOLDER.is_dir():
        assert schemas.errors(kind, body) == []
    return body


async def test_the_version_document_is_open_to_everybody(side: Side) -> None:
    """MET:01-01; dsp.md 1.3: unauthenticated, unversioned, path below the root."""
    async with client_of(side, caller="") as http:
        for path in ("/.well-known/dspace-version", "/.well-known/dspace-version/"):
            answer = await http.get(path)
            assert answer.status_code == 200
            (entry,) = answer.json()["protocolVersions"]
            assert (entry["version"], entry["path"], entry["binding"]) == ("2025-1", BASE, "HTTPS")
            assert "@context" not in answer.json()


async def test_the_catalogue(http: httpx.AsyncClient, side: Side) -> None:
    """CAT:01-01, CAT:01-02, CAT:01-03."""
    asked = m.CatalogRequestMessage().document()
    answer = await http.post(f"{BASE}/catalog/request", json=asked)
    assert answer.status_code == 200
    assert [d.id for d in parse_catalog(answer.json()).datasets] == ["benefits"]
    one = await http.get(f"{BASE}/catalog/datasets/benefits")
    assert parse_dataset(one.json()).id == "benefits"
    assert_typed(await http.get(f"{BASE}/catalog/datasets/CAT0103"), 404, "CatalogError")
    side.visible = False
    hidden = await http.get(f"{BASE}/catalog/datasets/benefits")
    assert hidden.json() == (await http.get(f"{BASE}/catalog/datasets/nothing")).json()
    assert "dataset" not in (await http.post(f"{BASE}/catalog/request", json=asked)).json()


async def test_a_filter_that_is_not_supported_is_refused(http: httpx.AsyncClient) -> None:
    """dsp.md 1.4: 400; an empty filter is none."""
    for filter_, status in (([], 200), ([{"any": 1}], 400)):
        asked = {**m.CatalogRequestMessage().document(), "filter": filter_}
        answer = await http.post(f"{BASE}/catalog/request", json=asked)
        assert answer.status_code == status
    assert_typed(answer, 400, "CatalogError")


async def test_creating_is_201_and_repeating_200(http: httpx.AsyncClient, side: Side) -> None:
    """dsp.md 1.13, 1.14; slashes at the end are accepted on every route, without a redirect."""
    first = await http.post(f"{BASE}/negotiations/request/", json=request_message(side))
    again = await http.post(f"{BASE}/negotiations/request", json=request_message(side))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    pid = first.json()["providerPid"]
    held = side.only_negotiation
    assert held.peer_address == "http://city.example/dsp/2025-1", "kept without the slash"
    for path in (f"{BASE}/negotiations/{pid}", f"{BASE}/negotiations/{pid}/"):
        state = await http.get(path)
        assert (state.status_code, state.json()["state"]) == (200, "REQUESTED")
    end = m.ContractNegotiationTerminationMessage(provider_pid=pid, consumer_pid="urn:c").document()
    done = await http.post(f"{BASE}/negotiations/{pid}/termination/", json=end)
    assert (done.status_code, done.json()["state"]) == (200, "TERMINATED")


async def test_a_process_of_others_is_unknown(http: httpx.AsyncClient, side: Side) -> None:
    """dsp.md 1.2: 404 with the typed error, the same for a foreign process as for none."""
    pid = (await http.post(f"{BASE}/negotiations/request", json=request_message(side))).json()["providerPid"]
    async with client_of(side, "youth") as stranger:
        foreign = await stranger.get(f"{BASE}/negotiations/{pid}")
        body = assert_typed(foreign, 404, "ContractNegotiationError")
        none = assert_typed(await stranger.get(f"{BASE}/negotiations/urn:x"), 404, "ContractNegotiationError")
        assert {k: v for k, v in body.items() if "Pid" not in k} == {
            k: v for k, v in none.items() if "Pid" not in k
        }
        assert_typed(await stranger.get(f"{BASE}/transfers/urn:x"), 404, "TransferError")


async def test_who_asks_must_be_proved_before_anything_is_read(side: Side) -> None:
    """No token: 401 whatever the path and the body, so that nothing is learned."""
    async with client_of(side, caller="") as http:
        answers = [
            await http.post(f"{BASE}/catalog/request", content=b"{"),
            await http.post(f"{BASE}/negotiations/request", json=request_message(side)),
            await http.get(f"{BASE}/negotiations/urn:x"),
            await http.post(f"{BASE}/transfers/urn:x/start", content=b"[" * 100),
        ]
    for answer, kind in zip(
        answers,
        ("CatalogError", "ContractNegotiationError", "ContractNegotiationError", "TransferError"),
        strict=True,
    ):
        assert_typed(answer, 401, kind)
        assert answer.headers["www-authenticate"].startswith("DPoP ")
    assert side.store.state.negotiations == {}


BAD: dict[str, bytes] = {
    "no JSON": b"}{",
    "no object": b"[]",
    "no UTF-8": b"\xff\xff",
    "nothing": b"",
    "deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "very deep": b"[" * 500_000,
    "a name twice": b'{"@type":"a","@type":"b"}',
    "too long": b'{"a":"' + b"x" * 1_000_000 + b'"}',
    "wrong type": b'{"@type":"CatalogRequestMessage"}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("negotiations/request", "ContractNegotiationError"),
        ("negotiations/urn:x/termination", "ContractNegotiationError"),
        ("transfers/request", "TransferError"),
    ],
)
async def test_bad_bodies_are_400_with_the_typed_error(
    http: httpx.AsyncClient, side: Side, path: str, kind: str, body: bytes
) -> None:
    """dsp.md 7.8: 400 typed error, never 404, 422 or 500; nothing changes."""
    error = assert_typed(await http.post(f"{BASE}/{path}", content=body), 400, kind)
    assert error["providerPid"]
    assert side.store.state.negotiations == {}


async def test_an_error_names_the_pids_and_the_path_of_what_is_wrong(
    http: httpx.AsyncClient, side: Side
) -> None:
    """dsp.md 1.8: both pids are there; where one is not known, some string."""
    broken = request_message(side, offer={"@type": "Offer", "@id": "o"})
    error = assert_typed(
        await http.post(f"{BASE}/negotiations/request", json=broken), 400, "ContractNegotiationError"
    )
    assert (error["consumerPid"], error["providerPid"]) == ("urn:c", "unknown")
    assert error["code"] == "message_invalid"
    assert error["reason"][0].startswith("offer.permission: is required")


async def test_message_and_route_must_fit(http: httpx.AsyncClient, side: Side) -> None:
    """A termination sent to the events route is a malformed message."""
    pid = (await http.post(f"{BASE}/negotiations/request", json=request_message(side))).json()["providerPid"]
    end = m.ContractNegotiationTerminationMessage(provider_pid=pid, consumer_pid="urn:c").document()
    answer = await http.post(f"{BASE}/negotiations/{pid}/events", json=end)
    assert_typed(answer, 400, "ContractNegotiationError")
    assert side.only_negotiation.state is NegotiationState.REQUESTED


class _Unforeseen(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "status"), [(_Unforeseen("pin 121212-121X"), 500), (Unavailable("no db"), 503)]
)
async def test_our_own_failures_say_nothing_of_the_inside(
    http: httpx.AsyncClient, side: Side, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """5xx is worth a retry to the peer; the text of an unforeseen error stays out of answer and log."""

    def broken(**_: Any) -> Any:
        raise error

    side.store.transaction = broken  # type: ignore[method-assign]
    answer = await http.get(f"{BASE}/negotiations/urn:x")
    assert_typed(answer, status, "ContractNegotiationError")
    assert "121212" not in answer.text + caplog.text
    assert (answer.headers.get("retry-after") == "1") is (status == 503)
