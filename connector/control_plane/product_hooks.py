"""The product's decisions: by offers, policy and people's approval. Whatever is unknown or differs ends it.

Only exact offers can be agreed to: the rules as our catalogue states them, under the id that names their
terms version.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

from connector.control_plane.agreements import is_provider_of, require_in_force
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
from connector.dsp.catalog import SHOWN, is_shown
from connector.dsp.policy import render_offer, same_rules
from connector.errors import NotPermitted
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

    async def decide(self, negotiation: ContractNegotiation) -> NegotiationAction:
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
        ours = render_offer(terms.wire_id(dataset.id), terms.policy)
        if not same_rules(ours, negotiation.offer) or not self._names_us(negotiation.offer):
            return Terminate(code="offer_differs", reasons=("The offer is not the one we publish.",))
        decision = await self._decide_negotiation(consumer, dataset, terms)
        if isinstance(decision, Deny):
            reasons = tuple(r.text for r in decision.reasons)
            return Terminate(code="not_permitted", reasons=reasons or ("Policy does not permit it.",))
        return Agree() if terms.approval == "automatic" else Hold(why=APPROVAL, proposed=Agree())

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
    """The provider's counter-offer: taken where it is what we asked for, else shown to a person."""
    ours = negotiation.answered_offer
    if ours and same_rules(ours, negotiation.offer):
        return Accept()
    return Hold(why=APPROVAL, proposed=Accept())


class ProductTransferHook:
    """`base_url`: ours; the data API and the authorization server are found below it."""

    def __init__(
        self, *, store: Store, clock: Clock, catalogue: Callable[[], Mapping[str, Dataset]], base_url: str
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._base_url = base_url

    async def decide(self, transfer: TransferProcess) -> TransferAction:
        if transfer.role is Role.PROVIDER and transfer.state is TransferState.REQUESTED:
            return await self._judge_request(transfer)
        return Hold()

    async def _judge_request(self, transfer: TransferProcess) -> TransferAction:
        async with self._store.transaction(read_only=True) as tx:
            record = await tx.agreement(transfer.agreement_id)
        if record is None or not is_provider_of(record, transfer.counter_party):
            return Terminate(code="agreement_unknown", reasons=("There is no such agreement between us.",))
        try:
            require_in_force(record, self._clock.now())
        except NotPermitted as error:
            reason = error.reasons[0]
            return Terminate(code=reason.code, reasons=(reason.text,))
        dataset = self._catalogue().get(record.agreement.target)
        if dataset is None or dataset.status not in SHOWN or transfer.format not in dataset.formats:
            return Terminate(
                code="format_not_offered", reasons=("The dataset is not offered in this format.",)
            )
        return self._start(transfer, dataset)

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
            endpoint=f"{resource}/datasets/{quote(dataset_id, safe='')}",
            properties={"tokenEndpoint": f"{self._base_url}/oauth2/token", "resource": resource},
        )
