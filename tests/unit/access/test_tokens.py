"""The client's token cache, by a clock that a test turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from connector.access import dpop
from connector.access.tokens import PeerTokens
from connector.errors import PeerProtocolError, PeerRefused, PeerUnreachable
from connector.model.token import AuthorizationDetail
from connector.ports import PeerResponse
from tests.unit.access.world import World

DETAIL = AuthorizationDetail(
    agreement_id="agreement-1",
    dataset_id="benefits",
    actions=frozenset({"query"}),
    purpose="service-planning",
)


class Wire:
    """Carries token requests to the world's server; can be cut, slowed, or made to lose answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests = 0
        self.cut = False
        self.lose_answers = False
        self.answer: PeerResponse | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes, **limits: Any
    ) -> PeerResponse:
        self.requests += 1
        await self.gate.wait()
        if self.cut:
            raise PeerUnreachable("kela.example: no connection")
        assert (method, url) == ("POST", self.world.endpoint)
        status, answer_headers, body = await self.world.server.token(
            content, content_type=headers["Content-Type"], dpop_headers=[headers["DPoP"]]
        )
        if self.lose_answers:
            raise PeerUnreachable("kela.example: no answer in time")
        lower = {name.lower(): value for name, value in answer_headers.items()}
        answer = PeerResponse(status=status, headers=lower, body=json.dumps(body).encode())
        return self.answer or answer


class Client:
    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.wire = Wire(self.world)
        self.tokens = PeerTokens(
            keys=self.world.keys["city"],
            peer=self.wire,  # type: ignore[arg-type]  # it streams nothing
            clock=self.world.clock,
            new_id=self.world.new_id,
        )

    async def headers(self, detail: AuthorizationDetail | None = None, scope: str = "dsp") -> dict[str, str]:
        kela = self.world.kela
        if detail is not None:
            return await self.tokens.headers(
                kela, "POST", self.world.url, resource=kela.data_url, scope="data", detail=detail
            )
        resource = {"dsp": kela.dsp_url, "events": f"{kela.base_url}/events/v1"}[scope]
        return await self.tokens.headers(kela, "POST", self.world.url, resource=resource, scope=scope)


async def test_the_headers_prove_who_asks() -> None:
    """End to end in one process: what the client sends, the receiver's verifier takes."""
    client = Client()
    headers = await client.headers(DETAIL)
    claims = await client.world.verifier.verify(
        "POST",
        client.world.url,
        headers["Authorization"],
        headers["DPoP"],
        resource=client.world.kela.data_url,
        scope="data",
    )
    assert (claims.subject, claims.detail.purpose, claims.detail.grant_id) == (
        "city",
        "service-planning",
        "grant-1",
    )


async def test_one_token_serves_many_requests_each_with_its_own_proof() -> None:
    """RFC 9449 §4.2: the token is reused, a proof never."""
    client = Client()
    first, second = await client.headers(), await client.headers()
    assert client.wire.requests == 1
    assert first["Authorization"] == second["Authorization"]
    assert first["DPoP"] != second["DPoP"]


async def test_each_purpose_and_agreement_has_its_own_token() -> None:
    """One token = one issuer, resource, scope, agreement and purpose."""
    client = Client()
    others = [
        replace(DETAIL, agreement_id="agreement-2"),
        replace(DETAIL, purpose="outreach"),
    ]
    sent = [await client.headers(detail) for detail in (DETAIL, *others)]
    sent += [await client.headers(), await client.headers(scope="events")]
    assert len({headers["Authorization"] for headers in sent}) == client.wire.requests == 5


async def test_it_is_renewed_at_eighty_percent_of_its_life() -> None:
    client = Client()
    first = await client.headers()
    client.world.clock.advance(239)
    assert (await client.headers())["Authorization"] == first["Authorization"]
    client.world.clock.advance(1)
    assert (await client.headers())["Authorization"] != first["Authorization"]
    assert client.wire.requests == 2


async def test_one_request_in_flight_per_token() -> None:
    client = Client()
    client.wire.gate.clear()
    waiting = [asyncio.ensure_future(client.headers()) for _ in range(20)]
    await asyncio.sleep(0)
    client.wire.gate.set()
    sent = await asyncio.gather(*waiting)
    assert client.wire.requests == 1
    assert len({headers["Authorization"] for headers in sent}) == 1


async def test_the_old_token_serves_while_it_is_renewed() -> None:
    client = Client()
    old = await client.headers()
    client.world.clock.advance(250)
    client.wire.gate.clear()
    renewing = asyncio.ensure_future(client.headers())
    await asyncio.sleep(0)
    assert (await client.headers())["Authorization"] == old["Authorization"]
    client.wire.gate.set()
    assert (await renewing)["Authorization"] != old["Authorization"]


