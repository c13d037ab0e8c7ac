"""Client API tokens under attack, and what a person's roles and purposes allow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from connector.access.people import LEEWAY_SECONDS, TYP, ApiTokens, issue_api_token
from connector.errors import NotPermitted, TokenRejected
from connector.model.person import Person, PersonRole
from tests.clocks import ManualClock
from tests.unit.access.evidence import fresh_keys
from tests.unit.access.world import b64, changed, forge, kid, private_key, respelled

AUDIENCE = "https://kela.example/v1"
LONGEST = 300
KEYS, OTHERS = fresh_keys("kela"), fresh_keys("kela")


class Door:
    """The client API's, and whoever stands before it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.tokens = ApiTokens(KEYS, self.clock, audience=AUDIENCE, longest_seconds=LONGEST)

    @property
    def now(self) -> int:
        return int(self.clock.now().timestamp())

    def claims(self, **changes: Any) -> dict[str, Any]:
        claims = {
            "iss": "kela",
            "aud": AUDIENCE,
            "sub": "register owner",
            "jti": "t-1",
            "iat": self.now,
            "exp": self.now + LONGEST,
            "roles": ["analyst"],
            "purposes": ["outreach"],
        }
        return changed(claims, changes)

    def token(self, **changes: Any) -> str:
        return KEYS.sign_jwt(self.claims(**changes), typ=TYP)

    def enter(self, token: str) -> Person:
        return self.tokens.verify(f"Bearer {token}")


@pytest.fixture
def door() -> Door:
    return Door()


def issued(door: Door, *roles: PersonRole, **changes: Any) -> Person:
    values: dict[str, Any] = {
        "subject": "analyst 7",
        "purposes": ["outreach", "statistics"],
        "token_id": "t-1",
    }
    token = issue_api_token(KEYS, door.clock, audience=AUDIENCE, roles=roles, **{**values, **changes})
    return door.enter(token)


def test_a_token_tells_who_in_which_roles_for_which_purposes(door: Door) -> None:
    """Made with the folder's own key, good at this connector's client API only."""
    person = issued(door, PersonRole.ANALYST, PersonRole.SUBSCRIBER)
    assert person == Person(
        subject="analyst 7",
        roles=frozenset({PersonRole.ANALYST, PersonRole.SUBSCRIBER}),
        purposes=frozenset({"outreach", "statistics"}),
    )


# --- attacks --------------------------------------------------------------------------------------------


def header(**changes: Any) -> dict[str, Any]:
    return changed({"alg": "ES256", "typ": TYP, "kid": kid(KEYS)}, changes)


Attack = Callable[[Door], str]
ATTACKS: dict[str, Attack] = {
    # whose word it is
    "another key under our kid": lambda d: forge(header(), d.claims(), private_key(OTHERS)),
    "another key under its own kid": lambda d: forge(
        header(kid=kid(OTHERS)), d.claims(), private_key(OTHERS)
    ),
    "a key brought along": lambda d: forge(
        header(kid=None, jwk=dict(OTHERS.public_jwks()[0])), d.claims(), private_key(OTHERS)
    ),
    "alg none": lambda d: forge(header(alg="none"), d.claims(), None),
    "alg None, signed": lambda d: forge(header(alg="None"), d.claims(), private_key(KEYS)),
    "HS256 with the public key": lambda d: forge(
        header(alg="HS256"), d.claims(), json.dumps(KEYS.public_jwks()[0]).encode()
    ),
    "no signature": lambda d: d.token().rpartition(".")[0] + ".",
    "another spelling": lambda d: respelled(d.token()),
    "changed afterwards": lambda d: swapped(d.token(), d.claims(roles=["admin"])),
    "critical header": lambda d: forge(header(crit=["exp"]), d.claims(), private_key(KEYS)),
    "kid is a list": lambda d: forge(header(kid=[kid(KEYS)]), d.claims(), private_key(KEYS)),
    # what it is for
    "an access token of ours": lambda d: KEYS.sign_jwt(d.claims(), typ="at+jwt"),
    "no typ": lambda d: forge(header(typ=None), d.claims(), private_key(KEYS)),
    "typ is a list": lambda d: forge(header(typ=[TYP]), d.claims(), private_key(KEYS)),
    "another audience": lambda d: d.token(aud="https://kela.example/data/v1"),
    "two audiences": lambda d: d.token(aud=[AUDIENCE, "https://city.example/v1"]),
    "another issuer": lambda d: d.token(iss="city"),
    # when
    "expired": lambda d: d.token(iat=d.now - LONGEST, exp=d.now),
    "issued in the future": lambda d: d.token(iat=d.now + LEEWAY_SECONDS + 1, exp=d.now + LONGEST),
    "good for too long": lambda d: d.token(exp=d.now + LONGEST + 1),
    "good for ever": lambda d: d.token(exp=10**300),
    "beyond every clock": lambda d: d.token(exp=10**400),
    "not yet": lambda d: d.token(nbf=d.now + 60),
    "time as text": lambda d: d.token(exp=str(d.now + 10)),
    "time as true": lambda d: d.token(iat=True),
    "time is no number": lambda d: forge(
        header(), json.dumps(d.claims()).replace(str(d.now), "NaN").encode(), private_key(KEYS)
    ),
    # what it says
    **{f"no {name}": (lambda d, name=name: d.token(**{name: None})) for name in Door().claims()},
    "an unknown role": lambda d: d.token(roles=["analyst", "root"]),
    "roles are a text": lambda d: d.token(roles="admin"),
    "roles are an object": lambda d: d.token(roles={"admin": True}),
    "a role is no text": lambda d: d.token(roles=[["admin"]]),
    "purposes are a text": lambda d: d.token(purposes="outreach"),
    "a purpose is no text": lambda d: d.token(purposes=[1]),
    "nobody": lambda d: d.token(sub=""),
    "a subject that is no text": lambda d: d.token(sub=7),
    "an endless subject": lambda d: d.token(sub="x" * 10_000),
    "a claim twice": lambda d: forge(
        header(), (json.dumps(d.claims())[:-1] + ', "roles": ["admin"]}').encode(), private_key(KEYS)
    ),
    "claims are a list": lambda d: forge(header(), [d.claims()], private_key(KEYS)),
    # shape
    "empty": lambda d: "",
    "not a token": lambda d: "a.b",
    "five parts": lambda d: d.token() + ".e.f",
    "not base64": lambda d: "ä.b.c",
    "nested to death": lambda d: f"{b64(b'[' * 5_000)}.e30.{b64(b'0' * 64)}",
    "huge": lambda d: "x" * 1_000_000,
}


