"""The attack table: each line a request that must fail for its own reason, and tell the attacker nothing.

The code in the last column is what our log learns; what goes out is the same for every line of one error.
"""

# ruff: noqa: E501 - a table is read best with one line per case
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connector.access import dpop, jose, rfc7523
from connector.access.rfc6749 import DESCRIPTIONS, MAX_FORM_BYTES
from connector.errors import NotFound, NotPermitted, Reason, TokenRejected
from connector.model.audit import AuditEvent
from connector.model.participant import ParticipantStatus
from connector.model.transfer import GrantState
from tests.unit.access.world import FORM, World, b64, detail_entry, forge, kid, private_key, respelled

NAN = b'{"iss":"city","sub":"city","aud":"https://kela.example","iat":%d,"exp":NaN,"jti":"x"}'
TWICE = b'{"iss":"city","sub":"city","sub":"city","aud":"https://kela.example","iat":%d,"exp":%d,"jti":"x"}'


@dataclass(frozen=True)
class Ask:
    """One request to the token endpoint."""

    form: Mapping[str, str] | bytes
    proofs: Sequence[str] | None = None
    content_type: str = FORM


TokenAttack = Callable[[World], Ask]


def with_assertion(make: Callable[[World], str | None]) -> TokenAttack:
    return lambda w: Ask(w.form(client_assertion=make(w)))


def with_proof(make: Callable[[World], str]) -> TokenAttack:
    return lambda w: Ask(w.form(), [make(w)])


def with_details(*entries: Mapping[str, Any]) -> TokenAttack:
    return lambda w: Ask(w.data_form(authorization_details=json.dumps(entries)))


def assertion_header(**extra: Any) -> TokenAttack:
    """An assertion by the right key whose header says more, or less."""

    def make(w: World) -> str:
        header = {"alg": "ES256", "typ": rfc7523.TYP, "kid": kid(w.keys["city"]), **extra}
        header = {k: v for k, v in header.items() if v is not None}
        return forge(header, w.assertion_claims(), private_key(w.keys["city"]))

    return with_assertion(make)


