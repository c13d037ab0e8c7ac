"""The connector's OAuth 2.0 authorization server: client_credentials with private_key_jwt.

1. the form: one value per parameter            RFC 6749 §3.2
2. the client, by its assertion                 RFC 7521, 7523; keys from the trust list
3. that assertion, once
4. possession of the key the token is bound to  RFC 9449 §5
5. scope and resource: one of ours              RFC 8707
6. for `data`, one agreement and purpose        RFC 9396; opens the grant
7. on record, then the token                    RFC 9068

Authlib carries the server, the grant, client authentication, errors and the metadata model (`rfc6749`,
`rfc7523`). It is synchronous, so it stands between the awaits, one instance per request loaded with what that
request needs, and never touches the store. Ours, as modules by RFC: what Authlib has not (8707, 9396, 9449),
and where it would check by the system's clock or several times slower (`jose`, 9068).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from connector.access import dpop, jose, rfc6749, rfc9068, rfc9396
from connector.access.jose import Refusal
from connector.access.rfc6749 import (
    Answer,
    ClientCredentials,
    InvalidAuthorizationDetails,
    InvalidDpopProof,
    InvalidTarget,
    RequestServer,
    TemporarilyUnavailable,
    TokenRequest,
)
from connector.access.rfc7523 import AUTH_METHOD, ClientAssertion
from connector.errors import (
    ConfigurationError,
    Conflict,
    NotFound,
    NotPermitted,
    Reason,
    RequestInvalid,
    Unavailable,
)
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.model.participant import Participant, ParticipantStatus
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
from connector.ports import Clock, Keys, ReplayGuard, TrustRegistry

ASSERTION_REPLAY_KIND = "client-assertion"
OpenGrant = Callable[[Participant, AuthorizationDetail, Actor | None], Awaitable[Grant]]


Audit = Callable[..., Awaitable[object]]
"""`audit(event, **fields)`: AuditLeaf's fields. On record when it returns."""


@dataclass(slots=True)
class _Exchange:
    """What is certain so far about one request. `codes` say why it is refused, for the audit log only."""

    client: Participant | None = None
    scope: str = ""
    resource: str = ""
    thumbprint: str = ""
    actor: Actor | None = None
    detail: AuthorizationDetail | None = None
    grant: Grant | None = None
    codes: list[str] = field(default_factory=list)
    reasons: tuple[Reason, ...] = ()

    @contextmanager
    def refusing(self, error: type[OAuth2Error]) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            self.codes.append(refusal.code)
            raise error from refusal

    def refuse(self, error: type[OAuth2Error], code: str, text: str = "") -> OAuth2Error:
        """`text` is for people at the client; without one, only the log learns the code."""
        if text:
            self.reasons = (Reason(code=code, text=text),)
        else:
            self.codes.append(code)
        return error()


class _Metadata(AuthorizationServerMetadata):  # type: ignore[misc]
    def validate_response_types_supported(self) -> None:
        """Empty here: there is no authorization endpoint. RFC 8414 calls the member required (§2) and wants
        empty ones left out (§3.2); clients that insist on its presence are the more common."""