def swapped(token: str, claims: dict[str, Any]) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{b64(json.dumps(claims).encode())}.{signature}"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_reads_like_any_other(door: Door, attack: Attack) -> None:
    """RFC 8725: one algorithm, one typ, our key, our audience, a short life; every refusal is one text."""
    with pytest.raises(TokenRejected) as rejected:
        door.enter(attack(door))
    assert str(rejected.value) == "The API token is missing or not valid. Make one with `connector token`."


@pytest.mark.parametrize(
    "scheme", [None, "", "Bearer", "Basic {}", "DPoP {}", "{}", "Bearer  {}", "bearer{}"]
)
def test_it_stands_behind_bearer(door: Door, scheme: str | None) -> None:
    """RFC 6750 §2.1."""
    with pytest.raises(TokenRejected):
        door.tokens.verify(scheme if scheme is None else scheme.format(door.token()))


def test_the_schemes_case_does_not_matter(door: Door) -> None:
    """RFC 9110 §11.1."""
    assert door.tokens.verify(f"bearer {door.token()}").subject == "register owner"


async def test_a_token_ends_with_its_time(door: Door) -> None:
    """To the second, by our own clock; a clock that is a little ahead locks nobody out."""
    token = door.token(iat=door.now + LEEWAY_SECONDS)
    assert door.enter(token)
    await door.clock.advance(LONGEST - 0.5)
    assert door.enter(token)
    await door.clock.advance(0.5)
    with pytest.raises(TokenRejected):
        door.enter(token)


# --- roles and purposes ---------------------------------------------------------------------------------

BRINGS = {
    PersonRole.ADMIN: {PersonRole.OPERATOR, PersonRole.VIEWER},
    PersonRole.OPERATOR: {PersonRole.VIEWER},
    PersonRole.APPROVER: {PersonRole.VIEWER},
    PersonRole.DPO: {PersonRole.VIEWER},
}


@pytest.mark.parametrize("held", PersonRole)
@pytest.mark.parametrize("needed", PersonRole)
def test_what_a_role_brings_along(door: Door, held: PersonRole, needed: PersonRole) -> None:
    """Nobody approves, reads evidence, asks or records consent by implication, an administrator neither."""
    person = issued(door, held)
    if needed is held or needed in BRINGS.get(held, set()):
        person.require(needed)
    else:
        with pytest.raises(NotPermitted) as refused:
            person.require(needed)
        assert (refused.value.reasons[0].code, needed in str(refused.value)) == ("role_missing", True)


def test_one_of_several_roles_is_enough(door: Door) -> None:
    """And no role is enough where none is named: a route that forgot to is closed."""
    person = issued(door, PersonRole.ANALYST)
    person.require(PersonRole.CASE_WORKER, PersonRole.ANALYST)
    with pytest.raises(NotPermitted):
        person.require()
    with pytest.raises(NotPermitted):
        issued(door).require(PersonRole.VIEWER)


def test_a_purpose_must_be_the_tokens(door: Door) -> None:
    """Purposes are stated when the token is made; no parent and no default is implied."""
    person = issued(door, PersonRole.ANALYST)
    person.require_purpose("outreach")
    for purpose in ("", "Outreach", "outreach ", "public-service-provision"):
        with pytest.raises(NotPermitted) as refused:
            person.require_purpose(purpose)
        assert refused.value.reasons[0].code == "purpose_not_yours"
    with pytest.raises(NotPermitted, match="none"):
        issued(door, PersonRole.ANALYST, purposes=[]).require_purpose("outreach")
