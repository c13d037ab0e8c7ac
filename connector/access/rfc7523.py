"""Client authentication by private_key_jwt (RFC 7521 §4.2, RFC 7523 §3): both sides of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from authlib.oauth2.rfc6749 import InvalidClientError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion

from connector.access import jose, rfc9068
from connector.access.jose import LEEWAY_SECONDS, Refusal
from connector.model.json import JsonObject
from connector.model.participant import Participant
from connector.model.token import Actor
from connector.ports import Keys

TYP = "client-authentication+jwt"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
AUTH_METHOD = "private_key_jwt"
LIFE_SECONDS = 60
GRANT_TYPES = ("client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange")
ENDPOINTS = ("token", "introspection", "revocation")
_ACCEPTED_TYPS = frozenset({TYP, "JWT", None})  # plain JWTs: what other connectors send


def make_assertion(
    keys: Keys, *, audience: str, at: datetime, assertion_id: str, actor: Actor | None = None
) -> str:
    """Good for 60 s, once. `audience` is the authorization server's issuer identifier.

    `actor`: on whose behalf, as RFC 8693's `act`; the participant vouches for it with its signature.
    """
    issued = int(at.timestamp())
    claims: dict[str, Any] = {
        "iss": keys.participant_id,
        "sub": keys.participant_id,
        "aud": audience,
        "iat": issued,
        "exp": issued + LIFE_SECONDS,
        "jti": assertion_id,
    }
    if actor is not None:
        claims["act"] = rfc9068.actor_to_wire(actor)
    return keys.sign_jwt(claims, typ=TYP)


class Client:
    """A participant as Authlib's grants see a client (`ClientMixin`)."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == AUTH_METHOD and endpoint in ENDPOINTS

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in GRANT_TYPES


class ClientAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """Authlib's check, narrowed: ES256, one audience, at most 60 s, `jti` required, our clock.

    For one request: `assertion_id`, `expires_at` and `actor` are of the assertion it accepted, for the
    caller to claim; Authlib's own hook for that is synchronous.
    """

    CLIENT_AUTH_METHOD = AUTH_METHOD

    def __init__(self, audiences: Sequence[str], now: float) -> None:
        super().__init__(leeway=LEEWAY_SECONDS)
        self._audiences = audiences
        self._now = now
        self.assertion_id = ""
        self.expires_at = datetime.fromtimestamp(0, UTC)
        self.actor: Actor | None = None
        self._parsed: jose.UnverifiedJws | None = None

    def extract_assertion(self, assertion: str) -> tuple[JsonObject, JsonObject]:
        """Unverified: Authlib reads `sub` here to find the client whose keys must verify the rest."""
        try:
            self._parsed = jose.parse_jws(assertion, typ=_ACCEPTED_TYPS)
            return self._parsed.header, self._parsed.unverified_claims()
        except Refusal as refusal:
            raise InvalidClientError from refusal

    def resolve_client_public_key(self, client: Client) -> tuple[Mapping[str, Any], ...]:
        return client.participant.jwks

    def process_assertion_claims(
        self,
        assertion: str,  # noqa: ARG002 - the signature is Authlib's; it was taken apart above
        resolve_key: tuple[Mapping[str, Any], ...],
    ) -> JsonObject:
        try:
            if self._parsed is None:
                raise Refusal("malformed")
            claims = self._parsed.verified(jose.signing_key(resolve_key, self._parsed.header.get("kid")))
            self.verify_claims(claims)
        except Refusal as refusal:
            raise InvalidClientError from refusal
        return claims

    def verify_claims(self, claims: Mapping[str, Any]) -> None:
        """RFC 7523 §3. Raises Refusal."""
        client_id = jose.text(claims, "sub")
        if claims.get("iss") != client_id:
            raise Refusal("iss")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if audience not in self._audiences:
            raise Refusal("aud")
        issued, expires = jose.instant(claims, "iat"), jose.instant(claims, "exp")
        if not issued <= expires <= issued + LIFE_SECONDS:
            raise Refusal("life")
        jose.require_current(claims, self._now)
        self.actor = rfc9068.actor_from_wire(claims["act"]) if "act" in claims else None
        self.assertion_id = f"{client_id}:{jose.text(claims, 'jti')}"
        self.expires_at = datetime.fromtimestamp(expires + LEEWAY_SECONDS, UTC)
