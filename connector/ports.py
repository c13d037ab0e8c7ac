"""What the core needs from outside, a Protocol per need. Every port has an embedded twin and a real part,
held by one contract-test class each (tests/ports). Ports are async; methods raise `connector.errors` only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from connector.model.audit import AuditLeaf, LedgerEntry, Receipt, TreeHead
from connector.model.catalog import Field
from connector.model.consent import ConsentRecord
from connector.model.event import CloudEvent, Delivered
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.participant import Participant, TrustList
from connector.model.peer_catalog import (
    CatalogFound,
    CatalogQuery,
    DatasetSummary,
    Freshness,
    SeenPage,
)
from connector.model.token import Actor, AuthorizationDetail
from connector.model.transfer import Grant, TransferProcess

if TYPE_CHECKING:
    import pyarrow as pa


class Clock(Protocol):
    """The only source of time. Twin: a clock that tests turn; real: the system's."""

    def now(self) -> datetime:
        """Aware, UTC."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Keys(Protocol):
    """The participant's private keys. Nothing here returns private material except `derive`."""

    @property
    def participant_id(self) -> str: ...

    def public_jwks(self) -> tuple[Mapping[str, Any], ...]:
        """Public JWKs with kid, use and alg: one `sig` (ES256) and one `enc` (ECDH-ES+A256KW)."""
        ...

    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the signing key."""
        ...

    def sign_jwt(self, claims: JsonObject, *, typ: str, embed_jwk: bool = False) -> str:
        """Compact JWS, ES256, with `kid` (or the public `jwk`, for DPoP proofs)."""
        ...

    def sign_jws(self, payload: bytes, *, typ: str) -> str:
        """Compact JWS, ES256, with `kid`, over exactly these bytes."""
        ...

    def decrypt_jwe(self, token: str) -> bytes:
        """Raises KeysInvalid when the token is not for us."""
        ...

    def derive(self, purpose: str, length: int = 32) -> bytes:
        """A local secret for one purpose: HKDF-SHA256 of the folder's root secret. Never leaves."""
        ...

    def refresh(self) -> bool:
        """Take up keys that were changed outside this process; whether any were. Raises KeysInvalid."""
        ...


# --- policy ------------------------------------------------------------------------------------------


class PolicyEngine(Protocol):
    """Twin: embedded Rego. Real: an OPA server. Any failure is PolicyUnavailable: a denial."""

    @property
    def revision(self) -> str:
        """SHA-256 over the loaded modules' names and texts, shortened to 16 hex digits."""
        ...

    async def load(self, modules: Mapping[str, str]) -> None:
        """Replace all modules (path -> Rego text) at once. Raises PolicyInvalid (file:line); the old stay."""
        ...

    async def evaluate(self, packages: Sequence[str], request: JsonObject) -> Mapping[str, JsonObject]:
        """The `decision` document of each package (`dataspace.odrl`, ...) for one input.

        Raises PolicyUnavailable when any is undefined, not an object, fails or takes too long.
        """
        ...

    async def close(self) -> None: ...