class AuthorizationServer:
    """`base_url` is the public one, and the issuer. `open_grant` raises NotPermitted with reasons, NotFound,
    Conflict or RequestInvalid; `audit` has the event on record when it returns."""

    def __init__(
        self,
        *,
        base_url: str,
        keys: Keys,
        registry: TrustRegistry,
        replay: ReplayGuard,
        clock: Clock,
        new_id: Callable[[], str],
        open_grant: OpenGrant,
        audit: Audit,
        token_seconds: int = rfc9068.MAX_LIFE_SECONDS,
    ) -> None:
        self._issuer = base_url
        self._endpoint = f"{base_url}/oauth2/token"
        self._resources = {
            SCOPE_DSP: f"{base_url}/dsp/2025-1",
            SCOPE_DATA: f"{base_url}/data/v1",
            SCOPE_EVENTS: f"{base_url}/events/v1",
        }
        self._keys = keys
        self._registry = registry
        self._replay = replay
        self._clock = clock
        self._new_id = new_id
        self._open_grant = open_grant
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
        exchange = _Exchange()
        try:
            return await self._issue(exchange, body, content_type, dpop_headers)
        except OAuth2Error as error:
            return await self._refuse(exchange, error)
        except Unavailable as error:
            exchange.codes.append(error.code)
            return await self._refuse(exchange, TemporarilyUnavailable())

    async def _issue(
        self, exchange: _Exchange, body: bytes, content_type: str, dpop_headers: Sequence[str]
    ) -> Answer:
        with exchange.refusing(InvalidRequestError):  # 1
            form = rfc6749.parse_form(body, content_type)
        flow, client = await self._authenticate(exchange, form)  # 2, 3
        exchange.thumbprint = await self._possession(exchange, dpop_headers)  # 4
        exchange.scope, exchange.resource = self._target(exchange, form)  # 5
        if exchange.scope == SCOPE_DATA:  # 6
            await self._permission(exchange, client, form)
        elif "authorization_details" in form:
            raise exchange.refuse(InvalidAuthorizationDetails, "not_for_this_scope")
        token = self._token(exchange, client)  # 7
        await self._record(exchange, AuditEvent.TOKEN_ISSUED, outcome="issued")
        flow.server.register_token_generator("default", lambda **_: self._response(token))
        status, response, headers = flow.create_token_response()
        return status, dict(headers), response

    async def _authenticate(
        self, exchange: _Exchange, form: Mapping[str, str]
    ) -> tuple[ClientCredentials, Participant]:
        assertion = ClientAssertion((self._issuer, self._endpoint), self._clock.now().timestamp())
        server = RequestServer(assertion, self._active)
        flow: ClientCredentials = server.get_token_grant(TokenRequest(self._endpoint, form))
        try:
            flow.validate_token_request()
        except OAuth2Error as error:
            cause = error.__cause__
            exchange.codes.append(cause.code if isinstance(cause, Refusal) else "client_unknown")
            raise
        client: Participant = flow.client.participant
        if form.get("client_id", client.id) != client.id:
            raise exchange.refuse(InvalidClientError, "client_id")
        # Only now: nobody else can spend a participant's ids, or fill the guard.
        claimed = await self._replay.claim(
            ASSERTION_REPLAY_KIND, assertion.assertion_id, expires_at=assertion.expires_at
        )
        if not claimed:
            raise exchange.refuse(InvalidClientError, "assertion_replayed")
        exchange.client, exchange.actor = client, assertion.actor
        return flow, client

    def _active(self, client_id: str) -> Participant | None:
        participant = self._registry.current().participants.get(client_id)
        active = participant is not None and participant.status is ParticipantStatus.ACTIVE
        return participant if active else None

    async def _possession(self, exchange: _Exchange, dpop_headers: Sequence[str]) -> str:
        with exchange.refusing(InvalidDpopProof):
            if len(dpop_headers) > 1:
                raise Refusal("proof_repeated")
            return await dpop.verify_proof(
                next(iter(dpop_headers), None),
                method="POST",
                url=self._endpoint,
                now=self._clock.now(),
                replay=self._replay,
            )

    def _target(self, exchange: _Exchange, form: Mapping[str, str]) -> tuple[str, str]:
        scope = form.get("scope", "")
        if scope not in self._resources:
            raise exchange.refuse(InvalidScopeError, "scope")
        resource = form.get("resource", "")
        if resource != self._resources[scope]:
            raise exchange.refuse(InvalidTarget, "resource")
        return scope, resource

    async def _permission(self, exchange: _Exchange, client: Participant, form: Mapping[str, str]) -> None:
        with exchange.refusing(InvalidAuthorizationDetails):
            detail = rfc9396.requested_detail(form.get("authorization_details", ""))
        exchange.detail = detail
        try:
            grant = await self._open_grant(client, detail, exchange.actor)
        except NotPermitted as error:
            exchange.reasons = error.reasons
            raise InvalidAuthorizationDetails from error
        except (NotFound, Conflict, RequestInvalid) as error:
            raise exchange.refuse(InvalidAuthorizationDetails, error.code, error.message) from error
        asked = (client.id, detail.agreement_id, detail.dataset_id, detail.purpose)
        if asked != (grant.consumer, grant.agreement_id, grant.dataset_id, grant.purpose):
            raise exchange.refuse(InvalidAuthorizationDetails, "grant_differs")
        if grant.state is not GrantState.ACTIVE:
            raise exchange.refuse(InvalidAuthorizationDetails, "grant_ended", "The grant has ended.")
        exchange.grant = grant
        exchange.detail = replace(detail, grant_id=grant.id)

    def _token(self, exchange: _Exchange, client: Participant) -> VerifiedClaims:
        now = self._clock.now().replace(microsecond=0)
        expires_at = now + self._life
        if exchange.grant is not None and exchange.grant.expires_at is not None:
            expires_at = min(expires_at, exchange.grant.expires_at.replace(microsecond=0))
        if expires_at <= now:
            raise exchange.refuse(InvalidAuthorizationDetails, "grant_expired", "The grant has expired.")
        return VerifiedClaims(
            issuer=self._issuer,
            subject=client.id,
            client_id=client.id,
            audience=exchange.resource,
            token_id=self._new_id(),
            issued_at=now,
            expires_at=expires_at,
            scope=frozenset({exchange.scope}),
            key_thumbprint=exchange.thumbprint,
            detail=exchange.detail,
            actor=exchange.actor,
        )

    def _response(self, token: VerifiedClaims) -> JsonObject:
        """RFC 6749 §5.1, RFC 9449 §5, RFC 9396 §7."""
        response: dict[str, Any] = {
            "access_token": rfc9068.mint(self._keys, token),
            "token_type": "DPoP",
            "expires_in": int((token.expires_at - token.issued_at).total_seconds()),
            "scope": " ".join(sorted(token.scope)),
        }
        if token.detail is not None:
            response["authorization_details"] = [rfc9396.to_wire(token.detail)]
        return response

    async def _refuse(self, exchange: _Exchange, error: OAuth2Error) -> Answer:
        codes = (str(error.error), *exchange.codes, *(r.code for r in exchange.reasons))
        try:
            await self._record(exchange, AuditEvent.TOKEN_REFUSED, outcome="refused", reasons=codes)
        except Unavailable:
            return rfc6749.error_answer(TemporarilyUnavailable())
        return rfc6749.error_answer(error, exchange.reasons)

    async def _record(self, exchange: _Exchange, event: AuditEvent, **fields: Any) -> None:
        detail, grant = exchange.detail, exchange.grant
        await self._audit(
            event,
            actor=exchange.client.id if exchange.client else "",
            object=exchange.resource,
            agreement=detail.agreement_id if detail else "",
            purpose=detail.purpose if detail else "",
            transfer=grant.transfer_pid if grant else "",
            grant=grant.id if grant else "",
            epoch=grant.epoch if grant else None,
            **fields,
        )

    def _make_metadata(self) -> JsonObject:
        metadata = {
            "issuer": self._issuer,
            "token_endpoint": self._endpoint,
            "jwks_uri": f"{self._issuer}/oauth2/jwks",
            "scopes_supported": list(self._resources),
            "response_types_supported": [],
            "grant_types_supported": [ClientCredentials.GRANT_TYPE],
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
