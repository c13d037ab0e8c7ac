"""The trust list at a connector: fetched with ETag, kept, never rolled back, acted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connector.access import trust_list
from connector.control_plane.participants import STORE_KEY, TrustListKeeper, no_longer_active
from connector.errors import PeerProtocolError, PeerUnreachable, Unavailable
from connector.model.participant import ParticipantStatus, TrustList
from connector.ports import PeerResponse
from tests.unit.access.world import ManualClock, MemoryStore, fresh_keys, participant

KEYS = fresh_keys("registry")
KELA, CITY = (participant(fresh_keys(name)) for name in ("kela", "city"))


class Registry:
    """The registry as a connector sees it, over the wire."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.keys = KEYS
        self.down = False
        self.full_answers = 0
        self.publish(KELA, CITY)

    def publish(self, *participants: Any, version: int = 1) -> None:
        now = self.clock.now()
        content = TrustList(
            issuer="https://registry.example",
            version=version,
            issued_at=now,
            expires_at=now + timedelta(hours=24),
            participants={p.id: p for p in participants},
        )
        self.token = trust_list.sign(content, self.keys)
        self.etag = f'"{version}-{len(participants)}-{now}"'

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], **limits: Any
    ) -> PeerResponse:
        assert (method, url) == ("GET", "https://registry.example/trust-list")
        if self.down:
            raise PeerUnreachable("registry.example: no connection")
        if headers.get("If-None-Match") == self.etag:
            return PeerResponse(status=304, headers={}, body=b"")
        self.full_answers += 1
        return PeerResponse(status=200, headers={"etag": self.etag}, body=self.token.encode())


class Connector:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = Registry(self.clock)
        self.store = MemoryStore()
        self.changes: list[tuple[int | None, int, frozenset[str]]] = []
        self.failing = False
        self.start()

    def start(self) -> None:
        """Also after a crash: the store stays, the rest is new."""
        self.keeper = TrustListKeeper(
            registry_url="https://registry.example",
            pinned=KEYS.public_jwks()[:1],
            peer=self.registry,  # type: ignore[arg-type]  # it streams nothing
            store=self.store,  # type: ignore[arg-type]  # only values are used
            clock=self.clock,
            on_change=self.on_change,
        )

    async def on_change(self, before: TrustList | None, now: TrustList) -> None:
        if self.failing:
            raise Unavailable("the store does not answer")
        self.changes.append((before.version if before else None, now.version, no_longer_active(before, now)))


SUSPENDED = replace(CITY, status=ParticipantStatus.SUSPENDED)


async def test_a_suspension_is_acted_on_at_the_next_look() -> None:
    """Identity issue: within 3 s; the list is looked at every 2 s."""
    connector = Connector()
    await connector.keeper.open()
    assert connector.changes == [(None, 1, frozenset())]
    connector.registry.publish(KELA, SUSPENDED, version=2)
    assert await connector.keeper.refresh()
    assert connector.keeper.current().participants["city"].status is ParticipantStatus.SUSPENDED
    assert connector.changes[-1] == (1, 2, frozenset({"city"}))


@pytest.mark.parametrize(
    "now", [(KELA, SUSPENDED), (KELA, replace(CITY, status=ParticipantStatus.LEFT)), (KELA,)]
)
async def test_suspended_left_and_removed_are_no_longer_active(now: tuple[Any, ...]) -> None:
    connector = Connector()
    await connector.keeper.open()
    connector.registry.publish(*now, version=2)
    await connector.keeper.refresh()
    assert connector.changes[-1][2] == {"city"}


async def test_who_was_inactive_already_does_not_count_again() -> None:
    connector = Connector()
    connector.registry.publish(KELA, SUSPENDED)
    await connector.keeper.open()
    assert connector.changes == [(None, 1, frozenset({"city"}))]  # at the first start, all that are
    connector.registry.publish(KELA, SUSPENDED, version=2)
    await connector.keeper.refresh()
    assert connector.changes[-1] == (1, 2, frozenset())


async def test_an_unchanged_list_is_not_sent_again() -> None:
    """RFC 9110 §13.1.2: ETag and 304."""
    connector = Connector()
    await connector.keeper.open()
    for _ in range(3):
        assert not await connector.keeper.refresh()
    assert connector.registry.full_answers == 1
    assert len(connector.changes) == 1