# --- store -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message decided on and not yet acknowledged. Same `id` on every retry; ordered per `process_pid`.

    `kind`: `negotiation`, `transfer`: `url` is absolute, `body` the whole DSP message. The other kinds
    (control_plane/outbox.py) are work of our own that must follow in the same order: no recipient, no url.
    """

    id: str
    process_pid: str
    kind: str
    recipient: str
    url: str
    body: JsonObject
    created_at: datetime
    due_at: datetime
    attempts: int = 0
    last_error: str = ""


@dataclass(slots=True)
class Enqueued:
    """Which messages are leased to the worker they were enqueued for: each with the id of the one before it
    in its queue, "" for none. Known once the transaction has committed."""

    leased: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSelector:
    """Which grants an occasion touches; the fields given AND together. None given selects every grant."""

    agreement_id: str | None = None
    transfer_pid: str | None = None
    consumer: str | None = None
    purpose: str | None = None
    dataset_ids: frozenset[str] | None = None


class Transaction(Protocol):
    """All of it commits together, or none: process, outbox, event log, consent, grants.

    What writing raises may come as late as the commit."""

    async def negotiation(self, pid: str) -> ContractNegotiation | None: ...
    async def negotiation_by_peer(self, counter_party: str, peer_pid: str) -> ContractNegotiation | None: ...
    async def negotiations(
        self, *, waiting: bool | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[ContractNegotiation]:
        """By pid, ascending, after `after`; `waiting=True` only those that wait for a person."""
        ...

    async def save_negotiation(self, negotiation: ContractNegotiation) -> ContractNegotiation:
        """Insert (version 0) or update. Returns it with the next version. Raises Conflict when another
        writer was first."""
        ...

    async def transfer(self, pid: str) -> TransferProcess | None: ...
    async def transfer_by_peer(self, counter_party: str, peer_pid: str) -> TransferProcess | None: ...
    async def transfers(self, *, agreement_id: str | None = None) -> Sequence[TransferProcess]: ...
    async def transfers_page(
        self, *, agreement_id: str | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[TransferProcess]:
        """By pid, ascending, after `after`."""
        ...

    async def save_transfer(self, transfer: TransferProcess) -> TransferProcess: ...

    async def agreement(self, agreement_id: str) -> AgreementRecord | None: ...
    async def agreement_for_change(self, agreement_id: str) -> AgreementRecord | None:
        """What is to be read before it is saved anew: nobody else changes it until the commit."""
        ...

    async def agreements(self, *, counter_party: str | None = None) -> Sequence[AgreementRecord]: ...
    async def save_agreement(self, record: AgreementRecord) -> None: ...

    async def enqueue(
        self, *messages: OutboxMessage, worker: str = "", lease_seconds: float = 0.0
    ) -> Enqueued:
        """With a `worker`: leased to it from the start, unless it comes after a message of its queue that is
        not leased to the same worker now. All must be due then."""
        ...

    async def due_messages(
        self, now: datetime, *, worker: str, lease_seconds: float, limit: int = 20
    ) -> Sequence[OutboxMessage]:
        """The oldest unsent message of each process that is due, leased to `worker`."""
        ...

    async def sent(self, *message_ids: str) -> None:
        """Acknowledged: forget them."""
        ...

    async def release(self, worker: str, *message_ids: str) -> None:
        """End leases of `worker`: those of these messages, or all where none is named."""
        ...

    async def postpone(self, message_id: str, *, due_at: datetime, error: str) -> None: ...
    async def abandon(self, message_id: str, *, error: str) -> None:
        """Given up: kept for the operator, never sent; the process's later messages go with it."""
        ...

    async def abandoned_messages(self, *, limit: int = 100, before: str = "") -> Sequence[OutboxMessage]:
        """What was given up, the latest first, with the reason as `last_error`; those before the message
        `before` where one is named."""
        ...

    async def append_events(self, topic: str, events: Sequence[CloudEvent]) -> None:
        """To the embedded event log, in order; on a Kafka deployment a relay moves them on."""
        ...

    async def consent(self, record_id: str) -> ConsentRecord | None: ...
    async def consents_of(self, subject: str) -> Sequence[ConsentRecord]: ...
    async def save_consents(self, records: Sequence[ConsentRecord]) -> None:
        """Insert or replace whole records (their events only ever grow)."""
        ...

    async def consents_for(self, purpose: str, recipient: str) -> Sequence[ConsentRecord]:
        """Every record for this purpose and recipient, whatever its state."""
        ...

    async def consent_version(self, purpose: str, recipient: str) -> int: ...
    async def bump_consent_version(self, purpose: str, recipient: str) -> int: ...

    async def grant(self, grant_id: str) -> Grant | None: ...
    async def grants(self, selector: GrantSelector) -> Sequence[Grant]: ...
    async def save_grant(self, grant: Grant) -> None:
        """Insert, or update what may change; an ended grant stays ended (Conflict)."""
        ...

    async def bump_grants(self, selector: GrantSelector, *, ended_reason: str = "") -> Sequence[Grant]:
        """Raise the epoch of the active grants selected, ending them where a reason is given."""
        ...

    async def value(self, key: str) -> JsonObject | None:
        """Small state of background work: cursors, the last trust list, wrapped collaboration secrets."""
        ...

    async def put_value(self, key: str, value: JsonObject) -> None: ...
    async def values(self, prefix: str) -> Mapping[str, JsonObject]: ...
    async def delete_values(self, keys: Sequence[str]) -> None:
        """Forget them; one that is not there is no fault."""
        ...

    async def count_use(self, key: str, *, period: str, at_most: int) -> bool:
        """Count one more use of `key` in `period` (e.g. 2026-11-22) unless that would exceed `at_most`;
        exact under concurrency. False: not counted, the quota is used up."""
        ...


