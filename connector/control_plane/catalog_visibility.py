"""Which offers of which datasets a peer may see: by policy, remembered for a short while.

A decision takes a fraction of a millisecond, and a large catalogue needs thousands of them. What was decided
holds until a policy, the trust list or the dataset changes, and never longer than some seconds or than the
permit itself says: conditions can hang on the time. Nothing but the catalogue reads it; a negotiation and
all that follows are decided then.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from connector.model.catalog import Dataset, OfferTerms
from connector.ports import Clock

MOST_REMEMBERED = 200_000
"""Decisions kept at a time, some 200 bytes each; then whoever has not asked for longest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a participant may see of a dataset now; no offers, nothing. `until`: when it ends by itself."""

    offers: tuple[OfferTerms, ...] = ()
    until: datetime | None = None


Sight = Callable[[str, Dataset], Awaitable[Sighting]]
"""`sight(participant_id, dataset)`, decided now. Raises Unavailable where it cannot be decided."""


class _Remembered(NamedTuple):
    dataset: Dataset
    offers: tuple[OfferTerms, ...]
    until: datetime


class Sightings:
    """`revision` names what decisions hang on besides time and dataset: policies and trust list. It raises
    Unavailable where there is none, and then nothing is seen."""

    def __init__(
        self,
        sight: Sight,
        *,
        revision: Callable[[], Hashable],
        clock: Clock,
        seconds: float,
        most: int = MOST_REMEMBERED,
    ) -> None:
        self._sight = sight
        self._revision = revision
        self._clock = clock
        self._longest = timedelta(seconds=seconds)
        self._most = most
        self._at: Hashable = None
        self._remembered: OrderedDict[str, dict[str, _Remembered]] = OrderedDict()
        self._count = 0

    def viewer(self, participant_id: str) -> PeersView:
        return PeersView(self, participant_id)

    def recall(
        self, participant_id: str, datasets: Sequence[Dataset]
    ) -> Sequence[tuple[OfferTerms, ...] | None]:
        """None for what has to be decided."""
        self._forget_outdated()
        now = self._clock.now()
        all_held = self._remembered.get(participant_id, {})
        if all_held:
            self._remembered.move_to_end(participant_id)
        found = ((dataset, all_held.get(dataset.id)) for dataset in datasets)
        return [h.offers if h and h.dataset is d and now < h.until else None for d, h in found]

    async def decide(self, participant_id: str, dataset: Dataset) -> tuple[OfferTerms, ...]:
        before, now = self._revision(), self._clock.now()
        sighting = await self._sight(participant_id, dataset)
        until = min(now + self._longest, sighting.until or datetime.max.replace(tzinfo=now.tzinfo))
        if self._revision() == before:  # else it may be of either revision: good for now, and not kept
            self._forget_outdated()
            self._remember(participant_id, _Remembered(dataset, sighting.offers, until))
        return sighting.offers

    def _forget_outdated(self) -> None:
        revision = self._revision()
        if revision != self._at:
            self._remembered.clear()
            self._at, self._count = revision, 0

    def _remember(self, participant_id: str, sighting: _Remembered) -> None:
        held = self._remembered.setdefault(participant_id, {})
        self._count += sighting.dataset.id not in held
        held[sighting.dataset.id] = sighting
        while self._count > self._most and len(self._remembered) > 1:
            _, forgotten = self._remembered.popitem(last=False)
            self._count -= len(forgotten)


class PeersView:
    """What one participant sees during one request. `decisions` counts those that were taken anew."""

    def __init__(self, sightings: Sightings, participant_id: str) -> None:
        self._sightings = sightings
        self._participant_id = participant_id
        self.decisions = 0

    async def offers(self, datasets: Sequence[Dataset]) -> Sequence[tuple[OfferTerms, ...]]:
        recalled = self._sightings.recall(self._participant_id, datasets)
        unknown = [d for d, offers in zip(datasets, recalled, strict=True) if offers is None]
        self.decisions += len(unknown)
        decided = iter(
            await asyncio.gather(*(self._sightings.decide(self._participant_id, d) for d in unknown))
        )
        return [next(decided) if offers is None else offers for offers in recalled]
