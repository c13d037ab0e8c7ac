"""One full message of each type, as we would send it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from connector.dsp import messages as m
from connector.dsp import policy
from connector.dsp.wire import Fields
from connector.model.negotiation import NegotiationState
from connector.model.policy import Constraint, LogicalConstraint, Policy, Rule
from connector.model.transfer import DataAddress, TransferState

PURPOSE = Constraint(left_operand="purpose", operator="isAnyOf", right_operand=["statistics", "case-work"])
UNTIL = Constraint(
    left_operand="dateTime",
    operator="lteq",
    right_operand={"@value": "2027-12-31T00:00:00Z", "@type": "xsd:dateTime"},
)
POLICY = Policy(
    permissions=(
        Rule(
            action="use",
            constraints=(PURPOSE, LogicalConstraint(operator="or", constraints=(UNTIL, PURPOSE))),
            duties=(Rule(action="dsc:log"),),
        ),
    ),
    prohibitions=(Rule(action="distribute"), Rule(action="dsc:reidentify")),
    obligations=(Rule(action="delete", constraints=(UNTIL,)),),
)
OFFER = policy.parse_offer(Fields(policy.render_offer("benefits:planning:1", POLICY, target="benefits")))
AGREEMENT = policy.parse_agreement(
    Fields(
        policy.render_agreement(
            OFFER.document,
            agreement_id="urn:uuid:a",
            target="benefits",
            assigner="kela",
            assignee="city",
            timestamp=datetime(2026, 11, 22, 18, tzinfo=UTC),
        )
    )
)
ADDRESS = DataAddress(
    endpoint_type="FederatedQuery",
    endpoint="http://kela.example/data/v1/datasets/benefits",
    properties={"tokenEndpoint": "http://kela.example/oauth2/token"},
)
PIDS: dict[str, Any] = {"provider_pid": "urn:uuid:p", "consumer_pid": "urn:uuid:c"}
OURS = "http://city.example/dsp/2025-1"

MESSAGES: tuple[m.Message, ...] = (
    m.CatalogRequestMessage(id="urn:m"),
    m.CatalogRequestMessage(filter=({"any": 1},)),
    m.DatasetRequestMessage(dataset="benefits"),
    m.CatalogError(code="not_found", reason=("There is no such dataset.",)),
    m.ContractRequestMessage(id="urn:m", consumer_pid="urn:uuid:c", offer=OFFER, callback_address=OURS),
    m.ContractRequestMessage(**PIDS, offer=OFFER),
    m.ContractOfferMessage(provider_pid="urn:uuid:p", offer=OFFER, callback_address=OURS),
    m.ContractOfferMessage(**PIDS, offer=OFFER),
    m.ContractAgreementMessage(**PIDS, agreement=AGREEMENT),
    m.ContractAgreementVerificationMessage(**PIDS),
    m.ContractNegotiationEventMessage(**PIDS, event_type=m.NegotiationEvent.ACCEPTED),
    m.ContractNegotiationEventMessage(**PIDS, event_type=m.NegotiationEvent.FINALIZED),
    m.ContractNegotiationTerminationMessage(**PIDS, code="refused", reason=("Not for this purpose.",)),
    m.ContractNegotiationTerminationMessage(**PIDS),
    m.ContractNegotiationAck(**PIDS, state=NegotiationState.AGREED),
    m.ContractNegotiationError(**PIDS, code="message_invalid", reason=("offer: is required",)),
    m.TransferRequestMessage(
        consumer_pid="urn:uuid:c",
        agreement_id="urn:uuid:a",
        format="CloudEvents-PUSH",
        callback_address=OURS,
        data_address=ADDRESS,
    ),
    m.TransferStartMessage(**PIDS, data_address=ADDRESS),
    m.TransferStartMessage(**PIDS),
    m.TransferSuspensionMessage(**PIDS, code="operator", reason=("Maintenance.",)),
    m.TransferCompletionMessage(**PIDS),
    m.TransferTerminationMessage(**PIDS, code="agreement_terminated", reason=("It ended.",)),
    m.TransferProcessAck(**PIDS, state=TransferState.SUSPENDED),
    m.TransferError(provider_pid="unknown", consumer_pid="urn:uuid:c", code="not_found"),
)
