"""From "we want this dataset for this purpose" to an agreement that is in use, as far as it goes by itself.

Saying it again goes on from where it stands: nothing is asked for twice. People on the other side may take
their days between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from connector.access.purposes import PurposeTree
from connector.access.validity import UNSIGNED
from connector.control_plane.agreements import Agreements
from connector.control_plane.discovery import Discovery
from connector.control_plane.negotiation import Negotiations
from connector.control_plane.peer_catalogs import PeerCatalogs
from connector.control_plane.transfer import Transfers
from connector.errors import Conflict, NotFound, RequestInvalid
from connector.model.catalog import TransferFormat
from connector.model.negotiation import AgreementRecord, ContractNegotiation, NegotiationState, Role
from connector.model.participant import Participant
from connector.model.policy import AgreementState, Offer
from connector.model.transfer import TransferProcess, TransferState

ENDED = frozenset({NegotiationState.FINALIZED, NegotiationState.TERMINATED})
OF_USE = frozenset({TransferState.REQUESTED, TransferState.STARTED, TransferState.SUSPENDED})


class AccessState(StrEnum):
    NEGOTIATING = "NEGOTIATING"
    STARTING = "STARTING"
    READY = "READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """`next_step`: who is to do what, as a sentence."""

    state: AccessState
    offer: str
    negotiation: ContractNegotiation | None = None
    agreement: AgreementRecord | None = None
    transfer: TransferProcess | None = None
    next_step: str = ""


class AccessRequests:
    def __init__(
        self,
        *,
        discovery: Discovery,
        catalogs: PeerCatalogs,
        negotiations: Negotiations,
        agreements: Agreements,
        transfers: Transfers,
        purposes: PurposeTree,
    ) -> None:
        self._discovery = discovery
        self._catalogs = catalogs
        self._negotiations = negotiations
        self._agreements = agreements
        self._transfers = transfers
        self._purposes = purposes

    async def ask(self, dataset: str, purpose: str, offer: str, *, by: str) -> AccessRequest:
        """`dataset` as `participant.dataset`. Raises RequestInvalid, NotFound (nothing is offered for this
        purpose; what is offered is named), Conflict (several offers fit: name one), PeerError."""
        participant, _, dataset_id = dataset.partition(".")
        if not dataset_id:
            raise RequestInvalid("is not participant.dataset", where="dataset")
        if purpose not in self._purposes:
            raise RequestInvalid(f"There is no purpose {purpose!r}.", where="purpose")
        held = await self._agreed(participant, dataset_id, purpose, offer)
        if held is not None:
            return await self._use(held, by)
        provider = self._discovery.provider(participant)
        chosen = await self._offer(provider, dataset_id, purpose, offer)
        going = await self._going(participant, dataset_id, chosen.id)
        if going is None:
            document = await self._discovery.offer(provider, dataset_id, chosen.id)
            going = await self._negotiations.request(provider, dataset_id, document, by=by)
        waits = "a person of ours" if going.waiting_for else participant
        return AccessRequest(
            state=AccessState.NEGOTIATING,
            offer=chosen.id,
            negotiation=going,
            next_step=f"{waits} is to answer; ask again then.",
        )

    async def _agreed(
        self, participant: str, dataset_id: str, purpose: str, offer: str
    ) -> AgreementRecord | None:
        """The newest agreement in force for this purpose or a wider one."""
        wanted = set(self._purposes.ancestors(purpose))
        found = [
            a
            for a in await self._agreements.list(counter_party=participant)
            if a.role is Role.CONSUMER
            and a.state is AgreementState.ACTIVE
            and a.agreement.target == dataset_id
            and wanted & a.agreement.policy.values_of("purpose")
            and (not offer or _is(a.offer_id, offer))
            and self._holds(a)
        ]
        return max(found, key=lambda a: a.agreement.timestamp, default=None)

    def _holds(self, record: AgreementRecord) -> bool:
        """In force, or as good as: only a signature is on its way."""
        reason = self._agreements.why_not(record)
        return reason is None or (reason.code == UNSIGNED and record.signature_problem is None)

    async def _use(self, held: AgreementRecord, by: str) -> AccessRequest:
        running = [
            t
            for t in await self._transfers.list(agreement_id=held.agreement.id)
            if t.format is TransferFormat.FEDERATED_QUERY_PULL and t.state in OF_USE
        ]
        transfer = next((t for t in running if t.state is TransferState.STARTED), None) or next(
            iter(running), None
        )
        if transfer is None:
            transfer = await self._transfers.request(
                held.agreement.id, TransferFormat.FEDERATED_QUERY_PULL, by=by
            )
        ready = transfer.state is TransferState.STARTED
        return AccessRequest(
            state=AccessState.READY if ready else AccessState.STARTING,
            offer=held.offer_id,
            agreement=held,
            transfer=transfer,
            next_step="" if ready else f"{held.counter_party} is to start the transfer; ask again then.",
        )

    async def _offer(self, provider: Participant, dataset_id: str, purpose: str, offer: str) -> Offer:
        offers = (await self._catalogs.dataset(provider, dataset_id)).offers
        wanted = set(self._purposes.ancestors(purpose))
        fitting = [
            o for o in offers if wanted & o.policy.values_of("purpose") and (not offer or _is(o.id, offer))
        ]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise Conflict(
                f"Several offers of {provider.id}.{dataset_id} are for {purpose}.",
                mend=f"Name one: {_names(fitting)}.",
                code="several_offers",
            )
        kinds = sorted({value for o in offers for value in o.policy.values_of("purpose")})
        raise NotFound(
            f"{provider.id}.{dataset_id} is not offered to us for {purpose}.",
            mend=f"It is offered for: {', '.join(kinds) or 'nothing'}.",
            code="no_such_offer",
        )

    async def _going(self, participant: str, dataset_id: str, offer_id: str) -> ContractNegotiation | None:
        """A negotiation on this offer that has not ended, so that none is begun twice."""
        after = ""
        while page := await self._negotiations.list(limit=_PAGE, after=after):
            for n in page:
                same = n.counter_party == participant and n.dataset_id == dataset_id
                if (
                    n.role is Role.CONSUMER
                    and same
                    and n.state not in ENDED
                    and n.offer.get("@id") == offer_id
                ):
                    return n
            after = page[-1].pid
        return None


_PAGE = 1_000


def _is(offer_id: str, asked: str) -> bool:
    """Whole, or the middle part, which is the offer's name in its descriptor."""
    return offer_id == asked or asked in offer_id.split(":")


def _names(offers: Sequence[Offer]) -> str:
    return ", ".join(o.id for o in offers)
