"""What a verified request states, and the limits of time and key."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.access import dpop
from connector.access.jose import Refusal
from connector.errors import TokenRejected, Unavailable
from connector.model.token import Actor, AuthorizationDetail, VerifiedClaims
from tests.unit.access.test_attacks import deep_actors
from tests.unit.access.world import World


async def verify(
    world: World, token: str, proof: str, *, url: str = "", data: bool = False
) -> VerifiedClaims:
    resource, scope = (world.kela.data_url, "data") if data else (world.kela.dsp_url, "dsp")
    return await world.verifier.verify(
        "POST", url or world.url, f"DPoP {token}", proof, resource=resource, scope=scope
    )


async def test_a_token_and_its_proof_become_verified_claims() -> None:
    """Issued by our server, used once, read back in full."""
    world = World()
    token = await world.access_token(data=True)
    claims = await verify(world, token, world.use_proof(token), data=True)
    assert (claims.subject, claims.client_id, claims.issuer) == ("city", "city", "https://kela.example")
    assert claims.scope == {"data"}
    assert claims.key_thumbprint == world.keys["city"].thumbprint()
    assert (claims.expires_at - claims.issued_at).total_seconds() == 300
    assert claims.detail == AuthorizationDetail(
        agreement_id="agreement-1",
        dataset_id="benefits",
        actions=frozenset({"query"}),
        purpose="service-planning",
        grant_id="grant-1",
    )


@pytest.mark.parametrize(
    ("token_age", "proof_age", "accepted"),
    [
        (0, 0, True),
        (329, 0, True),  # expired 29 s ago: within the leeway
        (330, 0, False),
        (-30, 0, True),  # issued by a clock 30 s ahead
        (-31, 0, False),
        (0, 60, True),
        (0, 61, False),
        (0, -30, True),
        (0, -31, False),
    ],
)
async def test_clock_skew_at_its_limits(token_age: int, proof_age: int, accepted: bool) -> None:
    """Stated leeway: 30 s; a proof lives 60 s."""
    world = World()
    token = world.minted(iat=world.now - token_age, exp=world.now - token_age + 300)
    proof = world.use_proof(token, iat=world.now - proof_age)
    if accepted:
        await verify(world, token, proof)
    else:
        with pytest.raises(TokenRejected):
            await verify(world, token, proof)


async def test_scheme_and_token_are_read_without_regard_to_case_of_the_scheme() -> None:
    """RFC 9110 §11.1."""
    world = World()
    token = world.minted()
    await world.verifier.verify(
        "POST", world.url, f"dpop {token}", world.use_proof(token), resource=world.kela.dsp_url, scope="dsp"
    )


async def test_the_actor_behind_a_participant_is_read() -> None:
    """RFC 8693 §4.1: nested, at most four deep."""
    world = World()
    token = world.minted(act=deep_actors(2))
    claims = await verify(world, token, world.use_proof(token))
    assert claims.actor == Actor(subject="app", kind="app", act=Actor(subject="app", kind="app"))


@pytest.mark.parametrize("part", ["replay", "registry"])
async def test_a_part_that_does_not_answer_lets_nobody_in(part: str) -> None:
    """No answer means deny."""
    world = World()
    token = world.minted()
    if part == "replay":
        world.replay.down = True
    else:
        world.registry.expired = True
    with pytest.raises(Unavailable):
        await verify(world, token, world.use_proof(token))


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("https://kela.example/dsp", "https://kela.example/dsp?limit=5#top"),
        ("https://KELA.example:443/dsp", "https://kela.example/dsp"),
        ("HTTPS://kela.example", "https://kela.example/"),
        ("https://kela.example/%7Eurn%3auuid", "https://kela.example/~urn%3Auuid"),
        ("http://[::1]:80/dsp", "http://[::1]/dsp"),
    ],
)
async def test_one_url_has_several_spellings(sent: str, received: str) -> None:
    """RFC 9449 §4.3 step 9, RFC 3986 §6.2.2 and 6.2.3."""
    assert dpop.target_uri(sent) == dpop.target_uri(received)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "kela.example/dsp",
        "ftp://kela.example/",
        "https:///dsp",
        "https://a@kela.example/",
        "https://k:x/",
    ],
)
def test_what_is_no_target_is_refused(url: str) -> None:
    with pytest.raises(Refusal, match="proof_url"):
        dpop.target_uri(url)


PATHS = st.text(st.sampled_from("ab/.%2Fé ~"), max_size=12)


@given(PATHS, PATHS)
def test_different_paths_stay_different(one: str, other: str) -> None:
    """A proof for one resource never fits another: equal normal forms mean equal decoded paths."""
    a, b = (f"https://kela.example/{p}" for p in (one, other))
    assert dpop.target_uri(dpop.target_uri(a)) == dpop.target_uri(a)
    if dpop.target_uri(a) == dpop.target_uri(b):
        assert unquote(one, "latin-1") == unquote(other, "latin-1")
