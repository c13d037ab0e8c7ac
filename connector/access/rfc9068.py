"""JWT access tokens (RFC 9068), bound to a key (RFC 9449 §6): made by an issuer, read by the same issuer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from connector.access import jose, rfc9396
from connector.access.jose import Refusal
from connector.model.token import SCOPE_DATA, Actor, AuthorizationDetail, VerifiedClaims
from connector.ports import Keys

TYP = "at+jwt"
MAX_LIFE_SECONDS = 300
_MAX_ACTORS = 4
_MAX_URL_CHARS = 2_048


def mint(keys: Keys, token: VerifiedClaims) -> str:
    """Sign what the issuer has verified. Times are cut to whole seconds."""
    claims: dict[str, Any] = {
        "iss": token.issuer,
        "sub": token.subject,
        "client_id": token.client_id,
        "aud": token.audience,
        "jti": token.token_id,
        "iat": int(token.issued_at.timestamp()),
        "exp": int(token.expires_at.timestamp()),
        "scope": " ".join(sorted(token.scope)),
        "cnf": {"jkt": token.key_thumbprint},
    }
    if token.detail is not None:
        claims["authorization_details"] = [rfc9396.to_wire(token.detail)]
    if token.actor is not None:
        claims["act"] = actor_to_wire(token.actor)
    return keys.sign_jwt(claims, typ=TYP)


def verify_claims(claims: Mapping[str, Any], *, issuer: str, audience: str, now: datetime) -> VerifiedClaims:
    """§4, for claims whose signature and `typ` already held. Raises Refusal."""
    if claims.get("iss") != issuer:
        raise Refusal("iss")
    if claims.get("aud") != audience:  # a string, exactly: a list would be a token for several places
        raise Refusal("aud")
    issued_at, expires_at = _life(claims, now.timestamp())
    subject = jose.text(claims, "sub")
    if claims.get("client_id") != subject:
        raise Refusal("client_id")
    confirmation = claims.get("cnf")
    if not isinstance(confirmation, Mapping):
        raise Refusal("cnf")
    scope = claims.get("scope")
    if not isinstance(scope, str) or not scope:
        raise Refusal("scope")
    return VerifiedClaims(
        issuer=issuer,
        subject=subject,
        client_id=subject,
        audience=audience,
        token_id=jose.text(claims, "jti"),
        issued_at=issued_at,
        expires_at=expires_at,
        scope=frozenset(scope.split(" ")),
        key_thumbprint=jose.text(confirmation, "jkt"),
        detail=_detail(claims, scope),
        actor=actor_from_wire(claims["act"]) if "act" in claims else None,
    )


def _life(claims: Mapping[str, Any], now: float) -> tuple[datetime, datetime]:
    issued, expires = jose.instant(claims, "iat"), jose.instant(claims, "exp")
    if not issued <= expires <= issued + MAX_LIFE_SECONDS:
        raise Refusal("life")
    jose.require_current(claims, now)
    return datetime.fromtimestamp(issued, UTC), datetime.fromtimestamp(expires, UTC)


def _detail(claims: Mapping[str, Any], scope: str) -> AuthorizationDetail | None:
    """A data token names exactly one grant; any other token names none."""
    entries = claims.get("authorization_details")
    if scope != SCOPE_DATA:
        if entries is not None:
            raise Refusal("authorization_details")
        return None
    if not isinstance(entries, list) or len(entries) != 1:
        raise Refusal("authorization_details")
    detail = rfc9396.from_wire(entries[0])
    if not detail.grant_id:
        raise Refusal("authorization_details")
    return detail


def actor_to_wire(actor: Actor) -> dict[str, Any]:
    wire: dict[str, Any] = {"sub": actor.subject, "kind": actor.kind}
    if actor.act is not None:
        wire["act"] = actor_to_wire(actor.act)
    return wire


def actor_from_wire(wire: Any, depth: int = 1) -> Actor:
    """RFC 8693 §4.1, at most four deep."""
    if not isinstance(wire, Mapping) or depth > _MAX_ACTORS:
        raise Refusal("act")
    return Actor(
        subject=jose.text(wire, "sub", max_chars=_MAX_URL_CHARS),
        kind=jose.text(wire, "kind"),
        act=actor_from_wire(wire["act"], depth + 1) if "act" in wire else None,
    )
