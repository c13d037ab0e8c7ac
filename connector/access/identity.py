"""Stage 1, who asks: an access token of ours and the proof of its key become verified claims.

1. the DPoP scheme, one token, one proof            RFC 9449 §7.1; a Bearer downgrade is refused
2. our signature over an `at+jwt`, key by `kid`     RFC 9068 §4
3. issuer, audience, times, shape                   RFC 9068 §4, leeway 30 s
4. the scope asked for                              RFC 6750 §3.1
5. not revoked                                      RFC 7009, by `jti`, never by the token's text
6. the participant active in the trust list, now
7. possession of the key, once per proof            RFC 9449 §4.3
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from connector.access import dpop, jose, rfc9068
from connector.access.dpop_nonce import Nonces, NonceWanted
from connector.access.issued_tokens import IsRevoked, require_usable
from connector.access.jose import Refusal
from connector.access.tokens import PeerTokens
from connector.errors import DpopNonceWanted, NotAuthenticated, TokenRejected
from connector.model.participant import Participant
from connector.model.token import SCOPE_DSP, Actor, AuthorizationDetail, VerifiedClaims
from connector.ports import Clock, Keys, PeerResponse, ReplayGuard, TrustRegistry

_AUTHORIZATION = re.compile(r"DPoP ([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


class TokenVerifier:
    """`issuer` is our own base URL. `is_revoked` is asked with a verified token's claims on every request;
    with `nonces`, proofs must carry one of them."""

    def __init__(
        self,
        *,
        issuer: str,
        keys: Keys,
        registry: TrustRegistry,
        replay: ReplayGuard,
        clock: Clock,
        is_revoked: IsRevoked,
        nonces: Nonces | None = None,
    ) -> None:
        self._issuer = issuer
        self._keys = keys
        self._registry = registry
        self._replay = replay
        self._clock = clock
        self._is_revoked = is_revoked
        self._nonces = nonces

    async def verify(
        self,
        method: str,
        url: str,
        authorization_header: str | None,
        dpop_header: str | None,
        *,
        resource: str,
        scope: str,
    ) -> VerifiedClaims:
        """`url` is made of the configured public URL, never of a Host header; the caller has refused
        repeated headers. Raises TokenRejected, the same for every fault (its cause holds the code, for our
        log), DpopNonceWanted where nothing but the nonce is wrong, or Unavailable where trust list or replay
        guard do not answer."""
        try:
            token, claims = self._token(authorization_header, resource, scope)
            await dpop.verify_proof(
                dpop_header,
                method=method,
                url=url,
                now=self._clock.now(),
                replay=self._replay,
                access_token=token,
                thumbprint=claims.key_thumbprint,
                nonces=self._nonces,
            )
        except NonceWanted as wanted:
            raise DpopNonceWanted(wanted.nonce) from wanted
        except Refusal as refusal:
            raise _rejected() from refusal
        return claims

    def _token(self, header: str | None, resource: str, scope: str) -> tuple[str, VerifiedClaims]:
        match = _AUTHORIZATION.fullmatch(header or "")  # 1
        if match is None:
            raise Refusal("scheme")
        token = match[1]
        signed = jose.verify_jws(token, self._keys.public_jwks(), typ={rfc9068.TYP})  # 2
        claims = rfc9068.verify_claims(
            signed, issuer=self._issuer, audience=resource, now=self._clock.now()
        )  # 3
        if scope not in claims.scope:  # 4
            raise Refusal("scope")
        require_usable(claims, self._registry, self._is_revoked)  # 5, 6
        return token, claims


class OAuthIdentity:
    """Port PeerIdentity: tokens of each other's authorization servers, bound to the sender's key."""

    def __init__(
        self, *, tokens: PeerTokens, verifier: TokenVerifier, registry: TrustRegistry, dsp_url: str
    ) -> None:
        self._tokens = tokens
        self._verifier = verifier
        self._registry = registry
        self._dsp_url = dsp_url

    async def headers(
        self,
        participant: Participant,
        method: str,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
    ) -> Mapping[str, str]:
        return await self._tokens.headers(
            participant, method, url, resource=resource, scope=scope, detail=detail, actor=actor
        )

    def refused(
        self,
        participant: Participant,
        answer: PeerResponse,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
    ) -> bool:
        return self._tokens.refused(
            participant, answer, resource=resource, scope=scope, detail=detail, actor=actor
        )

    async def identify(self, method: str, url: str, headers: Mapping[str, Sequence[str]]) -> Participant:
        claims = await self._verifier.verify(
            method,
            url,
            single_value(headers.get("authorization", ())),
            single_value(headers.get("dpop", ())),
            resource=self._dsp_url,
            scope=SCOPE_DSP,
        )
        return registered(self._registry, claims)


def single_value(values: Sequence[str]) -> str | None:
    """A header that is repeated is refused: two readers could take two of them. Raises TokenRejected."""
    if len(values) > 1:
        raise TokenRejected("A header is repeated.")
    return values[0] if values else None


def registered(registry: TrustRegistry, claims: VerifiedClaims) -> Participant:
    """Raises NotAuthenticated where the trust list has changed since the token was verified."""
    participant = registry.current().participants.get(claims.subject)
    if participant is None:
        raise NotAuthenticated("The participant is not in the registry.")
    return participant


def _rejected() -> TokenRejected:
    """One text for every fault: nothing is learned from a refusal."""
    return TokenRejected(
        "The access token was not accepted.",
        mend="Get a new one from this connector's token endpoint and send it with a fresh DPoP proof.",
    )