def public_pem(w: World, name: str) -> bytes:
    return (
        private_key(w.keys[name])
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def public_jwk(w: World, name: str) -> dict[str, Any]:
    return {k: w.keys[name].public_jwks()[0][k] for k in ("kty", "crv", "x", "y")}


def proof_header(w: World, **extra: Any) -> dict[str, Any]:
    return {"alg": "ES256", "typ": dpop.TYP, "jwk": public_jwk(w, "city"), **extra}


def proof_claims(w: World) -> dict[str, Any]:
    return {"jti": w.new_id(), "htm": "POST", "htu": w.endpoint, "iat": w.now}


def inactive(status: ParticipantStatus) -> TokenAttack:
    def attack(w: World) -> Ask:
        w.registry.set_status("city", status)
        return Ask(w.form())

    return attack


def grant_that(**changes: Any) -> TokenAttack:
    def attack(w: World) -> Ask:
        w.grant_changes = changes
        return Ask(w.data_form())

    return attack


def refused_by(error: Exception) -> TokenAttack:
    def attack(w: World) -> Ask:
        w.open_error = error
        return Ask(w.data_form())

    return attack


NO = NotPermitted([Reason(code="purpose_not_allowed", text="Not for this purpose.", source="policy")])

TOKEN_ATTACKS: list[tuple[str, TokenAttack, str, str]] = [
    # who asks (RFC 7523)
    ("no assertion", with_assertion(lambda w: None), "invalid_client", "client_unknown"),
    ("assertion type unknown", lambda w: Ask(w.form(client_assertion_type="x")), "invalid_client", "client_unknown"),
    ("a secret instead", lambda w: Ask(w.form(client_assertion=None, client_id="city", client_secret="s")), "invalid_client", "client_unknown"),
    ("not a JWS", with_assertion(lambda w: "a.b"), "invalid_client", "malformed"),
    ("alg none", with_assertion(lambda w: forge({"alg": "none", "typ": "JWT"}, w.assertion_claims(), None)), "invalid_client", "algorithm"),
    ("alg None", with_assertion(lambda w: forge({"alg": "None"}, w.assertion_claims(), None)), "invalid_client", "algorithm"),
    ("no alg", with_assertion(lambda w: forge({"typ": "JWT"}, w.assertion_claims(), None)), "invalid_client", "algorithm"),
    ("ES256 with an empty signature", with_assertion(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["city"])}, w.assertion_claims(), None)), "invalid_client", "signature"),
    ("ES256 with a signature of zeros", with_assertion(lambda w: w.assertion().rpartition(".")[0] + "." + b64(bytes(64))), "invalid_client", "signature"),
    ("HS256 with the public key as secret", with_assertion(lambda w: forge({"alg": "HS256", "kid": kid(w.keys["city"])}, w.assertion_claims(), public_pem(w, "city"))), "invalid_client", "algorithm"),
    ("HMAC under the name ES256", with_assertion(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["city"])}, w.assertion_claims(), public_pem(w, "city"))), "invalid_client", "signature"),
    ("ES384 claimed", assertion_header(alg="ES384"), "invalid_client", "algorithm"),
    ("typ of an access token", with_assertion(lambda w: w.assertion(typ="at+jwt")), "invalid_client", "typ"),
    ("typ not a string", assertion_header(typ=["JWT"]), "invalid_client", "typ"),
    ("an access token as assertion", with_assertion(lambda w: w.minted()), "invalid_client", "typ"),
    ("a DPoP proof as assertion", with_assertion(lambda w: w.proof()), "invalid_client", "typ"),
    ("a trust list as assertion", with_assertion(lambda w: w.assertion(typ="trust-list+jwt")), "invalid_client", "typ"),
    ("wrong audience", with_assertion(lambda w: w.assertion(aud="https://city.example")), "invalid_client", "aud"),
    ("audience with a slash more", with_assertion(lambda w: w.assertion(aud="https://kela.example/")), "invalid_client", "aud"),
    ("two audiences", with_assertion(lambda w: w.assertion(aud=["https://kela.example", "https://city.example"])), "invalid_client", "aud"),
    ("no audience", with_assertion(lambda w: w.assertion(aud=None)), "invalid_client", "aud"),
    ("expired", with_assertion(lambda w: w.assertion(iat=w.now - 120, exp=w.now - 60)), "invalid_client", "exp"),
    ("not yet valid", with_assertion(lambda w: w.assertion(nbf=w.now + 40)), "invalid_client", "nbf"),
    ("from the future", with_assertion(lambda w: w.assertion(iat=w.now + 40, exp=w.now + 60)), "invalid_client", "iat"),
    ("lifetime too long", with_assertion(lambda w: w.assertion(exp=w.now + 3_600)), "invalid_client", "life"),
    ("no expiry", with_assertion(lambda w: w.assertion(exp=None)), "invalid_client", "exp"),
    ("no iat", with_assertion(lambda w: w.assertion(iat=None)), "invalid_client", "iat"),
    ("expiry a string", with_assertion(lambda w: w.assertion(exp="never")), "invalid_client", "exp"),
    ("expiry true", with_assertion(lambda w: w.assertion(exp=True)), "invalid_client", "exp"),
    ("expiry NaN, which no comparison refuses", with_assertion(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["city"])}, NAN % w.now, private_key(w.keys["city"]))), "invalid_client", "malformed"),
    ("expiry infinite", with_assertion(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["city"])}, (NAN % w.now).replace(b"NaN", b"1e999"), private_key(w.keys["city"]))), "invalid_client", "exp"),
    ("a claim twice", with_assertion(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["city"])}, TWICE % (w.now, w.now + 60), private_key(w.keys["city"]))), "invalid_client", "malformed"),
    ("a header twice", with_assertion(lambda w: forge(b'{"alg":"none","alg":"ES256"}', w.assertion_claims(), private_key(w.keys["city"]))), "invalid_client", "malformed"),
    ("no jti", with_assertion(lambda w: w.assertion(jti=None)), "invalid_client", "jti"),
    ("jti too long", with_assertion(lambda w: w.assertion(jti="x" * 129)), "invalid_client", "jti"),
    ("iss is not sub", with_assertion(lambda w: w.assertion(iss="youth")), "invalid_client", "iss"),
    ("sub not a string", with_assertion(lambda w: w.assertion(sub=["city"])), "invalid_client", "client_unknown"),
    ("client_id of another", lambda w: Ask(w.form(client_id="youth")), "invalid_client", "client_id"),
    ("unknown kid", assertion_header(kid="nobody's"), "invalid_client", "key_unknown"),
    ("kid of another participant", lambda w: Ask(w.form(client_assertion=w.assertion("city", signer="youth"))), "invalid_client", "key_unknown"),
    ("kid of the encryption key", with_assertion(lambda w: forge({"alg": "ES256", "kid": w.keys["city"].public_jwks()[1]["kid"]}, w.assertion_claims(), private_key(w.keys["city"]))), "invalid_client", "key_unknown"),
    ("kid is a path", assertion_header(kid="../../dev/null"), "invalid_client", "key_unknown"),
    ("signed by another under our kid", with_assertion(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["city"])}, w.assertion_claims(), private_key(w.keys["mallory"]))), "invalid_client", "signature"),
    ("jku header", assertion_header(jku="https://mallory.example/jwks"), "invalid_client", "header"),
    ("x5u header", assertion_header(x5u="https://mallory.example/cert"), "invalid_client", "header"),
    ("x5c header", assertion_header(x5c=["MII"]), "invalid_client", "header"),
    ("crit header", assertion_header(crit=["exp"]), "invalid_client", "header"),
    ("b64 header", assertion_header(b64=False), "invalid_client", "header"),
    ("key brought along", with_assertion(lambda w: forge({"alg": "ES256", "jwk": public_jwk(w, "mallory")}, w.assertion_claims(), private_key(w.keys["mallory"]))), "invalid_client", "header"),
    ("client not in the registry", lambda w: Ask(w.form("mallory")), "invalid_client", "client_unknown"),
    ("suspended participant", inactive(ParticipantStatus.SUSPENDED), "invalid_client", "client_unknown"),
    ("participant who left", inactive(ParticipantStatus.LEFT), "invalid_client", "client_unknown"),
    ("signature spelled otherwise", with_assertion(lambda w: respelled(w.assertion())), "invalid_client", "malformed"),
    ("a character more", with_assertion(lambda w: w.assertion() + "A"), "invalid_client", "signature"),
    ("padded", with_assertion(lambda w: w.assertion() + "=="), "invalid_client", "malformed"),
    ("payload changed", with_assertion(lambda w: swap_payload(w.assertion(), w.assertion_claims(exp=w.now + 50))), "invalid_client", "signature"),
    ("assertion of 10 KB", with_assertion(lambda w: w.assertion(extra="x" * 10_000)), "invalid_client", "oversize"),
    ("JSON nested a thousandfold", with_assertion(lambda w: f"{b64(b'[' * 3_000)}.{b64(b'{}')}.{b64(bytes(64))}"), "invalid_client", "malformed"),
    ("claims not an object", with_assertion(lambda w: forge({"alg": "ES256"}, [1], private_key(w.keys["city"]))), "invalid_client", "malformed"),
    # possession (RFC 9449 §5)
    ("no proof", lambda w: Ask(w.form(), []), "invalid_dpop_proof", "proof_missing"),
    ("two proofs", lambda w: Ask(w.form(), [w.proof(), w.proof()]), "invalid_dpop_proof", "proof_repeated"),
    ("proof for GET", with_proof(lambda w: w.proof(htm="GET")), "invalid_dpop_proof", "proof_method"),
    ("proof for another server", with_proof(lambda w: w.proof(htu="https://city.example/oauth2/token")), "invalid_dpop_proof", "proof_url"),
    ("proof for another path", with_proof(lambda w: w.proof(htu=w.url)), "invalid_dpop_proof", "proof_url"),
    ("proof for http", with_proof(lambda w: w.proof(htu=w.endpoint.replace("https", "http"))), "invalid_dpop_proof", "proof_url"),
    ("proof with user info", with_proof(lambda w: w.proof(htu="https://kela.example@mallory.example/oauth2/token")), "invalid_dpop_proof", "proof_url"),
    ("old proof", with_proof(lambda w: w.proof(iat=w.now - 61)), "invalid_dpop_proof", "proof_time"),
    ("proof from the future", with_proof(lambda w: w.proof(iat=w.now + 31)), "invalid_dpop_proof", "proof_time"),
    ("proof without a time", with_proof(lambda w: w.proof(iat=None)), "invalid_dpop_proof", "iat"),
    ("proof without an id", with_proof(lambda w: w.proof(jti=None)), "invalid_dpop_proof", "jti"),
    ("proof of typ JWT", with_proof(lambda w: w.proof(typ="JWT")), "invalid_dpop_proof", "typ"),
    ("the assertion as proof", with_proof(lambda w: w.assertion()), "invalid_dpop_proof", "typ"),
    ("proof without its key", with_proof(lambda w: forge({"alg": "ES256", "typ": dpop.TYP}, proof_claims(w), private_key(w.keys["city"]))), "invalid_dpop_proof", "header"),
    ("proof with a private key", with_proof(lambda w: forge(proof_header(w, jwk={**public_jwk(w, "city"), "d": "AA"}), proof_claims(w), private_key(w.keys["city"]))), "invalid_dpop_proof", "key"),
    ("proof with a symmetric key", with_proof(lambda w: forge(proof_header(w, alg="HS256", jwk={"kty": "oct", "k": "AA"}), proof_claims(w), b"\0")), "invalid_dpop_proof", "algorithm"),
    ("proof with a P-384 key", with_proof(lambda w: forge(proof_header(w, jwk={**public_jwk(w, "city"), "crv": "P-384"}), proof_claims(w), private_key(w.keys["city"]))), "invalid_dpop_proof", "key"),
    ("proof with a point off the curve", with_proof(lambda w: forge(proof_header(w, jwk={**public_jwk(w, "city"), "y": b64(bytes(31) + b"\1")}), proof_claims(w), private_key(w.keys["city"]))), "invalid_dpop_proof", "key"),
    ("proof that names another's key", with_proof(lambda w: forge(proof_header(w, jwk=public_jwk(w, "youth")), proof_claims(w), private_key(w.keys["city"]))), "invalid_dpop_proof", "signature"),
    ("proof with a jku too", with_proof(lambda w: forge(proof_header(w, jku="https://x.example"), proof_claims(w), private_key(w.keys["city"]))), "invalid_dpop_proof", "header"),
    # what for (RFC 6749 §3.3, 8707, 9396)
    ("no scope", lambda w: Ask(w.form(scope=None)), "invalid_scope", "scope"),
    ("unknown scope", lambda w: Ask(w.form(scope="admin")), "invalid_scope", "scope"),
    ("two scopes", lambda w: Ask(w.form(scope="dsp data")), "invalid_scope", "scope"),
    ("no resource", lambda w: Ask(w.form(resource=None)), "invalid_target", "resource"),
    ("foreign resource", lambda w: Ask(w.form(resource="https://city.example/dsp/2025-1")), "invalid_target", "resource"),
    ("resource of another scope", lambda w: Ask(w.form(resource=w.kela.data_url)), "invalid_target", "resource"),
    ("resource below ours", lambda w: Ask(w.form(resource=w.url)), "invalid_target", "resource"),
    ("data without details", lambda w: Ask(w.data_form(authorization_details=None)), "invalid_authorization_details", "malformed"),
    ("details for dsp", lambda w: Ask(w.form(authorization_details=json.dumps([detail_entry()]))), "invalid_authorization_details", "not_for_this_scope"),
    ("two authorization details", with_details(detail_entry(), detail_entry(agreement="agreement-2")), "invalid_authorization_details", "authorization_details"),
    ("no authorization detail", with_details(), "invalid_authorization_details", "authorization_details"),
    ("detail of another type", with_details(detail_entry(type="payment")), "invalid_authorization_details", "authorization_details"),
    ("detail that names its grant", with_details(detail_entry(grant="grant-9")), "invalid_authorization_details", "authorization_details"),
    ("detail with a member more", with_details(detail_entry(columns=["*"])), "invalid_authorization_details", "authorization_details"),
    ("detail without a purpose", with_details(detail_entry(purpose=None)), "invalid_authorization_details", "authorization_details"),
    ("detail without actions", with_details(detail_entry(actions=[])), "invalid_authorization_details", "authorization_details"),
    ("purpose not a string", with_details(detail_entry(purpose=["a", "b"])), "invalid_authorization_details", "purpose"),
    ("details not an array", lambda w: Ask(w.data_form(authorization_details=json.dumps(detail_entry()))), "invalid_authorization_details", "authorization_details"),
    ("details not JSON", lambda w: Ask(w.data_form(authorization_details='[{}],"x":[{}]')), "invalid_authorization_details", "malformed"),
    ("policy says no", refused_by(NO), "invalid_authorization_details", "purpose_not_allowed"),
    ("agreement of another", refused_by(NotFound("You have no such agreement here.")), "invalid_authorization_details", "not_found"),
    ("grant of another consumer", grant_that(consumer="youth"), "invalid_authorization_details", "grant_differs"),
    ("grant for another purpose", grant_that(purpose="outreach"), "invalid_authorization_details", "grant_differs"),
    ("grant of another agreement", grant_that(agreement_id="agreement-2"), "invalid_authorization_details", "grant_differs"),
    ("grant that has ended", grant_that(state=GrantState.ENDED), "invalid_authorization_details", "grant_ended"),
    # the form (RFC 6749 §3.2)
    ("repeated parameter", lambda w: Ask(urlencode([*w.form().items(), ("scope", "data")]).encode()), "invalid_request", "repeated_parameter"),
    ("repeated resource", lambda w: Ask(urlencode([*w.form().items(), ("resource", w.kela.data_url)]).encode()), "invalid_request", "repeated_parameter"),
    ("repeated empty parameter", lambda w: Ask(urlencode([*w.form().items(), ("scope", "")]).encode()), "invalid_request", "repeated_parameter"),
    ("JSON instead of a form", lambda w: Ask(json.dumps(w.form()).encode(), None, "application/json"), "invalid_request", "content_type"),
    ("no content type", lambda w: Ask(w.form(), None, ""), "invalid_request", "content_type"),
    ("multipart", lambda w: Ask(w.form(), None, "multipart/form-data; boundary=x"), "invalid_request", "content_type"),
    ("form too large", lambda w: Ask(w.form(extra="x" * MAX_FORM_BYTES)), "invalid_request", "oversize"),
    ("too many parameters", lambda w: Ask({**w.form(), **{f"p{i}": "x" for i in range(20)}}), "invalid_request", "malformed"),
    ("raw bytes", lambda w: Ask(b"\xff\xfe=1"), "invalid_request", "malformed"),
    ("escapes that are no UTF-8", lambda w: Ask(urlencode(w.form()).encode() + b"&x=%ff"), "invalid_request", "malformed"),
    ("not pairs", lambda w: Ask(b"grant_type"), "invalid_request", "malformed"),
    ("grant type missing", lambda w: Ask(w.form(grant_type=None)), "unsupported_grant_type", ""),
    ("password grant", lambda w: Ask(w.form(grant_type="password")), "unsupported_grant_type", ""),
    ("token exchange of nothing", lambda w: Ask(w.form(grant_type="urn:ietf:params:oauth:grant-type:token-exchange")), "invalid_request", "subject_token_type"),
]  # fmt: skip


