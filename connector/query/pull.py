"""`HttpData-PULL` at the consumer: the bytes of a started transfer, from where the provider said they are.

The provider's word is not trusted further than its place in the trust list: only its own host is called, or
one that the operator named for it. What it gave as a token goes nowhere else, and into no log.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from connector.access.audit import Auditor
from connector.access.peers import Peers
from connector.access.purposes import PurposeTree
from connector.errors import Conflict, NotFound, NotPermitted, PeerProtocolError, PeerRefused, Reason
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.negotiation import AgreementRecord, Role
from connector.model.participant import Participant
from connector.model.person import Person
from connector.model.token import SCOPE_DATA, Actor, AuthorizationDetail
from connector.model.transfer import (
    AUTH_TYPE,
    AUTHORIZATION,
    BEARER,
    RESOURCE,
    TOKEN_ENDPOINT,
    DataAddress,
    TransferProcess,
    TransferState,
)
from connector.ports import PeerResponse, Store

ACTION = "read"
MEDIA_TYPES = frozenset(
    {
        "application/json",
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
        "application/vnd.apache.parquet",
        "application/xml",
        "text/csv",
        "text/plain",
    }
)
"""Passed on as they come; anything else is bytes: a stranger's page must not act in a browser of ours."""

OTHER = "application/octet-stream"
_EDC = "https://w3id.org/edc/v0.0.1/ns/"
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")
_MAX_TOKEN_CHARS = 16_384
_PORTS = {"http": 80, "https": 443}

Answer = tuple[PeerResponse, AsyncIterator[bytes]]
ActorOf = Callable[[Person], Actor]


@dataclass(frozen=True, slots=True)
class _Started:
    transfer: TransferProcess
    address: DataAddress
    provider: Participant
    record: AgreementRecord