async def test_a_rollback_is_refused_also_after_a_restart() -> None:
    connector = Connector()
    connector.registry.publish(KELA, SUSPENDED, version=5)
    await connector.keeper.open()
    connector.registry.publish(KELA, CITY, version=4)
    with pytest.raises(PeerProtocolError, match="rollback"):
        await connector.keeper.refresh()
    connector.start()
    await connector.keeper.open()
    assert "rollback" in connector.keeper.problem
    assert connector.keeper.current().version == 5


async def test_two_lists_of_one_version_are_refused() -> None:
    connector = Connector()
    await connector.keeper.open()
    connector.registry.publish(KELA, version=1)
    with pytest.raises(PeerProtocolError, match="equivocation"):
        await connector.keeper.refresh()
    assert "city" in connector.keeper.current().participants


async def test_a_list_by_another_key_is_refused() -> None:
    connector = Connector()
    await connector.keeper.open()
    connector.registry.keys = fresh_keys("registry")
    connector.registry.publish(KELA, CITY, participant(fresh_keys("mallory")), version=2)
    with pytest.raises(PeerProtocolError, match="key_unknown"):
        await connector.keeper.refresh()
    assert "mallory" not in connector.keeper.current().participants


async def test_the_last_good_copy_serves_until_it_expires() -> None:
    """The registry may be away for a day; after that everything is denied."""
    connector = Connector()
    await connector.keeper.open()
    connector.registry.down = True
    connector.start()
    await connector.keeper.open()
    assert connector.keeper.problem
    assert connector.keeper.current().version == 1
    connector.clock.advance(24 * 3600)
    with pytest.raises(Unavailable, match="expired"):
        connector.keeper.current()


async def test_without_any_list_everything_is_denied() -> None:
    connector = Connector()
    connector.registry.down = True
    await connector.keeper.open()
    with pytest.raises(Unavailable, match="no trust list yet"):
        connector.keeper.current()


async def test_a_change_that_could_not_be_acted_on_is_tried_again() -> None:
    """Meanwhile the new list is in force: nobody suspended gets in."""
    connector = Connector()
    await connector.keeper.open()
    connector.registry.publish(KELA, SUSPENDED, version=2)
    connector.failing = True
    with pytest.raises(Unavailable):
        await connector.keeper.refresh()
    assert connector.keeper.current().version == 2
    connector.failing = False
    assert await connector.keeper.refresh()  # a 304 this time
    assert connector.changes[-1] == (1, 2, frozenset({"city"}))


async def test_a_crash_between_list_and_action_loses_no_suspension() -> None:
    connector = Connector()
    await connector.keeper.open()
    connector.registry.publish(KELA, SUSPENDED, version=2)
    connector.failing = True
    with pytest.raises(Unavailable):
        await connector.keeper.refresh()
    connector.failing = False
    connector.registry.down = True
    connector.start()
    await connector.keeper.open()
    connector.registry.down = False
    await connector.keeper.refresh()
    assert connector.changes[-1] == (1, 2, frozenset({"city"}))


async def test_a_list_put_into_the_store_by_somebody_else_is_not_believed() -> None:
    connector = Connector()
    connector.registry.down = True
    forged = trust_list.sign(
        TrustList(
            issuer="x",
            version=9,
            issued_at=connector.clock.now(),
            expires_at=connector.clock.now() + timedelta(hours=1),
            participants={"mallory": participant(fresh_keys("mallory"))},
        ),
        fresh_keys("registry"),
    )
    connector.store.values[STORE_KEY] = {"accepted": forged, "acted_on": forged}
    await connector.keeper.open()
    with pytest.raises(Unavailable):
        connector.keeper.current()


async def test_another_replicas_newer_list_is_taken_up() -> None:
    """Replicas meet at the highest version, also where a cache serves one of them an older list."""
    connector = Connector()
    await connector.keeper.open()
    older = connector.keeper
    connector.registry.publish(KELA, SUSPENDED, version=3)
    connector.start()
    await connector.keeper.open()
    newest = connector.store.values[STORE_KEY]["accepted"]
    connector.registry.publish(KELA, version=2)
    await older.refresh()
    assert connector.store.values[STORE_KEY]["accepted"] == newest
    assert older.current().version == 3
    assert connector.changes[-1] == (1, 3, frozenset({"city"}))
