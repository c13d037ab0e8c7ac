"""The catalogue in DCAT-AP, in two parts that are never mixed: what is open, and what only peers may see.

Open is the metadata of datasets with open access rights, to everybody, without asking who. The rest is shown
to a participant who has proved who it is, as far as policy lets it see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from connector.control_plane.catalog import CONTINUATION, Audit, Served
from connector.control_plane.catalog_pages import (
    START,
    Entries,
    EverybodysView,
    Page,
    PageTokens,
    Place,
    Shelf,
)
from connector.control_plane.catalog_visibility import Sightings
from connector.dsp.catalog import is_shown
from connector.dsp.dcat import DcatPublisher, Links
from connector.dsp.wire import compact_json
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset, OfferTerms
from connector.model.participant import Participant

OPEN = "/catalog"
RESTRICTED = "/catalog/restricted"
PUBLIC = "PUBLIC"
_EVERYBODY = ""
"""Whom tokens of open pages are for: no participant has an empty id."""


class DcatCatalogs:
    """`open_rights`: access rights whose metadata is open besides PUBLIC; their offers are not."""

    def __init__(
        self,
        *,
        publisher: DcatPublisher,
        catalogue: Callable[[], Mapping[str, Dataset]],
        sightings: Sightings,
        tokens: PageTokens,
        audit: Audit,
        page_size: int = 100,
        open_rights: Collection[str] = (),
    ) -> None:
        self._publisher = publisher
        self._shelf = Shelf(catalogue)
        self._sightings = sightings
        self._tokens = tokens
        self._audit = audit
        self._page_size = page_size
        self._open_rights = frozenset([PUBLIC, *open_rights])
        self._entries = Entries(publisher.entry)
        self._open_entries = Entries(lambda d, offers: publisher.entry(d, _open_offers(d, offers)))

    async def open(self, token: str = "", suffix: str = "") -> Served:
        """A page as JSON-LD; `suffix` (`.ttl`) is what its links end in. Not audited: it names nobody.
        Raises RequestInvalid for a token that is none."""
        page = await self._shelf.page(
            EverybodysView(),
            lambda d: is_shown(d) and self._is_open(d),
            size=self._page_size,
            place=self._place(_EVERYBODY, token),
        )
        return self._served(page, self._open_entries, _EVERYBODY, OPEN, token, suffix)

    async def restricted(self, peer: Participant, token: str = "", suffix: str = "") -> Served:
        """A page of what is not open and `peer` may see. Raises RequestInvalid, Unavailable."""
        page = await self._shelf.page(
            self._sightings.viewer(peer.id),
            lambda d: is_shown(d) and not self._is_open(d),
            size=self._page_size,
            place=self._place(peer.id, token),
        )
        await self._audit(AuditEvent.CATALOG_SERVED, actor=peer.id, outcome=f"{len(page.shown)} datasets")
        return self._served(page, self._entries, peer.id, RESTRICTED, token, suffix)

    def _is_open(self, dataset: Dataset) -> bool:
        return dataset.access_rights in self._open_rights

    def _place(self, reader: str, token: str) -> Place:
        return self._tokens.open(reader, token)[0] if token else START

    def _served(
        self, page: Page, entries: Entries, reader: str, path: str, token: str, suffix: str
    ) -> Served:
        address = f"{self._publisher.base_url}{path}{suffix}"
        next_url, previous_url = (
            f"{address}?{CONTINUATION}={self._tokens.seal(reader, place, [])}" if place else ""
            for place in (page.next, page.previous)
        )
        links = Links(
            page=f"{address}?{CONTINUATION}={token}" if token else address,
            first=address,
            next=next_url,
            previous=previous_url,
        )
        datasets = [shown.dataset for shown in page.shown]
        frame = compact_json({"@context": self._publisher.context, "@graph": None}).removesuffix(b"null}")
        nodes = compact_json(self._publisher.frame(path, datasets, links)).removesuffix(b"]")
        described = b"," + entries.joined(page.shown) if datasets else b""
        return Served(content=frame + nodes + described + b"]}", next=next_url, previous=previous_url)


def _open_offers(dataset: Dataset, offers: Sequence[OfferTerms]) -> Sequence[OfferTerms]:
    """Terms of what is not public are for those who may have it."""
    return offers if dataset.access_rights == PUBLIC else ()
