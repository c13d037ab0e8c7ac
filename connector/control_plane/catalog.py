"""Our catalogue, as a peer may see it (DSP 2025-1 §5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from connector.control_plane.catalog_pages import (
    MOST_DECISIONS,
    START,
    Entries,
    Page,
    PageTokens,
    Place,
    Shelf,
)
from connector.control_plane.catalog_visibility import Sightings
from connector.dsp.catalog import Publisher, is_shown
from connector.dsp.catalog_filter import CatalogFilter, parse_filter
from connector.dsp.messages import CatalogRequestMessage
from connector.dsp.wire import compact_json
from connector.errors import NotFound, RequestInvalid
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset
from connector.model.participant import Participant

CONTINUATION = "continuationToken"
"""The query parameter of a page's URL."""

MOST_A_PAGE = 1_000

Visible = Callable[[str, Dataset], Awaitable[bool]]
"""`visible(participant_id, dataset)`: whether policy lets this participant know of it, decided now."""

Audit = Callable[..., Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answer as it goes out. `next` and `previous`: absolute URLs, "" where there is nothing."""

    content: bytes
    next: str = ""
    previous: str = ""


class Catalogs:
    """`tokens` must be equal on every replica, as `Keys.derive` makes their key."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        catalogue: Callable[[], Mapping[str, Dataset]],
        sightings: Sightings,
        tokens: PageTokens,
        audit: Audit,
        page_size: int = 100,
    ) -> None:
        self._publisher = publisher
        self._catalogue = catalogue
        self._shelf = Shelf(catalogue)
        self._sightings = sightings
        self._tokens = tokens
        self._audit = audit
        self._page_size = page_size
        self._entries = Entries(publisher.entry)
        self._frame = compact_json(publisher.frame()).removesuffix(b"}")

    async def request(self, peer: Participant, message: CatalogRequestMessage, token: str = "") -> Served:
        """A page of what `peer` may see, by id; `token` is that of its URL, "" for the first.

        Raises RequestInvalid for a filter or a token that is not understood, Unavailable where nothing can
        be decided: an empty catalogue would say that there is nothing.
        """
        place, asked = self._place(peer, message, token)
        # a filter with offsets counts on whole pages: there it is the peer who asks for the next
        counted = asked.offset > 0 or asked.limit is not None
        page = await self._shelf.page(
            self._sightings.viewer(peer.id),
            lambda d: is_shown(d) and asked.holds(d),
            size=min(asked.limit or self._page_size, MOST_A_PAGE),
            place=place,
            skip=0 if token else asked.offset,
            most_decisions=None if counted else MOST_DECISIONS,
        )
        await self._audit(AuditEvent.CATALOG_SERVED, actor=peer.id, outcome=f"{len(page.shown)} datasets")
        return Served(
            content=self._content(page),
            next=self._url(peer, page.next, asked),
            previous=self._url(peer, page.previous, asked),
        )

    async def dataset(self, peer: Participant, dataset_id: str) -> Served:
        """Raises NotFound for what does not exist and for what `peer` may not see alike."""
        dataset = self._catalogue().get(dataset_id)
        if dataset is None or not is_shown(dataset):
            raise NotFound("There is no such dataset.")
        (offers,) = await self._sightings.viewer(peer.id).offers([dataset])
        if not offers:
            raise NotFound("There is no such dataset.")
        await self._audit(AuditEvent.CATALOG_SERVED, actor=peer.id, object=dataset_id)
        return Served(content=compact_json(self._publisher.dataset(dataset, offers)))

    def _content(self, page: Page) -> bytes:
        if not page.shown:
            return self._frame + b"}"  # an empty array would break the schema
        return self._frame + b',"dataset":[' + self._entries.joined(page.shown) + b"]}"

    def _place(
        self, peer: Participant, message: CatalogRequestMessage, token: str
    ) -> tuple[Place, CatalogFilter]:
        """A page's URL brings its filter along; whoever repeats the filter repeats the same one."""
        if not token:
            return START, parse_filter(message.filter)
        place, about = self._tokens.open(peer.id, token)
        if message.filter and list(message.filter) != list(about):
            raise RequestInvalid(
                "is not the one that this page is of",
                where="filter",
                mend="Follow the link with the same filter, or with none.",
                code="continuation_token_invalid",
            )
        return place, parse_filter(about)

    def _url(self, peer: Participant, place: Place | None, asked: CatalogFilter) -> str:
        if place is None:
            return ""
        token = self._tokens.seal(peer.id, place, asked.wire)
        return f"{self._publisher.dsp_url}/catalog/request?{CONTINUATION}={token}"
