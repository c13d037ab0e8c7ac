"""Who asks, for every route: peers by DPoP-bound access token, our own people by client API token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import Request

from connector.access.bearer import Bearers
from connector.access.front_door import Asked
from connector.access.identity import TokenVerifier, registered, single_value
from connector.errors import TokenRejected
from connector.model.participant import Participant
from connector.model.person import Person, PersonRole
from connector.model.token import DataClaims, VerifiedClaims
from connector.ports import PeerIdentity, TrustRegistry

SESSION_COOKIES = ("__Host-connector-session", "connector-session")
PeerAuth = Callable[[Request], Awaitable[tuple[Participant, VerifiedClaims]]]
ReaderAuth = Callable[[Request, str], Awaitable[DataClaims]]
"""Of a request and the dataset it is for."""

_REJECTED = "The token was not accepted."
_MEND = "Send what the latest start message of your transfer gives, or a token for the action `read`."


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


def reader_auth(peer: PeerAuth, bearers: Bearers) -> ReaderAuth:
    """Whoever reads a dataset as plain HTTP: our own kind by its access token, a plain DSP peer by the bearer
    of its transfer. Raises NotAuthenticated, the same for every fault of either."""

    async def authenticate(request: Request, dataset_id: str) -> DataClaims:
        try:
            header = single_value(request.headers.getlist("authorization"))
            if header is None or header[:7].lower() == "bearer ":
                return await bearers.verify(header, dataset_id)
            return (await peer(request))[1]
        except TokenRejected as rejected:
            raise TokenRejected(_REJECTED, mend=_MEND) from (rejected.__cause__ or rejected)

    return authenticate


def _url(request: Request, public_url: str) -> str:
    """As sent: a decoded path is another URL."""
    return public_url + str(request.scope["raw_path"].decode("latin-1"))


class Door(Protocol):
    """Who of our own people or apps asks (`access.front_door.FrontDoor`). `person` raises TokenRejected."""

    async def person(self, asked: Asked) -> Person: ...


def session_cookie(public_url: str) -> str:
    """`__Host-`: of this host and over TLS, so that no neighbour can set it; plain http cannot have it."""
    return SESSION_COOKIES[0 if public_url.startswith("https://") else 1]


def needs(door: Door, *roles: PersonRole) -> Callable[[Request], Awaitable[Person]]:
    """A dependency that names the roles a management route needs."""

    async def person(request: Request) -> Person:
        asked = Asked(
            method=request.method,
            authorization=single_value(request.headers.getlist("authorization")),
            session=next((request.cookies[n] for n in SESSION_COOKIES if n in request.cookies), None),
            origin=single_value(request.headers.getlist("origin")),
        )
        person = await door.person(asked)
        person.require(*roles)
        return person

    person.roles = roles  # type: ignore[attr-defined]  # a test walks the routes and reads it
    return person
