"""Everybody's catalogue as it is now: each participant asked, nothing remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from connector.access.peers import Peers
from connector.access.vocabulary import classify
from connector.control_plane.peer_catalogs import PeerCatalogs
from connector.dsp.catalog import CatalogDataset
from connector.dsp.policy import rules_of, same_rules
from connector.errors import ConnectorError, NotFound
from connector.model.json import JsonObject
from connector.model.participant import Participant, ParticipantStatus
from connector.model.peer_catalog import DatasetProblem
from connector.ports import TrustRegistry

PEER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One participant's catalogue as it answered; `error` says why it did not, and then nothing is seen.
    `problems` names datasets that could not be read, `truncated` why reading stopped early."""

    participant: Participant
    datasets: Sequence[CatalogDataset] = ()
    problems: Sequence[DatasetProblem] = ()
    truncated: str = ""
    error: str = ""


class Discovery:
    def __init__(
        self, *, participant_id: str, trust: TrustRegistry, peers: Peers, catalogs: PeerCatalogs
    ) -> None:
        self._participant_id = participant_id
        self._trust = trust
        self._peers = peers
        self._catalogs = catalogs

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

    async def offer(
        self, provider: Participant, dataset_id: str, offer_id: str, rules: JsonObject | None = None
    ) -> JsonObject:
        """An Offer as the provider's catalogue shows it to us now: the one with this id, else one with these
        `rules`. Raises NotFound, PeerError; RequestInvalid where a constraint or duty of it has no
        enforcement class here."""
        dataset = await self._catalogs.dataset(provider, dataset_id)
        offer = dataset.offer(offer_id)
        if offer is None and rules:
            offer = next((o for o in dataset.offers if same_rules(rules_of(o.document), rules)), None)
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
                found = await self._catalogs.catalog(provider)
        except TimeoutError:
            return Seen(participant=provider, error="did not answer in time")
        except ConnectorError as error:
            return Seen(participant=provider, error=error.message)
        return Seen(
            participant=provider,
            datasets=found.datasets,
            problems=found.problems,
            truncated=found.truncated,
        )
