"""Re-acceptance: one call asks for the newest terms of the offer that an agreement of ours was made on."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from connector.access.vocabulary import classify
from connector.control_plane.agreements import Agreements
from connector.control_plane.negotiation import Negotiations
from connector.dsp.catalog import CatalogDataset
from connector.errors import NotFound
from connector.model.negotiation import ContractNegotiation, Role
from connector.model.participant import Participant

_VERSION = re.compile(r"\d+(\.\d+){0,2}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferName:
    """An offer id as our connectors write it: dataset, offer, terms version."""

    dataset: str
    offer: str
    version: tuple[int, ...]

    @classmethod
    def read(cls, wire_id: str) -> OfferName | None:
        """None for an id of another form."""
        head, _, version = wire_id.rpartition(":")
        dataset, _, offer = head.rpartition(":")
        if not dataset or not offer or not _VERSION.fullmatch(version):
            return None
        return cls(dataset=dataset, offer=offer, version=tuple(int(n) for n in version.split(".")))


def newest(wire_ids: list[str], like: str) -> str:
    """The id with the highest terms version of the offer that `like` names. Raises NotFound."""
    ours = OfferName.read(like)
    named = [(name, i) for i in wire_ids if (name := OfferName.read(i)) is not None]
    same = [(n.version, i) for n, i in named if ours and (n.dataset, n.offer) == (ours.dataset, ours.offer)]
    if not same:
        raise NotFound(
            f"No offer follows {like!r}.",
            mend=f"Negotiate by an offer's id; the provider shows: {', '.join(wire_ids) or 'none'}.",
        )
    return max(same)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewals:
    """`dataset(provider, dataset id)`: what its catalogue shows us now. Raises PeerError."""

    agreements: Agreements
    negotiations: Negotiations
    provider: Callable[[str], Participant]
    dataset: Callable[[Participant, str], Awaitable[CatalogDataset]]

    async def renew(self, agreement_id: str, *, by: str) -> ContractNegotiation:
        """A negotiation that, once finalized, gives an agreement with `renews`; the old one goes on until it
        ends by itself.

        Raises NotFound, PeerError; RequestInvalid where nobody could make the new terms hold.
        """
        record = await self.agreements.get(agreement_id)
        if record.role is not Role.CONSUMER:
            raise NotFound("There is no such agreement of ours as a consumer.")
        provider = self.provider(record.counter_party)
        shown = await self.dataset(provider, record.agreement.target)
        offer = shown.offer(newest([o.id for o in shown.offers], record.offer_id))
        assert offer is not None, "one of those shown"
        classify(offer.policy, trusts_consumer=True)
        return await self.negotiations.request(
            provider, record.agreement.target, offer.document, by=by, renews=agreement_id
        )
