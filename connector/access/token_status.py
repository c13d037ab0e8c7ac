"""What became of a token: revocation (RFC 7009) and introspection (RFC 7662), for proved clients only.

Both answer alike whatever is wrong with a token: nothing is learned from them about tokens of others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from authlib.oauth2.rfc6749 import InvalidRequestError, UnauthorizedClientError

from connector.access import rfc9068, rfc9396
from connector.access.issued_tokens import IssuedTokens
from connector.access.jose import Refusal
from connector.access.oauth_request import Audit, ClientAuthentication, OAuthRequest
from connector.access.revocation import RevokedTokens
from connector.access.rfc6749 import Answer
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.model.participant import Participant
from connector.model.token import VerifiedClaims

Revoked = Callable[[VerifiedClaims], Awaitable[None]]
"""Told after a token was revoked: stops the streams that run under it."""


class TokenStatus:
    """`base_url` is the issuer's; `participant_id` our own, whose services may look at every token."""

    def __init__(
        self,
        *,
        base_url: str,
        participant_id: str,
        clients: ClientAuthentication,
        tokens: IssuedTokens,
        revoked: RevokedTokens,
        on_revoked: Revoked,
        audit: Audit,
    ) -> None:
        self._base_url = base_url
        self._participant_id = participant_id
        self._clients = clients
        self._tokens = tokens
        self._revoked = revoked
        self._on_revoked = on_revoked
        self._audit = audit

    async def revoke(self, body: bytes, content_type: str) -> Answer:
        """RFC 7009 §2: 200 also for what is no token (any more). A client revokes its own only."""
        request = OAuthRequest()
        return await request.answered(
            self._revoke(request, body, content_type), self._audit, AuditEvent.TOKEN_REFUSED
        )

    async def introspect(self, body: bytes, content_type: str) -> Answer:
        """RFC 7662 §2: the members of a live token for its client and for our own services; for anybody else,
        and of any other token, `{"active": false}`."""
        request = OAuthRequest()
        return await request.answered(
            self._introspect(request, body, content_type), self._audit, AuditEvent.TOKEN_REFUSED
        )

    async def _revoke(self, request: OAuthRequest, body: bytes, content_type: str) -> Answer:
        client = await self._caller(request, body, content_type, "revoke", "revocation")
        token = self._read(request)
        if token is None:
            return 200, {}, {}
        if token.client_id != client.id:
            raise request.refuse(UnauthorizedClientError, "token_of_another")
        await self._revoked.revoke(token)
        request.detail, request.resource = token.detail, token.audience
        await request.record(self._audit, AuditEvent.TOKEN_REVOKED, outcome="revoked")
        await self._on_revoked(token)
        return 200, {}, {}

    async def _introspect(self, request: OAuthRequest, body: bytes, content_type: str) -> Answer:
        client = await self._caller(request, body, content_type, "introspect", "introspection")
        token = self._read(request)
        if token is None or client.id not in (token.client_id, self._participant_id):
            return 200, {}, {"active": False}
        return 200, {}, _described(token)

    async def _caller(
        self, request: OAuthRequest, body: bytes, content_type: str, path: str, kind: str
    ) -> Participant:
        request.read(body, content_type)
        client = await self._clients.of_caller(request, f"{self._base_url}/oauth2/{path}", kind)
        if "token" not in request.form:
            raise request.refuse(InvalidRequestError, "token")
        return client

    def _read(self, request: OAuthRequest) -> VerifiedClaims | None:
        try:
            return self._tokens.read(request.form["token"])
        except Refusal:
            return None


def _described(token: VerifiedClaims) -> JsonObject:
    """RFC 7662 §2.2, RFC 9449 §6.2, RFC 9396 §9.2, RFC 8693 §4.1."""
    described: dict[str, Any] = {
        "active": True,
        "iss": token.issuer,
        "sub": token.subject,
        "client_id": token.client_id,
        "aud": token.audience,
        "jti": token.token_id,
        "iat": int(token.issued_at.timestamp()),
        "exp": int(token.expires_at.timestamp()),
        "scope": " ".join(sorted(token.scope)),
        "token_type": "DPoP",
        "cnf": {"jkt": token.key_thumbprint},
    }
    if token.detail is not None:
        described["authorization_details"] = [rfc9396.to_wire(token.detail)]
    if token.actor is not None:
        described["act"] = rfc9068.actor_to_wire(token.actor)
    return described
