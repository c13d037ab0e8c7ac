"""Two control planes joined in process: after every message both must hold the same state (DSP §7, §9)."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import httpx
from fastapi import FastAPI

from connector.adapters.file_keys import FileKeys
from connector.control_plane.agreements import Agreements
from connector.control_plane.catalog import Catalogs
from connector.control_plane.catalog_pages import KEY_BYTES, PageTokens
from connector.control_plane.catalog_visibility import Sighting, Sightings
from connector.control_plane.desk import Desk
from connector.control_plane.hooks import (
    Hold,
    NegotiationHook,
    TransferHook,
)
from connector.control_plane.negotiation import Negotiations
from connector.control_plane.outbox import Backoff, OutboxWorker
from connector.control_plane.product_hooks import ProductNegotiationHook, ProductTransferHook
from connector.control_plane.signatures import AgreementSignatures
from connector.control_plane.sunsets import SunsetKeeper
from connector.control_plane.transfer import Transfers
from connector.control_plane.unit import Environment
from connector.dsp.catalog import Publisher
from connector.dsp.messages import (
    BASE_PATH,
    ContractNegotiationAck,
    ContractOfferMessage,
    ContractRequestMessage,
    NegotiationMessage,
    TransferMessage,
    TransferProcessAck,
    TransferRequestMessage,
    parse_any,
)
from connector.errors import ConnectorError, PeerRefused, PeerUnreachable, Reason, Unavailable
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset, DatasetStatus, Gdpr, OfferTerms, SourceRef, TransferFormat
from connector.model.decision import Decision, Permit
from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation
from connector.model.participant import Participant, TrustList
from connector.model.policy import Constraint, Policy, Rule
from connector.model.transfer import Grant, GrantState, TransferProcess
from connector.ports import OutboxMessage, Store
from connector.web.app import App, create_app
from connector.web.dsp import dsp_router
from tests.clocks import ManualClock
from tests.fakes import MemoryStore
from tests.unit.access.world import fresh_keys

PURPOSE = Constraint(left_operand="purpose", operator="isAnyOf", right_operand=["service-planning"])
POLICY = Policy(
    permissions=(Rule(action="use", constraints=(PURPOSE,)),),
    prohibitions=(Rule(action="dsc:reidentify"),),
    obligations=(Rule(action="delete"),),
)


def terms(approval: str = "automatic", **changes: Any) -> OfferTerms:
    values: dict[str, Any] = {
        "id": "planning",
        "terms_version": "1",
        "policy": POLICY,
        "columns": {"area": "clear"},
        "approval": approval,
    }
    return OfferTerms(**{**values, **changes})


def dataset(**changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "id": "benefits",
        "contract_id": "urn:contract:benefits",
        "version": "1.0.0",
        "status": DatasetStatus.ACTIVE,
        "title": {"fi": "Etuudet", "en": "Benefits"},
        "description": "Benefits in payment.",
        "fields": (),
        "source": SourceRef(kind="parquet", location="benefits.parquet"),
        "gdpr": Gdpr(personal_data=True),
        "offers": (terms(),),
        "formats": (TransferFormat.FEDERATED_QUERY_PULL, TransferFormat.CLOUD_EVENTS_PUSH),
        "contract_hash": "c0ffee",
    }
    return Dataset(**{**values, **changes})


@functools.cache
def keys_of(name: str) -> FileKeys:
    return fresh_keys(name)


def participant(name: str) -> Participant:
    jwks = keys_of(name).public_jwks()
    return Participant(id=name, name=name.title(), base_url=f"http://{name}.example", jwks=jwks)


class Everybody:
    """A trust list of all who play here. Names can be struck off."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.names = {"city", "kela", "youth", "school"}

    def current(self) -> TrustList:
        return TrustList(
            issuer="registry",
            version=1,
            issued_at=self._clock.now(),
            expires_at=self._clock.now() + timedelta(days=1),
            participants={name: participant(name) for name in self.names},
            collaborations={},
        )


@dataclass
class Scripted:
    """A hook that plays actions by state and otherwise waits for the peer."""

    script: Mapping[str, Any] = field(default_factory=dict)

    async def decide(self, process: ContractNegotiation | TransferProcess) -> Any:
        action = self.script.get(process.state.value, Hold())
        if isinstance(action, list):
            return action.pop(0) if action else Hold()
        return action


Deliver = Callable[[OutboxMessage], Awaitable[JsonObject | None]]
Get = Callable[[str, str], Awaitable[JsonObject]]
"""`get(caller, url)`: what a participant answers."""


