"""ContractNegotiation (DSP 2025-1 §6), as each side holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from connector.model.catalog import OfferTerms
from connector.model.json import JsonObject
from connector.model.policy import Agreement, AgreementState


class Role(StrEnum):
    """Our part in one process; one connector plays both."""

    CONSUMER = "consumer"
    PROVIDER = "provider"

    @property
    def other(self) -> Role:
        return Role.PROVIDER if self is Role.CONSUMER else Role.CONSUMER


class NegotiationState(StrEnum):
    REQUESTED = "REQUESTED"
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    AGREED = "AGREED"
    VERIFIED = "VERIFIED"
    FINALIZED = "FINALIZED"
    TERMINATED = "TERMINATED"

    @property
    def final(self) -> bool:
        return self in (NegotiationState.FINALIZED, NegotiationState.TERMINATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractNegotiation:
    """`pid` is ours, `peer_pid` the other side's ("" until its first answer).

    `state` is the public state. `sending` names the message we decided on and the peer has not
    acknowledged: "decided" and "acknowledged" are two facts. `waiting_for` is "" or `approval`.
    `offer` is the last offer's wire object, of whichever side; `answered_offer` the one before it.
    `last_message_id` is the `@id` of our own last message; `received` names the peer's latest
    messages, so that a repeat changes nothing. `renews`: our agreement that this one is to follow.
    `approved_offer`: the offer that whoever must approve it has made themselves, as a counter-offer.
    """

    pid: str
    peer_pid: str
    role: Role
    state: NegotiationState
    counter_party: str
    peer_address: str
    dataset_id: str
    offer: JsonObject
    answered_offer: JsonObject = field(default_factory=dict)
    agreement_id: str = ""
    sending: str = ""
    waiting_for: str = ""
    reasons: tuple[str, ...] = ()
    last_message_id: str = ""
    received: tuple[str, ...] = ()
    renews: str = ""
    approved_offer: str = ""
    created_at: datetime
    updated_at: datetime
    version: int = 0

    @property
    def consumer_pid(self) -> str:
        return self.pid if self.role is Role.CONSUMER else self.peer_pid

    @property
    def provider_pid(self) -> str:
        return self.pid if self.role is Role.PROVIDER else self.peer_pid


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementSignature:
    """A participant's compact JWS over the agreement's statement (connector.access.agreement_signature).

    `jwk` is the public key that verified it, as the trust list named it when we took it: keys change, and
    the signature is to be checked for as long as the agreement is kept.
    """

    participant: str
    jws: str
    jwk: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRecord:
    """An agreement and what this side knows about it.

    `terms` is the provider's own snapshot of the offer at signing: later terms never change it.
    Hashes are SHA-256 over canonical JSON (contract: over the descriptor file); a consumer knows that of the
    contract, and the terms version, from the provider's signature. `signature_problem` says why the other
    side's is not there: a code and a text. `renews`: our agreement that this one follows.
    """

    agreement: Agreement
    role: Role
    negotiation_pid: str
    state: AgreementState
    offer_id: str
    terms: OfferTerms | None = None
    contract_hash: str = ""
    terms_version: str = ""
    policy_hash: str = ""
    in_force_at: datetime | None = None
    signatures: tuple[AgreementSignature, ...] = ()
    signature_problem: tuple[str, str] | None = None
    renews: str = ""
    ended_at: datetime | None = None
    ended_reason: str = ""

    @property
    def counter_party(self) -> str:
        return self.agreement.assignee if self.role is Role.PROVIDER else self.agreement.assigner

    @property
    def signed_by_both(self) -> bool:
        return {s.participant for s in self.signatures} >= {self.agreement.assigner, self.agreement.assignee}

    def signature_of(self, participant_id: str) -> AgreementSignature | None:
        return next((s for s in self.signatures if s.participant == participant_id), None)
