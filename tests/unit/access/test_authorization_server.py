"""What the authorization server gives, and how it fails."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest

from connector.access import jose
from connector.access.rfc6749 import DESCRIPTIONS
from connector.errors import NotPermitted, PolicyUnavailable, Reason
from connector.model.audit import AuditEvent
from connector.model.token import AuthorizationDetail
from tests.unit.access.world import START, World, fresh_keys


def claims_of(world: World, token: str) -> dict[str, Any]:
    return jose.verify_jws(token, world.keys["kela"].public_jwks(), typ={"at+jwt"})


async def test_a_data_token_states_agreement_purpose_and_grant() -> None:
    """RFC 9068 §2.2, RFC 9396 §7 and 9.1, RFC 9449 §6.1: the claims fixed by the skeleton issue."""
    world = World()
    status, answer = await world.ask(world.data_form())
    assert status == 200
    detail = {
        "type": "dataspace_agreement",
        "agreement": "agreement-1",
        "dataset": "benefits",
        "actions": ["query"],
        "purpose": "service-planning",
        "grant": "grant-1",
    }
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("DPoP", 300, "data")
    assert answer["authorization_details"] == [detail]
    claims = claims_of(world, answer["access_token"])
    assert claims.pop("jti")
    assert claims == {
        "iss": "https://kela.example",
        "aud": "https://kela.example/data/v1",
        "sub": "city",
        "client_id": "city",
        "iat": world.now,
        "exp": world.now + 300,
        "scope": "data",
        "cnf": {"jkt": world.keys["city"].thumbprint()},
        "authorization_details": [detail],
    }
    assert jwt.get_unverified_header(answer["access_token"]) == {
        "alg": "ES256",
        "typ": "at+jwt",
        "kid": world.keys["kela"].thumbprint(),
    }


async def test_what_a_token_is_for_is_on_record_before_it_leaves() -> None:
    """The decision is on record first; no token when it cannot be."""
    world = World()
    await world.ask(world.data_form())
    [(event, fields)] = world.audited
    assert event is AuditEvent.TOKEN_ISSUED
    assert fields == {
        "actor": "city",
        "object": "https://kela.example/data/v1",
        "agreement": "agreement-1",
        "purpose": "service-planning",
        "transfer": "transfer-1",
        "grant": "grant-1",
        "epoch": 1,
        "outcome": "issued",
        "on_behalf_of": "",
    }
    world.audit_down = True
    status, answer = await world.ask(world.data_form())
    assert (status, answer["error"]) == (503, "temporarily_unavailable")
    assert "access_token" not in answer


@pytest.mark.parametrize("part", ["replay", "registry", "policy"])
async def test_a_part_that_does_not_answer_gives_no_token(part: str) -> None:
    """No answer means deny, and says that it is worth another try."""
    world = World()
    form = world.data_form()
    if part == "replay":
        world.replay.down = True
    elif part == "registry":
        world.registry.expired = True
    else:
        world.open_error = PolicyUnavailable("the policy engine does not answer")
    status, answer = await world.ask(form)
    assert (status, answer) == (
        503,
        {"error": "temporarily_unavailable", "error_description": DESCRIPTIONS["temporarily_unavailable"]},
    )
    assert world.audited[-1][0] is AuditEvent.TOKEN_REFUSED


async def test_a_token_does_not_outlive_its_grant() -> None:
    """Lifetime is the least of 300 s and the grant's end; a grant that has ended by then gives none."""
    world = World()
    world.grant_changes = {"expires_at": START + timedelta(seconds=42, microseconds=7)}
    _, answer = await world.ask(world.data_form())
    assert answer["expires_in"] == 42
    assert claims_of(world, answer["access_token"])["exp"] == world.now + 42
    world.clock.advance(42)
    status, answer = await world.ask(world.data_form())
    assert (status, answer["error"]) == (400, "invalid_authorization_details")
    assert answer["reasons"] == [{"code": "grant_expired", "text": "The grant has expired.", "source": ""}]


