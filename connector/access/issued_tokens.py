"""Access tokens of our own, read back: whatever resource of ours they are for."""

from __future__ import annotations

from collections.abc import Callable, Container

from connector.access import jose, rfc9068
from connector.access.jose import Refusal
from connector.model.participant import ParticipantStatus
from connector.model.token import VerifiedClaims
from connector.ports import Clock, Keys, TrustRegistry

IsRevoked = Callable[[VerifiedClaims], bool]


class IssuedTokens:
    """`issuer` is our own base URL, `resources` what our tokens may be for."""

    def __init__(
        self,
        *,
        issuer: str,
        resources: Container[str],
        keys: Keys,
        registry: TrustRegistry,
        clock: Clock,
        is_revoked: IsRevoked,
    ) -> None:
        self._issuer = issuer
        self._resources = resources
        self._keys = keys
        self._registry = registry
        self._clock = clock
        self._is_revoked = is_revoked

    def read(self, unverified: str) -> VerifiedClaims:
        """Signed by us, current, not revoked, its participant active; who presents it is for the caller to
        prove. Raises Refusal, or Unavailable where the trust list does not answer."""
        signed = jose.verify_jws(unverified, self._keys.public_jwks(), typ={rfc9068.TYP})
        audience = signed.get("aud")
        if not isinstance(audience, str) or audience not in self._resources:
            raise Refusal("aud")
        claims = rfc9068.verify_claims(signed, issuer=self._issuer, audience=audience, now=self._clock.now())
        require_usable(claims, self._registry, self._is_revoked)
        return claims


def require_usable(claims: VerifiedClaims, registry: TrustRegistry, is_revoked: IsRevoked) -> None:
    """What may have changed since the token was made. Raises Refusal."""
    if is_revoked(claims):  # RFC 7009
        raise Refusal("revoked")
    participant = registry.current().participants.get(claims.subject)
    if participant is None or participant.status is not ParticipantStatus.ACTIVE:
        raise Refusal("participant")