class Side:
    """A connector's control plane over a store in memory. `outside` decides what becomes of its messages."""

    def __init__(
        self,
        name: str,
        clock: ManualClock,
        *,
        datasets: Mapping[str, Dataset] | None = None,
        negotiation_hook: NegotiationHook | None = None,
        transfer_hook: TransferHook | None = None,
        attempts: int = 3,
        unsigned_peers: frozenset[str] = frozenset(),
        store: Store | None = None,
        replica: str = "",
    ) -> None:
        """`store`: another one than in memory. `replica`: tells apart those over one store."""
        self.participant = participant(name)
        self.clock = clock
        self.store = cast(MemoryStore, store) if store is not None else MemoryStore(clock)
        self.datasets: dict[str, Dataset] = dict(datasets or {})
        self.visible = True
        self.decision: Decision | ConnectorError = Permit(columns=frozenset({"area"}))
        self.audited: list[tuple[AuditEvent, dict[str, Any]]] = []
        self.stopped: list[Grant] = []
        self.sent: list[JsonObject] = []
        self.outside: Deliver = _nobody
        self.get: Get = _nothing
        self.trust = Everybody(clock)
        self.unsigned_peers = unsigned_peers
        self._apps: dict[Callable[[str], Participant], FastAPI] = {}
        counter = itertools.count(1)
        self.environment = Environment(
            store=self.store,
            clock=clock,
            new_id=lambda: f"urn:{name}{replica}:{next(counter)}",
            participant_id=name,
            base_url=self.participant.base_url,
            wake=asyncio.Event(),
            on_grants_changed=self._stop,
            unsigned_peers=unsigned_peers,
            desk=Desk(name + replica, lease_seconds=30.0),
        )
        self.signatures = AgreementSignatures(
            self.environment,
            keys=keys_of(name),
            trust=self.trust,
            fetch=self._fetch,
            catalogue=lambda: self.datasets,
        )
        self.negotiations = Negotiations(
            self.environment,
            hook=negotiation_hook or self._product_negotiation_hook(),
            catalogue=lambda: self.datasets,
            signatures=self.signatures,
        )
        self.transfers = Transfers(self.environment, hook=transfer_hook or self._product_transfer_hook())
        self.agreements = Agreements(self.environment, self.transfers, lambda: self.datasets)
        self.sunsets = SunsetKeeper(self.environment, self.transfers, lambda: self.datasets)
        self.catalogs = Catalogs(
            publisher=Publisher(participant_id=name, dsp_url=self.environment.dsp_url),
            catalogue=lambda: self.datasets,
            sightings=Sightings(self._sighting, revision=lambda: self.visible, clock=clock, seconds=30.0),
            tokens=PageTokens(bytes(range(KEY_BYTES))),
            audit=self._audit,
        )
        self.worker = OutboxWorker(
            store=self.store,
            clock=clock,
            wake=self.environment.wake,
            senders={
                "negotiation": self.negotiations,
                "transfer": self.transfers,
                "signature": self.signatures,
            },
            deliver=self._deliver,
            audit=self._audit,
            chance=lambda: 0.0,
            name=name + replica,
            backoff=Backoff(first_seconds=1.0, attempts=attempts),
            desk=self.environment.desk,
        )

    def app(self, callers: Callable[[str], Participant]) -> FastAPI:
        """The DSP routes as peers see them; the header `authorization` names the caller."""
        if callers not in self._apps:
            self._apps[callers] = self._make_app(callers)
        return self._apps[callers]

    def _make_app(self, callers: Callable[[str], Participant]) -> FastAPI:

        async def authenticate(request: Any) -> Participant:
            return callers(request.headers.get("authorization", ""))

        async def health() -> dict[str, str]:
            return {}

        router = dsp_router(
            catalogs=self.catalogs,
            negotiations=self.negotiations,
            transfers=self.transfers,
            signatures=self.signatures,
            authenticate=authenticate,
            service_id=self.participant.id,
        )
        return create_app(App(routers=[router], health=health))

    async def _deliver(self, message: OutboxMessage) -> JsonObject | None:
        self.sent.append(message.body)
        return await self.outside(message)

    async def _fetch(
        self, _method: str, url: str, _recipient: str, _body: JsonObject | None = None
    ) -> JsonObject:
        return await self.get(self.participant.id, url)

    async def _visible(self, _participant_id: str, _dataset: Dataset) -> bool:
        return self.visible

    async def _sighting(self, _participant_id: str, shown: Dataset) -> Sighting:
        return Sighting(offers=shown.offers if self.visible else ())

    async def _decide(self, _consumer: str, _dataset: Dataset, _terms: OfferTerms) -> Decision:
        if isinstance(self.decision, ConnectorError):
            raise self.decision
        return self.decision

    async def _audit(self, event: AuditEvent, **fields: Any) -> None:
        self.audited.append((event, fields))

    async def _stop(self, grants: Any) -> None:
        self.stopped.extend(grants)

    def _product_negotiation_hook(self) -> ProductNegotiationHook:
        return ProductNegotiationHook(
            participant_id=self.participant.id,
            store=self.store,
            catalogue=lambda: self.datasets,
            visible=self._visible,
            decide_negotiation=self._decide,
        )

    def _product_transfer_hook(self) -> ProductTransferHook:
        return ProductTransferHook(
            store=self.store,
            clock=self.clock,
            catalogue=lambda: self.datasets,
            base_url=self.participant.base_url,
            unsigned_peers=self.unsigned_peers,
        )

    # --- looking in ---------------------------------------------------------------------------------------

    @property
    def facts(self) -> list[AuditEvent]:
        return [event for event, _ in self.audited]

    def negotiation(self, pid: str) -> ContractNegotiation:
        return self.store.state.negotiations[pid]

    def transfer(self, pid: str) -> TransferProcess:
        return self.store.state.transfers[pid]

    @property
    def only_negotiation(self) -> ContractNegotiation:
        (found,) = self.store.state.negotiations.values()
        return found

    @property
    def only_transfer(self) -> TransferProcess:
        (found,) = self.store.state.transfers.values()
        return found

    async def grant(self, transfer: TransferProcess, grant_id: str = "grant") -> Grant:
        """As the token endpoint would make one."""
        grant = Grant(
            id=grant_id,
            agreement_id=transfer.agreement_id,
            transfer_pid=transfer.pid,
            consumer=transfer.counter_party,
            dataset_id="benefits",
            purpose="service-planning",
            format=transfer.format,
            policy_revision="",
            consent_version=0,
            epoch=1,
            state=GrantState.ACTIVE,
            created_at=self.clock.now(),
        )
        async with self.store.transaction() as tx:
            await tx.save_grant(grant)
        return grant


