"""Pages of a catalogue: datasets by id, from a place between two ids on, with few decisions more than needed.

A page's place is an id and never a count, so nothing is lost and nothing doubled when datasets come and go
between two pages.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import operator
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from connector.dsp.wire import compact_json
from connector.errors import RequestInvalid
from connector.model.catalog import Dataset, OfferTerms
from connector.model.json import JsonObject

KEY_BYTES = 64
MOST_DECISIONS = 1_000
"""Taken anew for one page. A page that would need more ends there, and says where it goes on."""

_CHUNK = 8
"""Decided together, in some milliseconds; then the event loop gets its turn."""
_STRIDE = 1_000
"""Datasets that are looked at, and do not suit, before the event loop gets its turn."""
_MOST_TOKEN_CHARS = 8_192

Holds = Callable[[Dataset], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A gap between ids: forward is what is at or behind `key`, backward what is before it."""

    key: str = ""
    forward: bool = True


START = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A dataset with those of its offers that its reader may see."""

    dataset: Dataset
    offers: tuple[OfferTerms, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """In ascending order of ids, whichever way it was read. None: there is nothing there."""

    shown: tuple[Shown, ...]
    next: Place | None = None
    previous: Place | None = None


class Viewer(Protocol):
    """One who reads. `decisions` counts those that had to be taken anew."""

    @property
    def decisions(self) -> int: ...

    async def offers(self, datasets: Sequence[Dataset]) -> Sequence[tuple[OfferTerms, ...]]:
        """Of each dataset the offers that may be seen; none: nor may the dataset."""
        ...


class EverybodysView:
    """Sees everything. For what is open to everybody."""

    decisions = 0

    async def offers(self, datasets: Sequence[Dataset]) -> Sequence[tuple[OfferTerms, ...]]:
        return [d.offers for d in datasets]


class Shelf:
    """The catalogue in the order of ids, sorted anew only when it has changed."""

    def __init__(self, catalogue: Callable[[], Mapping[str, Dataset]]) -> None:
        self._catalogue = catalogue
        self._seen: tuple[Dataset, ...] = ()
        self._datasets: tuple[Dataset, ...] = ()
        self._ids: tuple[str, ...] = ()

    async def page(
        self,
        viewer: Viewer,
        holds: Holds,
        *,
        size: int,
        place: Place = START,
        skip: int = 0,
        most_decisions: int | None = MOST_DECISIONS,
    ) -> Page:
        """At most `size` datasets that hold and may be seen, after `skip` of them."""
        datasets, ids = self._current()
        begin = bisect_left(ids, place.key)
        order = range(begin, len(ids)) if place.forward else range(begin - 1, -1, -1)
        found: list[Shown] = []
        last: str | None = None
        more = False
        for chunk, looked_at in _chunks(datasets, order, holds):
            if more := most_decisions is not None and viewer.decisions >= most_decisions:
                break
            seen = await viewer.offers(chunk)
            found += [Shown(dataset=d, offers=o) for d, o in zip(chunk, seen, strict=True) if o]
            last = looked_at
            if more := len(found) > skip + size:
                last = found[skip + size - 1].dataset.id
                break
            await asyncio.sleep(0)
        shown = tuple(found[skip : skip + size])
        return _page(shown, place, last if more else None, begin > 0, begin < len(ids))

    def _current(self) -> tuple[Sequence[Dataset], Sequence[str]]:
        now = tuple(self._catalogue().values())
        if len(now) != len(self._seen) or any(map(operator.is_not, now, self._seen)):
            self._seen = now
            self._datasets = tuple(sorted(now, key=lambda d: d.id))
            self._ids = tuple(d.id for d in self._datasets)
        return self._datasets, self._ids


def _chunks(
    datasets: Sequence[Dataset], order: range, holds: Holds
) -> Iterator[tuple[Sequence[Dataset], str]]:
    """Datasets that hold, few at a time, each time with the id of the last that was looked at."""
    for begin in range(0, len(order), _STRIDE):
        stride = order[begin : begin + _STRIDE]
        chunk: list[Dataset] = []
        for index in stride:
            if holds(datasets[index]):
                chunk.append(datasets[index])
            if len(chunk) == _CHUNK:
                yield chunk, datasets[index].id
                chunk = []
        yield chunk, datasets[stride[-1]].id


def _page(shown: tuple[Shown, ...], place: Place, last: str | None, behind: bool, ahead: bool) -> Page:
    """`last`: where reading stopped, None at the end of the shelf; `behind`, `ahead`: of the page's place."""
    if place.forward:
        following = Place(key=f"{last}\0") if last is not None else None  # the least that is above it
        return Page(
            shown=shown, next=following, previous=Place(key=place.key, forward=False) if behind else None
        )
    before = Place(key=last, forward=False) if last is not None else None
    return Page(shown=shown[::-1], next=Place(key=place.key) if ahead else None, previous=before)


class Entries:
    """Datasets as bytes of JSON, rendered once for as long as a dataset is the same."""

    def __init__(self, render: Callable[[Dataset, Sequence[OfferTerms]], JsonObject]) -> None:
        self._render = render
        self._rendered: dict[str, tuple[Dataset, dict[tuple[str, ...], bytes]]] = {}

    def joined(self, shown: Sequence[Shown]) -> bytes:
        """With commas between them."""
        return b",".join(map(self._entry, shown))

    def _entry(self, shown: Shown) -> bytes:
        dataset = shown.dataset
        held, rendered = self._rendered.get(dataset.id, (None, {}))
        if held is not dataset:
            rendered = {}
            self._rendered[dataset.id] = dataset, rendered
        offers = tuple(o.wire_id(dataset.id) for o in shown.offers)
        if offers not in rendered:
            rendered[offers] = compact_json(self._render(dataset, shown.offers))
        return rendered[offers]


# --- tokens -----------------------------------------------------------------------------------------------


class PageTokens:
    """Places as URLs carry them: sealed, because an id in them may be of a dataset that the reader may not
    see, and bound to the reader. The same place is the same token, so entity tags stay what they are."""

    def __init__(self, key: bytes) -> None:
        """`key`: KEY_BYTES long."""
        self._cipher = AESSIV(key)

    def seal(self, reader: str, place: Place, about: Sequence[Any]) -> str:
        """`about`: what else the page depends on, as JSON (the filter)."""
        content = json.dumps([place.key, place.forward, list(about)], separators=(",", ":"), sort_keys=True)
        sealed = self._cipher.encrypt(content.encode(), [reader.encode()])
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, reader: str, token: str) -> tuple[Place, Sequence[Any]]:
        """Raises RequestInvalid for a token that is not ours, or not this reader's."""
        try:
            if len(token) > _MOST_TOKEN_CHARS:
                raise ValueError("too long")
            sealed = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), b"-_", validate=True)
            key, forward, about = json.loads(self._cipher.decrypt(sealed, [reader.encode()]))
        except (ValueError, InvalidTag, binascii.Error):
            raise RequestInvalid(
                "is no place in this catalogue",
                where="continuationToken",
                mend="Start again from the first page.",
                code="continuation_token_invalid",
            ) from None
        return Place(key=key, forward=forward), about
