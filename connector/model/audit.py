"""Evidence: audit leaves and entries of the disclosure ledger. No rows, no raw ids, no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AuditEvent(StrEnum):
    """`source:subject:action`, past tense. The list is closed: a new fact gets a new name."""

    CONNECTOR_STARTED = "connector:process:started"
    CATALOG_SERVED = "catalog:request:served"
    NEGOTIATION_REQUESTED = "negotiation:process:requested"
    NEGOTIATION_HELD = "negotiation:process:held"
    NEGOTIATION_APPROVED = "negotiation:process:approved"
    NEGOTIATION_REFUSED = "negotiation:process:refused"
    NEGOTIATION_COUNTERED = "negotiation:process:countered"
    NEGOTIATION_TERMINATED = "negotiation:process:terminated"
    AGREEMENT_AGREED = "negotiation:agreement:agreed"
    AGREEMENT_VERIFIED = "negotiation:agreement:verified"
    AGREEMENT_FINALIZED = "negotiation:agreement:finalized"
    AGREEMENT_TERMINATED = "agreement:validity:terminated"
    AGREEMENT_LAPSED = "agreement:validity:lapsed"  # by a date: its terms' sunset, its dataset's retirement
    SIGNATURE_REFUSED = "agreement:signature:refused"
    TRANSFER_STARTED = "transfer:process:started"
    TRANSFER_SUSPENDED = "transfer:process:suspended"
    TRANSFER_ENDED = "transfer:process:ended"
    DATA_ADDRESS_TOLD = "transfer:address:told"  # at the consumer, to its own people, its token included
    TOKEN_ISSUED = "token:access:issued"
    TOKEN_REFUSED = "token:access:refused"
    API_KEY_CREATED = "access:api-key:created"
    API_KEY_REVOKED = "access:api-key:revoked"
    PERSON_SIGNED_IN = "access:person:signed-in"
    CONNECTOR_STOPPED_ALL = "connector:grants:stopped"
    CONNECTOR_RESUMED = "connector:grants:resumed"
    KEYS_CHANGED = "keys:signing:changed"
    TOKEN_REVOKED = "token:access:revoked"
    ACCESS_REFUSED = "access:request:refused"
    QUERY_DECIDED = "query:decision:taken"
    QUERY_ENDED = "query:outcome:recorded"
    QUERY_ASKED = "query:statement:asked"  # at the consumer, for its own people
    EVENTS_DECIDED = "events:decision:taken"
    EVENTS_DELIVERED = "events:outcome:recorded"
    EVENTS_RECEIVED = "events:batch:received"
    CONSENT_RECORDED = "consent:record:recorded"
    CONSENT_WITHDRAWN = "consent:record:withdrawn"
    GRANT_ENDED = "grant:validity:ended"
    POLICY_SUBMITTED = "policy:revision:submitted"
    POLICY_APPROVED = "policy:revision:approved"
    POLICY_LOADED = "policy:revision:loaded"
    COLLABORATION_KEY_SENT = "collaboration:key:sent"
    COLLABORATION_KEY_RECEIVED = "collaboration:key:received"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLeaf:
    """One fact. Hashed as RFC 8785 canonical JSON of its wire form, empty members left out.

    A decision is one leaf, written before the first byte; its outcome is another that `refers` to
    it. `statement` is an HMAC under the connector's own key, so that literals (perhaps a personal
    id) can be compared by the owner and read by nobody. `subjects` and `rows` are counts;
    `ledger` is the SHA-256 of the disclosure ledger's entry.
    """

    id: str
    at: datetime
    event: AuditEvent
    participant: str
    actor: str = ""
    on_behalf_of: str = ""
    object: str = ""
    purpose: str = ""
    legal_basis: str = ""
    agreement: str = ""
    transfer: str = ""
    grant: str = ""
    epoch: int | None = None
    outcome: str = ""
    reasons: tuple[str, ...] = ()
    policy_revision: str = ""
    contract_revision: str = ""
    consent_version: int | None = None
    statement: str = ""
    rows: int | None = None
    bytes: int | None = None
    subjects: int | None = None
    groups_hidden: int | None = None
    identified: bool | None = None
    ledger: str = ""
    refers: str = ""
    trace: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where a leaf stands in the log: its number from 0, and the RFC 6962 leaf hash (hex)."""

    audit_id: str
    index: int
    leaf_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeHead:
    """RFC 6962 tree head, signed by the connector (`signature`: a compact JWS of the rest)."""

    log: str
    size: int
    root: str
    at: datetime
    signature: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """Whose rows one fragment or event batch disclosed, to whom and for what.

    `ciphertext` is AES-256-GCM (key of this connector, associated data = every other member) of a
    portable Roaring bitmap of subject ordinals; `sha256` is over it and stands in the audit leaf.
    """

    id: str
    at: datetime
    audit_id: str
    agreement: str
    grant: str
    dataset: str
    recipient: str
    purpose: str
    subjects: int
    rows: int
    ciphertext: bytes
    sha256: str
