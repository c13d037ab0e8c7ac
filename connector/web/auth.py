"""Who asks, for every route: peers by DPoP-bound access token, our own people by client API token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from connector.access.identity import TokenVerifier
from connector.access.people import ApiTokens
from connector.errors import NotAuthenticated, TokenRejected
from connector.model.participant import Participant
from connector.model.person import Person, PersonRole
from connector.model.token import VerifiedClaims
from connector.ports import TrustRegistry

PeerAuth = Callable[[Request], Awaitable[tuple[Participant, VerifiedClaims]]]


def single_header(request: Request, name: str) -> str | None:
    """Raises TokenRejected where a header is repeated: two readers could take two of them."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise TokenRejected("A header is repeated.")
    return values[0] if values else None


def peer_auth(
    verifier: TokenVerifier, trust: TrustRegistry, *, public_url: str, resource: str, scope: str
) -> PeerAuth:
    """The participant behind a request to `resource`, and what its token states. Raises NotAuthenticated."""

    async def authenticate(request: Request) -> tuple[Participant, VerifiedClaims]:
        claims = await verifier.verify(
            request.method,
            public_url
            + request.scope["raw_path"].decode("latin-1"),  # as sent: a decoded path is another URL
            single_header(request, "authorization"),
            single_header(request, "dpop"),
            resource=resource,
            scope=scope,
        )
        participant = trust.current().participants.get(claims.subject)
        if participant is None:
            raise NotAuthenticated("The participant is not in the registry.")
        return participant, claims

    return authenticate


def needs(tokens: ApiTokens, *roles: PersonRole) -> Callable[[Request], Person]:
    """A dependency that names the roles a management route needs."""

    def person(request: Request) -> Person:
        person = tokens.verify(single_header(request, "authorization"))
        person.require(*roles)
        return person

    person.roles = roles  # type: ignore[attr-defined]  # a test walks the routes and reads it
    return person
