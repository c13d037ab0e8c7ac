"""Who of our own people or apps asks: by a token of the folder's key, an API key, or a session."""

from __future__ import annotations

from dataclasses import dataclass

from connector.access.api_keys import PREFIX, ApiKeys
from connector.access.jose import Refusal
from connector.access.people import ApiTokens
from connector.access.sessions import Sessions
from connector.errors import TokenRejected
from connector.model.person import Person

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request brings to prove its sender; `session` is the cookie's value."""

    method: str
    authorization: str | None = None
    session: str | None = None
    origin: str | None = None


class FrontDoor:
    """`origin`: scheme and authority of our public URL, as browsers send it."""

    def __init__(self, tokens: ApiTokens, keys: ApiKeys, sessions: Sessions, *, origin: str) -> None:
        self._tokens = tokens
        self._keys = keys
        self._sessions = sessions
        self._origin = origin

    async def person(self, asked: Asked) -> Person:
        """Raises TokenRejected, the same for every fault."""
        try:
            return await self._person(asked)
        except Refusal as refusal:
            raise TokenRejected(
                "The API token, key or session is missing or not valid.",
                mend="Sign in, or make a token with `connector token`.",
            ) from refusal

    async def _person(self, asked: Asked) -> Person:
        if asked.authorization is not None:  # said on purpose; a cookie comes along by itself
            scheme, _, credential = asked.authorization.partition(" ")
            if scheme.lower() == "bearer" and credential.startswith(PREFIX):
                return await self._keys.verify(credential)
            return self._tokens.verify(asked.authorization)
        if asked.session is None:
            raise Refusal("nothing_brought")
        if asked.method not in _HARMLESS and asked.origin != self._origin:
            raise Refusal("origin")  # another site's page made the browser ask
        return await self._sessions.person(asked.session)
