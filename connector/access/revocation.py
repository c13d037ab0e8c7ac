"""Which access tokens are revoked: kept in the store until they would expire, known in memory.

By `jti`, or all of one client's up to a moment; never by a token's text, which may be spelled in two ways.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from connector.access.jose import LEEWAY_SECONDS
from connector.errors import ConnectorError
from connector.model.json import from_rfc3339, to_rfc3339
from connector.model.token import VerifiedClaims
from connector.model.transfer import Grant
from connector.ports import Clock, GrantSelector, Store

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How soon a replica learns of what another one revoked."""

_TOKEN = "revoked-token:"
_CLIENT = "revoked-client:"
_LONGEST_LIFE = timedelta(seconds=300 + LEEWAY_SECONDS)


class RevokedTokens:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._tokens: dict[str, datetime] = {}
        self._clients: dict[str, datetime] = {}

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, VerifiedClaims):
            return False
        until = self._clients.get(token.client_id)
        return token.token_id in self._tokens or (until is not None and token.issued_at <= until)

    async def revoke(self, token: VerifiedClaims) -> None:
        """On record, and refused here, when this returns."""
        expires_at = token.expires_at + timedelta(seconds=LEEWAY_SECONDS)
        await self._put(_TOKEN + token.token_id, expires_at)
        self._tokens[token.token_id] = expires_at

    async def revoke_client(self, client_id: str) -> None:
        """Every token the client has been given until now. Tokens state whole seconds: those of the second
        that has begun are refused too, and the client asks anew."""
        now = self._clock.now()
        await self._put(_CLIENT + client_id, now)
        self._clients[client_id] = now

    async def grants_touched(self, token: VerifiedClaims) -> Sequence[Grant]:
        """Those whose streams must be decided anew, their epochs moved: some of them run under this token."""
        if token.detail is None:
            return ()
        async with self._store.transaction() as tx:
            grant = await tx.grant(token.detail.grant_id)
            if grant is None:
                return ()
            return await tx.bump_grants(GrantSelector(transfer_pid=grant.transfer_pid, purpose=grant.purpose))

    async def refresh(self) -> None:
        """Learn what the store holds, and forget there what has expired."""
        now = self._clock.now()
        async with self._store.transaction(read_only=True) as tx:
            tokens = {k: from_rfc3339(str(v["at"])) for k, v in (await tx.values(_TOKEN)).items()}
            clients = {k: from_rfc3339(str(v["at"])) for k, v in (await tx.values(_CLIENT)).items()}
        over = [k for k, at in tokens.items() if at <= now]
        over += [k for k, at in clients.items() if at + _LONGEST_LIFE <= now]
        if over:
            async with self._store.transaction() as tx:
                await tx.delete_values(over)
        # added to, never replaced: something may have been revoked here since the store was read
        self._tokens.update((k.removeprefix(_TOKEN), at) for k, at in tokens.items())
        self._tokens = {k: at for k, at in self._tokens.items() if at > now}
        for key, at in clients.items():
            client_id = key.removeprefix(_CLIENT)
            self._clients[client_id] = max(at, self._clients.get(client_id, at))

    async def run(self) -> None:
        """Follow what other replicas revoke. Without the store nothing is served either: grants are in it."""
        while True:
            await self._clock.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except ConnectorError as error:
                _log.warning("revoked tokens could not be read: %s", error.code)

    async def _put(self, key: str, at: datetime) -> None:
        async with self._store.transaction() as tx:
            await tx.put_value(key, {"at": to_rfc3339(at)})
