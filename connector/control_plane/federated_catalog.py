"""Everybody's catalogue at once, from the index: searched, and brought up to date when the operator asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from connector.errors import PeerRefused
from connector.model.participant import Participant, ParticipantStatus
from connector.model.peer_catalog import CatalogFound, CatalogQuery, Freshness
from connector.ports import CatalogIndex, Clock, TrustRegistry

REFRESH_GAP_SECONDS = 10.0
"""However often it is asked for, a peer is read anew at most this often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A participant whose catalogue counts; `freshness` is None until it is followed."""

    participant: Participant
    freshness: Freshness | None


class FederatedCatalog:
    def __init__(
        self,
        *,
        participant_id: str,
        trust: TrustRegistry,
        index: CatalogIndex,
        clock: Clock,
        wake: asyncio.Event,
    ) -> None:
        """`wake` is the crawler's."""
        self._participant_id = participant_id
        self._trust = trust
        self._index = index
        self._clock = clock
        self._wake = wake

    async def search(
        self,
        *,
        text: str = "",
        theme: str = "",
        keyword: str = "",
        participant: str = "",
        format: str = "",
        access_rights: str = "",
        limit: int = 20,
        after: str = "",
    ) -> tuple[CatalogFound, Sequence[Source]]:
        """What matches at active participants, whatever the index still holds, and how fresh each one's part
        is. Raises Unavailable without a trust list, RequestInvalid, and PeerRefused for a participant that
        is not active."""
        active = self._active(participant)
        found = await self._index.search(
            CatalogQuery(
                participants=frozenset(active),
                text=text,
                theme=theme,
                keyword=keyword,
                format=format,
                access_rights=access_rights,
                limit=limit,
                after=after,
            )
        )
        known = await self._index.freshness()
        return found, [Source(participant=p, freshness=known.get(p.id)) for p in active.values()]

    async def refresh(self, participant: str) -> Freshness:
        """Have one participant's catalogue read as soon as politeness allows; `next_attempt` says when.
        Raises PeerRefused for one that is not active, NotFound for one that is not followed yet."""
        self._active(participant)
        now = self._clock.now()
        before = (await self._index.freshness()).get(participant)
        earliest = [now]
        if before is not None and before.last_attempt is not None:
            earliest.append(before.last_attempt + timedelta(seconds=REFRESH_GAP_SECONDS))
        if before is not None and before.not_before is not None:
            earliest.append(before.not_before)
        hurried = await self._index.hurry(participant, due_at=max(earliest))
        self._wake.set()
        return hurried

    def _active(self, only: str) -> Mapping[str, Participant]:
        found = self._trust.current().participants.values()
        active = {
            p.id: p for p in found if p.status is ParticipantStatus.ACTIVE and p.id != self._participant_id
        }
        if not only:
            return active
        if only not in active:
            raise PeerRefused(
                "is not another active participant of the registry",
                participant=only,
                mend="Check the name with `connector registry show`.",
                code="participant_unknown",
            )
        return {only: active[only]}