def swap_payload(token: str, claims: Mapping[str, Any]) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{b64(json.dumps(claims).encode())}.{signature}"


@pytest.mark.parametrize(
    ("attack", "error", "code"), [a[1:] for a in TOKEN_ATTACKS], ids=[a[0] for a in TOKEN_ATTACKS]
)
async def test_the_token_endpoint_refuses(attack: TokenAttack, error: str, code: str) -> None:
    """Identity issue, attack table: the right OAuth error, on record with the reason, nothing learned."""
    world = World()
    ask = attack(world)
    status, answer = await world.ask(ask.form, ask.proofs, ask.content_type)
    assert (status, answer["error"]) == (400, error)
    assert answer["error_description"] == DESCRIPTIONS[error]
    assert set(answer) <= {"error", "error_description", "reasons"}
    [(event, fields)] = world.audited
    assert event is AuditEvent.TOKEN_REFUSED
    assert fields["reasons"] == ((error, code) if code else (error,))


async def test_an_assertion_works_once() -> None:
    """RFC 7523 §3: a replayed assertion is refused, also with a fresh proof; so is one that was refused."""
    world = World()
    form = world.form()
    assert (await world.ask(form))[0] == 200
    _, answer = await world.ask(form)
    assert answer["error"] == "invalid_client"
    assert world.audited[-1][1]["reasons"] == ("invalid_client", "assertion_replayed")


