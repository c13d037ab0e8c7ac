"""Pseudonym secrets: who gets them, how they travel and rest, which keys come of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connector.access import jose
from connector.access.authorization_server import AuthorizationServer, resources
from connector.access.identity import TokenVerifier
from connector.access.issued_tokens import IssuedTokens
from connector.access.oauth_request import ClientAuthentication
from connector.access.tokens import PeerTokens
from connector.adapters.file_keys import FileKeys
from connector.control_plane.collaborations import TYP, CollaborationSecrets
from connector.errors import (
    KeysInvalid,
    NotFound,
    NotPermitted,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    TokenRejected,
    Unavailable,
)
from connector.model.audit import AuditEvent
from connector.model.participant import Collaboration, CollaborationRole, ParticipantStatus
from connector.ports import PeerResponse
from tests.unit.access.world import (
    START,
    Ids,
    ManualClock,
    MemoryReplayGuard,
    MemoryStore,
    StaticRegistry,
    fresh_keys,
    participant,
)

PROVIDER = frozenset({CollaborationRole.PROVIDER})
CONSUMER = frozenset({CollaborationRole.CONSUMER})


class Side:
    """One participant's connector, as far as secrets go."""

    def __init__(self, name: str, ecosystem: Ecosystem, keys: FileKeys) -> None:
        self.name = name
        self.keys = keys
        self.ecosystem = ecosystem
        self.store = MemoryStore()
        self.records: list[tuple[AuditEvent, dict[str, Any]]] = []
        clock, registry, new_id = ecosystem.clock, ecosystem.registry, ecosystem.new_id
        base_url = registry.participants[name].base_url
        replay = MemoryReplayGuard(clock)
        tokens = IssuedTokens(
            issuer=base_url,
            resources=frozenset(resources(base_url).values()),
            keys=keys,
            registry=registry,
            clock=clock,
            is_revoked=lambda _: False,
        )
        clients = ClientAuthentication(audiences=[base_url], registry=registry, replay=replay, clock=clock)
        self.server = AuthorizationServer(
            base_url=base_url,
            keys=keys,
            clients=clients,
            tokens=tokens,
            replay=replay,
            clock=clock,
            new_id=new_id,
            open_grant=None,  # type: ignore[arg-type]  # no data tokens here
            audit=self._ignore,
        )
        self.verifier = TokenVerifier(
            issuer=base_url,
            keys=keys,
            registry=registry,
            replay=replay,
            clock=clock,
            is_revoked=lambda _: False,
        )
        self.start()

    def start(self) -> None:
        clock, new_id = self.ecosystem.clock, self.ecosystem.new_id
        self.tokens = PeerTokens(keys=self.keys, peer=self.ecosystem, clock=clock, new_id=new_id)  # type: ignore[arg-type]
        self.secrets = CollaborationSecrets(
            keys=self.keys,
            store=self.store,  # type: ignore[arg-type]  # values and counts only
            registry=self.ecosystem.registry,
            peer=self.ecosystem,  # type: ignore[arg-type]  # it streams nothing
            tokens=self.tokens,
            clock=clock,
            random_bytes=secrets.token_bytes,
            record=self._record,
        )

    async def _ignore(self, event: AuditEvent, **fields: Any) -> None:
        pass

    async def _record(self, event: AuditEvent, **fields: Any) -> None:
        self.records.append((event, fields))


