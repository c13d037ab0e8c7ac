"""Who asks, for every route: peers by DPoP-bound access token, our own people by client API token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from connector.access.identity import TokenVerifier, registered, single_value
from connector.access.people import ApiTokens
from connector.model.participant import Participant
from connector.model.person import Person, PersonRole
from connector.model.token import VerifiedClaims
from connector.ports import PeerIdentity, TrustRegistry

PeerAuth = Callable[[Request], Awaitable[tuple[Participant, VerifiedClaims]]]


def protocol_peer(identity: PeerIdentity, *, public_url: str) -> Callable[[Request], Awaitable[Participant]]:
    """The participant behind a protocol request, however it proves itself. Raises NotAuthenticated."""

    async def authenticate(request: Request) -> Participant:
        headers = {name: request.headers.getlist(name) for name in request.headers}
        return await identity.identify(request.method, _url(request, public_url), headers)

    return authenticate


def peer_auth(
    verifier: TokenVerifier, trust: TrustRegistry, *, public_url: str, resource: str, scope: str
) -> PeerAuth:
    """The participant behind a request to `resource`, and what its token states. Raises NotAuthenticated."""

    async def authenticate(request: Request) -> tuple[Participant, VerifiedClaims]:
        claims = await verifier.verify(
            request.method,
            _url(request, public_url),
            single_value(request.headers.getlist("authorization")),
            single_value(request.headers.getlist("dpop")),
            resource=resource,
            scope=scope,
        )
        return registered(trust, claims), claims

    return authenticate


def _url(request: Request, public_url: str) -> str:
    """As sent: a decoded path is another URL."""
    return public_url + str(request.scope["raw_path"].decode("latin-1"))


def needs(tokens: ApiTokens, *roles: PersonRole) -> Callable[[Request], Person]:
    """A dependency that names the roles a management route needs."""

    def person(request: Request) -> Person:
        person = tokens.verify(single_value(request.headers.getlist("authorization")))
        person.require(*roles)
        return person

    person.roles = roles  # type: ignore[attr-defined]  # a test walks the routes and reads it
    return person
