"""RFC 7009 and 7662: a token can be taken back at once, and asked about by those whose it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from connector.errors import TokenRejected
from connector.model.audit import AuditEvent
from connector.model.participant import ParticipantStatus
from tests.unit.access.world import FORM, World, respelled


def form(world: World, client: str, token: str, **changes: str) -> dict[str, str]:
    asked = {k: v for k, v in world.form(client).items() if k.startswith("client_assertion")}
    return {**asked, "token": token, **changes}


async def revoke(world: World, client: str, token: str) -> tuple[int, Any]:
    body = urlencode(form(world, client, token)).encode()
    status, _, answer = await world.status.revoke(body, content_type=FORM)
    return status, answer


async def introspect(world: World, client: str, token: str) -> tuple[int, Any]:
    body = urlencode(form(world, client, token)).encode()
    status, _, answer = await world.status.introspect(body, content_type=FORM)
    return status, answer


async def use(world: World, token: str) -> None:
    await world.verifier.verify(
        "POST",
        world.url,
        f"DPoP {token}",
        world.use_proof(token),
        resource=world.kela.dsp_url,
        scope="dsp",
    )


async def test_a_revoked_token_opens_nothing() -> None:
    """RFC 7009 §2.1: at once, and on record; others of the same client stay."""
    world = World()
    token, other = await world.access_token(), await world.access_token()
    await use(world, token)
    assert await revoke(world, "city", token) == (200, {})
    assert world.audited[-1][0] is AuditEvent.TOKEN_REVOKED
    assert [t.client_id for t in world.stopped] == ["city"]
    with pytest.raises(TokenRejected) as refused:
        await use(world, token)
    assert refused.value.__cause__.code == "revoked"  # type: ignore[union-attr]
    await use(world, other)


async def test_a_second_spelling_of_a_revoked_token_opens_nothing() -> None:
    """By jti, never by text."""
    world = World()
    token = await world.access_token()
    await revoke(world, "city", token)
    for spelled in (token, respelled(token)):
        with pytest.raises(TokenRejected):
            await use(world, spelled)


async def test_nobody_revokes_a_token_of_another() -> None:
    """RFC 7009 §2.1: refused, on record, and the token still opens."""
    world = World()
    token = await world.access_token("city")
    status, answer = await revoke(world, "youth", token)
    assert (status, answer["error"]) == (400, "unauthorized_client")
    assert world.audited[-1][1]["reasons"] == ("unauthorized_client", "token_of_another")
    await use(world, token)


@pytest.mark.parametrize("token", ["x", "a.b.c", ""])
async def test_what_is_no_token_is_revoked_already(token: str) -> None:
    """RFC 7009 §2.2: 200; an absent parameter is a malformed request."""
    status, answer = await revoke(World(), "city", token)
    assert (status, answer.get("error")) == ((200, None) if token else (400, "invalid_request"))


@pytest.mark.parametrize("endpoint", ["revoke", "introspect"])
async def test_strangers_are_refused(endpoint: str) -> None:
    """RFC 7662 §2.1: only proved clients ask."""
    world = World()
    token = await world.access_token()
    body = urlencode(form(world, "mallory", token)).encode()
    status, _, answer = await getattr(world.status, endpoint)(body, content_type=FORM)
    assert (status, answer["error"]) == (400, "invalid_client")
    await use(world, token)


async def test_an_assertion_for_one_endpoint_is_spent_there() -> None:
    """RFC 7523 §3: single use over all endpoints."""
    world = World()
    token = await world.access_token()
    asked = form(world, "city", token)
    for expected in (200, 400):
        status, _, _ = await world.status.introspect(urlencode(asked).encode(), content_type=FORM)
        assert status == expected


@pytest.mark.parametrize("client", ["city", "kela"])
async def test_introspection_tells_the_client_and_ourselves(client: str) -> None:
    """RFC 7662 §2.2."""
    world = World()
    token = await world.access_token(data=True)
    status, answer = await introspect(world, client, token)
    assert status == 200
    assert (answer["active"], answer["client_id"], answer["scope"]) == (True, "city", "data")
    assert answer["authorization_details"][0]["agreement"] == "agreement-1"
    assert answer["cnf"] == {"jkt": world.keys["city"].thumbprint()}


async def test_introspection_tells_nobody_else_anything() -> None:
    """RFC 7662 §2.2 and 4: another's, a revoked, an expired and no token at all read alike."""
    world = World()
    token, revoked = await world.access_token(), await world.access_token()
    await revoke(world, "city", revoked)
    inactive = (200, {"active": False})
    assert await introspect(world, "youth", token) == inactive
    assert await introspect(world, "city", revoked) == inactive
    assert await introspect(world, "city", "no token") == inactive
    assert await introspect(world, "city", world.assertion()) == inactive
    world.registry.set_status("city", ParticipantStatus.SUSPENDED)
    assert await introspect(world, "kela", token) == inactive
    world.registry.set_status("city", ParticipantStatus.ACTIVE)
    world.clock.advance(400)
    assert await introspect(world, "kela", token) == inactive


async def test_revocations_outlive_a_restart_and_reach_replicas() -> None:
    """Kept in the store until the token would expire, then forgotten there too."""
    world = World()
    token = await world.access_token()
    await revoke(world, "city", token)
    replica = World()
    replica.keys, replica.registry, replica.store = world.keys, world.registry, world.store
    fresh = type(world.revoked_tokens)(world.store, world.clock)  # type: ignore[arg-type]
    claims = world.stopped[0]
    assert claims not in fresh
    await fresh.refresh()
    assert claims in fresh
    world.clock.advance(400)
    await fresh.refresh()
    assert claims not in fresh
    assert not world.store.values


async def test_all_tokens_of_a_client_can_be_revoked() -> None:
    """Those it has been given until now; new ones are taken."""
    world = World()
    token = await world.access_token()
    await world.revoked_tokens.revoke_client("city")
    with pytest.raises(TokenRejected):
        await use(world, token)
    world.clock.advance(1)
    await use(world, await world.access_token())


async def test_a_store_that_is_down_revokes_nothing_and_says_so() -> None:
    """Fail closed: never answered 200 without being on record."""
    world = World()
    token = await world.access_token()
    world.store.down = True
    status, answer = await revoke(world, "city", token)
    assert (status, answer["error"]) == (503, "temporarily_unavailable")
