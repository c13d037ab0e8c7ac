"""The signed trust list: what it must be, and in which order lists may follow one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connector.access import trust_list
from connector.access.jose import Refusal
from connector.model.participant import Collaboration, CollaborationRole, Participant, TrustList
from tests.unit.access.world import START, b64, forge, fresh_keys, participant, respelled

REGISTRY = fresh_keys("registry")
PINNED = REGISTRY.public_jwks()[:1]
KELA, CITY = (participant(fresh_keys(name)) for name in ("kela", "city"))
PLANNING = Collaboration(
    id="planning-2026",
    purpose="service-planning",
    lead="kela",
    members={
        "kela": frozenset({CollaborationRole.PROVIDER}),
        "city": frozenset({CollaborationRole.CONSUMER}),
    },
    valid_until=START + timedelta(days=365),
)


def a_list(version: int = 7, **changes: Any) -> TrustList:
    content = TrustList(
        issuer="https://registry.example",
        version=version,
        issued_at=START,
        expires_at=START + timedelta(hours=24),
        participants={"kela": KELA, "city": CITY},
        collaborations={"planning-2026": PLANNING},
    )
    return replace(content, **changes)


def signed(content: TrustList | None = None) -> str:
    return trust_list.sign(content or a_list(), REGISTRY)


def wire(**changes: Any) -> dict[str, Any]:
    claims = {
        "iss": "https://registry.example",
        "version": 7,
        "iat": int(START.timestamp()),
        "exp": int(START.timestamp()) + 86_400,
        **trust_list.entries_to_wire([KELA, CITY], [PLANNING]),
    }
    return json.loads(json.dumps({**claims, **changes}))


def test_what_was_signed_is_what_is_read() -> None:
    assert trust_list.accept(signed(), PINNED, now=START).content == a_list()


def test_order_and_age() -> None:
    """Identity issue: refuse rollback, equivocation and an expired list; the same list again is fine."""
    held = trust_list.accept(signed(), PINNED, now=START)
    assert trust_list.accept(signed(), PINNED, now=START, held=held).digest == held.digest
    assert trust_list.accept(signed(a_list(8)), PINNED, now=START, held=held).content.version == 8
    for offered, now, code in (
        (a_list(6), START, "rollback"),
        (a_list(participants={"kela": KELA}, collaborations={}), START, "equivocation"),
        (a_list(8), START + timedelta(hours=24), "exp"),
        (a_list(8, issued_at=START + timedelta(seconds=31)), START, "iat"),
    ):
        with pytest.raises(Refusal, match=code):
            trust_list.accept(signed(offered), PINNED, now=now, held=held)


FORGERIES: list[tuple[str, Callable[[], str], str]] = [
    ("by another key", lambda: trust_list.sign(a_list(), fresh_keys("registry")), "key_unknown"),
    (
        "by another key under the registry's kid",
        lambda: forge(
            {"alg": "ES256", "typ": trust_list.TYP, "kid": REGISTRY.thumbprint()},
            wire(),
            fresh_keys("registry")._held.signing,
        ),
        "signature",
    ),
    (
        "by the registry's encryption key",
        lambda: signed_with(kid=REGISTRY.public_jwks()[1]["kid"]),
        "key_unknown",
    ),
    ("alg none", lambda: forge({"alg": "none", "typ": trust_list.TYP}, wire(), None), "algorithm"),
    ("of another typ", lambda: REGISTRY.sign_jwt(wire(), typ="JWT"), "typ"),
    ("an access token", lambda: REGISTRY.sign_jwt(wire(), typ="at+jwt"), "typ"),
    ("with a key of its own", lambda: signed_with(jku="https://x.example"), "header"),
    ("spelled otherwise", lambda: respelled(signed()), "malformed"),
    ("not a JWS", lambda: "<html>", "malformed"),
    ("no object", lambda: f"{b64(b'[]')}.e30.{b64(bytes(64))}", "malformed"),
]


def signed_with(**header: str) -> str:
    named = {"alg": "ES256", "typ": trust_list.TYP, "kid": REGISTRY.thumbprint(), **header}
    return forge(named, wire(), REGISTRY._held.signing)


@pytest.mark.parametrize(("make", "code"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES])
def test_a_forged_list_is_refused(make: Callable[[], str], code: str) -> None:
    """Only keys pinned at onboarding speak for the registry."""
    with pytest.raises(Refusal, match=code):
        trust_list.accept(make(), PINNED, now=START)


def with_kela(**changes: Any) -> dict[str, Any]:
    entry = {**trust_list.participant_to_wire(KELA), **changes}
    return wire(participants=[entry, trust_list.participant_to_wire(CITY)])


def with_planning(**changes: Any) -> dict[str, Any]:
    return wire(collaborations=[{**trust_list.collaboration_to_wire(PLANNING), **changes}])


def with_key(**changes: Any) -> dict[str, Any]:
    return with_kela(jwks={"keys": [{**KELA.jwks[0], **changes}]})


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("version 0", wire(version=0), "version"),
    ("version true", wire(version=True), "version"),
    ("no participants", wire(participants=None), "participants"),
    ("participant twice", wire(participants=[trust_list.participant_to_wire(KELA)] * 2), "id_repeated"),
    ("two at one address", with_kela(base_url=CITY.base_url), "base_url_repeated"),
    ("id with a dash", with_kela(id="ke-la"), "participant_id"),
    ("id in capitals", with_kela(id="Kela"), "participant_id"),
    ("unknown status", with_kela(status="sleeping"), "status"),
    ("no status", with_kela(status=None), "status"),
    ("address with a slash at its end", with_kela(base_url="https://kela.example/"), "base_url"),
    ("address with a query", with_kela(base_url="https://kela.example?x"), "base_url"),
    ("address with a password", with_kela(base_url="https://a:b@kela.example"), "base_url"),
    ("address of a file", with_kela(base_url="file:///etc/passwd"), "base_url"),
    ("no keys", with_kela(jwks={"keys": []}), "jwks"),
    ("private key published", with_key(d="AA"), "key"),
    ("symmetric key", with_key(kty="oct"), "key"),
    ("another curve", with_key(crv="P-384"), "key"),
    ("key without a use", with_key(use=None), "jwks"),
    ("key without a kid", with_key(kid=None), "kid"),
    ("two keys of one kid", with_kela(jwks={"keys": [KELA.jwks[0], KELA.jwks[0]]}), "jwks"),
    ("only an encryption key", with_kela(jwks={"keys": [KELA.jwks[1]]}), "jwks"),
    ("lead is no provider", with_planning(lead="city"), "lead"),
    ("lead is nobody", with_planning(lead="nobody"), "lead"),
    (
        "member is nobody",
        with_planning(members={"kela": ["provider"], "nobody": ["consumer"]}),
        "member_unknown",
    ),
    ("unknown role", with_planning(members={"kela": ["owner"]}), "role"),
    ("generation 0", with_planning(generation=0), "generation"),
    ("local time", with_planning(valid_until="2027-01-01T00:00:00"), "valid_until"),
]


@pytest.mark.parametrize(("claims", "code"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
def test_a_malformed_list_is_refused_as_a_whole(claims: dict[str, Any], code: str) -> None:
    """Fail closed: a list is taken entirely or not at all."""
    with pytest.raises(Refusal, match=code):
        trust_list.accept(REGISTRY.sign_jwt(claims, typ=trust_list.TYP), PINNED, now=START)


def test_the_registry_does_not_sign_what_connectors_would_refuse() -> None:
    bad: Participant = replace(KELA, base_url="https://kela.example/")
    with pytest.raises(Refusal, match="base_url"):
        trust_list.sign(a_list(participants={"kela": bad, "city": CITY}), REGISTRY)
