"""Counter-offers as our people make them: another offer, or other rules, in answer to one that waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from connector.control_plane.negotiation import Negotiations
from connector.dsp.policy import render_offer, with_rules
from connector.errors import RequestInvalid
from connector.model.catalog import Dataset
from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation, Role
from connector.model.participant import Participant
from connector.model.person import Person, PersonRole

Rules = Mapping[str, list[Any]]
"""`permission`, `prohibition`, `obligation` as DSP writes them; those named take the place of the offer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterOffers:
    """`offer(provider, dataset, id)`: an Offer as the provider's catalogue shows it to us now."""

    negotiations: Negotiations
    catalogue: Callable[[], Mapping[str, Dataset]]
    provider: Callable[[str], Participant]
    offer: Callable[[Participant, str, str], Awaitable[JsonObject]]

    async def make(self, pid: str, offer_id: str, rules: Rules, person: Person) -> ContractNegotiation:
        """As provider another offer that we publish, whole; as consumer the last offer or another one of the
        provider's, perhaps with other rules.

        Raises NotFound, Conflict, NotPermitted, RequestInvalid, PeerError.
        """
        held = await self.negotiations.get(pid)
        if held.role is Role.PROVIDER:
            person.require(PersonRole.APPROVER)
            document = self._ours(held, offer_id, rules)
        else:
            document = await self._theirs(held, offer_id)
            document = with_rules(document, rules) if rules else document
        return await self.negotiations.counter(pid, document, by=person.subject)

    def _ours(self, held: ContractNegotiation, offer_id: str, rules: Rules) -> JsonObject:
        if rules:
            raise RequestInvalid(
                "a provider offers what it publishes",
                where="rules",
                mend="Publish an offer with these rules in the descriptor, and counter with its id.",
            )
        dataset = self.catalogue().get(held.dataset_id)
        terms = dataset.offer_with_wire_id(offer_id) if dataset else None
        if terms is None:
            known = ", ".join(o.wire_id(dataset.id) for o in dataset.offers) if dataset else "none"
            raise RequestInvalid(
                f"{offer_id!r} is no offer of this dataset", where="offer", mend=f"Offers: {known}."
            )
        return render_offer(offer_id, terms.policy, target=held.dataset_id)

    async def _theirs(self, held: ContractNegotiation, offer_id: str) -> JsonObject:
        if offer_id in ("", held.offer.get("@id")):
            return held.offer
        return await self.offer(self.provider(held.counter_party), held.dataset_id, offer_id)
