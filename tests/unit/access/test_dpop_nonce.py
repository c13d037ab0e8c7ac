"""RFC 9449 §8 and 9: proofs carry the server's nonce, and honest clients learn it by themselves."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from connector.access.dpop_nonce import WINDOW_SECONDS, Nonces, NonceWanted
from connector.access.rfc6749 import Answer
from connector.errors import DpopNonceWanted, PeerRefused, TokenRejected
from connector.ports import PeerResponse
from tests.unit.access.test_tokens import Client
from tests.unit.access.world import FORM, ManualClock, World


async def test_the_token_endpoint_asks_for_a_nonce() -> None:
    """RFC 9449 §8: 400 use_dpop_nonce with the nonce in a header; nothing goes on record yet."""
    world = World(nonces=True)
    status, headers, answer = await _ask(world, world.proof())
    assert (status, answer["error"]) == (400, "use_dpop_nonce")
    assert not world.audited
    proof = world.proof(nonce=headers["DPoP-Nonce"])
    status, _, answer = await _ask(world, proof)
    assert status == 200


async def _ask(world: World, proof: str) -> Answer:
    body = urlencode(world.form()).encode()
    return await world.server.token(body, content_type=FORM, dpop_headers=[proof])


@pytest.mark.parametrize("nonce", ["", "x", "ä", 7, None])
async def test_a_wrong_nonce_is_told_the_right_one(nonce: object) -> None:
    """RFC 9449 §9, at the resource."""
    world = World(nonces=True)
    token = world.minted()
    with pytest.raises(DpopNonceWanted) as wanted:
        await _use(world, token, nonce=nonce)
    await _use(world, token, nonce=wanted.value.nonce)


async def test_nothing_is_told_to_who_has_no_token() -> None:
    """A nonce is for those whose proof is good: the other faults come first and read alike."""
    world = World(nonces=True)
    with pytest.raises(TokenRejected):
        await _use(world, world.minted(exp=world.now - 60))


async def _use(world: World, token: str, **changes: object) -> None:
    await world.verifier.verify(
        "POST",
        world.url,
        f"DPoP {token}",
        world.use_proof(token, **changes),
        resource=world.kela.dsp_url,
        scope="dsp",
    )


def test_a_nonce_lives_for_its_window_and_the_next() -> None:
    """Stateless: by time and key alone, so any replica takes it."""
    clock = ManualClock()
    ours, replica, other = Nonces(b"k" * 32, clock), Nonces(b"k" * 32, clock), Nonces(b"o" * 32, clock)
    nonce = ours.current()
    replica.require(nonce)
    with pytest.raises(NonceWanted):
        other.require(nonce)
    clock.advance(WINDOW_SECONDS)
    replica.require(nonce)
    clock.advance(WINDOW_SECONDS)
    with pytest.raises(NonceWanted) as wanted:
        replica.require(nonce)
    assert wanted.value.nonce != nonce


async def test_clients_learn_the_nonce_and_keep_their_token() -> None:
    """The client side: one more request the first time, none after; the token stays."""
    client = Client(World(nonces=True))
    headers = await client.headers()
    assert client.wire.requests == 2
    kela = client.world.kela
    answer = PeerResponse(
        status=401,
        headers={"www-authenticate": 'DPoP error="use_dpop_nonce"', "dpop-nonce": "fresh"},
        body=b"",
    )
    client.tokens.refused(kela, answer, resource=kela.dsp_url, scope="dsp")
    assert (await client.headers())["Authorization"] == headers["Authorization"]
    assert client.wire.requests == 2


async def test_a_server_that_asks_for_ever_is_given_up() -> None:
    """One more try, not more."""
    client = Client(World(nonces=True))
    client.wire.answer = PeerResponse(
        status=400, headers={"dpop-nonce": "again"}, body=b'{"error":"use_dpop_nonce"}'
    )
    with pytest.raises(PeerRefused):
        await client.headers()
    assert client.wire.requests == 2
