"""ContractNegotiation (DSP 2025-1 §7): the transition table, and what each message leaves in the process.

The specification's diagram lets only one side terminate from some states, its text either side from any
state that is not final; the table follows the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from connector.dsp import machine
from connector.dsp.messages import (
    ContractAgreementMessage,
    ContractAgreementVerificationMessage,
    ContractNegotiationEventMessage,
    ContractNegotiationTerminationMessage,
    ContractOfferMessage,
    ContractRequestMessage,
    NegotiationEvent,
    NegotiationMessage,
)
from connector.errors import MessageInvalid
from connector.model.negotiation import ContractNegotiation, NegotiationState, Role
from connector.model.policy import Offer

REQUEST = ContractRequestMessage.TYPE
OFFER = ContractOfferMessage.TYPE
AGREEMENT = ContractAgreementMessage.TYPE
VERIFICATION = ContractAgreementVerificationMessage.TYPE
ACCEPTED = f"{ContractNegotiationEventMessage.TYPE}:{NegotiationEvent.ACCEPTED}"
FINALIZED = f"{ContractNegotiationEventMessage.TYPE}:{NegotiationEvent.FINALIZED}"
TERMINATION = ContractNegotiationTerminationMessage.TYPE

_C, _P = Role.CONSUMER, Role.PROVIDER
_S = NegotiationState
_TERMINATION = {(_C, TERMINATION): _S.TERMINATED, (_P, TERMINATION): _S.TERMINATED}

TABLE: machine.Table[NegotiationState] = MappingProxyType(
    {
        None: {(_C, REQUEST): _S.REQUESTED, (_P, OFFER): _S.OFFERED},
        _S.REQUESTED: {(_P, OFFER): _S.OFFERED, (_P, AGREEMENT): _S.AGREED, **_TERMINATION},
        _S.OFFERED: {(_C, REQUEST): _S.REQUESTED, (_C, ACCEPTED): _S.ACCEPTED, **_TERMINATION},
        _S.ACCEPTED: {(_P, AGREEMENT): _S.AGREED, **_TERMINATION},
        _S.AGREED: {(_C, VERIFICATION): _S.VERIFIED, **_TERMINATION},
        _S.VERIFIED: {(_P, FINALIZED): _S.FINALIZED, **_TERMINATION},
        _S.FINALIZED: {},
        _S.TERMINATED: {},
    }
)

MACHINE = machine.Machine(name="contract negotiation", table=TABLE, precedence=(TERMINATION,))


def apply(
    negotiation: ContractNegotiation, sender: Role, message: NegotiationMessage, *, at: datetime
) -> ContractNegotiation:
    """The negotiation once both sides have `message` from `sender`. Raises IllegalTransition."""
    state = MACHINE.following(negotiation.state, sender, message.kind)
    moved = replace(negotiation, state=state, sending="", waiting_for="", updated_at=at)
    return replace(moved, **_left_by(negotiation, message))


def decide(
    negotiation: ContractNegotiation, message: NegotiationMessage, *, at: datetime
) -> ContractNegotiation:
    """We will send `message`; the state moves when the peer has it. Raises IllegalTransition, Conflict."""
    step = machine.decide(MACHINE, negotiation, message.kind, message.id, at)
    return replace(step, waiting_for="", **_left_by(negotiation, message))


def acknowledge(negotiation: ContractNegotiation, *, at: datetime) -> ContractNegotiation:
    """The peer has the message in `sending`."""
    return machine.acknowledge(MACHINE, negotiation, at)


def receive(
    negotiation: ContractNegotiation, message: NegotiationMessage, *, at: datetime
) -> ContractNegotiation:
    """The peer's message. Raises IllegalTransition, MessageInvalid; then nothing has changed."""
    step = machine.receive(MACHINE, negotiation, message.kind, message.key, at)
    peer_pid = negotiation.peer_pid or message.pid_of(negotiation.role.other)
    return replace(step, peer_pid=peer_pid, waiting_for="", **_left_by(negotiation, message))


def is_repeat(negotiation: ContractNegotiation, message: NegotiationMessage) -> bool:
    """Whether the peer sent this message before: then it is answered, and nothing changes."""
    return machine.is_repeat(MACHINE, negotiation, message.kind, message.id, message.key)


def _left_by(negotiation: ContractNegotiation, message: NegotiationMessage) -> Mapping[str, Any]:
    match message:
        case ContractRequestMessage(offer=offer) | ContractOfferMessage(offer=offer):
            _check_target(negotiation, offer)
            return {"offer": offer.document, "answered_offer": negotiation.offer}
        case ContractAgreementMessage(agreement=agreement):
            return {"agreement_id": agreement.id}
        case ContractNegotiationTerminationMessage():
            return {"reasons": message.reasons or ((message.code,) if message.code else ())}
    return {}


def _check_target(negotiation: ContractNegotiation, offer: Offer) -> None:
    if offer.target not in (None, negotiation.dataset_id):
        raise MessageInvalid("must be the dataset that is negotiated about", where="offer.target")
