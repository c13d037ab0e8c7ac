"""TransferProcess (DSP 2025-1 §8), its DataAddress, and the Grant that every access stands under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from connector.model.catalog import TransferFormat
from connector.model.negotiation import Role


class TransferState(StrEnum):
    REQUESTED = "REQUESTED"
    STARTED = "STARTED"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    TERMINATED = "TERMINATED"

    @property
    def final(self) -> bool:
        return self in (TransferState.COMPLETED, TransferState.TERMINATED)


AUTHORIZATION, AUTH_TYPE, BEARER = "authorization", "authType", "bearer"
"""The names and the value by which DSP connectors carry a token in a DataAddress."""

EDC_ENDPOINT = "https://w3id.org/edc/v0.0.1/ns/endpoint"
"""Eclipse EDC writes and reads the endpoint as a property of this name, and nowhere else."""

TOKEN_ENDPOINT, RESOURCE = "tokenEndpoint", "resource"
_OPEN_PROPERTIES = frozenset({TOKEN_ENDPOINT, RESOURCE, AUTH_TYPE, EDC_ENDPOINT})


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAddress:
    """Where data is had (pull) or delivered (push). Our formats name endpoint and resource, no token.

    Another connector's may hold a token in any property: what is not known to be open is secret.
    """

    endpoint_type: str
    endpoint: str
    properties: Mapping[str, str] = field(default_factory=dict)

    def with_bearer(self, token: str) -> DataAddress:
        """As plain DSP peers, EDC among them, look for it."""
        added = {AUTHORIZATION: token, AUTH_TYPE: BEARER, EDC_ENDPOINT: self.endpoint}
        return replace(self, properties={**self.properties, **added})

    def without_secrets(self) -> DataAddress:
        kept = {name: value for name, value in self.properties.items() if name in _OPEN_PROPERTIES}
        return self if kept == self.properties else replace(self, properties=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProcess:
    """`pid`, `peer_pid`, `sending`, `last_message_id`, `received`: as in ContractNegotiation.

    `suspended_by`: a consumer cannot resume what the provider suspended.
    """

    pid: str
    peer_pid: str
    role: Role
    state: TransferState
    counter_party: str
    peer_address: str
    agreement_id: str
    format: TransferFormat
    data_address: DataAddress | None = None
    sending: str = ""
    reasons: tuple[str, ...] = ()
    suspended_by: Role | None = None
    last_message_id: str = ""
    received: tuple[str, ...] = ()
    created_at: datetime
    updated_at: datetime
    version: int = 0

    @property
    def consumer_pid(self) -> str:
        return self.pid if self.role is Role.CONSUMER else self.peer_pid

    @property
    def provider_pid(self) -> str:
        return self.pid if self.role is Role.PROVIDER else self.peer_pid

    @property
    def open(self) -> bool:
        """Whether data may flow: started, or our start is on its way (the peer may act on it before its
        acknowledgement reaches us). A stop that we decided on closes it before the peer has heard of it."""
        if self.sending:
            return self.sending == "TransferStartMessage"
        return self.state is TransferState.STARTED


class GrantState(StrEnum):
    ACTIVE = "active"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Access of one consumer, for one purpose, under one agreement and one started transfer.

    Whatever could change what may leave (termination, suspension, withdrawal, a policy, an
    expulsion) raises `epoch`; a running stream that sees another epoch than its own stops or is
    decided anew before its next record. An ended grant never comes back.
    `policy_revision` and `consent_version` are those of the last decision taken under it.
    """

    id: str
    agreement_id: str
    transfer_pid: str
    consumer: str
    dataset_id: str
    purpose: str
    format: TransferFormat
    policy_revision: str
    consent_version: int
    epoch: int
    state: GrantState
    created_at: datetime
    expires_at: datetime | None = None
    ended_reason: str = ""
