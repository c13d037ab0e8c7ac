"""Who takes part, kept current: the registry's trust list, fetched, verified, remembered and acted on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from connector.access import trust_list
from connector.access.jose import Refusal
from connector.access.trust_list import SignedTrustList
from connector.errors import ConnectorError, PeerProtocolError, PeerUnreachable, Unavailable
from connector.model.participant import ParticipantStatus, TrustList
from connector.ports import Clock, PeerClient, Store

_log = logging.getLogger(__name__)

STORE_KEY = "trust-list"
POLL_SECONDS = 2.0
_REQUEST_SECONDS = 2.0

OnChange = Callable[[TrustList | None, TrustList], Awaitable[None]]
"""`(before, now)`; called again until it returns, also after a restart: make it repeatable."""


def no_longer_active(before: TrustList | None, now: TrustList) -> frozenset[str]:
    """Participants suspended, left or removed since `before`; without one, all that `now` calls inactive."""
    active = _active(now)
    known = _active(before) if before is not None else frozenset(now.participants)
    return known - active


def _active(content: TrustList) -> frozenset[str]:
    return frozenset(p.id for p in content.participants.values() if p.status is ParticipantStatus.ACTIVE)


class TrustListKeeper:
    """`connector.ports.TrustRegistry`. `pinned`: the registry's public keys, exchanged at onboarding.

    A new list counts from the moment it is verified; then it is stored, then `on_change` acts on it. What
    has been acted on is stored too, so a crash in between loses no suspension.
    """

    def __init__(
        self,
        *,
        registry_url: str,
        pinned: Sequence[Mapping[str, Any]],
        peer: PeerClient,
        store: Store,
        clock: Clock,
        on_change: OnChange,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._url = f"{registry_url}/trust-list"
        self._pinned = pinned
        self._peer = peer
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._poll_seconds = poll_seconds
        self._held: SignedTrustList | None = None
        self._acted_on: SignedTrustList | None = None
        self._etag = ""
        self.problem = ""
        """What keeps the list from being current, for the health endpoint; "" when nothing does."""

    def current(self) -> TrustList:
        if self._held is None:
            raise Unavailable("There is no trust list yet.", mend="Check registry_url and the registry.")
        if self._clock.now() >= self._held.content.expires_at:
            raise Unavailable(
                "The trust list has expired.", mend="Check that the participant registry can be reached."
            )
        return self._held.content

    async def open(self) -> None:
        """Take up the last good copy, then look for a newer one; being out of reach is no error here."""
        async with self._store.transaction(read_only=True) as tx:
            stored = await tx.value(STORE_KEY) or {}
        self._held = self._stored(stored.get("accepted"))
        self._acted_on = self._stored(stored.get("acted_on"))
        await self._try_refresh()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(self._poll_seconds)
            await self._try_refresh()

    async def refresh(self) -> bool:
        """Whether something was acted on. Raises PeerError when the list cannot be fetched or is not
        acceptable (the last good copy stays), and whatever `on_change` or the store raise."""
        offered = await self._fetch()
        if offered is not None:
            self._held = offered
            await self._remember()
        if self._held is None or (self._acted_on and self._acted_on.token == self._held.token):
            return False
        held = self._held
        await self._on_change(self._acted_on.content if self._acted_on else None, held.content)
        self._acted_on = held
        await self._remember()
        return True

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
            problem = ""
        except ConnectorError as error:
            problem = error.message
        if problem and problem != self.problem:  # once per change, not every two seconds
            _log.warning("trust list not refreshed: %s", problem)
        self.problem = problem

    async def _fetch(self) -> SignedTrustList | None:
        """A list other than the one held; None when there is none."""
        headers = {"If-None-Match": self._etag} if self._etag else {}
        answer = await self._peer.request(
            "GET",
            self._url,
            headers=headers,
            timeout_seconds=_REQUEST_SECONDS,
            max_bytes=trust_list.MAX_BYTES,
        )
        if answer.status == 304 and self._etag:
            return None
        if answer.status != 200:
            raise PeerUnreachable(f"the participant registry answered {answer.status}")
        token = answer.body.decode("ascii", "replace").strip()
        if self._held is None or token != self._held.token:
            try:
                offered = trust_list.accept(token, self._pinned, now=self._clock.now(), held=self._held)
            except Refusal as refusal:
                raise PeerProtocolError(
                    f"the participant registry's list was refused ({refusal.code})",
                    mend="Ask the registry's operator; until then the last good list stays in force.",
                ) from refusal
        else:
            offered = None
        self._etag = answer.headers.get("etag", "")
        return offered

    async def _remember(self) -> None:
        """Another replica may have accepted a newer list already: that one stays, and is taken up."""
        assert self._held is not None
        async with self._store.transaction() as tx:
            stored = await tx.value(STORE_KEY) or {}
            other = self._stored(stored.get("accepted"))
            if other is not None and other.content.version > self._held.content.version:
                self._held = other
                return
            acted_on = self._acted_on.token if self._acted_on else None
            await tx.put_value(STORE_KEY, {"accepted": self._held.token, "acted_on": acted_on})

    def _stored(self, token: Any) -> SignedTrustList | None:
        """Verified anew: the store is not trusted with who takes part. Its age is judged at each use."""
        if token is None:
            return None
        try:
            return trust_list.verify(token, self._pinned)
        except Refusal as refusal:
            _log.warning("the stored trust list was not taken up (%s)", refusal.code)
            return None
