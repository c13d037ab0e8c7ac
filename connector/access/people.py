"""The organisation's own people and apps at the client API: who they are, what they may, for which purposes.

A client API token is a short JWT signed with the connector's own key: whoever may read the key
folder may act as its operator, and no shared secret lies anywhere. OIDC sign-in comes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from connector.access import jose
from connector.access.jose import Refusal
from connector.errors import TokenRejected
from connector.model.person import Person, PersonRole
from connector.ports import Clock, Keys

TYP = "api+jwt"
LEEWAY_SECONDS = 5


def issue_api_token(
    keys: Keys,
    clock: Clock,
    *,
    audience: str,
    subject: str,
    roles: Iterable[PersonRole],
    purposes: Iterable[str],
    token_id: str,
    seconds: int = 300,
) -> str:
    now = clock.now()
    claims = {
        "iss": keys.participant_id,
        "aud": audience,
        "sub": subject,
        "jti": token_id,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=seconds)).timestamp()),
        "roles": sorted(roles),
        "purposes": sorted(purposes),
    }
    return keys.sign_jwt(claims, typ=TYP)


class ApiTokens:
    """Verifies client API tokens. Every refusal reads the same."""

    def __init__(self, keys: Keys, clock: Clock, *, audience: str, longest_seconds: int) -> None:
        self._issuer = keys.participant_id
        self._clock = clock
        self._audience = audience
        self._longest_seconds = longest_seconds
        self._keys = keys

    def verify(self, authorization: str | None) -> Person:
        """`authorization`: the whole header. Raises TokenRejected."""
        scheme, _, unverified = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise _rejected()
        try:
            return self._person(jose.verify_jws(unverified, self._keys.public_jwks(), typ={TYP}))
        except Refusal as refusal:
            raise _rejected() from refusal

    def _person(self, claims: Mapping[str, Any]) -> Person:
        if (claims.get("iss"), claims.get("aud")) != (self._issuer, self._audience):
            raise Refusal("audience")
        jose.text(claims, "jti")
        self._require_current(claims)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject or len(subject) > jose.MAX_ID_CHARS:
            raise Refusal("sub")
        try:
            roles = frozenset(PersonRole(r) for r in _texts(claims, "roles"))
        except ValueError:
            raise Refusal("roles") from None
        return Person(subject=subject, roles=roles, purposes=frozenset(_texts(claims, "purposes")))

    def _require_current(self, claims: Mapping[str, Any]) -> None:
        """Our own clock on both sides: next to no leeway. A longer life than agreed is no life."""
        now = self._clock.now().timestamp()
        issued, expires = jose.instant(claims, "iat"), jose.instant(claims, "exp")
        if not issued - LEEWAY_SECONDS <= now < expires or expires - issued > self._longest_seconds:
            raise Refusal("time")
        if "nbf" in claims and jose.instant(claims, "nbf") > now + LEEWAY_SECONDS:
            raise Refusal("nbf")


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refusal(name)
    return value


def _rejected() -> TokenRejected:
    return TokenRejected("The API token is missing or not valid.", mend="Make one with `connector token`.")
