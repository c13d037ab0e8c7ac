"""Token exchange (RFC 8693): a client trades its own token of ours for a narrower one, naming who acts.

The subject stays. The person or app behind the client is named in an actor token that the client signs;
who acted before stays nested in `act`. Nothing is ever widened: same resource, same agreement and purpose,
no longer life. Tokens of others are not taken: what another server vouches for is decided at a request of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from connector.access import jose, rfc9068
from connector.access.jose import Refusal
from connector.model.participant import Participant
from connector.model.token import Actor, VerifiedClaims
from connector.ports import Keys

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ACTOR_TYP = "actor+jwt"
ACTOR_LIFE_SECONDS = 60
_MAX_PERSON_CHARS = 256
_ALLOWED = frozenset(
    {
        "grant_type",
        "client_id",
        "client_assertion",
        "client_assertion_type",
        "subject_token",
        "subject_token_type",
        "actor_token",
        "actor_token_type",
        "requested_token_type",
        "scope",
        "resource",
        "authorization_details",
    }
)


def make_actor_token(
    keys: Keys, *, audience: str, at: datetime, token_id: str, subject: str, kind: str
) -> str:
    """`subject`: our own opaque name for the person or app; never a personal id. `kind`: their role."""
    issued = int(at.timestamp())
    claims = {
        "iss": keys.participant_id,
        "sub": subject,
        "kind": kind,
        "aud": audience,
        "iat": issued,
        "exp": issued + ACTOR_LIFE_SECONDS,
        "jti": token_id,
    }
    return keys.sign_jwt(claims, typ=ACTOR_TYP)


def require_form(form: Mapping[str, str]) -> None:
    """§2.1, less what would leave the narrow case: unknown parameters are refused, for they might restrict.
    Raises Refusal."""
    if form.keys() - _ALLOWED:
        raise Refusal("parameter")
    if form.get("subject_token_type") != ACCESS_TOKEN or not form.get("subject_token"):
        raise Refusal("subject_token_type")
    if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
        raise Refusal("requested_token_type")
    if ("actor_token" in form) != ("actor_token_type" in form):
        raise Refusal("actor_token_type")
    if form.get("actor_token_type", JWT) != JWT:
        raise Refusal("actor_token_type")


def actor_of(actor_token: str, client: Participant, *, audience: str, now: datetime) -> tuple[Actor, str]:
    """Whom the client names, and the token's id. Raises Refusal."""
    claims = jose.verify_jws(actor_token, client.jwks, typ={ACTOR_TYP})
    if claims.get("iss") != client.id:
        raise Refusal("actor_iss")
    if claims.get("aud") != audience:
        raise Refusal("actor_aud")
    issued, expires = jose.instant(claims, "iat"), jose.instant(claims, "exp")
    if not issued <= expires <= issued + ACTOR_LIFE_SECONDS:
        raise Refusal("actor_life")
    jose.require_current(claims, now.timestamp())
    actor = Actor(
        subject=jose.text(claims, "sub", max_chars=_MAX_PERSON_CHARS), kind=jose.text(claims, "kind")
    )
    return actor, f"{client.id}:{jose.text(claims, 'jti')}"


def chained(token: VerifiedClaims, actor: Actor | None) -> Actor | None:
    """§4.1: the present actor outermost, those before it nested. Raises Refusal where it gets too deep."""
    if actor is None:
        return token.actor
    chain = replace(actor, act=token.actor)
    rfc9068.actor_from_wire(rfc9068.actor_to_wire(chain))
    return chain
