"""The adapters that this connector runs on, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from connector.access.purposes import PurposeTree
from connector.adapters import descriptors, policy_files
from connector.adapters.audit_log import SqliteAuditLog
from connector.adapters.catalog_index import SqlCatalogIndex, SqliteCatalogIndex
from connector.adapters.clock import SystemClock
from connector.adapters.event_log import EventLog
from connector.adapters.http_peer import HttpPeer
from connector.adapters.ledger_file import SqliteLedger
from connector.adapters.replay_guard import SqliteReplayGuard
from connector.adapters.sql.store import SqlStore
from connector.bootstrap.join import JoinOnFirstUse
from connector.bootstrap.keys import open_keys
from connector.control_plane.publications import Publications
from connector.errors import Unavailable
from connector.model.catalog import Dataset
from connector.ports import (
    CatalogIndex,
    Clock,
    EventBus,
    JoinEngine,
    Keys,
    PeerClient,
    PolicyEngine,
    TrustRegistry,
)
from connector.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything with an outside. `log` is the store's own event log; `bus` the same one, or Kafka."""

    clock: Clock
    keys: Keys
    store: SqlStore
    log: EventLog
    bus: EventBus
    engine: PolicyEngine
    audit_log: SqliteAuditLog
    ledger: SqliteLedger
    replay: SqliteReplayGuard
    peer: PeerClient
    sign_in_peer: PeerClient
    """To the organisation's own OpenID provider, which may be inside its network, and to nobody else."""
    allowed_hosts: TrustedHosts
    join_engine: JoinEngine
    catalogue: Mapping[str, Dataset]
    catalog_index: CatalogIndex
    purposes: PurposeTree


class TrustedHosts:
    """Whom we may call: the registry, whoever the trust list names, and `more` that the operator named.
    Looked up at each call."""

    def __init__(self, registry_url: str, more: frozenset[str] = frozenset()) -> None:
        self._registry = urlsplit(registry_url).netloc.lower()
        self._more = more
        self.trust: TrustRegistry | None = None

    def __contains__(self, host: object) -> bool:
        if host == self._registry or host in self._more:
            return True
        try:
            participants = self.trust.current().participants.values() if self.trust else ()
        except Unavailable:
            return False  # no list, nobody to call
        return any(host == urlsplit(p.base_url).netloc.lower() for p in participants)


