"""The token endpoint of the connector's OAuth 2.0 authorization server: client_credentials with
private_key_jwt, and token exchange.

1. the form: one value per parameter            RFC 6749 §3.2
2. the client, by its assertion                 RFC 7521, 7523; keys from the trust list
3. that assertion, once
4. possession of the key the token is bound to  RFC 9449 §5
   and, for an exchange, the client's own token RFC 8693
5. scope and resource: one of ours              RFC 8707
6. for `data`, one agreement and purpose        RFC 9396; opens the grant
7. on record, then the token                    RFC 9068

Authlib carries the server, the grant, client authentication, errors and the metadata model (`rfc6749`,
`rfc7523`). It is synchronous, so it stands between the awaits, one instance per request loaded with what that
request needs, and never touches the store. Ours, as modules by RFC: what Authlib has not (8707, 9396, 9449),
and where it would check by the system's clock or several times slower (`jose`, 9068).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from connector.access import dpop, jose, rfc6749, rfc8693, rfc9068, rfc9396
from connector.access.dpop_nonce import Nonces, NonceWanted
from connector.access.issued_tokens import IssuedTokens
from connector.access.jose import Refusal
from connector.access.oauth_request import Audit, ClientAuthentication, OAuthRequest
from connector.access.rfc6749 import (
    Answer,
    InvalidAuthorizationDetails,
    InvalidDpopProof,
    InvalidTarget,
    TokenExchange,
    UseDpopNonce,
)
from connector.access.rfc7523 import AUTH_METHOD, GRANT_TYPES
from connector.errors import ConfigurationError, Conflict, NotFound, NotPermitted, RequestInvalid
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.model.participant import Participant
from connector.model.token import (
    DETAIL_TYPE,
    SCOPE_DATA,
    SCOPE_DSP,
    SCOPE_EVENTS,
    Actor,
    AuthorizationDetail,
    VerifiedClaims,
)
from connector.model.transfer import Grant, GrantState
from connector.ports import Clock, Keys, ReplayGuard

ACTOR_REPLAY_KIND = "actor-token"
OpenGrant = Callable[[Participant, AuthorizationDetail, Actor | None], Awaitable[Grant]]


class _Metadata(AuthorizationServerMetadata):  # type: ignore[misc]
    def validate_response_types_supported(self) -> None:
        """Empty here: there is no authorization endpoint. RFC 8414 calls the member required (§2) and wants
        empty ones left out (§3.2); clients that insist on its presence are the more common."""


def resources(base_url: str) -> Mapping[str, str]:
    """Scope -> the resource its tokens are for (RFC 8707)."""
    return {
        SCOPE_DSP: f"{base_url}/dsp/2025-1",
        SCOPE_DATA: f"{base_url}/data/v1",
        SCOPE_EVENTS: f"{base_url}/events/v1",
    }


class AuthorizationServer:
    """`base_url` is the public one, and the issuer. `open_grant` raises NotPermitted with reasons, NotFound,
    Conflict or RequestInvalid; `audit` has the event on record when it returns."""

    def __init__(
        self,
        *,
        base_url: str,
        keys: Keys,
        replay: ReplayGuard,
        clock: Clock,
        new_id: Callable[[], str],
        clients: ClientAuthentication,
        tokens: IssuedTokens,
        open_grant: OpenGrant,
        audit: Audit,
        token_seconds: int = rfc9068.MAX_LIFE_SECONDS,
        nonces: Nonces | None = None,
    ) -> None:
        self._issuer = base_url
        self._endpoint = f"{base_url}/oauth2/token"
        self._resources = resources(base_url)
        self._keys = keys
        self._clients = clients
        self._tokens = tokens
        self._replay = replay
        self._clock = clock
        self._new_id = new_id
        self._open_grant = open_grant
        self._nonces = nonces
        self._audit = audit
        self._life = timedelta(seconds=min(token_seconds, rfc9068.MAX_LIFE_SECONDS))
        self._metadata = self._make_metadata()

    def jwks(self) -> JsonObject:
        return {"keys": list(self._keys.public_jwks())}

    def metadata(self) -> JsonObject:
        """RFC 8414 §2."""
        return self._metadata

    async def token(self, body: bytes, *, content_type: str, dpop_headers: Sequence[str]) -> Answer:
        """Status, headers and JSON body for one POST to the token endpoint; every outcome goes on record.
        Of `body`, no more than rfc6749.MAX_FORM_BYTES + 1 need be given."""
        request = OAuthRequest()
        issued = self._issue(request, body, content_type, dpop_headers)
        return await request.answered(issued, self._audit, AuditEvent.TOKEN_REFUSED)

    async def _issue(
        self, request: OAuthRequest, body: bytes, content_type: str, dpop_headers: Sequence[str]
    ) -> Answer:
        request.read(body, content_type)  # 1
        flow = await self._clients.of_grant(request, self._endpoint)  # 2, 3
        client: Participant = flow.client.participant
        request.thumbprint = await self._possession(request, dpop_headers)  # 4
        subject = await self._exchanged(request, client) if isinstance(flow, TokenExchange) else None
        request.scope, request.resource = self._target(request, subject)  # 5
        if request.scope == SCOPE_DATA:  # 6
            await self._permission(request, client, subject)
        elif "authorization_details" in request.form:
            raise request.refuse(InvalidAuthorizationDetails, "not_for_this_scope")
        token = self._token(request, client, subject)  # 7
        await request.record(
            self._audit,
            AuditEvent.TOKEN_ISSUED,
            outcome="exchanged" if subject else "issued",
            on_behalf_of=request.actor.subject if request.actor else "",
        )
        flow.server.register_token_generator("default", lambda **_: self._response(token, subject))
        status, response, headers = flow.create_token_response()
        return status, dict(headers), response

    async def _exchanged(self, request: OAuthRequest, client: Participant) -> VerifiedClaims:
        """RFC 8693: the token that is traded in, and who acts from now on."""
        with request.refusing(InvalidRequestError):
            rfc8693.require_form(request.form)
            if request.actor is not None:
                raise Refusal("actor_twice")  # the assertion names one too
        with request.refusing(InvalidGrantError):
            subject = self._tokens.read(request.form["subject_token"])
            if subject.client_id != client.id:
                raise Refusal("token_of_another")
            actor = await self._named_actor(request, client)
            request.actor = rfc8693.chained(subject, actor)
        return subject

    async def _named_actor(self, request: OAuthRequest, client: Participant) -> Actor | None:
        unverified = request.form.get("actor_token")
        if unverified is None:
            return None
        now = self._clock.now()
        actor, token_id = rfc8693.actor_of(unverified, client, audience=self._issuer, now=now)
        seconds = rfc8693.ACTOR_LIFE_SECONDS + 2 * jose.LEEWAY_SECONDS
        expires_at = now + timedelta(seconds=seconds)
        if not await self._replay.claim(ACTOR_REPLAY_KIND, token_id, expires_at=expires_at):
            raise Refusal("actor_replayed")
        return actor

    async def _possession(self, request: OAuthRequest, dpop_headers: Sequence[str]) -> str:
        with request.refusing(InvalidDpopProof):
            if len(dpop_headers) > 1:
                raise Refusal("proof_repeated")
            try:
                return await dpop.verify_proof(
                    next(iter(dpop_headers), None),
                    method="POST",
                    url=self._endpoint,
                    now=self._clock.now(),
                    replay=self._replay,
                    nonces=self._nonces,
                )
            except NonceWanted as wanted:
                raise UseDpopNonce(wanted.nonce) from wanted

    def _target(self, request: OAuthRequest, subject: VerifiedClaims | None) -> tuple[str, str]:
        """An exchange may leave out what stays as it is."""
        kept = (" ".join(subject.scope), subject.audience) if subject else ("", "")
        scope, resource = (request.form.get(n, k) for n, k in zip(("scope", "resource"), kept, strict=True))
        if scope not in self._resources or (subject and scope not in subject.scope):
            raise request.refuse(InvalidScopeError, "scope")
        if resource != self._resources[scope]:
            raise request.refuse(InvalidTarget, "resource")
        return scope, resource

    async def _permission(
        self, request: OAuthRequest, client: Participant, subject: VerifiedClaims | None
    ) -> None:
        detail = self._asked_detail(request, subject)
        request.detail = detail
        try:
            grant = await self._open_grant(client, detail, request.actor)
        except NotPermitted as error:
            request.reasons = error.reasons
            raise InvalidAuthorizationDetails from error
        except (NotFound, Conflict, RequestInvalid) as error:
            raise request.refuse(InvalidAuthorizationDetails, error.code, error.message) from error
        asked = (client.id, detail.agreement_id, detail.dataset_id, detail.purpose)
        if asked != (grant.consumer, grant.agreement_id, grant.dataset_id, grant.purpose):
            raise request.refuse(InvalidAuthorizationDetails, "grant_differs")
        if grant.state is not GrantState.ACTIVE:
            raise request.refuse(InvalidAuthorizationDetails, "grant_ended", "The grant has ended.")
        request.grant = grant
        request.detail = replace(detail, grant_id=grant.id)

    def _asked_detail(self, request: OAuthRequest, subject: VerifiedClaims | None) -> AuthorizationDetail:
        """An exchange keeps agreement, dataset and purpose: another purpose is another request."""
        kept = replace(subject.detail, grant_id="") if subject and subject.detail else None
        if kept is not None and "authorization_details" not in request.form:
            return kept
        with request.refusing(InvalidAuthorizationDetails):
            detail = rfc9396.requested_detail(request.form.get("authorization_details", ""))
            if kept is not None and (
                replace(detail, actions=kept.actions) != kept or not detail.actions <= kept.actions
            ):
                raise Refusal("widened")
        return detail

    def _token(
        self, request: OAuthRequest, client: Participant, subject: VerifiedClaims | None
    ) -> VerifiedClaims:
        now = self._clock.now().replace(microsecond=0)
        expires_at = now + self._life
        if subject is not None:
            expires_at = min(expires_at, subject.expires_at)
        if request.grant is not None and request.grant.expires_at is not None:
            expires_at = min(expires_at, request.grant.expires_at.replace(microsecond=0))
        if expires_at <= now:
            raise request.refuse(InvalidAuthorizationDetails, "grant_expired", "The grant has expired.")
        return VerifiedClaims(
            issuer=self._issuer,
            subject=client.id,
            client_id=client.id,
            audience=request.resource,
            token_id=self._new_id(),
            issued_at=now,
            expires_at=expires_at,
            scope=frozenset({request.scope}),
            key_thumbprint=request.thumbprint,
            detail=request.detail,
            actor=request.actor,
        )

    def _response(self, token: VerifiedClaims, subject: VerifiedClaims | None) -> JsonObject:
        """RFC 6749 §5.1, RFC 9449 §5, RFC 9396 §7, RFC 8693 §2.2.1."""
        response: dict[str, Any] = {
            "access_token": rfc9068.mint(self._keys, token),
            "token_type": "DPoP",
            "expires_in": int((token.expires_at - token.issued_at).total_seconds()),
            "scope": " ".join(sorted(token.scope)),
        }
        if token.detail is not None:
            response["authorization_details"] = [rfc9396.to_wire(token.detail)]
        if subject is not None:
            response["issued_token_type"] = rfc8693.ACCESS_TOKEN
        return response

    def _make_metadata(self) -> JsonObject:
        metadata = {
            "issuer": self._issuer,
            "token_endpoint": self._endpoint,
            "jwks_uri": f"{self._issuer}/oauth2/jwks",
            "scopes_supported": list(self._resources),
            "response_types_supported": [],
            "grant_types_supported": list(GRANT_TYPES),
            "revocation_endpoint": f"{self._issuer}/oauth2/revoke",
            "revocation_endpoint_auth_methods_supported": [AUTH_METHOD],
            "revocation_endpoint_auth_signing_alg_values_supported": [jose.ALGORITHM],
            "introspection_endpoint": f"{self._issuer}/oauth2/introspect",
            "introspection_endpoint_auth_methods_supported": [AUTH_METHOD],
            "introspection_endpoint_auth_signing_alg_values_supported": [jose.ALGORITHM],
            "token_endpoint_auth_methods_supported": [AUTH_METHOD],
            "token_endpoint_auth_signing_alg_values_supported": [jose.ALGORITHM],
            "dpop_signing_alg_values_supported": [jose.ALGORITHM],
            "authorization_details_types_supported": [DETAIL_TYPE],
        }
        checked = {k: rfc6749.as_https(v) if isinstance(v, str) else v for k, v in metadata.items()}
        try:
            _Metadata(checked).validate()
        except ValueError as error:
            mend = "Give the base URL that peers use."
            raise ConfigurationError(str(error), where="public_url", mend=mend) from None
        return metadata