async def test_an_assertion_is_not_spent_by_others() -> None:
    """A forged assertion with a stolen jti does not use that jti up."""
    world = World()
    form = world.form()
    await world.ask(
        world.form(client_assertion=swap_payload(form["client_assertion"], world.assertion_claims()))
    )
    assert world.replay.claimed == {}
    assert (await world.ask(form))[0] == 200


async def test_a_proof_works_once_at_the_token_endpoint() -> None:
    """RFC 9449 §11.1."""
    world = World()
    proof = world.proof()
    assert (await world.ask(world.form(), [proof]))[0] == 200
    _, answer = await world.ask(world.form(), [proof])
    assert answer["error"] == "invalid_dpop_proof"
    assert world.audited[-1][1]["reasons"] == ("invalid_dpop_proof", "proof_replayed")


# --- at the resource ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """One request to the protected DSP endpoint `World.url`, by POST."""

    authorization: str | None
    proof: str | None
    method: str = "POST"
    url: str = ""


UseAttack = Callable[[World], Use]


def token_that(make: Callable[[World], str], scheme: str = "DPoP") -> UseAttack:
    """A bad token with a good proof."""

    def attack(w: World) -> Use:
        token = make(w)
        return Use(f"{scheme} {token}", w.use_proof(token))

    return attack