async def _nobody(_message: OutboxMessage) -> JsonObject | None:
    raise PeerUnreachable("nobody listens")


async def _nothing(_caller: str, _url: str) -> JsonObject:
    raise PeerUnreachable("nobody listens")


async def receive_directly(receiver: Side, sender: Participant, message: OutboxMessage) -> JsonObject | None:
    """What the peer's routes would do with `message`, without HTTP in between."""
    steps = urlsplit(message.url).path.removeprefix(f"{BASE_PATH}/").split("/")
    pid = unquote(steps[1])
    try:
        if message.kind == "signature":
            return await receiver.signatures.receive(sender, pid, message.body)
        body = parse_any(json.loads(json.dumps(message.body)))
        if isinstance(body, ContractRequestMessage) and pid == "request":
            made = (await receiver.negotiations.receive_request(sender, body))[0]
            return ContractNegotiationAck.of(made).document()
        if isinstance(body, ContractOfferMessage) and pid == "offers":
            made = (await receiver.negotiations.receive_offer(sender, body))[0]
            return ContractNegotiationAck.of(made).document()
        if isinstance(body, TransferRequestMessage):
            begun = (await receiver.transfers.receive_request(sender, body))[0]
            return TransferProcessAck.of(begun).document()
        if isinstance(body, NegotiationMessage):
            await receiver.negotiations.receive(sender, pid, body)
        elif isinstance(body, TransferMessage):
            await receiver.transfers.receive(sender, pid, body)
    except Unavailable as error:
        raise PeerUnreachable(error.message, participant=receiver.participant.id) from error
    except ConnectorError as error:
        reasons = [Reason(code=error.code, text=error.message)]
        raise PeerRefused(
            "refused", participant=receiver.participant.id, status=400, reasons=reasons
        ) from error
    return None


async def receive_by_http(receiver: Side, sender: Participant, message: OutboxMessage) -> JsonObject | None:
    """Through the receiver's real routes."""
    transport = httpx.ASGITransport(app=receiver.app(participant))
    async with httpx.AsyncClient(transport=transport) as client:
        answer = await client.post(
            message.url, json=message.body, headers={"authorization": sender.id}, follow_redirects=False
        )
    if answer.status_code >= 500:
        raise PeerUnreachable(str(answer.status_code), participant=receiver.participant.id)
    document: JsonObject = answer.json()
    if answer.status_code >= 400:
        reasons = [Reason(code=document["code"], text=text) for text in document["reason"]]
        raise PeerRefused(
            "refused", participant=receiver.participant.id, status=answer.status_code, reasons=reasons
        )
    return document


