"""Bad input over the DSP routes, case by case: a typed error, and nothing changes (Protocol, bad input)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from connector.dsp import messages as m
from connector.dsp.messages import BASE_PATH
from connector.model.negotiation import NegotiationState
from connector.model.transfer import TransferFormat, TransferState
from tests.pair import ConnectorPair, Side, connected, first_offer
from tests.spec.asgi_call import Answer, call
from tests.spec.samples import ADDRESS, AGREEMENT, MESSAGES, OFFER
from tests.spec.test_dsp_fuzz import callers, route_of, typed

JSON = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Party:
    """One side of the pair as its peer, or somebody else, sees it."""

    side: Side
    peer: str

    async def tell(
        self,
        route: str,
        document: Any,
        *,
        caller: str = "",
        headers: tuple[tuple[bytes, bytes], ...] = (JSON,),
    ) -> Answer:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return await call(
            self.side.app(callers),
            "POST",
            f"{BASE_PATH}/{route}".encode(),
            headers=[(b"authorization", (caller or self.peer).encode()), *headers],
            body=body,
        )

    async def refuses(self, route: str, document: Any, *statuses: int, **about: Any) -> dict[str, Any]:
        """A typed error of one of `statuses`, and a store that is as before."""
        before = self.side.store.state.copied()
        answer = await self.tell(route, document, **about)
        assert answer.status in (statuses or (400,)), answer
        typed(f"{BASE_PATH}/{route}", answer)
        assert self.side.store.state == before
        return dict(answer.document)


@dataclass(frozen=True, slots=True)
class Talk:
    """A pair in the middle of things: what the provider holds, and what the consumer."""

    pair: ConnectorPair

    @property
    def provider(self) -> Party:
        return Party(self.pair.provider, "city")

    @property
    def consumer(self) -> Party:
        return Party(self.pair.consumer, "kela")

    def pids(self, held: Any) -> dict[str, Any]:
        return {"provider_pid": held.provider_pid, "consumer_pid": held.consumer_pid}


@pytest.fixture
async def talk() -> Talk:
    """A negotiation in REQUESTED on both sides."""
    pair = connected()
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    return Talk(pair)


@pytest.fixture
async def transferring() -> Talk:
    """A transfer in STARTED on both sides."""
    pair = connected()
    await pair.started(await pair.negotiated())
    return Talk(pair)


def opening(side: Side, **changes: Any) -> dict[str, Any]:
    document = {
        "@context": [m.CONTEXT],
        "@type": "ContractRequestMessage",
        "consumerPid": "urn:new",
        "callbackAddress": "http://city.example/dsp/2025-1",
        "offer": {**first_offer(side), "target": "benefits"},
    }
    return {**document, **changes}


def at(kind: str, held: Any, step: str) -> str:
    return f"{kind}/{quote(held.pid, safe='')}/{step}"


# --- bodies -----------------------------------------------------------------------------------------------


def needed() -> Iterator[tuple[m.Message, str]]:
    """Every member that a message of ours needs, for the messages that a route takes."""
    needless = {"@id", "code", "reason", "filter", "dataAddress", "providerPid", "callbackAddress"}
    for message in MESSAGES:
        for member in message.document():
            if route_of(message) and member not in needless:
                yield message, member


@pytest.mark.parametrize(
    ("message", "member"), [pytest.param(a, b, id=f"{type(a).__name__}-{b}") for a, b in needed()]
)
async def test_a_message_that_breaks_the_schema(talk: Talk, message: m.Message, member: str) -> None:
    """Schema-invalid JSON: each needed member absent or of another type, at the route that takes it."""
    held = talk.pair.provider.only_negotiation
    route = route_of(message).format(quote(held.pid, safe=""))
    for instead in ("absent", None, 7, [], {}, "", [{"@id": "x"}]):
        document = {**message.document(), member: instead}
        if instead == "absent":
            del document[member]
        told = await talk.provider.refuses(route, document, 400, 404)
        assert told["code"] in ("message_invalid", "not_found")


LONG = b'{"x": "' + b"x" * 10_000_000 + b'"}'
HOSTILE: dict[str, tuple[bytes, str]] = {
    "10 MB": (LONG, "body_too_long"),
    "one byte too long": (b'{"x": "' + b"x" * (1_000_001 - 9) + b'"}', "body_too_long"),
    "deep objects": (b'{"a":' * 65 + b"1" + b"}" * 65, "message_invalid"),
    "deep arrays": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "message_invalid"),
    "deep and open": (b'{"a":' * 150_000, "message_invalid"),
    "gzip": (gzip.compress(b"{}"), "message_invalid"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "message_invalid"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "message_invalid"),
    "overlong UTF-8": (b'{"a": "\xc0\xaf"}', "message_invalid"),
    "surrogates in UTF-8": (b'{"a": "\xed\xa0\x80"}', "message_invalid"),
    "a lone surrogate": (b'{"a": "\\ud800"}', "message_invalid"),
    "a lone surrogate as a name": (b'{"\\udfff": 1}', "message_invalid"),
    "a control character": (b'{"a": "\x00"}', "message_invalid"),
    "a member twice": (b'{"offer": 1, "offer": 2}', "message_invalid"),
    "a member twice, one escaped": (b'{"offer": 1, "\\u006fffer": 2}', "message_invalid"),
    "a member twice, deep inside": (b'{"offer": {"@id": "a", "x": 1, "@id": "b"}}', "message_invalid"),
    "NaN": (b'{"a": NaN}', "message_invalid"),
    "Infinity": (b'{"a": -Infinity}', "message_invalid"),
    "a number too large": (b'{"a": 1e999}', "message_invalid"),
    "an integer too large": (b'{"a": 9007199254740993}', "message_invalid"),
    "an integer of a million digits": (b'{"a": ' + b"9" * 900_000 + b"}", "message_invalid"),
    "two documents": (b"{}{}", "message_invalid"),
    "a comment": (b'{"a": 1} // x', "message_invalid"),
    "a trailing comma": (b'{"a": 1,}', "message_invalid"),
    "single quotes": (b"{'a': 1}", "message_invalid"),
    "XML": (
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
        "message_invalid",
    ),
    "a form": (b"a=1&b=2", "message_invalid"),
    "null": (b"null", "message_invalid"),
    "a text": (b'"ContractRequestMessage"', "message_invalid"),
}
ROUTES = {
    "catalog": "catalog/request",
    "negotiation": "negotiations/request",
    "offer": "negotiations/offers",
    "transfer": "transfers/request",
    "known negotiation": "negotiations/{}/termination",
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(("body", "code"), HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_body(talk: Talk, route: str, body: bytes, code: str) -> None:
    """Too long, too deep, not I-JSON (RFC 7493): the same typed 400 on every route."""
    held = talk.pair.provider.only_negotiation
    told = await talk.provider.refuses(route.format(quote(held.pid, safe="")), body)
    assert told["code"] == code


async def test_a_body_is_read_no_further_than_its_limit(talk: Talk) -> None:
    """10 MB, chunked without a length and with a lying one: given up at 1 MB."""
    app = talk.pair.provider.app(callers)
    for headers in ([], [(b"content-length", b"10")], [(b"transfer-encoding", b"chunked")]):
        given = 0

        async def receive() -> Any:
            nonlocal given
            given += 100_000
            return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)  # noqa: B023 - awaited in this round

        path = f"{BASE_PATH}/negotiations/request"
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"authorization", b"city"), *headers],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == 400
        assert given <= 1_200_000


@pytest.mark.parametrize(
    "content_type",
    [b"text/xml", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"", b"\xff"],
)
async def test_a_message_is_known_by_its_bytes_not_by_its_type(talk: Talk, content_type: bytes) -> None:
    """A wrong content type neither helps bad bytes nor harms good ones, and no parser is chosen by it."""
    header = ((b"content-type", content_type),)
    await talk.provider.refuses("negotiations/request", b"--x\r\n\r\n", headers=header)
    answer = await talk.provider.tell("negotiations/request", opening(talk.pair.provider), headers=header)
    assert answer.status == 201


async def test_a_context_that_is_not_known_is_never_fetched(talk: Talk) -> None:
    """dsp.md 1.1: other context URLs are tolerated; nobody is called for them."""
    document = opening(talk.pair.provider)
    document["@context"] = [*document["@context"], "http://169.254.169.254/latest"]
    assert (await talk.provider.tell("negotiations/request", document)).status == 201
    document["@context"] = ["http://169.254.169.254/latest"]
    await talk.provider.refuses("negotiations/request", document)


# --- whose process, and which -----------------------------------------------------------------------------


async def test_pids_that_do_not_belong_together(talk: Talk) -> None:
    """Wrong pid: of nobody, of the other side, of another process of the same two."""
    pair = talk.pair
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    first, second = pair.provider.store.state.negotiations.values()
    wrong = [
        {"provider_pid": second.provider_pid, "consumer_pid": first.consumer_pid},
        {"provider_pid": first.provider_pid, "consumer_pid": second.consumer_pid},
        {"provider_pid": first.consumer_pid, "consumer_pid": first.provider_pid},
        {"provider_pid": "urn:x", "consumer_pid": first.consumer_pid},
        {"provider_pid": first.provider_pid, "consumer_pid": "urn:x"},
    ]
    for pids in wrong:
        end = m.ContractNegotiationTerminationMessage(**pids).document()
        await talk.provider.refuses(at("negotiations", first, "termination"), end)


async def test_a_process_of_somebody_else(talk: Talk, transferring: Talk) -> None:
    """Foreign pid: whatever the message, for a third party the process does not exist."""
    held = talk.pair.provider.only_negotiation
    pids = talk.pids(held)
    for message in (
        m.ContractRequestMessage(**pids, offer=OFFER),
        m.ContractNegotiationEventMessage(**pids, event_type=m.NegotiationEvent.ACCEPTED),
        m.ContractAgreementVerificationMessage(**pids),
        m.ContractNegotiationTerminationMessage(**pids),
    ):
        route = at("negotiations", held, message.STEP)
        told = await talk.provider.refuses(route, message.document(), 404, caller="youth")
        assert told["code"] == "not_found"
    transfer = transferring.pair.provider.only_transfer
    for message in (
        m.TransferStartMessage(**talk.pids(transfer)),
        m.TransferSuspensionMessage(**talk.pids(transfer)),
        m.TransferCompletionMessage(**talk.pids(transfer)),
        m.TransferTerminationMessage(**talk.pids(transfer)),
    ):
        route = at("transfers", transfer, message.STEP)
        await transferring.provider.refuses(route, message.document(), 404, caller="youth")


async def test_an_agreement_of_somebody_else_opens_no_transfer(transferring: Talk) -> None:
    """Foreign agreement: unknown to whoever is no party to it."""
    agreement = transferring.pair.provider.only_transfer.agreement_id
    message = m.TransferRequestMessage(
        consumer_pid="urn:new",
        agreement_id=agreement,
        format=TransferFormat.FEDERATED_QUERY_PULL.value,
        callback_address="http://youth.example/dsp/2025-1",
    )
    await transferring.provider.refuses("transfers/request", message.document(), 404, caller="youth")
    known = {**message.document(), "callbackAddress": "http://city.example/dsp/2025-1"}
    await transferring.provider.refuses("transfers/request", {**known, "agreementId": "urn:x"}, 404)
    await transferring.provider.refuses("transfers/request", {**known, "format": "FTP-PUSH"})


# --- out of turn ------------------------------------------------------------------------------------------


async def test_a_negotiation_message_of_the_wrong_role(talk: Talk) -> None:
    """What only the provider may say, said by the consumer, and the other way round."""
    provider, consumer = talk.pair.provider.only_negotiation, talk.pair.consumer.only_negotiation
    pids = talk.pids(provider)
    for message in (
        m.ContractOfferMessage(**pids, offer=OFFER),
        m.ContractAgreementMessage(**pids, agreement=AGREEMENT),
        m.ContractNegotiationEventMessage(**pids, event_type=m.NegotiationEvent.FINALIZED),
    ):
        await talk.provider.refuses(at("negotiations", provider, message.STEP), message.document())
    for message in (
        m.ContractRequestMessage(**pids, offer=OFFER),
        m.ContractAgreementVerificationMessage(**pids),
        m.ContractNegotiationEventMessage(**pids, event_type=m.NegotiationEvent.ACCEPTED),
    ):
        await talk.consumer.refuses(at("negotiations", consumer, message.STEP), message.document())


async def test_a_transfer_message_of_the_wrong_role() -> None:
    """A consumer cannot start what it only asked for, nor resume what the provider suspended."""
    pair = connected()
    agreement = await pair.negotiated()
    await pair.consumer.transfers.request(agreement, TransferFormat.FEDERATED_QUERY_PULL)
    await pair.consumer.worker.step(limit=9)
    talk, asked = Talk(pair), pair.provider.only_transfer
    start = m.TransferStartMessage(**talk.pids(asked), data_address=ADDRESS).document()
    await talk.provider.refuses(at("transfers", asked, "start"), start)
    await pair.settle()
    await pair.provider.transfers.suspend(asked.pid)
    await pair.settle()
    assert pair.provider.only_transfer.state is TransferState.SUSPENDED
    again = m.TransferStartMessage(id="urn:m:9", **talk.pids(asked)).document()
    await talk.provider.refuses(at("transfers", asked, "start"), again)


async def test_a_replayed_message_changes_nothing(talk: Talk) -> None:
    """Byte for byte the same again, also when the process has moved on: answered, without effect."""
    pair = talk.pair
    first = pair.consumer.sent[0]
    before = pair.provider.store.state.copied()
    assert (await talk.provider.tell("negotiations/request", first)).status == 200
    assert pair.provider.store.state == before
    await pair.settle()
    for side, party in ((pair.provider, talk.provider), (pair.consumer, talk.consumer)):
        held = side.only_negotiation
        assert held.state is NegotiationState.FINALIZED
        others = pair.consumer.sent if side is pair.provider else pair.provider.sent
        before = side.store.state.copied()
        for message in [s for s in others if str(s["@type"]).startswith("Contract")]:
            parsed = m.parse_any(json.loads(json.dumps(message)))
            route = "negotiations/request" if message == first else at("negotiations", held, parsed.STEP)  # type: ignore[attr-defined]
            assert (await party.tell(route, message)).status in (200, 400)
            assert side.store.state == before
        reworded = {**m.ContractNegotiationTerminationMessage(**talk.pids(held)).document(), "@id": "urn:m:1"}
        await party.refuses(at("negotiations", held, "termination"), reworded)


async def test_a_message_at_the_route_of_another(talk: Talk, transferring: Talk) -> None:
    """Each message at each route of its process but its own; negotiations' at transfers', and back."""
    held, transfer = talk.pair.provider.only_negotiation, transferring.pair.provider.only_transfer
    for message in MESSAGES:
        document = {**message.document(), "providerPid": held.provider_pid, "consumerPid": held.consumer_pid}
        for step in ("request", "offers", "agreement", "agreement/verification", "events", "termination"):
            if step != getattr(message, "STEP", "") or isinstance(message, m.TransferMessage):
                await talk.provider.refuses(at("negotiations", held, step), document)
        for step in ("start", "completion", "suspension", "termination"):
            if not isinstance(message, m.TransferMessage) or step != message.STEP:
                await transferring.provider.refuses(at("transfers", transfer, step), document)


# --- where to call back -----------------------------------------------------------------------------------

ELSEWHERE = (
    *("http://127.0.0.1/dsp/2025-1", "http://localhost/dsp", "http://[::1]/dsp", "http://10.0.0.1/dsp"),
    *("http://169.254.169.254/latest/meta-data", "http://192.168.0.1/", "http://[fe80::1]/", "http://0/"),
    *("http://2130706433/", "http://kela.example/dsp/2025-1", "http://evil.example/city.example/dsp"),
    *(
        "http://city.example.evil.example/dsp",
        "http://city.example@evil.example/",
        "http://u:p@city.example/",
    ),
    *("http://city.example:8080/dsp", "https://city.example/dsp", "HTTP://city.example/dsp"),
    *("http://CITY.example/dsp", "http://city.example./dsp", "http://city.exampleevil/dsp"),
    *("http://city.example\\@evil.example/", "http://city.example%2f@evil.example/", "//city.example/dsp"),
    *("http://city.example/..//evil", "http://city.example/./dsp", "http://city.example/%2e%2e/x"),
    *(
        "http://city.example/dsp?to=http://evil.example",
        "http://city.example/dsp#x",
        "http://city.example;x/",
    ),
    *("ftp://city.example/dsp", "file:///etc/passwd", "javascript:alert(1)", "city.example/dsp", "/dsp", "x"),
    *(
        "http://city.example/dsp\r\nX-A: b",
        "http://city.example/d sp",
        "http://city.example/\u202e",
        "http://",
    ),
    *(
        "http://city.example/dsp\x00",
        "http://cıty.example/dsp",
        "http://city。example/dsp",
        " http://city.example",
    ),
)


@pytest.mark.parametrize("address", ELSEWHERE)
async def test_a_callback_address_that_is_not_the_callers_own(talk: Talk, address: str) -> None:
    """SSRF: loopback, private, link-local and metadata addresses, other hosts, userinfo, other schemes, names
    that look alike. Only what lies below the base URL in the trust list is ever called."""
    told = await talk.provider.refuses(
        "negotiations/request", opening(talk.pair.provider, callbackAddress=address)
    )
    assert told["code"] in ("address_not_yours", "message_invalid")
    offered = {
        **m.ContractOfferMessage(provider_pid="urn:p", offer=OFFER, callback_address="x").document(),
        "callbackAddress": address,
    }
    await talk.provider.refuses("negotiations/offers", offered)


@pytest.mark.parametrize("address", ELSEWHERE)
async def test_a_transfer_that_points_elsewhere(transferring: Talk, address: str) -> None:
    """The same for a transfer's callback and for the data address of a push."""
    agreement = transferring.pair.provider.only_transfer.agreement_id
    own = "http://city.example/dsp/2025-1"
    push = m.TransferRequestMessage(
        consumer_pid="urn:new",
        agreement_id=agreement,
        format=TransferFormat.CLOUD_EVENTS_PUSH.value,
        callback_address=own,
        data_address=ADDRESS,
    ).document()
    fitting = {**push["dataAddress"], "endpoint": "http://city.example/events/v1"}
    for changes in (
        {"callbackAddress": address, "dataAddress": fitting},
        {"callbackAddress": own, "dataAddress": {**fitting, "endpoint": address}},
    ):
        await transferring.provider.refuses("transfers/request", {**push, **changes})


@pytest.mark.parametrize("tail", ["", "/", "//", "/dsp/2025-1", "/dsp/2025-1/"])
async def test_a_callback_address_of_the_callers_own(talk: Talk, tail: str) -> None:
    """dsp.md 1.12: with and without trailing slash; kept without."""
    document = opening(talk.pair.provider, callbackAddress=f"http://city.example{tail}")
    answer = await talk.provider.tell("negotiations/request", document)
    assert answer.status == 201
    held = talk.pair.provider.negotiation(answer.document["providerPid"])
    assert held.peer_address == f"http://city.example{tail}".rstrip("/")
