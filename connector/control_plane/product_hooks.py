"""The product's decisions: by offers, policy and people's approval. Whatever is unknown or differs ends it.

Only exact offers are agreed to without a person: the rules as our catalogue states them, under the id that
names their terms version.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import replace
from urllib.parse import quote

from connector.access.bearer import Bearers, only_purpose
from connector.access.validity import NOBODY, UNSIGNED, why_not
from connector.control_plane.agreements import is_provider_of, may_be_signed_yet
from connector.control_plane.catalog import Visible
from connector.control_plane.hooks import (
    APPROVAL,
    Accept,
    Agree,
    Finalize,
    Hold,
    NegotiationAction,
    Start,
    Terminate,
    TransferAction,
    Verify,
)
from connector.control_plane.terms import enforceable
from connector.dsp.catalog import SHOWN, is_shown
from connector.dsp.policy import same_rules
from connector.errors import Unavailable
from connector.model.catalog import Dataset, DatasetStatus, OfferTerms, TransferFormat
from connector.model.decision import Decision, Deny
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, ContractNegotiation, NegotiationState, Role
from connector.model.transfer import DataAddress, TransferProcess, TransferState
from connector.ports import Clock, Store

DecideNegotiation = Callable[[str, Dataset, OfferTerms], Awaitable[Decision]]
"""`decide(counter_party_id, dataset, terms)`: whether policy lets this consumer have this offer."""

ENDPOINT_TYPES: Mapping[TransferFormat, str] = {
    TransferFormat.FEDERATED_QUERY_PULL: "FederatedQuery",
    TransferFormat.HTTP_DATA_PULL: "https://w3id.org/idsa/v4.1/HTTP",
}
"""What a DataAddress of ours says its endpoint is, for the formats that consumers pull."""

_PLACES = {TransferFormat.FEDERATED_QUERY_PULL: "datasets", TransferFormat.HTTP_DATA_PULL: "http"}
"""Where below the data API its datasets are, by format."""


_OURS_TO_DECIDE = frozenset(
    {
        (Role.PROVIDER, NegotiationState.REQUESTED),
        (Role.PROVIDER, NegotiationState.ACCEPTED),
        (Role.PROVIDER, NegotiationState.VERIFIED),
        (Role.CONSUMER, NegotiationState.OFFERED),
        (Role.CONSUMER, NegotiationState.AGREED),
    }
)
"""Everywhere else the next word is the peer's."""


class ProductNegotiationHook:
    def __init__(
        self,
        *,
        participant_id: str,
        store: Store,
        catalogue: Callable[[], Mapping[str, Dataset]],
        visible: Visible,
        decide_negotiation: DecideNegotiation,
    ) -> None:
        self._participant_id = participant_id
        self._store = store
        self._catalogue = catalogue
        self._visible = visible
        self._decide_negotiation = decide_negotiation

    def concerns(self, negotiation: ContractNegotiation) -> bool:
        return (negotiation.role, negotiation.state) in _OURS_TO_DECIDE

    async def decide(self, negotiation: ContractNegotiation) -> NegotiationAction:
        if not self.concerns(negotiation):
            return Hold()
        match negotiation.role, negotiation.state:
            case Role.PROVIDER, NegotiationState.REQUESTED | NegotiationState.ACCEPTED:
                return await self._judge_request(negotiation)
            case Role.PROVIDER, NegotiationState.VERIFIED:
                return Finalize()
            case Role.CONSUMER, NegotiationState.OFFERED:
                return _judge_offer(negotiation)
            case Role.CONSUMER, NegotiationState.AGREED:
                return await self._judge_agreement(negotiation)
        return Hold()

    async def _judge_request(self, negotiation: ContractNegotiation) -> NegotiationAction:
        dataset = self._catalogue().get(negotiation.dataset_id)
        terms = dataset.offer_with_wire_id(str(negotiation.offer.get("@id"))) if dataset else None
        consumer = negotiation.counter_party
        if (
            dataset is None
            or terms is None
            or not is_shown(dataset)
            or not await self._visible(consumer, dataset)
        ):
            return Terminate(code="offer_unknown", reasons=("There is no such offer.",))
        if dataset.status is not DatasetStatus.ACTIVE:
            return Terminate(code="dataset_deprecated", reasons=("The dataset takes no new agreements.",))
        asked = self._asked(negotiation, terms)
        if asked is None:
            return Terminate(code="offer_differs", reasons=("The offer is not the one we publish.",))
        decision = await self._decide_negotiation(consumer, dataset, asked)
        if isinstance(decision, Deny):
            reasons = tuple(r.text for r in decision.reasons)
            return Terminate(code="not_permitted", reasons=reasons or ("Policy does not permit it.",))
        approved = terms.approval == "automatic" or negotiation.approved_offer == terms.wire_id(dataset.id)
        return Agree() if approved and asked is terms else Hold(why=APPROVAL, proposed=Agree())

    def _asked(self, negotiation: ContractNegotiation, terms: OfferTerms) -> OfferTerms | None:
        """Our terms; in answer to a counter-offer of ours, also with rules that narrow them: those a person
        must look at. None for everything else."""
        if not self._names_us(negotiation.offer):
            return None
        asked = enforceable(terms, negotiation.offer)
        return asked if asked is terms or negotiation.answered_offer else None

    def _names_us(self, offer: JsonObject) -> bool:
        """An offer may say who assigns it; the agreement would say the same."""
        return bool(offer.get("assigner", self._participant_id) == self._participant_id)

    async def _judge_agreement(self, negotiation: ContractNegotiation) -> NegotiationAction:
        async with self._store.transaction(read_only=True) as tx:
            record = await tx.agreement(negotiation.agreement_id)
        problem = self._problem_with(negotiation, record)
        return Terminate(code="agreement_differs", reasons=(problem,)) if problem else Verify()

    def _problem_with(self, negotiation: ContractNegotiation, record: AgreementRecord | None) -> str:
        """What keeps the agreement from being what we asked for; "" when nothing does."""
        if record is None:
            return "There is no agreement."
        agreement = record.agreement
        if not same_rules(negotiation.offer, agreement.document):
            return "The agreement's rules are not those of the last offer."
        parties = (agreement.assigner, agreement.assignee, agreement.target)
        if parties != (negotiation.counter_party, self._participant_id, negotiation.dataset_id):
            return "The agreement names other parties or another dataset."
        return ""