class Store(Protocol):
    """Twin: SQLite (WAL, one writer). Real: PostgreSQL."""

    async def open(self) -> None:
        """Connect and migrate. Raises ConfigurationError or Unavailable."""
        ...

    def transaction(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Commit on leaving, roll back on any exception. Returning means on record: in the write-ahead
        log, synced within 10 ms. Not re-entrant."""
        ...

    async def ping(self) -> None:
        """Raises Unavailable."""
        ...

    async def close(self) -> None: ...


class ReplayGuard(Protocol):
    """Single-use ids (assertion and proof `jti`), in a file of its own."""

    async def claim(self, kind: str, token_id: str, *, expires_at: datetime) -> bool:
        """True once per (kind, token_id) until it expires. A full guard is Unavailable, never forgetful."""
        ...

    async def close(self) -> None: ...


# --- evidence ----------------------------------------------------------------------------------------


class AuditLog(Protocol):
    """Append-only; RFC 6962. "On record" before it returns."""

    async def append(self, leaf: AuditLeaf) -> Receipt:
        """A leaf whose id is in the log already is not written again: the receipt is the first one's."""
        ...

    async def head(self) -> TreeHead:
        """A signed head over everything appended so far."""
        ...

    async def leaves(self, *, after: int = -1, limit: int = 100) -> Sequence[tuple[int, AuditLeaf]]: ...
    async def close(self) -> None: ...


class DisclosureLedger(Protocol):
    async def ordinals(self, subjects: Sequence[bytes]) -> Sequence[int]:
        """The stable ordinal of each subject token (AES-SIV), made on first sight."""
        ...

    async def write(self, entry: LedgerEntry) -> None: ...
    async def entries(self, *, recipient: str | None = None) -> Sequence[LedgerEntry]: ...
    async def close(self) -> None: ...


# --- events ------------------------------------------------------------------------------------------


class Subscription(Protocol):
    """One member of a group on one topic; at-least-once, in order per key."""

    async def poll(self, *, max_events: int = 100, timeout_seconds: float = 1.0) -> Sequence[Delivered]:
        """What has come since the last poll; empty after the timeout."""
        ...

    async def commit(self, offset: int) -> None:
        """Everything up to and including `offset` is handled; a new subscription starts behind it."""
        ...


class EventBus(Protocol):
    """Twin: a durable SQL log. Real: Apache Kafka."""

    async def publish(self, topic: str, events: Sequence[CloudEvent]) -> None:
        """Durable when it returns. Keyed by the event's subject."""
        ...

    def subscribe(self, topic: str, group: str) -> AbstractAsyncContextManager[Subscription]: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...


# --- sources -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceQuery:
    """SQL in the source's dialect with `?` placeholders, made only by data_plane.render.

    `key_lists` name sets the SQL refers to as tables with one column `k`; the adapter places them
    (temporary table, array, registered table) before running. `result`: the columns the SQL yields,
    in order; the adapter yields exactly these names and types.
    """

    sql: str
    parameters: tuple[Any, ...] = ()
    key_lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    result: tuple[Field, ...] = ()


class Source(Protocol):
    """A register read in place, by a role that cannot write. Twins: SQLite, DuckDB; real: PostgreSQL."""

    @property
    def dialect(self) -> str:
        """`sqlite`, `duckdb` or `postgres`: which templates render for it."""
        ...

    @property
    def relation(self) -> str:
        """What stands in FROM, already quoted for the dialect."""
        ...

    async def schema(self) -> Sequence[Field]:
        """Physical columns of the relation. Raises SourceUnavailable."""
        ...

    def execute(self, query: SourceQuery, *, batch_rows: int) -> AsyncIterator[pa.RecordBatch]:
        """Batches of at most `batch_rows`; closing the iterator cancels.
        Raises SourceUnavailable with no engine text in it."""
        ...

    async def close(self) -> None: ...


# --- peers -------------------------------------------------------------------------------------------


class PeerCredentials(Protocol):
    """What proves us to other participants."""

    async def headers(
        self,
        participant: Participant,
        method: str,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
    ) -> Mapping[str, str]:
        """What proves us on one request to `participant`. Raises PeerError."""
        ...

    def refused(
        self,
        participant: Participant,
        answer: PeerResponse,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
    ) -> bool:
        """The participant did not accept what `headers` gave: the next request brings what `answer` asks for,
        or something new. True where nothing was wrong but that more was wanted."""
        ...


class PeerIdentity(PeerCredentials, Protocol):
    """How participants prove to each other who they are, both ways. Ours: OAuth2 with DPoP
    (access/identity.py). Verifiable presentations (DCP) would be a second adapter."""

    async def identify(self, method: str, url: str, headers: Mapping[str, Sequence[str]]) -> Participant:
        """Who sent a protocol request. `url` is below our public URL, as sent; `headers` by lower-case name,
        each with every value it came with. Raises NotAuthenticated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResponse:
    """Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class PeerClient(Protocol):
    """HTTP to other participants. Twin: in-process (tests). Real: sockets. Calls allowed addresses only."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_seconds: float = 10.0,
        max_bytes: int = 10_000_000,
    ) -> PeerResponse:
        """Any status is an answer. Raises PeerUnreachable on I/O errors, PeerProtocolError on oversize."""
        ...

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_seconds: float = 60.0,
    ) -> AbstractAsyncContextManager[tuple[PeerResponse, AsyncIterator[bytes]]]:
        """Headers first (body empty), then chunks with backpressure. A broken stream is PeerUnreachable."""
        ...

    async def close(self) -> None: ...


class CatalogIndex(Protocol):
    """What others offer, searchable, and how fresh it is. Derived data: losing it costs a crawl. Twin: a
    SQLite file of its own; real: the replicas' PostgreSQL, so that all see one view and share the work.

    A lease is known by a name of its own, runs by the database's clock, and is prolonged by `put`.
    """

    async def enrol(self, participants: Collection[str], *, now: datetime) -> None:
        """Follow exactly these: a new one is due now, anything about another one is forgotten."""
        ...

    async def claim(
        self, now: datetime, *, among: Collection[str], lease: str, lease_seconds: float, limit: int
    ) -> Sequence[Freshness]:
        """Those `among` the participants that are due for the longest, leased; at most `limit`."""
        ...

    async def release(self, lease: str) -> None:
        """Let others have at once what this lease still holds."""
        ...

    async def pages(self, participant: str) -> Mapping[str, SeenPage]:
        """By URL."""
        ...

    async def put(
        self,
        participant: str,
        page: SeenPage,
        datasets: Sequence[DatasetSummary],
        *,
        lease: str,
        lease_seconds: float,
        seen_at: datetime,
    ) -> None:
        """Insert or replace a page and its datasets. Raises Conflict when the lease is not held any more."""
        ...

    async def finish(
        self,
        freshness: Freshness,
        *,
        lease: str,
        keep: tuple[Collection[str], Collection[str]] | None = None,
    ) -> None:
        """Record an attempt and give the lease back; the number of datasets is counted here. `keep`: the
        pages (URLs) and datasets (ids) there are now, others vanish; None leaves the last good copy.
        Raises Conflict when the lease is not held any more."""
        ...

    async def hurry(self, participant: str, *, due_at: datetime) -> Freshness:
        """Due at `due_at` already, if not before. Raises NotFound for one that is not followed."""
        ...

    async def freshness(self) -> Mapping[str, Freshness]:
        """By participant."""
        ...

    async def search(self, query: CatalogQuery) -> CatalogFound:
        """By relevance, then participant and dataset id. Raises RequestInvalid for a text without a word,
        or an `after` that is none of ours."""
        ...

    async def close(self) -> None: ...


class TrustRegistry(Protocol):
    """The last good trust list. Raises Unavailable once it has expired: then everything is denied."""

    def current(self) -> TrustList: ...


# --- joins at the consumer ---------------------------------------------------------------------------


class JoinSession(Protocol):
    """One query's fragments and the statement over them. Nothing of it outlives the session."""

    async def land(
        self, schema: str, table: str, columns: pa.Schema, batches: AsyncIterator[pa.RecordBatch]
    ) -> int:
        """Read `batches` to their end into a table of their own; returns the rows. What they raise passes."""
        ...

    async def run(self, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
        """One SELECT over the tables landed, with named parameters. Raises SqlInvalid for what is wrong
        with the statement, RequestInvalid where the answer or the work is too large."""
        ...


class JoinEngine(Protocol):
    """Runs the consumer's own statement over landed fragments. Twin and default: DuckDB in memory."""

    def session(self) -> AbstractAsyncContextManager[JoinSession]:
        """Raises Unavailable when too many run already."""
        ...

    async def close(self) -> None: ...
