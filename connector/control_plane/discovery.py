"""Everybody's catalogue at once: what other participants offer us now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from connector.access.peers import Peers
from connector.access.vocabulary import classify
from connector.control_plane.catalog import PeerCatalogs
from connector.dsp.catalog import CatalogDataset
from connector.errors import ConnectorError, MessageInvalid, NotFound, PeerProtocolError
from connector.model.json import JsonObject
from connector.model.participant import Participant, ParticipantStatus
from connector.model.token import SCOPE_DSP
from connector.ports import TrustRegistry

PEER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One participant's catalogue as it answered; `error` says why it did not, and then nothing is seen."""

    participant: Participant
    datasets: Sequence[CatalogDataset] = ()
    error: str = ""


class Discovery:
    def __init__(self, *, participant_id: str, trust: TrustRegistry, peers: Peers) -> None:
        self._participant_id = participant_id
        self._trust = trust
        self._peers = peers
        self._catalogs = PeerCatalogs(self._fetch)

    def provider(self, participant_id: str) -> Participant:
        """Raises PeerRefused for one that is not active in the trust list."""
        return self._peers.participant(participant_id)

    async def look(self, participant_id: str = "") -> Sequence[Seen]:
        """Everybody's catalogue, or one's. A dead peer costs five seconds and stalls nobody."""
        if participant_id:
            return [await self._see(self.provider(participant_id))]
        others = [
            p
            for p in self._trust.current().participants.values()
            if p.status is ParticipantStatus.ACTIVE and p.id != self._participant_id
        ]
        return await asyncio.gather(*(self._see(p) for p in others))

    async def offer(self, provider: Participant, dataset_id: str, offer_id: str) -> JsonObject:
        """An Offer as the provider's catalogue shows it to us now. Raises NotFound, PeerError; RequestInvalid
        where a constraint or duty of it has no enforcement class here."""
        with _reading(provider):
            dataset = await self._catalogs.dataset(provider, dataset_id)
        offer = dataset.offer(offer_id)
        if offer is None:
            seen = ", ".join(o.id for o in dataset.offers) or "none"
            raise NotFound(
                f"{provider.id} offers us no {offer_id!r} of {dataset_id!r}.", mend=f"Offers seen: {seen}."
            )
        classify(offer.policy, trusts_consumer=True)  # what nobody can make hold is not asked for
        return offer.document

    async def _see(self, provider: Participant) -> Seen:
        try:
            async with asyncio.timeout(PEER_SECONDS):
                with _reading(provider):
                    catalog = await self._catalogs.catalog(provider)
            return Seen(participant=provider, datasets=catalog.datasets)
        except TimeoutError:
            return Seen(participant=provider, error="did not answer in time")
        except ConnectorError as error:
            return Seen(participant=provider, error=error.message)

    async def _fetch(
        self, method: str, url: str, recipient: str, body: JsonObject | None = None
    ) -> JsonObject:
        provider = self.provider(recipient)
        answer: JsonObject = await self._peers.call(
            provider, method, url, resource=provider.dsp_url, scope=SCOPE_DSP, body=body
        )
        return answer


@contextmanager
def _reading(provider: Participant) -> Iterator[None]:
    """What a peer's catalogue breaks is the peer's fault, not that of whoever asked us."""
    try:
        yield
    except MessageInvalid as error:
        raise PeerProtocolError(
            f"its catalogue cannot be read: {error.message}", participant=provider.id
        ) from error
    except RecursionError:
        raise PeerProtocolError("its catalogue nests too deep", participant=provider.id) from None
