"""RFC 8693: a client trades its own token for one that names who acts; nothing is ever widened."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from connector.access import jose, rfc8693, rfc9068
from connector.model.participant import ParticipantStatus
from tests.unit.access.world import World, detail_entry, respelled

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"


def actor_token(world: World, client: str = "city", *, signer: str = "", **changes: Any) -> str:
    claims = {
        "iss": client,
        "sub": "worker-7",
        "kind": "case_worker",
        "aud": world.kela.base_url,
        "iat": world.now,
        "exp": world.now + 60,
        "jti": world.new_id(),
        **changes,
    }
    return world.keys[signer or client].sign_jwt(claims, typ=changes.get("typ", rfc8693.ACTOR_TYP))


def exchange(world: World, token: str, client: str = "city", **changes: Any) -> dict[str, str]:
    form = world.form(
        client,
        grant_type=GRANT,
        subject_token=token,
        subject_token_type=rfc8693.ACCESS_TOKEN,
        actor_token=actor_token(world, client),
        actor_token_type=rfc8693.JWT,
        scope=None,
        resource=None,
    )
    return {k: v for k, v in {**form, **changes}.items() if v is not None}


def claims_of(world: World, token: str) -> dict[str, Any]:
    return jose.verify_jws(token, world.keys["kela"].public_jwks(), typ={rfc9068.TYP})


async def test_the_actor_is_named_and_the_rest_stays() -> None:
    """RFC 8693 §2.2 and 4.1: same subject, resource, agreement, purpose and key; no longer life."""
    world = World()
    token = await world.access_token(data=True)
    world.clock.advance(100)
    status, answer = await world.ask(exchange(world, token))
    assert status == 200, answer
    assert answer["issued_token_type"] == rfc8693.ACCESS_TOKEN
    before, after = claims_of(world, token), claims_of(world, answer["access_token"])
    assert after["act"] == {"sub": "worker-7", "kind": "case_worker"}
    for kept in ("iss", "sub", "client_id", "aud", "scope", "cnf", "authorization_details", "exp"):
        assert after[kept] == before[kept], kept
    assert after["jti"] != before["jti"]
    assert world.audited[-1][1]["outcome"] == "exchanged"
    assert world.audited[-1][1]["on_behalf_of"] == "worker-7"


async def test_who_acted_before_stays_nested() -> None:
    """RFC 8693 §4.1, at most four deep."""
    world = World()
    token = await world.access_token(data=True)
    for depth in range(1, 5):
        status, answer = await world.ask(
            exchange(world, token, actor_token=actor_token(world, sub=f"w{depth}"))
        )
        assert status == 200, answer
        token = answer["access_token"]
    act, seen = claims_of(world, token)["act"], []
    while act:
        seen.append(act["sub"])
        act = act.get("act")
    assert seen == ["w4", "w3", "w2", "w1"]
    status, answer = await world.ask(exchange(world, token))
    assert (status, answer["error"]) == (400, "invalid_grant")


async def test_the_policy_is_asked_about_the_new_actor() -> None:
    """A role may decide: the grant is opened for who acts from now on."""
    world = World()
    token = await world.access_token(data=True)
    asked = len(world.opened)
    await world.ask(exchange(world, token))
    assert len(world.opened) == asked + 1


async def test_what_is_asked_for_may_be_said_again() -> None:
    """RFC 8693 §2.1: scope, resource and details, where they are those of the token."""
    world = World()
    token = await world.access_token(data=True)
    again = {
        "scope": "data",
        "resource": world.kela.data_url,
        "authorization_details": json.dumps([detail_entry()]),
    }
    status, answer = await world.ask(exchange(world, token, **again))
    assert status == 200, answer


Attack = Callable[[World, str], Awaitable[dict[str, str]] | dict[str, str]]


def _details(**changes: Any) -> Attack:
    return lambda w, t: exchange(w, t, authorization_details=json.dumps([detail_entry(**changes)]))


def _actor(**changes: Any) -> Attack:
    return lambda w, t: exchange(w, t, actor_token=actor_token(w, **changes))


async def _of_youth(world: World, _token: str) -> dict[str, str]:
    return exchange(world, await world.access_token("youth", data=True))


async def _revoked(world: World, token: str) -> dict[str, str]:
    world.revoked.add(claims_of(world, token)["jti"])
    return exchange(world, token)


async def _suspended(world: World, token: str) -> dict[str, str]:
    form = exchange(world, token)
    world.registry.set_status("city", ParticipantStatus.SUSPENDED)
    return form


async def _expired(world: World, token: str) -> dict[str, str]:
    world.clock.advance(331)
    return exchange(world, token)


async def _actor_replayed(world: World, token: str) -> dict[str, str]:
    actor = actor_token(world)
    status, _ = await world.ask(exchange(world, token, actor_token=actor))
    assert status == 200
    return exchange(world, token, actor_token=actor)


ATTACKS: list[tuple[str, Attack, str, str]] = [
    (
        "no subject token",
        lambda w, t: exchange(w, t, subject_token=None),
        "invalid_request",
        "subject_token_type",
    ),
    (
        "subject token of another type",
        lambda w, t: exchange(w, t, subject_token_type=rfc8693.JWT),
        "invalid_request",
        "subject_token_type",
    ),
    (
        "refresh token wanted",
        lambda w, t: exchange(w, t, requested_token_type="urn:ietf:params:oauth:token-type:refresh_token"),
        "invalid_request",
        "requested_token_type",
    ),
    (
        "audience instead of resource",
        lambda w, t: exchange(w, t, audience="youth"),
        "invalid_request",
        "parameter",
    ),
    (
        "actor token without its type",
        lambda w, t: exchange(w, t, actor_token_type=None),
        "invalid_request",
        "actor_token_type",
    ),
    (
        "actor in the assertion too",
        lambda w, t: exchange(w, t, client_assertion=w.assertion(act={"sub": "x", "kind": "analyst"})),
        "invalid_request",
        "actor_twice",
    ),
    ("no token", lambda w, t: exchange(w, "x.y.z"), "invalid_grant", "malformed"),
    ("an assertion as subject token", lambda w, t: exchange(w, w.assertion()), "invalid_grant", "typ"),
    (
        "a token by another's key",
        lambda w, t: exchange(w, w.keys["city"].sign_jwt(w.token_claims(), typ=rfc9068.TYP)),
        "invalid_grant",
        "key_unknown",
    ),
    ("another spelling", lambda w, t: exchange(w, respelled(t)), "invalid_grant", "malformed"),
    (
        "another issuer",
        lambda w, t: exchange(w, w.minted(iss="https://other.example")),
        "invalid_grant",
        "iss",
    ),
    (
        "for a resource elsewhere",
        lambda w, t: exchange(w, w.minted(aud="https://youth.example/data/v1")),
        "invalid_grant",
        "aud",
    ),
    ("token of another client", _of_youth, "invalid_grant", "token_of_another"),
    ("revoked", _revoked, "invalid_grant", "revoked"),
    ("expired", _expired, "invalid_grant", "exp"),
    ("suspended participant", _suspended, "invalid_client", "client_unknown"),
    ("actor by another's key", _actor(signer="youth"), "invalid_grant", "key_unknown"),
    ("actor of another issuer", _actor(iss="youth"), "invalid_grant", "actor_iss"),
    ("actor for another server", _actor(aud="https://youth.example"), "invalid_grant", "actor_aud"),
    ("actor with a long life", _actor(exp=4_000_000_000), "invalid_grant", "actor_life"),
    (
        "assertion as actor token",
        lambda w, t: exchange(w, t, actor_token=w.assertion()),
        "invalid_grant",
        "typ",
    ),
    ("actor token used twice", _actor_replayed, "invalid_grant", "actor_replayed"),
    ("nameless actor", _actor(sub=""), "invalid_grant", "sub"),
    ("scope widened", lambda w, t: exchange(w, t, scope="dsp"), "invalid_scope", "scope"),
    ("two scopes", lambda w, t: exchange(w, t, scope="data dsp"), "invalid_scope", "scope"),
    ("resource changed", lambda w, t: exchange(w, t, resource=w.kela.dsp_url), "invalid_target", "resource"),
    (
        "purpose widened",
        _details(purpose="public-service-provision"),
        "invalid_authorization_details",
        "widened",
    ),
    ("another agreement", _details(agreement="agreement-2"), "invalid_authorization_details", "widened"),
    ("another dataset", _details(dataset="clients"), "invalid_authorization_details", "widened"),
    ("another action", _details(actions=["push"]), "invalid_authorization_details", "widened"),
    ("one more action", _details(actions=["query", "push"]), "invalid_authorization_details", "widened"),
]


@pytest.mark.parametrize(("attack", "error", "code"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
async def test_refused(attack: Attack, error: str, code: str) -> None:
    """RFC 8693 §2.2.2: the right error outside, the reason in our log, and no token."""
    world = World()
    token = await world.access_token(data=True)
    made = attack(world, token)
    form = made if isinstance(made, dict) else await made
    status, answer = await world.ask(form)
    assert (status, answer["error"]) == (400, error)
    assert "access_token" not in answer
    assert code in world.audited[-1][1]["reasons"]


async def test_an_exchanged_token_needs_a_proof_too() -> None:
    """RFC 9449 §5: bound to the key that asks, which is the client's."""
    world = World()
    token = await world.access_token(data=True)
    status, answer = await world.ask(exchange(world, token), [])
    assert (status, answer["error"]) == (400, "invalid_dpop_proof")