class Pulls:
    """`valid_agreement`: the agreement, in force now; raises NotFound or NotPermitted. `hosts`: by
    participant, where its data is besides its base URL, as `host:port` (or `host`: any port)."""

    def __init__(
        self,
        *,
        store: Store,
        peers: Peers,
        auditor: Auditor,
        purposes: PurposeTree,
        valid_agreement: Callable[[str], Awaitable[AgreementRecord]],
        actor_of: ActorOf,
        hosts: Mapping[str, frozenset[str]],
    ) -> None:
        self._store = store
        self._peers = peers
        self._auditor = auditor
        self._purposes = purposes
        self._valid_agreement = valid_agreement
        self._actor_of = actor_of
        self._hosts = hosts

    async def address(self, pid: str, person: Person) -> DataAddress:
        """What the provider told, its token included; on record. Raises NotFound, Conflict, NotPermitted."""
        started = await self._started(pid)
        await self._record(AuditEvent.DATA_ADDRESS_TOLD, started, self._actor_of(person))
        return started.address

    @asynccontextmanager
    async def open(
        self, pid: str, purpose: str, person: Person, *, accept: str = ""
    ) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        """Media type and chunks, with backpressure; on record before the provider hears of it. Whether the
        purpose is the person's to state is settled before. A stream that breaks off raises PeerUnreachable.

        Raises NotFound, Conflict, NotPermitted, PeerError.
        """
        started = await self._started(pid)
        self._require_agreed(started.record, purpose)
        actor = self._actor_of(person)
        await self._record(AuditEvent.QUERY_ASKED, started, actor, purpose)
        headers = {"Accept": accept} if accept else {}
        async with self._opened(started, purpose, actor, headers) as (answer, chunks):
            media_type = answer.headers.get("content-type", "").split(";")[0].strip().lower()
            yield media_type if media_type in MEDIA_TYPES else OTHER, chunks

    def _opened(
        self, started: _Started, purpose: str, actor: Actor, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Answer]:
        provider, address = started.provider, started.address
        url = self._callable_url(provider, address.endpoint)
        if authorization := _authorization(provider, address):
            return self._peers.read_as_told(
                provider, url, headers={**headers, "Authorization": authorization}
            )
        _require_our_kind(provider, address)
        agreement = started.record.agreement
        detail = AuthorizationDetail(
            agreement_id=agreement.id,
            dataset_id=agreement.target,
            actions=frozenset({ACTION}),
            purpose=purpose,
        )
        return self._peers.read(
            provider,
            url,
            resource=provider.data_url,
            scope=SCOPE_DATA,
            detail=detail,
            actor=actor,
            headers=headers,
        )

    async def _started(self, pid: str) -> _Started:
        async with self._store.transaction(read_only=True) as tx:
            transfer = await tx.transfer(pid)
        if transfer is None or transfer.role is not Role.CONSUMER:
            raise NotFound("There is no such transfer of ours as a consumer.")
        pulled = transfer.format is TransferFormat.HTTP_DATA_PULL
        if not pulled or transfer.state is not TransferState.STARTED or transfer.sending:
            raise Conflict(
                "This is no HttpData-PULL transfer that is started.",
                mend="Look at its state with GET /v1/transfers/{pid}.",
                code="transfer_not_started",
            )
        provider = self._peers.participant(transfer.counter_party)
        record = await self._valid_agreement(transfer.agreement_id)
        if transfer.data_address is None or not transfer.data_address.endpoint:
            raise PeerProtocolError("its start message named no endpoint", participant=provider.id)
        return _Started(transfer, transfer.data_address, provider, record)

    def _require_agreed(self, record: AgreementRecord, purpose: str) -> None:
        """An agreement that names no purpose leaves it to the person, whose word is on record."""
        named = record.agreement.policy.values_of("purpose")
        if named and not named.intersection(self._purposes.ancestors(purpose)):
            text = f"The agreement is for {', '.join(sorted(named))}, not for {purpose}."
            raise NotPermitted([Reason(code="purpose_not_agreed", text=text, source="agreement")])

    def _callable_url(self, provider: Participant, endpoint: str) -> str:
        """Else a provider could make us call anybody (SSRF), with what it calls a token."""
        base, target = urlsplit(provider.base_url), _split(endpoint)
        host, port = (target.hostname or "").lower(), target.port or _PORTS.get(target.scheme)
        allowed = self._hosts.get(provider.id, frozenset()) | {_authority(base)}
        no_weaker = target.scheme == "https" or (target.scheme, base.scheme) == ("http", "http")
        plain = not target.username and not target.password and not target.fragment
        if not (no_weaker and plain and endpoint.isascii() and {host, f"{host}:{port}"} & allowed):
            raise PeerRefused(
                "its data is said to be at an address that is not its own",
                participant=provider.id,
                mend="If its data plane is there, name the host in the setting data_hosts.",
                code="address_not_theirs",
            )
        return endpoint

    async def _record(self, event: AuditEvent, started: _Started, actor: Actor, purpose: str = "") -> None:
        await self._auditor.record(
            event,
            on_behalf_of=actor.subject,
            object=started.record.agreement.target,
            purpose=purpose,
            agreement=started.record.agreement.id,
            transfer=started.transfer.pid,
        )


def _split(endpoint: str) -> SplitResult:
    try:
        target = urlsplit(endpoint)
        _ = target.port  # read late, and only then refused
    except ValueError:
        return SplitResult("", "", "", "", "")
    return target


def _authority(url: SplitResult) -> str:
    return f"{(url.hostname or '').lower()}:{url.port or _PORTS.get(url.scheme)}"


def _authorization(provider: Participant, address: DataAddress) -> str:
    """The header that the address gives; "" where it gives none."""
    value, kind = _property(address, AUTHORIZATION), _property(address, AUTH_TYPE).lower()
    if not value:
        return ""
    if len(value) > _MAX_TOKEN_CHARS or not _HEADER_VALUE.fullmatch(value):
        raise PeerProtocolError("its token does not fit into a header", participant=provider.id)
    if kind not in ("", BEARER):
        raise PeerProtocolError("its kind of token is not known here", participant=provider.id)
    bare = kind == BEARER and not value.lower().startswith(f"{BEARER} ")
    return f"Bearer {value}" if bare else value


def _property(address: DataAddress, name: str) -> str:
    return address.properties.get(name) or address.properties.get(f"{_EDC}{name}", "")


def _require_our_kind(provider: Participant, address: DataAddress) -> None:
    """An address without a token is of use where the provider's own authorization server gives us one."""
    told = (address.properties.get(TOKEN_ENDPOINT), address.properties.get(RESOURCE))
    below = address.endpoint.startswith(f"{provider.data_url}/")
    if told != (f"{provider.base_url}/oauth2/token", provider.data_url) or not below:
        raise PeerProtocolError(
            "its start message gave neither a token nor its own token endpoint", participant=provider.id
        )
