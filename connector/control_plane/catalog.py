"""Catalogues: ours, as a peer may see it (DSP 2025-1 §5), and a peer's, as we read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol
from urllib.parse import quote

from connector.dsp.catalog import Catalog, CatalogDataset, Publisher, is_shown, parse_catalog, parse_dataset
from connector.dsp.messages import CatalogRequestMessage
from connector.errors import NotFound, RequestInvalid
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset
from connector.model.json import JsonObject
from connector.model.participant import Participant

Visible = Callable[[str, Dataset], Awaitable[bool]]
"""`visible(participant_id, dataset)`: whether policy lets this participant know of it."""

Audit = Callable[..., Awaitable[object]]


class Catalogs:
    def __init__(
        self,
        *,
        publisher: Publisher,
        catalogue: Callable[[], Mapping[str, Dataset]],
        visible: Visible,
        audit: Audit,
    ) -> None:
        self._publisher = publisher
        self._catalogue = catalogue
        self._visible = visible
        self._audit = audit

    async def request(self, peer: Participant, message: CatalogRequestMessage) -> JsonObject:
        """Everything `peer` may see. Raises RequestInvalid for a filter: none is defined here."""
        if message.filter:
            raise RequestInvalid(
                "is not supported", where="filter", mend="Leave it out.", code="filter_unsupported"
            )
        datasets = [d for d in self._catalogue().values() if is_shown(d)]
        seen = {d.id for d in datasets if await self._visible(peer.id, d)}
        await self._audit(AuditEvent.CATALOG_SERVED, actor=peer.id, outcome=f"{len(seen)} datasets")
        return self._publisher.catalog(datasets, lambda d: d.id in seen)

    async def dataset(self, peer: Participant, dataset_id: str) -> JsonObject:
        """Raises NotFound for what does not exist and for what `peer` may not see alike."""
        dataset = self._catalogue().get(dataset_id)
        if dataset is None or not is_shown(dataset) or not await self._visible(peer.id, dataset):
            raise NotFound("There is no such dataset.")
        await self._audit(AuditEvent.CATALOG_SERVED, actor=peer.id, object=dataset_id)
        return self._publisher.dataset(dataset)


class Fetch(Protocol):
    async def __call__(
        self, method: str, url: str, recipient: str, body: JsonObject | None = None
    ) -> JsonObject:
        """The object a peer answers. Raises PeerError."""
        ...


class PeerCatalogs:
    """What others offer, asked for now."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def catalog(self, provider: Participant) -> Catalog:
        """Raises PeerError, or MessageInvalid where the answer is no Catalog."""
        body = CatalogRequestMessage().document()
        answer = await self._fetch("POST", f"{provider.dsp_url}/catalog/request", provider.id, body)
        return parse_catalog(answer)

    async def dataset(self, provider: Participant, dataset_id: str) -> CatalogDataset:
        url = f"{provider.dsp_url}/catalog/datasets/{quote(dataset_id, safe='')}"
        return parse_dataset(await self._fetch("GET", url, provider.id))