def new_id() -> str:
    return f"urn:uuid:{uuid.uuid4()}"


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Raises ConfigurationError before anything listens: a connector starts whole or not at all."""
    modules = policy_files.all_modules(settings.path(settings.policy_dir))
    purposes = policy_files.project_purposes()
    keys = open_keys(settings)
    clock = SystemClock()
    state = settings.path(settings.state_dir)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as opened:
        engine = _engine(settings)
        opened.push_async_callback(engine.close)
        # tried in a process of its own meanwhile; where people approve, what they approved is loaded later
        loading = asyncio.create_task(_loaded(engine, modules, settings))
        opened.callback(loading.cancel)
        catalogue = await asyncio.to_thread(
            descriptors.load_catalog,
            settings.path(settings.catalog_dir),
            policies=policy_files.policy_names(modules),
            purposes=purposes,
        )
        await loading
        store = _store(settings)
        await store.open()
        opened.push_async_callback(store.close)
        if breaches := await Publications(store).take(catalogue.values()):
            raise descriptors.refused((b.where, b.text, b.mend) for b in breaches)
        audit_log = SqliteAuditLog(state / "audit.sqlite", keys=keys, clock=clock)
        await audit_log.open()
        opened.push_async_callback(audit_log.close)
        ledger = SqliteLedger(state / "ledger.sqlite")
        await ledger.open()
        opened.push_async_callback(ledger.close)
        replay = SqliteReplayGuard(state / "replay.sqlite", clock)
        await replay.open()
        opened.push_async_callback(replay.close)
        catalog_index = _catalog_index(settings, store)
        await catalog_index.open()
        opened.push_async_callback(catalog_index.close)
        data_hosts = (settings.data_hosts_of(p) for p in settings.data_hosts)
        allowed_hosts = TrustedHosts(settings.registry_url, frozenset().union(*data_hosts))
        peer = HttpPeer(
            allowed_hosts=allowed_hosts,
            allow_private=settings.peer_private_addresses,
            receive_buffer_bytes=settings.stream_buffer_kb * 1024,
        )
        opened.push_async_callback(peer.close)
        provider = urlsplit(settings.oidc_issuer).netloc.lower()
        sign_in_peer = HttpPeer(allowed_hosts={provider}, allow_private=True)
        opened.push_async_callback(sign_in_peer.close)
        join_engine = JoinOnFirstUse(settings.join_memory_mb)
        opened.push_async_callback(join_engine.close)
        log = EventLog(store.database, new_id=new_id)
        bus = _bus(settings, log)
        opened.push_async_callback(bus.close)
        yield Parts(
            clock=clock,
            keys=keys,
            store=store,
            log=log,
            bus=bus,
            engine=engine,
            audit_log=audit_log,
            ledger=ledger,
            replay=replay,
            peer=peer,
            sign_in_peer=sign_in_peer,
            allowed_hosts=allowed_hosts,
            join_engine=join_engine,
            catalogue=catalogue,
            catalog_index=catalog_index,
            purposes=purposes,
        )


def described(settings: Settings) -> dict[str, str]:
    """Which part is embedded and which is real, in words."""
    return {
        "policy engine": "OPA" if settings.opa_url else "embedded: Rego (regorus)",
        "store": "PostgreSQL" if settings.store_dsn else "embedded: SQLite",
        "event bus": "Apache Kafka" if settings.kafka_bootstrap else "embedded: SQL event log",
        "gateway": "Envoy" if settings.gateway == "envoy" else "none: the connector answers itself",
        "join engine": "embedded: DuckDB",
        "audit log": "real: RFC 6962 Merkle log in a file of its own",
        "keys": _keys_in_words(settings),
    }


def _keys_in_words(settings: Settings) -> str:
    if settings.pkcs11_module:
        return "real: security module (PKCS#11)"
    return "real: encrypted files" if settings.keys_passphrase_file else "real: files of mode 0600"


def _engine(settings: Settings) -> PolicyEngine:
    if settings.opa_url:
        from connector.adapters.opa_engine import OpaEngine

        return OpaEngine(settings.opa_url, scope=settings.participant_id)
    from connector.adapters.rego_engine import RegoEngine

    return RegoEngine()


async def _loaded(engine: PolicyEngine, modules: Mapping[str, str], settings: Settings) -> None:
    if not settings.policy_approvals:
        await engine.load(modules)


async def policies_tried(modules: Mapping[str, str]) -> None:
    """In an engine of its own, whichever decides. Raises PolicyInvalid."""
    from connector.adapters.rego_engine import RegoEngine

    engine = RegoEngine()
    try:
        await engine.load(modules)
    finally:
        await engine.close()


def _store(settings: Settings) -> SqlStore:
    if settings.store_dsn:
        from connector.adapters.postgres_store import PostgresStore

        return PostgresStore(settings.store_dsn)
    from connector.adapters.sqlite_store import SqliteStore

    return SqliteStore(settings.path(settings.state_dir) / "connector.sqlite")


def _catalog_index(settings: Settings, store: SqlStore) -> SqlCatalogIndex:
    """Beside the store where replicas share one, so that they share the crawl and its outcome too."""
    if settings.store_dsn:
        return SqlCatalogIndex(store.database)
    return SqliteCatalogIndex(settings.path(settings.state_dir) / "catalog-index.sqlite")


def _bus(settings: Settings, log: EventLog) -> EventBus:
    if settings.kafka_bootstrap:
        from connector.adapters.kafka_bus import KafkaBus

        return KafkaBus(settings.kafka_bootstrap)
    return log
