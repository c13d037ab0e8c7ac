"""A participant whose connector skips its own checks: real keys, real tokens, no scruples."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import jwt

from connector.access.peers import Peers
from connector.access.tokens import PeerTokens
from connector.adapters import file_keys, registry_files
from connector.adapters.clock import SystemClock
from connector.adapters.http_peer import HttpPeer
from connector.demo.ecosystem import Ecosystem
from connector.demo.stage import Contract
from connector.errors import PeerRefused
from connector.model.participant import TrustList
from connector.model.token import SCOPE_DATA, AuthorizationDetail


class _Trust:
    """The trust list as the registry's own folder has it."""

    def __init__(self, source: registry_files.Source) -> None:
        now = SystemClock().now()
        self._trust = TrustList(
            issuer=source.issuer,
            version=source.version,
            issued_at=now,
            expires_at=now + timedelta(hours=1),
            participants=source.participants,
            collaborations=source.collaborations,
        )

    def current(self) -> TrustList:
        return self._trust


@asynccontextmanager
async def _peers(ecosystem: Ecosystem, name: str) -> AsyncIterator[tuple[Peers, PeerTokens]]:
    keys = file_keys.load(ecosystem.participant_folder(name) / "keys", name)
    client = HttpPeer(allow_private=True)
    tokens = PeerTokens(keys=keys, peer=client, clock=SystemClock(), new_id=lambda: uuid.uuid4().hex)
    trust = _Trust(registry_files.read(ecosystem.participant_folder("registry")))
    try:
        yield Peers(trust, tokens, client), tokens
    finally:
        await tokens.close()
        await client.close()


def _detail(contract: Contract, agreement: str, purpose: str) -> AuthorizationDetail:
    return AuthorizationDetail(
        agreement_id=agreement, dataset_id=contract.dataset, actions=frozenset({"query"}), purpose=purpose
    )


def token_claims(ecosystem: Ecosystem, contract: Contract, agreement: str, purpose: str) -> dict[str, Any]:
    """What a fresh access token says. Read without verification: we only tell what is in it."""

    async def fetch() -> dict[str, Any]:
        async with _peers(ecosystem, contract.consumer) as (peers, tokens):
            provider = peers.participant(contract.provider)
            headers = await tokens.headers(
                provider,
                "GET",
                provider.data_url,
                resource=provider.data_url,
                scope=SCOPE_DATA,
                detail=_detail(contract, agreement, purpose),
            )
            unverified = headers["Authorization"].partition(" ")[2]
            claims: dict[str, Any] = jwt.decode(unverified, options={"verify_signature": False})
            return claims

    return asyncio.run(fetch())


def ask(
    ecosystem: Ecosystem, contract: Contract, agreement: str, purpose: str, sql: str
) -> PeerRefused | None:
    """Send a fragment straight to the provider; its refusal, or None where it answered."""

    async def send() -> None:
        async with _peers(ecosystem, contract.consumer) as (peers, _tokens):
            provider = peers.participant(contract.provider)
            async with peers.stream(
                provider,
                f"{provider.data_url}/datasets/{contract.dataset}/query",
                resource=provider.data_url,
                scope=SCOPE_DATA,
                detail=_detail(contract, agreement, purpose),
                body={"sql": sql},
            ) as chunks:
                async for _chunk in chunks:
                    pass

    try:
        asyncio.run(send())
    except PeerRefused as refusal:
        return refusal
    return None
