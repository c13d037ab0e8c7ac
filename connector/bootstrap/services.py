"""The services of one connector, built over its parts, and the work it does in the background."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from connector.access import end_record
from connector.access.admission import Admission, LiveGrant
from connector.access.api_keys import ApiKeys
from connector.access.audit import Auditor
from connector.access.authorization_server import AuthorizationServer, resources
from connector.access.bearer import Bearers
from connector.access.decision import UNDECIDED, Decider, DecisionRequest
from connector.access.dpop_nonce import Nonces
from connector.access.front_door import FrontDoor
from connector.access.grants import EpochBoard
from connector.access.identity import OAuthIdentity, TokenVerifier
from connector.access.issued_tokens import IssuedTokens
from connector.access.ledger import Ledger
from connector.access.oauth_request import ClientAuthentication
from connector.access.peers import Peers
from connector.access.people import ApiTokens
from connector.access.pseudonym import SubjectTokens
from connector.access.revocation import RevokedTokens
from connector.access.sessions import Sessions
from connector.access.stopping import Stopping
from connector.access.token_status import TokenStatus
from connector.access.tokens import PeerTokens
from connector.adapters import policy_files
from connector.bootstrap.parts import Parts, new_id, policies_tried
from connector.bootstrap.sign_in import sign_in
from connector.bootstrap.sources import Sources
from connector.control_plane.access_requests import AccessRequests
from connector.control_plane.agreements import Agreements
from connector.control_plane.catalog import Catalogs
from connector.control_plane.catalog_pages import KEY_BYTES, PageTokens
from connector.control_plane.catalog_visibility import Sighting, Sightings
from connector.control_plane.collaborations import CollaborationSecrets
from connector.control_plane.consent import ConsentRegister
from connector.control_plane.counter_offers import CounterOffers
from connector.control_plane.crawler import Crawler, Pace
from connector.control_plane.dcat_catalogs import DcatCatalogs
from connector.control_plane.delivery import Delivery, dataset_topic
from connector.control_plane.desk import Desk
from connector.control_plane.discovery import Discovery
from connector.control_plane.federated_catalog import FederatedCatalog
from connector.control_plane.hooks import NegotiationHook, TransferHook
from connector.control_plane.inbox import Inbox
from connector.control_plane.negotiation import Negotiations
from connector.control_plane.outbox import Backoff, OutboxWorker
from connector.control_plane.participants import TrustListKeeper, no_longer_active
from connector.control_plane.peer_catalogs import PeerCatalogs
from connector.control_plane.policies import Policies
from connector.control_plane.product_hooks import ProductNegotiationHook, ProductTransferHook
from connector.control_plane.pseudonym_keys import PseudonymKeys
from connector.control_plane.publishing import Publishing
from connector.control_plane.relay import Relay
from connector.control_plane.renewal import Renewals
from connector.control_plane.signatures import SIGNATURE, AgreementSignatures
from connector.control_plane.sunsets import SunsetKeeper
from connector.control_plane.transfer import Transfers
from connector.control_plane.unit import CONTROL_TOPIC, NEGOTIATION, TRANSFER, Environment
from connector.data_plane.pipeline import Pipeline
from connector.dsp.catalog import Publisher
from connector.dsp.dcat import DcatPublisher
from connector.dsp.messages import BASE_PATH
from connector.errors import PeerRefused, Unavailable
from connector.model.catalog import Dataset, OfferTerms
from connector.model.decision import Decision, Permit
from connector.model.event import CloudEvent
from connector.model.json import JsonObject
from connector.model.participant import ParticipantStatus, TrustList
from connector.model.policy import DSC_CONSENT_STATUS
from connector.model.token import SCOPE_DSP, SCOPE_EVENTS, VerifiedClaims
from connector.model.transfer import Grant, TransferProcess
from connector.ports import GrantSelector, OutboxMessage, PeerIdentity
from connector.query.pull import Pulls
from connector.query.service import Queries
from connector.settings import Settings
from connector.web import render
from connector.web.people import PeopleServices, origin_of

Work = Callable[[], Coroutine[Any, Any, None]]


class Services:
    """Built once, in the order in which the later stand on the earlier. `work` runs until the end.

    A subclass may decide otherwise (`_negotiation_hook`, `_transfer_hook`, `decision_delay`) or know peers by
    another proof (`_identity`).
    """

    decision_delay = timedelta(0)

    def __init__(self, settings: Settings, parts: Parts, registry_jwks: Sequence[Mapping[str, Any]]) -> None:
        self.settings, self.parts = settings, parts
        self.crawl = asyncio.Event()
        self._build_trust(registry_jwks)
        self._build_evidence()
        self._build_access()
        self._build_control_plane()
        self._build_data_plane()
        self._build_events()
        self.queries = Queries(
            store=parts.store,
            peers=self.peers,
            auditor=self.auditor,
            purposes=parts.purposes,
            join_engine=parts.join_engine,
            batch_rows=settings.batch_rows,
            clock=parts.clock,
            new_id=new_id,
        )

        self.pulls = Pulls(
            store=parts.store,
            peers=self.peers,
            auditor=self.auditor,
            purposes=parts.purposes,
            valid_agreement=self.agreements.valid,
            actor_of=self.queries.actor_of,
            hosts={p: settings.data_hosts_of(p) for p in settings.data_hosts},
        )

    def work(self) -> list[Work]:
        found: list[Work] = [
            self.trust.run,
            self.board.run,
            self.revoked.run,
            self.outbox.run,
            self.delivery.run,
            self.sunsets.run,
            self.policies.run,
        ]
        if self.settings.catalog_refresh_seconds:
            found.append(self.crawler.run)
        if self.settings.kafka_bootstrap:
            relay = Relay(log=self.parts.log, bus=self.parts.bus, clock=self.parts.clock, topics=self._topics)
            found.append(relay.run)
        return found

    # --- who takes part, and how we reach them -----------------------------------------------------

    def _build_trust(self, registry_jwks: Sequence[Mapping[str, Any]]) -> None:
        parts, settings = self.parts, self.settings
        self.trust = TrustListKeeper(
            registry_url=settings.registry_url,
            pinned=registry_jwks,
            peer=parts.peer,
            store=parts.store,
            clock=parts.clock,
            on_change=self._participants_changed,
            poll_seconds=settings.registry_poll_seconds,
        )
        parts.allowed_hosts.trust = self.trust
        self.peer_tokens = PeerTokens(keys=parts.keys, peer=parts.peer, clock=parts.clock, new_id=new_id)
        self.board = EpochBoard(parts.store, parts.clock)

    async def _participants_changed(self, before: TrustList | None, now: TrustList) -> None:
        """Whoever is no longer active loses every grant, and running streams with them."""
        self.crawl.set()
        grants: list[Grant] = []
        async with self.parts.store.transaction() as tx:
            for participant_id in no_longer_active(before, now):
                selector = GrantSelector(consumer=participant_id)
                grants.extend(await tx.bump_grants(selector, ended_reason="participant_inactive"))
        await self.board.publish(grants)

    # --- evidence ------------------------------------------------------------------------------------

    def _build_evidence(self) -> None:
        parts = self.parts
        self.auditor = Auditor(parts.audit_log, parts.clock, new_id, self.settings.participant_id, parts.keys)
        self.ledger = Ledger(parts.ledger, parts.keys, parts.clock, new_id)
        self.subjects = SubjectTokens(parts.keys.derive("consent-subjects"))

    async def disclose(self, live: LiveGrant, audit_id: str, subjects: Collection[str], rows: int) -> str:
        if not subjects:
            return ""
        entry = await self.ledger.record(
            [self.subjects.token_bytes(s) for s in subjects],
            rows=rows,
            audit_id=audit_id,
            agreement=live.grant.agreement_id,
            grant=live.grant.id,
            dataset=live.dataset.id,
            recipient=live.grant.consumer,
            purpose=live.grant.purpose,
        )
        return entry.sha256

    # --- access --------------------------------------------------------------------------------------

    def _build_access(self) -> None:
        parts, settings = self.parts, self.settings
        self.decider = Decider(parts.engine, self.trust, parts.clock, settings.participant_id, parts.purposes)
        self.admission = Admission(
            store=parts.store,
            clock=parts.clock,
            new_id=new_id,
            trust=self.trust,
            catalogue=self._catalogue,
            decider=self.decider,
            auditor=self.auditor,
            policy_revision=lambda: parts.engine.revision,
            unsigned_peers=settings.unsigned_peers,
        )
        self.bearers = Bearers(
            store=parts.store,
            admission=self.admission,
            auditor=self.auditor,
            new_token=lambda: secrets.token_urlsafe(32),
            peers=settings.plain_dsp_peers,
        )
        base_url = settings.public_url
        self.revoked = RevokedTokens(parts.store, parts.clock)
        nonces = Nonces(parts.keys.derive("dpop-nonces"), parts.clock) if settings.dpop_nonces else None
        issued = IssuedTokens(
            issuer=base_url,
            resources=frozenset(resources(base_url).values()),
            keys=parts.keys,
            registry=self.trust,
            clock=parts.clock,
            is_revoked=self.revoked.__contains__,
        )
        clients = ClientAuthentication(
            audiences=(base_url, f"{base_url}/oauth2/token"),
            registry=self.trust,
            replay=parts.replay,
            clock=parts.clock,
        )
        self.authorization_server = AuthorizationServer(
            base_url=base_url,
            keys=parts.keys,
            clients=clients,
            tokens=issued,
            nonces=nonces,
            replay=parts.replay,
            clock=parts.clock,
            new_id=new_id,
            open_grant=self.admission.open,
            audit=self.auditor.record,
            token_seconds=settings.token_seconds,
        )
        self.token_status = TokenStatus(
            base_url=base_url,
            participant_id=settings.participant_id,
            clients=clients,
            tokens=issued,
            revoked=self.revoked,
            on_revoked=self._token_revoked,
            audit=self.auditor.record,
        )
        self.verifier = TokenVerifier(
            issuer=settings.public_url,
            keys=parts.keys,
            registry=self.trust,
            replay=parts.replay,
            clock=parts.clock,
            is_revoked=self.revoked.__contains__,
            nonces=nonces,
        )
        self.identity = self._identity()
        self.peers = Peers(self.trust, self.identity, parts.peer)
        self.api_tokens = ApiTokens(
            parts.keys,
            parts.clock,
            audience=f"{settings.public_url}/v1",
            longest_seconds=settings.api_token_seconds,
        )
        self._build_people()
        self._build_policies()

    def _build_policies(self) -> None:
        folder = self.settings.path(self.settings.policy_dir)
        self.policies = Policies(
            approvals=self.settings.policy_approvals,
            read=lambda: asyncio.to_thread(policy_files.all_modules, folder),
            digest_of=policy_files.digest_of,
            check=policies_tried,
            engine=self.parts.engine,
            store=self.parts.store,
            clock=self.parts.clock,
            in_force_anew=self._all_decided_anew,
            record=self.auditor.record,
        )

    async def _all_decided_anew(self) -> None:
        """Whatever runs goes on as the policies in force have it, or stops."""
        async with self.parts.store.transaction() as tx:
            bumped = await tx.bump_grants(GrantSelector())
        await self._grants_changed(bumped)

    def _build_people(self) -> None:
        parts, settings = self.parts, self.settings
        store, clock, record = parts.store, parts.clock, self.auditor.record
        self.api_keys = ApiKeys(store, clock, secrets.token_bytes, record)
        sessions = Sessions(store, clock, secrets.token_bytes)
        self.door = FrontDoor(self.api_tokens, self.api_keys, sessions, origin=origin_of(settings.public_url))
        self.people = PeopleServices(
            door=self.door,
            keys=self.api_keys,
            sessions=sessions,
            sign_in=sign_in(settings, parts),
            stopping=Stopping(store, clock, publish=self._grants_changed, record=record),
            record=record,
            public_url=settings.public_url,
        )

    async def _token_revoked(self, token: VerifiedClaims) -> None:
        """Streams under it are decided anew, and find their token gone."""
        await self.board.publish(await self.revoked.grants_touched(token))

    def _identity(self) -> PeerIdentity:
        return OAuthIdentity(
            tokens=self.peer_tokens,
            verifier=self.verifier,
            registry=self.trust,
            dsp_url=f"{self.settings.public_url}{BASE_PATH}",
        )

    # --- control plane ---------------------------------------------------------------------------------

    def _build_control_plane(self) -> None:
        parts, settings = self.parts, self.settings
        self.environment = Environment(
            store=parts.store,
            clock=parts.clock,
            new_id=new_id,
            participant_id=settings.participant_id,
            base_url=settings.public_url,
            wake=asyncio.Event(),
            on_grants_changed=self._grants_changed,
            decision_delay=self.decision_delay,
            slow_peers={*settings.plain_dsp_peers, *settings.unsigned_peers},
            unsigned_peers=settings.unsigned_peers,
            desk=Desk(new_id(), lease_seconds=settings.lease_seconds),
        )
        self.signatures = AgreementSignatures(
            self.environment,
            keys=parts.keys,
            trust=self.trust,
            fetch=self._fetch,
            catalogue=self._catalogue,
        )
        self.negotiations = Negotiations(
            self.environment,
            hook=self._negotiation_hook(),
            catalogue=self._catalogue,
            signatures=self.signatures,
        )
        self.transfers = Transfers(self.environment, hook=self._transfer_hook(), bearers=self.bearers)
        self.agreements = Agreements(self.environment, self.transfers, self._catalogue)
        self.sunsets = SunsetKeeper(self.environment, self.transfers, self._catalogue)
        self.sightings = Sightings(
            self._sighting,
            revision=lambda: (parts.engine.revision, self.trust.current().version),
            clock=parts.clock,
            seconds=settings.catalog_cache_seconds,
        )
        page_tokens = PageTokens(parts.keys.derive("catalog-pages", KEY_BYTES))
        self.catalogs = Catalogs(
            publisher=Publisher(participant_id=settings.participant_id, dsp_url=self.environment.dsp_url),
            catalogue=self._catalogue,
            sightings=self.sightings,
            tokens=page_tokens,
            audit=self.auditor.record,
            page_size=settings.catalog_page,
        )
        self.dcat_catalogs = DcatCatalogs(
            publisher=DcatPublisher(
                base_url=settings.public_url,
                name=lambda: settings.catalog_publisher or self._own_name(),
                contact=settings.catalog_contact,
            ),
            catalogue=self._catalogue,
            sightings=self.sightings,
            tokens=page_tokens,
            audit=self.auditor.record,
            page_size=settings.catalog_page,
            open_rights=settings.catalog_open,
        )
        self._build_crawler()
        self.outbox = OutboxWorker(
            store=parts.store,
            clock=parts.clock,
            wake=self.environment.wake,
            senders={
                NEGOTIATION: self.negotiations,
                TRANSFER: self.transfers,
                SIGNATURE: self.signatures,
            },
            deliver=self._deliver,
            audit=self.auditor.record,
            chance=random.SystemRandom().random,
            name=self.environment.desk.worker,
            backoff=Backoff(first_seconds=settings.retry_seconds, attempts=settings.retry_limit),
            lease_seconds=settings.lease_seconds,
            desk=self.environment.desk,
        )
        self.collaboration_secrets = CollaborationSecrets(
            keys=parts.keys,
            store=parts.store,
            registry=self.trust,
            peer=parts.peer,
            tokens=self.peer_tokens,
            clock=parts.clock,
            random_bytes=secrets.token_bytes,
            record=self.auditor.record,
        )
        self.pseudonym_keys = PseudonymKeys(parts.keys, self.collaboration_secrets)

    def _build_crawler(self) -> None:
        parts, settings = self.parts, self.settings
        catalogs = PeerCatalogs(self.peers, parts.clock)
        self.discovery = Discovery(
            participant_id=settings.participant_id, trust=self.trust, peers=self.peers, catalogs=catalogs
        )
        self.access_requests = AccessRequests(
            discovery=self.discovery,
            catalogs=catalogs,
            negotiations=self.negotiations,
            agreements=self.agreements,
            transfers=self.transfers,
            purposes=parts.purposes,
        )
        self.counter_offers = CounterOffers(
            negotiations=self.negotiations,
            catalogue=self._catalogue,
            provider=self.peers.participant,
            offer=self.discovery.offer,
        )
        self.renewals = Renewals(
            agreements=self.agreements,
            negotiations=self.negotiations,
            provider=self.peers.participant,
            dataset=catalogs.dataset,
        )
        self.crawler = Crawler(
            participant_id=settings.participant_id,
            trust=self.trust,
            catalogs=catalogs,
            index=parts.catalog_index,
            clock=parts.clock,
            chance=random.SystemRandom().random,
            new_id=new_id,
            wake=self.crawl,
            pace=Pace(refresh_seconds=settings.catalog_refresh_seconds),
        )
        self.federated_catalog = FederatedCatalog(
            participant_id=settings.participant_id,
            trust=self.trust,
            index=parts.catalog_index,
            clock=parts.clock,
            wake=self.crawl,
        )

    def _negotiation_hook(self) -> NegotiationHook:
        return ProductNegotiationHook(
            participant_id=self.settings.participant_id,
            store=self.parts.store,
            catalogue=self._catalogue,
            visible=self._visible,
            decide_negotiation=self._decide_negotiation,
        )

    def _transfer_hook(self) -> TransferHook:
        return ProductTransferHook(
            store=self.parts.store,
            clock=self.parts.clock,
            catalogue=self._catalogue,
            base_url=self.settings.public_url,
            bearers=self.bearers,
            unsigned_peers=self.settings.unsigned_peers,
        )

    def _catalogue(self) -> Mapping[str, Dataset]:
        return self.parts.catalogue

    async def _grants_changed(self, grants: Sequence[Grant]) -> None:
        await self.board.publish(grants)
        self.delivery.wake()

    async def _visible(self, participant_id: str, dataset: Dataset) -> bool:
        """Whoever could be permitted one of the offers may know of the dataset."""
        for terms in dataset.offers:
            if isinstance(await self._decide("catalog", participant_id, dataset, terms), Permit):
                return True
        return False

    def _own_name(self) -> str:
        """As the trust list has it; the id where there is none now: the open catalogue needs no peers."""
        try:
            own = self.trust.current().participants.get(self.settings.participant_id)
        except Unavailable:
            own = None
        return own.name if own else self.settings.participant_id

    async def _sighting(self, participant_id: str, dataset: Dataset) -> Sighting:
        """Of the dataset's offers those that this participant could be permitted; none once it has left."""
        known = self.trust.current().participants.get(participant_id)
        if known is None or known.status is not ParticipantStatus.ACTIVE:
            return Sighting()
        seen: list[OfferTerms] = []
        ends: list[datetime] = []
        for terms in dataset.offers:
            decision = await self._decide("catalog", participant_id, dataset, terms)
            if isinstance(decision, Permit):
                seen.append(terms)
                ends += [decision.expires_at] if decision.expires_at else []
            elif undecided := next((r for r in decision.reasons if r.code in UNDECIDED), None):
                raise Unavailable(f"The catalogue cannot be shown: {undecided.text}.", code=undecided.code)
        return Sighting(offers=tuple(seen), until=min(ends, default=None))

    async def _decide_negotiation(self, participant_id: str, dataset: Dataset, terms: OfferTerms) -> Decision:
        return await self._decide("negotiation", participant_id, dataset, terms)

    async def _decide(self, stage: str, participant_id: str, dataset: Dataset, terms: OfferTerms) -> Decision:
        consumer = self.peers.participant(participant_id)
        request = DecisionRequest(stage=stage, consumer=consumer, dataset=dataset, terms=terms)
        return await self.decider.decide(request)

    async def _deliver(self, message: OutboxMessage) -> JsonObject | None:
        peer = self.peers.participant(message.recipient)
        return await self.peers.tell(
            peer, message.url, resource=peer.dsp_url, scope=SCOPE_DSP, body=message.body
        )

    async def _fetch(
        self, method: str, url: str, recipient: str, body: JsonObject | None = None
    ) -> JsonObject:
        """What a peer answers at its protocol base; empty where that is no object."""
        peer = self.peers.participant(recipient)
        answer = await self.peers.call(peer, method, url, resource=peer.dsp_url, scope=SCOPE_DSP, body=body)
        return answer if isinstance(answer, dict) else {}

    # --- data plane --------------------------------------------------------------------------------------

    def _build_data_plane(self) -> None:
        parts, settings = self.parts, self.settings
        self.consents = ConsentRegister(
            participant_id=settings.participant_id,
            store=parts.store,
            clock=parts.clock,
            new_id=new_id,
            subjects=self.subjects,
            board=self.board,
            record=self.auditor.record,
            topics_for=self._consent_topics,
        )
        self.sources = Sources(settings)
        for dataset in parts.catalogue.values():
            self.sources.check(dataset)
        self.pipeline = Pipeline(
            participant_id=settings.participant_id,
            clock=parts.clock,
            admission=self.admission,
            board=self.board,
            auditor=self.auditor,
            consents=self.consents,
            disclosures=self,
            pseudonymisers=self.pseudonym_keys.for_permit,
            source_of=self.sources.of,
            sign_end=lambda record: end_record.sign(record, parts.keys),
            is_revoked=self.revoked.__contains__,
        )

    def _consent_topics(self, purpose: str, _recipient: str) -> Sequence[str]:
        """Topics of the datasets with an offer that asks for consent to this purpose."""
        return [
            dataset_topic(d.id)
            for d in self.parts.catalogue.values()
            if any(
                o.policy.values_of(DSC_CONSENT_STATUS) and purpose in o.policy.values_of("purpose")
                for o in d.offers
            )
        ]

    def _topics(self) -> Sequence[str]:
        return [CONTROL_TOPIC, *(dataset_topic(d) for d in self.parts.catalogue)]

    # --- events ------------------------------------------------------------------------------------------

    def _build_events(self) -> None:
        parts, settings = self.parts, self.settings
        self.delivery = Delivery(
            participant_id=settings.participant_id,
            store=parts.store,
            bus=parts.bus,
            clock=parts.clock,
            admission=self.admission,
            board=self.board,
            consents=self.consents,
            subjects=self.subjects,
            pseudonyms=self.pseudonym_keys.names,
            send=self._push,
            disclosures=self,
            record=self.auditor.record,
        )
        self.inbox = Inbox(store=parts.store, bus=parts.bus, record=self.auditor.record)
        self.publishing = Publishing(
            participant_id=settings.participant_id,
            bus=parts.bus,
            clock=parts.clock,
            new_id=new_id,
            catalogue=self._catalogue,
            subjects=self.subjects,
        )

    async def _push(self, transfer: TransferProcess, events: Sequence[CloudEvent]) -> None:
        """Only to where the trust list says the consumer is, whatever its data address claims."""
        consumer = self.peers.participant(transfer.counter_party)
        resource = f"{consumer.base_url}/events/v1"
        if transfer.data_address is None or transfer.data_address.endpoint != resource:
            raise PeerRefused("its data address is not its own events endpoint", participant=consumer.id)
        await self.peers.call(
            consumer,
            "POST",
            f"{resource}/{transfer.peer_pid}",
            resource=resource,
            scope=SCOPE_EVENTS,
            body=[render.event(e) for e in events],
        )
