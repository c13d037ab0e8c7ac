"""Who asks, at the door of every route."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from starlette.requests import Request

from connector.access.api_keys import ApiKeys
from connector.access.front_door import FrontDoor
from connector.access.people import ApiTokens, PersonRole, issue_api_token
from connector.access.sessions import Sessions
from connector.errors import NotAuthenticated, NotPermitted, TokenRejected
from connector.model.participant import ParticipantStatus
from connector.web.auth import needs, peer_auth
from tests.unit.access.world import MemoryStore, World, fresh_keys

KEYS = fresh_keys("kela")
AUDIENCE = "https://kela.example/v1"


def request(*headers: tuple[str, str], raw_path: bytes = b"/", path: str = "/") -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": raw_path,
        "query_string": b"a=b",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }
    return Request(scope)


# --- our own people -------------------------------------------------------------------------------------


async def test_a_route_names_the_roles_it_needs() -> None:
    """The token, then one of the roles; which ones can be read off the dependency."""
    world = World()
    store = MemoryStore()
    keys = ApiKeys(store, world.clock, secrets.token_bytes, None)  # type: ignore[arg-type]  # of the store, values
    sessions = Sessions(store, world.clock, secrets.token_bytes)  # type: ignore[arg-type]
    tokens = ApiTokens(KEYS, world.clock, audience=AUDIENCE, longest_seconds=300)
    token = issue_api_token(
        KEYS,
        world.clock,
        audience=AUDIENCE,
        subject="desk",
        roles=[PersonRole.CONSENT_DESK],
        purposes=[],
        token_id="t",
    )
    header = ("Authorization", f"Bearer {token}")
    door = FrontDoor(tokens, keys, sessions, origin="https://kela.example")
    desk = needs(door, PersonRole.CONSENT_DESK)
    assert (await desk(request(header))).subject == "desk"
    assert desk.roles == (PersonRole.CONSENT_DESK,)  # type: ignore[attr-defined]
    with pytest.raises(NotPermitted):
        await needs(door, PersonRole.OPERATOR)(request(header))
    for headers in ([], [header, header]):
        with pytest.raises(TokenRejected):
            await desk(request(*headers))


# --- peers ----------------------------------------------------------------------------------------------


async def proved(world: World, sent: str, **scope: Any) -> Any:
    """A request of city's to kela's DSP, with a proof for `sent` as it stands on the wire."""
    authenticate = peer_auth(
        world.verifier,
        world.registry,
        public_url=world.kela.base_url,
        resource=world.kela.dsp_url,
        scope="dsp",
    )
    token = await world.access_token()
    proof = world.use_proof(token, htu=world.kela.base_url + sent)
    return await authenticate(request(("Authorization", f"DPoP {token}"), ("DPoP", proof), **scope))


@pytest.mark.parametrize(
    ("sent", "decoded"),
    [
        ("/dsp/2025-1/catalog/datasets/benefits", "/dsp/2025-1/catalog/datasets/benefits"),
        ("/dsp/2025-1/transfers/urn:uuid:1", "/dsp/2025-1/transfers/urn:uuid:1"),
        ("/dsp/2025-1/catalog/datasets/a%2Fb%20c", "/dsp/2025-1/catalog/datasets/a/b c"),
        ("/dsp/2025-1/catalog/datasets/%C3%A4", "/dsp/2025-1/catalog/datasets/ä"),
    ],
)
async def test_a_proof_names_the_url_as_it_was_sent(sent: str, decoded: str) -> None:
    """RFC 9449 §4.3: routing decodes the path; the proof was made for its escapes."""
    participant, claims = await proved(World(), sent, raw_path=sent.encode(), path=decoded)
    assert (participant.id, claims.subject) == ("city", "city")


@pytest.mark.parametrize("raw_path", [b"/dsp/2025-1/other", b"/dsp/2025-1/a/b", b"/dsp/2025-1/\xe4"])
async def test_a_proof_for_another_url_is_refused(raw_path: bytes) -> None:
    """One proof, one URL; bytes that are no URL at all included."""
    with pytest.raises(NotAuthenticated):
        await proved(World(), "/dsp/2025-1/a%2Fb", raw_path=raw_path)


async def test_who_has_left_the_registry_is_nobody() -> None:
    """A token outlives no membership."""
    world = World()
    token = await world.access_token()
    world.registry.set_status("city", ParticipantStatus.LEFT)
    authenticate = peer_auth(
        world.verifier,
        world.registry,
        public_url=world.kela.base_url,
        resource=world.kela.dsp_url,
        scope="dsp",
    )
    with pytest.raises(NotAuthenticated):
        await authenticate(
            request(("Authorization", f"DPoP {token}"), ("DPoP", world.use_proof(token)), raw_path=b"/x")
        )


async def test_an_access_token_in_the_query_counts_for_nothing() -> None:
    """RFC 6750 §5.3, RFC 9700 §4.3.2: URLs end up in logs. The token is good, its place is not."""
    world = World()
    token = await world.access_token()
    authenticate = peer_auth(
        world.verifier,
        world.registry,
        public_url=world.kela.base_url,
        resource=world.kela.dsp_url,
        scope="dsp",
    )
    asked = request(("DPoP", world.use_proof(token)), raw_path=b"/x")
    asked.scope["query_string"] = f"access_token={token}".encode()
    with pytest.raises(NotAuthenticated):
        await authenticate(asked)