def _judge_offer(negotiation: ContractNegotiation) -> NegotiationAction:
    """The provider's counter-offer: taken where it is what we asked for, else shown to a person. The same
    rules under another id may open other columns."""
    ours, theirs = negotiation.answered_offer, negotiation.offer
    if ours and ours.get("@id") == theirs.get("@id") and same_rules(ours, theirs):
        return Accept()
    return Hold(why=APPROVAL, proposed=Accept())


class ProductTransferHook:
    """`base_url`: ours; the data API and the authorization server are found below it. `bearers`: for plain
    DSP peers, if there are any."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        catalogue: Callable[[], Mapping[str, Dataset]],
        base_url: str,
        bearers: Bearers | None = None,
        unsigned_peers: Container[str] = NOBODY,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._base_url = base_url
        self._bearers = bearers
        self._unsigned_peers = unsigned_peers

    def concerns(self, transfer: TransferProcess) -> bool:
        return transfer.role is Role.PROVIDER and transfer.state is TransferState.REQUESTED

    async def decide(self, transfer: TransferProcess) -> TransferAction:
        if not self.concerns(transfer):
            return Hold()
        return await self._judge_request(transfer)

    async def _judge_request(self, transfer: TransferProcess) -> TransferAction:
        async with self._store.transaction(read_only=True) as tx:
            record = await tx.agreement(transfer.agreement_id)
        if record is None or not is_provider_of(record, transfer.counter_party):
            return Terminate(code="agreement_unknown", reasons=("There is no such agreement between us.",))
        dataset = self._catalogue().get(record.agreement.target)
        now = self._clock.now()
        reason = why_not(record, now, unsigned_peers=self._unsigned_peers, dataset=dataset)
        if reason is not None and reason.code == UNSIGNED and may_be_signed_yet(record, now):
            raise Unavailable("The consumer's signature has not come yet.", code=UNSIGNED)  # asked again
        if reason is not None:
            return Terminate(code=reason.code, reasons=(reason.text,))
        if dataset is None or dataset.status not in SHOWN or transfer.format not in dataset.formats:
            return Terminate(
                code="format_not_offered", reasons=("The dataset is not offered in this format.",)
            )
        if transfer.format is TransferFormat.HTTP_DATA_PULL:
            return self._start_http(transfer, record)
        return self._start(transfer, dataset)

    def _start_http(self, transfer: TransferProcess, record: AgreementRecord) -> TransferAction:
        """Whoever reads it as plain HTTP asks nothing in particular: only what shows rows as such fits."""
        if record.terms is None or not record.terms.lists_rows:
            reason = (
                "The agreement shows groups only, or persons named one by one. HttpData-PULL asks for "
                "neither: use FederatedQuery-PULL."
            )
            return Terminate(code="rows_not_offered", reasons=(reason,))
        plain = self._bearers is not None and self._bearers.serves(transfer)
        if plain and not only_purpose(record.agreement.policy):
            reason = "A bearer states no purpose: the agreement's permissions must all name the same one."
            return Terminate(code="purpose_not_single", reasons=(reason,))
        address = self._address(transfer.format, record.agreement.target)
        return Start(address=replace(address, properties={}) if plain else address)

    def _start(self, transfer: TransferProcess, dataset: Dataset) -> TransferAction:
        if transfer.format is TransferFormat.CLOUD_EVENTS_PUSH:
            if transfer.data_address is None or not transfer.data_address.endpoint:
                reason = "A push needs a dataAddress with an endpoint."
                return Terminate(code="data_address_missing", reasons=(reason,))
            return Start()
        if transfer.format not in ENDPOINT_TYPES:
            reason = f"This connector cannot serve {transfer.format.value}."
            return Terminate(code="format_not_served", reasons=(reason,))
        return Start(address=self._address(transfer.format, dataset.id))

    def _address(self, format_: TransferFormat, dataset_id: str) -> DataAddress:
        """Where to pull from and where to get a token: none is in here."""
        resource = f"{self._base_url}/data/v1"
        return DataAddress(
            endpoint_type=ENDPOINT_TYPES[format_],
            endpoint=f"{resource}/{_PLACES[format_]}/{quote(dataset_id, safe='')}",
            properties={"tokenEndpoint": f"{self._base_url}/oauth2/token", "resource": resource},
        )