def proof_that(make: Callable[[World, str], str | None]) -> UseAttack:
    """A good token with a bad proof."""

    def attack(w: World) -> Use:
        token = w.minted()
        return Use(f"DPoP {token}", make(w, token))

    return attack


def token_header(**extra: Any) -> UseAttack:
    def make(w: World) -> str:
        header = {"alg": "ES256", "typ": "at+jwt", "kid": kid(w.keys["kela"]), **extra}
        return forge(header, w.token_claims(), private_key(w.keys["kela"]))

    return token_that(make)


def while_status(status: ParticipantStatus) -> UseAttack:
    def make(w: World) -> str:
        w.registry.set_status("city", status)
        return w.minted()

    return token_that(make)


def removed(w: World) -> str:
    del w.registry.participants["city"]
    return w.minted()


def revoked(w: World) -> str:
    w.revoked.add("bad")
    return w.minted(jti="bad")


def deep_actors(depth: int) -> dict[str, Any]:
    actor: dict[str, Any] = {"sub": "app", "kind": "app"}
    for _ in range(depth - 1):
        actor = {"sub": "app", "kind": "app", "act": actor}
    return actor


USE_ATTACKS: list[tuple[str, UseAttack, str]] = [
    ("no token", lambda w: Use(None, w.proof()), "scheme"),
    ("empty header", lambda w: Use("", w.proof()), "scheme"),
    ("bearer downgrade", token_that(lambda w: w.minted(), scheme="Bearer"), "scheme"),
    ("basic", lambda w: Use("Basic Y2l0eTpjaXR5", w.proof()), "scheme"),
    ("two tokens in one header", lambda w: Use(f"DPoP {w.minted()}, DPoP {w.minted()}", w.proof()), "scheme"),
    ("alg none", token_that(lambda w: forge({"alg": "none", "typ": "at+jwt"}, w.token_claims(), None)), "algorithm"),
    ("HS256 with the public key as secret", token_that(lambda w: forge({"alg": "HS256", "typ": "at+jwt", "kid": kid(w.keys["kela"])}, w.token_claims(), public_pem(w, "kela"))), "algorithm"),
    ("typ JWT", token_that(lambda w: w.minted(typ="JWT")), "typ"),
    ("typ missing", token_that(lambda w: forge({"alg": "ES256", "kid": kid(w.keys["kela"])}, w.token_claims(), private_key(w.keys["kela"]))), "typ"),
    ("typ in another case", token_that(lambda w: w.minted(typ="AT+JWT")), "typ"),
    ("an assertion as access token", token_that(lambda w: w.assertion()), "typ"),
    ("a plain-JWT assertion as access token", token_that(lambda w: w.assertion(typ="JWT")), "typ"),
    ("a proof as access token", token_that(lambda w: w.proof()), "typ"),
    ("our own API token as access token", token_that(lambda w: w.minted(typ="api+jwt")), "typ"),
    ("token of another issuer", token_that(lambda w: w.keys["youth"].sign_jwt(w.token_claims(), typ="at+jwt")), "key_unknown"),
    ("token of another issuer under our kid", token_that(lambda w: forge({"alg": "ES256", "typ": "at+jwt", "kid": kid(w.keys["kela"])}, w.token_claims(), private_key(w.keys["youth"]))), "signature"),
    ("unknown kid", token_header(kid="nobody's"), "key_unknown"),
    ("jku header", token_header(jku="https://mallory.example/jwks"), "header"),
    ("x5u header", token_header(x5u="https://mallory.example/cert"), "header"),
    ("key brought along", token_header(jwk={"kty": "EC"}), "header"),
    ("crit header", token_header(crit=["exp"], exp=1), "header"),
    ("issuer of another", token_that(lambda w: w.minted(iss="https://city.example")), "iss"),
    ("issuer with a slash more", token_that(lambda w: w.minted(iss="https://kela.example/")), "iss"),
    ("wrong audience", token_that(lambda w: w.minted(aud="https://city.example/dsp/2025-1")), "aud"),
    ("audience of our data API", token_that(lambda w: w.minted(aud=w.kela.data_url)), "aud"),
    ("audience a list", token_that(lambda w: w.minted(aud=[w.kela.dsp_url])), "aud"),
    ("expired", token_that(lambda w: w.minted(iat=w.now - 330, exp=w.now - 30)), "exp"),
    ("not yet valid", token_that(lambda w: w.minted(nbf=w.now + 31)), "nbf"),
    ("from the future", token_that(lambda w: w.minted(iat=w.now + 31)), "iat"),
    ("lives too long", token_that(lambda w: w.minted(exp=w.now + 301)), "life"),
    ("ends before it begins", token_that(lambda w: w.minted(exp=w.now - 1)), "life"),
    ("no expiry", token_that(lambda w: w.minted(exp=None)), "exp"),
    ("no iat", token_that(lambda w: w.minted(iat=None)), "iat"),
    ("scope missing", token_that(lambda w: w.minted(scope=None)), "scope"),
    ("scope of another API", token_that(lambda w: w.minted(scope="events")), "scope"),
    ("client is not the subject", token_that(lambda w: w.minted(client_id="youth")), "client_id"),
    ("not bound to a key", token_that(lambda w: w.minted(cnf=None)), "cnf"),
    ("bound to something else", token_that(lambda w: w.minted(cnf={"x5t#S256": "x"})), "jkt"),
    ("no jti", token_that(lambda w: w.minted(jti=None)), "jti"),
    ("revoked", token_that(revoked), "revoked"),
    ("suspended participant", while_status(ParticipantStatus.SUSPENDED), "participant"),
    ("participant who left", while_status(ParticipantStatus.LEFT), "participant"),
    ("participant removed from the registry", token_that(removed), "participant"),
    ("a DSP token with details", token_that(lambda w: w.minted(authorization_details=[detail_entry(grant="g")])), "authorization_details"),
    ("actors too deep", token_that(lambda w: w.minted(act=deep_actors(5))), "act"),
    ("actor without a kind", token_that(lambda w: w.minted(act={"sub": "app"})), "kind"),
    ("signature spelled otherwise", token_that(lambda w: respelled(w.minted())), "malformed"),
    ("a character more", token_that(lambda w: w.minted() + "A"), "signature"),
    ("padded", token_that(lambda w: w.minted() + "="), "malformed"),
    ("a fourth part", token_that(lambda w: w.minted() + ".AAAA"), "malformed"),
    ("payload changed", token_that(lambda w: swap_payload(w.minted(), w.token_claims(sub="youth", client_id="youth"))), "signature"),
    ("20 KB", token_that(lambda w: w.minted(extra="x" * 20_000)), "oversize"),
    ("no proof", proof_that(lambda w, t: None), "proof_missing"),
    ("proof for another method", proof_that(lambda w, t: w.use_proof(t, htm="GET")), "proof_method"),
    ("proof for another URL", proof_that(lambda w, t: w.use_proof(t, htu=w.kela.dsp_url)), "proof_url"),
    ("proof for another host", proof_that(lambda w, t: w.use_proof(t, htu=w.url.replace("kela", "city"))), "proof_url"),
    ("proof for another port", proof_that(lambda w, t: w.use_proof(t, htu=w.url.replace(".example", ".example:8443"))), "proof_url"),
    ("proof for http", proof_that(lambda w, t: w.use_proof(t, htu=w.url.replace("https", "http"))), "proof_url"),
    ("proof for a path above", proof_that(lambda w, t: w.use_proof(t, htu=w.url + "/../x")), "proof_url"),
    ("proof whose URL is a number", proof_that(lambda w, t: w.use_proof(t, htu=7)), "htu"),
    ("proof for another token", proof_that(lambda w, t: w.use_proof(w.minted())), "proof_token"),
    ("proof without ath, as at the token endpoint", proof_that(lambda w, t: w.use_proof(t, ath=None)), "proof_token"),
    ("proof of another's key", proof_that(lambda w, t: w.use_proof(t, "youth")), "proof_key"),
    ("old proof", proof_that(lambda w, t: w.use_proof(t, iat=w.now - 61)), "proof_time"),
    ("proof from the future", proof_that(lambda w, t: w.use_proof(t, iat=w.now + 31)), "proof_time"),
    ("proof without an id", proof_that(lambda w, t: w.use_proof(t, jti=None)), "jti"),
    ("proof of typ JWT", proof_that(lambda w, t: w.use_proof(t, typ="JWT")), "typ"),
    ("the token as its own proof", proof_that(lambda w, t: t), "typ"),
    ("proof spelled otherwise", proof_that(lambda w, t: respelled(w.use_proof(t))), "malformed"),
    ("proof with alg none", proof_that(lambda w, t: forge(proof_header(w, alg="none"), proof_claims(w), None)), "algorithm"),
]  # fmt: skip