class Ecosystem:
    """kela leads, employment provides too, city consumes; and the wire between them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.new_id = Ids()
        names = ("kela", "employment", "city", "school")
        keys = {name: fresh_keys(name) for name in names}
        self.registry = StaticRegistry(self.clock, [participant(keys[name]) for name in names])
        self.set(generation=1)
        self.answer: PeerResponse | None = None
        self.seen: list[str] = []
        self.sides = {name: Side(name, self, keys[name]) for name in names}

    def set(self, **changes: Any) -> None:
        collaboration = Collaboration(
            id="planning-2026",
            purpose="service-planning",
            lead="kela",
            members={"kela": PROVIDER, "employment": PROVIDER, "city": CONSUMER},
            valid_until=START + timedelta(days=365),
        )
        self.registry.collaborations = {"planning-2026": replace(collaboration, **changes)}

    async def key(self, name: str) -> bytes:
        return await self.sides[name].secrets.key("planning-2026")

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None = None,
        **limits: Any,
    ) -> PeerResponse:
        name = url.removeprefix("https://").partition(".")[0]
        side = self.sides[name]
        if url.endswith("/oauth2/token"):
            status, answer_headers, body = await side.server.token(
                content or b"", content_type=headers["Content-Type"], dpop_headers=[headers["DPoP"]]
            )
            return PeerResponse(status=status, headers=answer_headers, body=json.dumps(body).encode())
        if self.answer is not None:
            return self.answer
        base_url = f"https://{name}.example"
        try:
            claims = await side.verifier.verify(
                method,
                url,
                headers["Authorization"],
                headers["DPoP"],
                resource=f"{base_url}/dsp/2025-1",
                scope="dsp",
            )
            sealed = await side.secrets.hand_out(
                self.registry.participants[claims.subject], url.split("/")[-2]
            )
        except TokenRejected:
            return PeerResponse(status=401, headers={}, body=b"")
        except NotPermitted:
            return PeerResponse(status=403, headers={}, body=b"")
        self.seen.append(sealed)
        return PeerResponse(status=200, headers={}, body=sealed.encode())


async def test_providers_share_one_key() -> None:
    """architecture.md, pseudonym domains: the lead makes the secret, the other provider fetches it."""
    ecosystem = Ecosystem()
    assert await ecosystem.key("employment") == await ecosystem.key("kela")
    assert ecosystem.sides["kela"].records == [
        (
            AuditEvent.COLLABORATION_KEY_SENT,
            {
                "actor": "employment",
                "object": "planning-2026",
                "purpose": "service-planning",
                "outcome": "sent",
            },
        )
    ]
    assert [event for event, _ in ecosystem.sides["employment"].records] == [
        AuditEvent.COLLABORATION_KEY_RECEIVED
    ]


async def test_a_consumer_never_gets_it() -> None:
    """Neither by asking its own connector nor by asking the lead."""
    ecosystem = Ecosystem()
    with pytest.raises(NotPermitted):
        await ecosystem.key("city")
    city = ecosystem.registry.participants["city"]
    with pytest.raises(NotPermitted) as caught:
        await ecosystem.sides["kela"].secrets.hand_out(city, "planning-2026")
    assert caught.value.reasons[0].code == "not_a_provider"
    assert ecosystem.sides["kela"].records == []


async def test_who_is_no_member_learns_not_even_that_it_exists() -> None:
    ecosystem = Ecosystem()
    school = ecosystem.registry.participants["school"]
    for collaboration in ("planning-2026", "another"):
        with pytest.raises(NotFound, match="no such collaboration"):
            await ecosystem.sides["kela"].secrets.hand_out(school, collaboration)


async def test_only_the_lead_hands_it_out() -> None:
    ecosystem = Ecosystem()
    await ecosystem.key("employment")
    kela = ecosystem.registry.participants["kela"]
    with pytest.raises(NotFound):
        await ecosystem.sides["employment"].secrets.hand_out(kela, "planning-2026")


async def test_it_survives_a_restart_and_is_fetched_once() -> None:
    ecosystem = Ecosystem()
    before = await ecosystem.key("employment"), await ecosystem.key("kela")
    for side in ecosystem.sides.values():
        side.start()
    assert (await ecosystem.key("employment"), await ecosystem.key("kela")) == before
    assert len(ecosystem.seen) == 1


async def test_a_new_generation_is_another_secret() -> None:
    """Who has left, or has seen the old one, knows nothing of the new."""
    ecosystem = Ecosystem()
    first = await ecosystem.key("employment")
    ecosystem.set(generation=2)
    second = await ecosystem.key("employment")
    assert second != first
    assert second == await ecosystem.key("kela")
    ecosystem.set(generation=1)
    assert await ecosystem.key("kela") == first


async def test_two_collaborations_never_share_a_key() -> None:
    ecosystem = Ecosystem()
    other = replace(ecosystem.registry.collaborations["planning-2026"], id="housing-2026")
    ecosystem.registry.collaborations["housing-2026"] = other
    kela = ecosystem.sides["kela"].secrets
    assert await kela.key("planning-2026") != await kela.key("housing-2026")


async def test_membership_is_looked_at_every_time() -> None:
    """A cached key is of no use to who is no longer a provider, or after the end."""
    ecosystem = Ecosystem()
    await ecosystem.key("employment")
    ecosystem.set(members={"kela": PROVIDER, "employment": CONSUMER})
    with pytest.raises(NotPermitted):
        await ecosystem.key("employment")
    ecosystem.set(valid_until=ecosystem.clock.now())
    with pytest.raises(NotPermitted, match="ended"):
        await ecosystem.key("kela")


async def test_at_rest_it_is_encrypted_for_its_place() -> None:
    """Not readable in the store, and not movable to another collaboration."""
    ecosystem = Ecosystem()
    await ecosystem.key("employment")
    store = ecosystem.sides["employment"].store
    stored = store.values["collaboration-secret/planning-2026/1"]
    opened = ecosystem.sides["employment"].keys.decrypt_jwe(ecosystem.seen[0]).decode()
    secret = jose.parse_jws(opened, typ={TYP}).unverified_claims()["secret"]
    assert secret not in json.dumps(stored)
    other = replace(ecosystem.registry.collaborations["planning-2026"], id="housing-2026")
    ecosystem.registry.collaborations["housing-2026"] = other
    store.values["collaboration-secret/housing-2026/1"] = stored
    with pytest.raises(KeysInvalid):
        await ecosystem.sides["employment"].secrets.key("housing-2026")


async def test_of_two_replicas_one_makes_it() -> None:
    """The loser of the race takes the winner's; without one it makes none of its own."""
    ecosystem = Ecosystem()
    kela = ecosystem.sides["kela"]
    kela.store.counts["collaboration-secret/planning-2026/1", "made"] = 1
    with pytest.raises(Unavailable):
        await ecosystem.key("kela")
    assert kela.store.values == {}


