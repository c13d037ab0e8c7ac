"""The adapters that this connector runs on, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from connector.access.purposes import PurposeTree
from connector.adapters import descriptors, file_keys, policy_files
from connector.adapters.audit_log import SqliteAuditLog
from connector.adapters.clock import SystemClock
from connector.adapters.event_log import EventLog
from connector.adapters.http_peer import HttpPeer
from connector.adapters.ledger_file import SqliteLedger
from connector.adapters.replay_guard import SqliteReplayGuard
from connector.adapters.sql.store import SqlStore
from connector.bootstrap.join import JoinOnFirstUse
from connector.errors import Unavailable
from connector.model.catalog import Dataset
from connector.ports import Clock, EventBus, JoinEngine, Keys, PeerClient, PolicyEngine, TrustRegistry
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
    allowed_hosts: TrustedHosts
    join_engine: JoinEngine
    catalogue: Mapping[str, Dataset]
    purposes: PurposeTree


class TrustedHosts:
    """Whom we may call: the registry, and whoever the trust list names. Looked up at each call."""

    def __init__(self, registry_url: str) -> None:
        self._registry = urlsplit(registry_url).netloc.lower()
        self.trust: TrustRegistry | None = None

    def __contains__(self, host: object) -> bool:
        if host == self._registry:
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
    keys = file_keys.load(settings.path(settings.keys_dir), settings.participant_id)
    clock = SystemClock()
    state = settings.path(settings.state_dir)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as opened:
        engine = _engine(settings)
        opened.push_async_callback(engine.close)
        loading = asyncio.create_task(engine.load(modules))  # tried in a process of its own meanwhile
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
        audit_log = SqliteAuditLog(state / "audit.sqlite", keys=keys, clock=clock)
        await audit_log.open()
        opened.push_async_callback(audit_log.close)
        ledger = SqliteLedger(state / "ledger.sqlite")
        await ledger.open()
        opened.push_async_callback(ledger.close)
        replay = SqliteReplayGuard(state / "replay.sqlite", clock)
        await replay.open()
        opened.push_async_callback(replay.close)
        allowed_hosts = TrustedHosts(settings.registry_url)
        peer = HttpPeer(
            allowed_hosts=allowed_hosts,
            allow_private=settings.peer_private_addresses,
            receive_buffer_bytes=settings.stream_buffer_kb * 1024,
        )
        opened.push_async_callback(peer.close)
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
            allowed_hosts=allowed_hosts,
            join_engine=join_engine,
            catalogue=catalogue,
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
        "keys": "real: files of mode 0600",
    }


def _engine(settings: Settings) -> PolicyEngine:
    if settings.opa_url:
        from connector.adapters.opa_engine import OpaEngine

        return OpaEngine(settings.opa_url, scope=settings.participant_id)
    from connector.adapters.rego_engine import RegoEngine

    return RegoEngine()


def _store(settings: Settings) -> SqlStore:
    if settings.store_dsn:
        from connector.adapters.postgres_store import PostgresStore

        return PostgresStore(settings.store_dsn)
    from connector.adapters.sqlite_store import SqliteStore

    return SqliteStore(settings.path(settings.state_dir) / "connector.sqlite")


def _bus(settings: Settings, log: EventLog) -> EventBus:
    if settings.kafka_bootstrap:
        from connector.adapters.kafka_bus import KafkaBus

        return KafkaBus(settings.kafka_bootstrap)
    return log