def reading(side: Side) -> Get:
    """GET from the side's real routes."""

    async def get(caller: str, url: str) -> JsonObject:
        transport = httpx.ASGITransport(app=side.app(participant))
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.get(url, headers={"authorization": caller})
        if answer.status_code >= 400:
            raise PeerRefused("refused", participant=side.participant.id, status=answer.status_code)
        document: JsonObject = answer.json()
        return document

    return get


Receive = Callable[[Side, Participant, OutboxMessage], Awaitable[JsonObject | None]]


class ConnectorPair:
    """`consumer` (city) and `provider` (kela), whose outboxes lead to each other."""

    def __init__(
        self, consumer: Side, provider: Side, clock: ManualClock, receive: Receive = receive_directly
    ) -> None:
        self.consumer, self.provider, self.clock = consumer, provider, clock
        self._receive = receive
        self.connect()

    def connect(self) -> None:
        self.consumer.outside = self.to(self.provider, self.consumer)
        self.provider.outside = self.to(self.consumer, self.provider)
        self.consumer.get, self.provider.get = reading(self.provider), reading(self.consumer)

    def to(self, receiver: Side, sender: Side) -> Deliver:
        return lambda message: self._receive(receiver, sender.participant, message)

    async def settle(self) -> None:
        """Work off what is due on both sides, a row at a time, comparing after each."""
        for _ in range(500):
            worked = await self.consumer.worker.step() + await self.provider.worker.step()
            self.assert_same()
            if not worked:
                return
        raise AssertionError("the two talk without end")

    def assert_same(self) -> None:
        """Every process known to both and not in flight has one state."""
        pairs = [
            (self.consumer.store.state.negotiations, self.provider.store.state.negotiations),
            (self.consumer.store.state.transfers, self.provider.store.state.transfers),
        ]
        for ours, theirs in pairs:
            for process in ours.values():  # type: ignore[attr-defined]
                other = next((p for p in theirs.values() if p.peer_pid == process.pid), None)  # type: ignore[attr-defined]
                if other is not None and process.peer_pid and not process.sending and not other.sending:
                    assert process.state is other.state, (process, other)

    async def negotiated(self, **offered: Any) -> str:
        """The id of a finalized agreement on the provider's dataset `benefits`."""
        pid = (await self.ask(**offered)).pid
        await self.settle()
        return self.consumer.negotiation(pid).agreement_id

    async def ask(self, offer: JsonObject | None = None, dataset_id: str = "benefits") -> ContractNegotiation:
        """The consumer takes the first offer of the provider's catalogue and asks for it."""
        document = offer or first_offer(self.provider)
        return await self.consumer.negotiations.request(self.provider.participant, dataset_id, document)

    async def started(self, agreement_id: str) -> TransferProcess:
        """The provider's side of a started transfer."""
        asked = await self.consumer.transfers.request(agreement_id, TransferFormat.FEDERATED_QUERY_PULL)
        await self.settle()
        return self.provider.transfer(self.consumer.transfer(asked.pid).peer_pid)


def first_offer(provider: Side) -> JsonObject:
    """As the provider's catalogue shows it."""
    return published_offer(provider.datasets["benefits"])


def published_offer(published: Dataset) -> JsonObject:
    publisher = Publisher(participant_id="kela", dsp_url="http://kela.example/dsp/2025-1")
    first: JsonObject = publisher.dataset(published)["hasPolicy"][0]
    return first


def connected(
    *,
    datasets: Mapping[str, Dataset] | None = None,
    consumer_script: Mapping[str, Any] | None = None,
    provider_script: Mapping[str, Any] | None = None,
    receive: Receive = receive_directly,
    attempts: int = 3,
    unsigned_peers: frozenset[str] = frozenset(),
) -> ConnectorPair:
    """A pair with the product's hooks, or with scripts by state for both protocols."""
    clock = ManualClock()
    sides = [
        Side(
            name,
            clock,
            datasets=held,
            negotiation_hook=Scripted(script) if script is not None else None,
            transfer_hook=Scripted(script) if script is not None else None,
            attempts=attempts,
            unsigned_peers=unsigned_peers,
        )
        for name, held, script in (
            ("city", None, consumer_script),
            ("kela", datasets if datasets is not None else {"benefits": dataset()}, provider_script),
        )
    ]
    return ConnectorPair(sides[0], sides[1], clock, receive)