async def attempt(world: World, use: Use, scope: str = "dsp") -> TokenRejected:
    with pytest.raises(TokenRejected) as caught:
        await world.verifier.verify(
            use.method,
            use.url or world.url,
            use.authorization,
            use.proof,
            resource=world.kela.dsp_url,
            scope=scope,
        )
    return caught.value


@pytest.mark.parametrize(("attack", "code"), [a[1:] for a in USE_ATTACKS], ids=[a[0] for a in USE_ATTACKS])
async def test_a_request_is_refused(attack: UseAttack, code: str) -> None:
    """Identity issue, attack table: one text and one code outside, the reason only as the cause."""
    world = World()
    error = await attempt(world, attack(world))
    assert error.code == "invalid_token"
    assert str(error) == REFUSAL
    assert error.__cause__.code == code


REFUSAL = (
    "The access token was not accepted. "
    "Get a new one from this connector's token endpoint and send it with a fresh DPoP proof."
)


async def test_a_proof_works_once_at_the_resource() -> None:
    """RFC 9449 §11.1: a captured request is worth nothing."""
    world = World()
    token = world.minted()
    use = Use(f"DPoP {token}", world.use_proof(token))
    await world.verifier.verify(
        "POST", world.url, use.authorization, use.proof, resource=world.kela.dsp_url, scope="dsp"
    )
    error = await attempt(world, use)
    assert error.__cause__.code == "proof_replayed"