async def test_a_waiter_that_is_cancelled_takes_nobody_along() -> None:
    client = Client()
    client.wire.gate.clear()
    first, second = (asyncio.ensure_future(client.headers()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    client.wire.gate.set()
    assert "Authorization" in await second
    assert client.wire.requests == 1


async def test_a_lost_answer_locks_nobody_out() -> None:
    """The server has spent assertion and proof; the client never hears of its token, and just asks anew."""
    client = Client()
    client.wire.lose_answers = True
    with pytest.raises(PeerUnreachable) as caught:
        await client.headers()
    assert caught.value.participant == "kela"
    client.wire.lose_answers = False
    assert "Authorization" in await client.headers()


async def test_a_failed_renewal_leaves_the_old_token_in_use() -> None:
    """And is tried again after a pause, not by every request."""
    client = Client()
    old = await client.headers()
    client.wire.cut = True
    client.world.clock.advance(250)
    assert (await client.headers())["Authorization"] == old["Authorization"]
    assert (await client.headers())["Authorization"] == old["Authorization"]
    assert client.wire.requests == 2
    client.world.clock.advance(5)
    await client.headers()
    assert client.wire.requests == 3
    client.world.clock.advance(45)  # 300 s: the old one is no good any more
    with pytest.raises(PeerUnreachable):
        await client.headers()
    client.wire.cut = False
    assert (await client.headers())["Authorization"] != old["Authorization"]


async def test_forgotten_after_a_401() -> None:
    client = Client()
    first = await client.headers()
    refusal = PeerResponse(status=401, headers={}, body=b"")
    client.tokens.refused(client.world.kela, refusal, resource=client.world.kela.dsp_url, scope="dsp")
    assert (await client.headers())["Authorization"] != first["Authorization"]


async def test_a_refusal_carries_the_reasons_for_people() -> None:
    client = Client()
    client.world.grant_changes = {"expires_at": client.world.clock.now()}
    with pytest.raises(PeerRefused) as caught:
        await client.headers(DETAIL)
    assert (caught.value.participant, caught.value.status) == ("kela", 400)
    assert [(r.code, r.text) for r in caught.value.reasons] == [("grant_expired", "The grant has expired.")]
    assert "invalid_authorization_details" in str(caught.value)


GOOD = {"access_token": "a.b.c", "token_type": "DPoP", "expires_in": 300}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b"", PeerUnreachable),
        (503, b'{"error":"temporarily_unavailable"}', PeerUnreachable),
        (200, b"<html>", PeerProtocolError),
        (200, b"[]", PeerProtocolError),
        (200, json.dumps({**GOOD, "token_type": "Bearer"}).encode(), PeerProtocolError),
        (200, json.dumps({**GOOD, "access_token": "a\r\nX: y"}).encode(), PeerProtocolError),
        (200, json.dumps({**GOOD, "access_token": None}).encode(), PeerProtocolError),
        (200, json.dumps({**GOOD, "expires_in": 0}).encode(), PeerProtocolError),
        (200, json.dumps({**GOOD, "expires_in": True}).encode(), PeerProtocolError),
        (200, json.dumps({**GOOD, "expires_in": "300"}).encode(), PeerProtocolError),
        (302, b"{}", PeerRefused),
        (400, b'{"error":"<script>","reasons":"x"}', PeerRefused),
        (400, b'{"error":"invalid_client","reasons":[7,{"text":["x"]}]}', PeerRefused),
    ],
)
async def test_a_server_that_talks_nonsense(status: int, body: bytes, error: type[Exception]) -> None:
    """The peer's fault is told from ours, the participant is named, its text is not passed on."""
    client = Client()
    client.wire.answer = PeerResponse(status=status, headers={}, body=body)
    with pytest.raises(error) as caught:
        await client.headers()
    assert caught.value.participant == "kela"
    assert "<" not in str(caught.value)


async def test_closing_gives_up_what_is_in_flight() -> None:
    client = Client()
    client.wire.gate.clear()
    waiting = asyncio.ensure_future(client.headers())
    await asyncio.sleep(0)
    await client.tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_proof_of_ours_is_what_the_checker_wants() -> None:
    """RFC 9449 §4.2: method in capitals, URL without its query."""
    world = World()
    proof = dpop.make_proof(
        world.keys["city"], method="post", url=world.endpoint + "?x=1", at=world.clock.now(), proof_id="p"
    )
    checked = dpop.check_proof(proof, method="POST", url=world.endpoint, now=world.clock.now())
    assert (checked.proof_id, checked.thumbprint) == ("p", world.keys["city"].thumbprint())