async def test_it_can_be_opened_by_the_requester_only() -> None:
    ecosystem = Ecosystem()
    await ecosystem.key("employment")
    with pytest.raises(KeysInvalid):
        ecosystem.sides["city"].keys.decrypt_jwe(ecosystem.seen[0])


def sealed(ecosystem: Ecosystem, *, signer: str = "kela", **changes: Any) -> PeerResponse:
    """An answer as the lead would give it, but for `changes`."""
    now = int(ecosystem.clock.now().timestamp())
    claims = {
        "iss": "kela",
        "aud": "employment",
        "iat": now,
        "exp": now + 60,
        "collaboration": "planning-2026",
        "generation": 1,
        "secret": jose.encode(bytes(32)),
        **changes,
    }
    signed = ecosystem.sides[signer].keys.sign_jwt(claims, typ=changes.get("typ", TYP))
    jwks = ecosystem.registry.participants["employment"].jwks
    return PeerResponse(status=200, headers={}, body=jose.encrypt_jwe(signed.encode(), jwks).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": "school"},
        {"iss": "school"},
        {"aud": "city"},
        {"collaboration": "housing-2026"},
        {"generation": 2},
        {"secret": jose.encode(bytes(16))},
        {"secret": None},
        {"iat": 0, "exp": 60},
        {"typ": "JWT"},
    ],
)
async def test_an_answer_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    ecosystem = Ecosystem()
    ecosystem.answer = sealed(ecosystem, **changes)
    with pytest.raises(PeerProtocolError) as caught:
        await ecosystem.key("employment")
    assert caught.value.participant == "kela"
    assert ecosystem.sides["employment"].store.values == {}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (PeerResponse(status=200, headers={}, body=b"not a JWE"), PeerProtocolError),
        (PeerResponse(status=200, headers={}, body=b"\xff"), PeerProtocolError),
        (PeerResponse(status=403, headers={}, body=b""), PeerRefused),
        (PeerResponse(status=503, headers={}, body=b""), PeerUnreachable),
    ],
)
async def test_a_lead_that_does_not_give_it(answer: PeerResponse, error: type[Exception]) -> None:
    ecosystem = Ecosystem()
    ecosystem.answer = answer
    with pytest.raises(error):
        await ecosystem.key("employment")


async def test_a_suspended_lead_is_not_asked() -> None:
    ecosystem = Ecosystem()
    ecosystem.registry.set_status("kela", ParticipantStatus.SUSPENDED)
    with pytest.raises(NotPermitted, match="lead is not active"):
        await ecosystem.key("employment")


async def test_a_requester_without_an_encryption_key_gets_nothing() -> None:
    ecosystem = Ecosystem()
    employment = ecosystem.registry.participants["employment"]
    bare = replace(employment, jwks=employment.jwks[:1])
    with pytest.raises(NotPermitted, match="encryption key"):
        await ecosystem.sides["kela"].secrets.hand_out(bare, "planning-2026")