async def test_a_proof_is_not_spent_by_a_bad_token() -> None:
    """Only a proof that fits a good token is claimed, so junk cannot fill the replay guard."""
    world = World()
    token = world.minted(aud="https://city.example")
    await attempt(world, Use(f"DPoP {token}", world.use_proof(token)))
    assert world.replay.claimed == {}


@pytest.mark.parametrize(
    ("details", "code"),
    [
        (None, "authorization_details"),
        ([], "authorization_details"),
        ([detail_entry(grant="g"), detail_entry(grant="h")], "authorization_details"),
        ([detail_entry()], "authorization_details"),  # no grant
        ([detail_entry(grant="g", type="payment")], "authorization_details"),
    ],
    ids=["none", "empty", "two", "without a grant", "another type"],
)
async def test_a_data_token_names_exactly_one_grant(details: Any, code: str) -> None:
    """RFC 9396 §9.1; one token, one agreement, one purpose."""
    world = World()
    token = world.minted(aud=world.kela.data_url, scope="data", authorization_details=details)
    with pytest.raises(TokenRejected) as caught:
        await world.verifier.verify(
            "POST",
            world.url,
            f"DPoP {token}",
            world.use_proof(token),
            resource=world.kela.data_url,
            scope="data",
        )
    assert caught.value.__cause__.code == code


def test_a_p384_key_is_no_key_of_ours() -> None:
    """ES256 only: a key of another curve cannot enter through the trust list either."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-384",
        "x": b64(key.x.to_bytes(48, "big")),
        "y": b64(key.y.to_bytes(48, "big")),
    }
    with pytest.raises(jose.Refusal, match="key"):
        jose.public_key(jwk)