async def test_people_learn_why_an_agreement_gives_no_token() -> None:
    """The OAuth description stays general; `reasons` is what a person understands."""
    world = World()
    world.open_error = NotPermitted(
        [
            Reason(
                code="purpose_not_allowed", text="The agreement is for service planning.", source="agreement"
            )
        ]
    )
    _, answer = await world.ask(world.data_form())
    assert answer["error_description"] == DESCRIPTIONS["invalid_authorization_details"]
    assert answer["reasons"] == [
        {
            "code": "purpose_not_allowed",
            "text": "The agreement is for service planning.",
            "source": "agreement",
        }
    ]


async def test_the_grant_is_opened_for_who_was_proved_to_ask() -> None:
    world = World()
    await world.ask(world.data_form("youth"), [world.proof("youth")])
    assert world.opened == [
        (
            "youth",
            AuthorizationDetail(
                agreement_id="agreement-1",
                dataset_id="benefits",
                actions=frozenset({"query"}),
                purpose="service-planning",
            ),
        )
    ]


@pytest.mark.parametrize("scope", ["dsp", "events"])
async def test_tokens_for_messages_open_no_grant(scope: str) -> None:
    world = World()
    resource = {"dsp": world.kela.dsp_url, "events": f"{world.kela.base_url}/events/v1"}[scope]
    status, answer = await world.ask(world.form(scope=scope, resource=resource))
    assert (status, answer["scope"]) == (200, scope)
    assert world.opened == []


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "JWT"},
        {"aud": "https://kela.example/oauth2/token"},
        {"aud": ["https://kela.example"]},
        {"iat": -29, "exp": 31},  # a clock 29 s behind ours
        {"iat": 30, "exp": 90},  # and one 30 s ahead
    ],
    ids=["plain JWT", "token endpoint as audience", "audience in a list", "slow clock", "fast clock"],
)
async def test_honest_assertions_of_other_makes_are_taken(changes: dict[str, Any]) -> None:
    """RFC 7523 §3 leaves these to the client; leeway is 30 s."""
    world = World()
    changes = {k: world.now + v if isinstance(v, int) else v for k, v in changes.items()}
    status, answer = await world.ask(world.form(client_assertion=world.assertion(**changes)))
    assert status == 200, answer


async def test_a_client_without_a_kid_has_one_key() -> None:
    """RFC 7515 §4.1.4: `kid` is optional; with two signing keys it is not."""
    world = World()
    private, claims = world.keys["city"]._held.signing, world.assertion_claims()
    assert (await world.ask(world.form(client_assertion=jwt.encode(claims, private, "ES256"))))[0] == 200
    city = world.registry.participants["city"]
    second = fresh_keys("city").public_jwks()[0]
    world.registry.participants["city"] = replace(city, jwks=(*city.jwks, second))
    claims = world.assertion_claims()
    assert (await world.ask(world.form(client_assertion=jwt.encode(claims, private, "ES256"))))[0] == 400
    assert (await world.ask(world.form()))[0] == 200  # with its kid


async def test_refusals_of_one_error_are_alike() -> None:
    """An attacker cannot tell an unknown client from a suspended one or a bad signature."""
    world = World()
    forms = [
        world.form("mallory"),
        world.form(client_assertion=world.assertion(signer="youth")),
        world.form(client_assertion=world.assertion(exp=world.now - 60)),
        world.form(client_assertion="x"),
    ]
    assert len({json.dumps(await world.ask(form)) for form in forms}) == 1


async def test_no_token_or_assertion_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Authlib logs the issued token at debug level; here it must not."""
    world = World()
    form = world.data_form()
    with caplog.at_level(logging.DEBUG):
        _, answer = await world.ask(form)
        await world.ask(form)
    for secret in (answer["access_token"], form["client_assertion"]):
        assert secret not in caplog.text
        assert secret.rpartition(".")[2] not in caplog.text


def test_metadata_is_valid() -> None:
    """RFC 8414 §2, RFC 9449 §5.1, RFC 9396 §10."""
    metadata = World().server.metadata()
    assert metadata["issuer"] == "https://kela.example"
    assert metadata["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert metadata["dpop_signing_alg_values_supported"] == ["ES256"]
    assert metadata["authorization_details_types_supported"] == ["dataspace_agreement"]
    assert metadata["response_types_supported"] == []


def test_jwks_holds_public_keys_only() -> None:
    """RFC 7517 §5."""
    keys = World().server.jwks()["keys"]
    assert [k["use"] for k in keys] == ["sig", "enc"]
    assert not any("d" in k for k in keys)
