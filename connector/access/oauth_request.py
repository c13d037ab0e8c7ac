"""One request to the authorization server: what is certain so far, who sent it, how it is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError

from connector.access import rfc6749
from connector.access.jose import Refusal
from connector.access.rfc6749 import (
    Answer,
    RequestServer,
    TemporarilyUnavailable,
    TokenRequest,
    UseDpopNonce,
)
from connector.access.rfc7523 import AUTH_METHOD, ClientAssertion
from connector.errors import Reason, Unavailable
from connector.model.audit import AuditEvent
from connector.model.participant import Participant, ParticipantStatus
from connector.model.token import Actor, AuthorizationDetail
from connector.model.transfer import Grant
from connector.ports import Clock, ReplayGuard, TrustRegistry

ASSERTION_REPLAY_KIND = "client-assertion"

Audit = Callable[..., Awaitable[object]]
"""`audit(event, **fields)`: AuditLeaf's fields. On record when it returns."""


@dataclass(slots=True)
class OAuthRequest:
    """`codes` say why it is refused, for the audit log only; `reasons` are for people at the client."""

    form: Mapping[str, str] = field(default_factory=dict)
    client: Participant | None = None
    scope: str = ""
    resource: str = ""
    thumbprint: str = ""
    actor: Actor | None = None
    detail: AuthorizationDetail | None = None
    grant: Grant | None = None
    codes: list[str] = field(default_factory=list)
    reasons: tuple[Reason, ...] = ()

    def read(self, body: bytes, content_type: str) -> None:
        with self.refusing(InvalidRequestError):
            self.form = rfc6749.parse_form(body, content_type)

    @contextmanager
    def refusing(self, error: type[OAuth2Error]) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            self.codes.append(refusal.code)
            raise error from refusal

    def refuse(self, error: type[OAuth2Error], code: str, text: str = "") -> OAuth2Error:
        """Without a `text` only the log learns the code."""
        if text:
            self.reasons = (Reason(code=code, text=text),)
        else:
            self.codes.append(code)
        return error()

    async def answered(self, answer: Awaitable[Answer], audit: Audit, refused: AuditEvent) -> Answer:
        """`answer`, or the error in its place; a refusal is on record before anybody hears of it."""
        try:
            return await answer
        except UseDpopNonce as wanted:  # a step of the protocol, not a refusal
            return rfc6749.error_answer(wanted)
        except OAuth2Error as error:
            failed = error
        except Unavailable as error:
            self.codes.append(error.code)
            failed = TemporarilyUnavailable()
        codes = (str(failed.error), *self.codes, *(r.code for r in self.reasons))
        try:
            await self.record(audit, refused, outcome="refused", reasons=codes)
        except Unavailable:
            return rfc6749.error_answer(TemporarilyUnavailable())
        return rfc6749.error_answer(failed, self.reasons)

    async def record(self, audit: Audit, event: AuditEvent, **fields: Any) -> None:
        detail, grant = self.detail, self.grant
        await audit(
            event,
            actor=self.client.id if self.client else "",
            object=self.resource,
            agreement=detail.agreement_id if detail else "",
            purpose=detail.purpose if detail else "",
            transfer=grant.transfer_pid if grant else "",
            grant=grant.id if grant else "",
            epoch=grant.epoch if grant else None,
            **fields,
        )


class ClientAuthentication:
    """By private_key_jwt (RFC 7523) with the keys of the trust list; each assertion once."""

    def __init__(
        self, *, audiences: Sequence[str], registry: TrustRegistry, replay: ReplayGuard, clock: Clock
    ) -> None:
        self._audiences = tuple(audiences)
        self._registry = registry
        self._replay = replay
        self._clock = clock

    async def of_grant(self, request: OAuthRequest, endpoint: str) -> rfc6749.ClientCredentials:
        """The grant asked for, its client proved. Raises OAuth2Error."""
        server, assertion = self._server()
        flow: rfc6749.ClientCredentials = server.get_token_grant(TokenRequest(endpoint, request.form))
        with _telling(request):
            flow.validate_token_request()
        await self._accept(request, flow.client.participant, assertion)
        return flow

    async def of_caller(self, request: OAuthRequest, endpoint: str, kind: str) -> Participant:
        """`kind`: `introspection` or `revocation`. Raises OAuth2Error."""
        server, assertion = self._server()
        with _telling(request):
            client = server.authenticate_client(TokenRequest(endpoint, request.form), [AUTH_METHOD], kind)
        return await self._accept(request, client.participant, assertion)

    def _server(self) -> tuple[RequestServer, ClientAssertion]:
        assertion = ClientAssertion(self._audiences, self._clock.now().timestamp())
        return RequestServer(assertion, self._active), assertion

    async def _accept(
        self, request: OAuthRequest, client: Participant, assertion: ClientAssertion
    ) -> Participant:
        if request.form.get("client_id", client.id) != client.id:
            raise request.refuse(InvalidClientError, "client_id")
        # Only now: nobody else can spend a participant's ids, or fill the guard.
        claimed = await self._replay.claim(
            ASSERTION_REPLAY_KIND, assertion.assertion_id, expires_at=assertion.expires_at
        )
        if not claimed:
            raise request.refuse(InvalidClientError, "assertion_replayed")
        request.client, request.actor = client, assertion.actor
        return client

    def _active(self, client_id: str) -> Participant | None:
        participant = self._registry.current().participants.get(client_id)
        active = participant is not None and participant.status is ParticipantStatus.ACTIVE
        return participant if active else None


@contextmanager
def _telling(request: OAuthRequest) -> Iterator[None]:
    """Which of Authlib's checks failed, for the log."""
    try:
        yield
    except OAuth2Error as error:
        cause = error.__cause__
        request.codes.append(cause.code if isinstance(cause, Refusal) else "client_unknown")
        raise
