"""The application of one connector, from its folder."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from connector.adapters import key_files, rdf
from connector.bootstrap.parts import described, new_id, open_parts
from connector.bootstrap.services import Services, Work
from connector.control_plane.undelivered import Undelivered
from connector.errors import ConfigurationError, ConnectorError, SettingsInvalid, Unavailable
from connector.model.audit import AuditEvent
from connector.model.token import SCOPE_DATA, SCOPE_DSP, SCOPE_EVENTS
from connector.model.transfer import DataAddress
from connector.ports import Keys
from connector.settings import Settings
from connector.web.app import App, create_app
from connector.web.auth import PeerAuth, peer_auth, protocol_peer, reader_auth
from connector.web.client_api import ClientServices, client_router
from connector.web.collaborations import collaborations_router
from connector.web.data import data_router
from connector.web.dcat import dcat_router
from connector.web.dsp import dsp_router
from connector.web.events import events_router
from connector.web.lines import Subscriptions
from connector.web.oauth2 import oauth2_router
from connector.web.people import people_router
from connector.web.policies import PolicyServices, policies_router

_log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
BOOTSTRAP_FILE = "bootstrap.token"
KEYS_SECONDS = 1.0
"""Between two looks at the key folder."""


@asynccontextmanager
async def running_application(
    settings: Settings, services: type[Services] = Services
) -> AsyncIterator[FastAPI]:
    """Open everything, do the background work, close in reverse. Raises ConfigurationError or Unavailable.
    `services`: what it is built of, where that is not the product's own choice."""
    pinned = _pinned(settings)
    async with open_parts(settings) as parts:
        built = services(settings, parts, pinned)
        _publish_keys(settings, parts.keys)
        await built.trust.open()
        await built.revoked.refresh()
        await built.policies.open()
        await _offer_bootstrap(settings, built)
        await built.auditor.record(AuditEvent.CONNECTOR_STARTED, policy_revision=parts.engine.revision)

        async def follow_keys() -> None:
            await _follow_keys(settings, built)

        works: list[Work] = [*built.work(), follow_keys]
        work = [asyncio.create_task(_kept_going(w), name=w.__qualname__) for w in works]
        try:
            yield create_app(
                App(routers=_routers(built), health=_health(built), title=settings.participant_id)
            )
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await built.peer_tokens.close()
            await built.sources.close()


async def _kept_going(work: Work) -> None:
    """Background work that fails starts again: a fault of the moment must not end it for good."""
    while True:
        try:
            await work()
        except Exception as error:
            # type and place, not the text: a driver's text can hold values
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("background work failed: %s\n%s", type(error).__name__, place)
        await asyncio.sleep(RESTART_SECONDS)


def _routers(services: Services) -> list[Any]:
    settings = services.settings
    base = settings.public_url

    def peer(scope: str, resource: str) -> PeerAuth:
        return peer_auth(services.verifier, services.trust, public_url=base, resource=resource, scope=scope)

    data_peer = peer(SCOPE_DATA, f"{base}/data/v1")
    return [
        dsp_router(
            catalogs=services.catalogs,
            negotiations=services.negotiations,
            transfers=services.transfers,
            signatures=services.signatures,
            authenticate=protocol_peer(services.identity, public_url=base),
            service_id=settings.participant_id,
            max_body_bytes=settings.request_bytes,
        ),
        dcat_router(
            services.dcat_catalogs,
            authenticate=protocol_peer(services.identity, public_url=base),
            serialise=rdf.from_jsonld,
        ),
        oauth2_router(services.authorization_server, services.token_status),
        collaborations_router(peer(SCOPE_DSP, f"{base}/dsp/2025-1"), services.collaboration_secrets),
        data_router(
            services.pipeline,
            data_peer,
            reader_auth(data_peer, services.bearers),
            default_batch_rows=settings.batch_rows,
        ),
        events_router(services.inbox, peer(SCOPE_EVENTS, f"{base}/events/v1")),
        client_router(_client_services(services)),
        people_router(services.people),
        policies_router(PolicyServices(door=services.door, policies=services.policies)),
    ]


def _client_services(services: Services) -> ClientServices:
    settings, parts = services.settings, services.parts
    return ClientServices(
        door=services.door,
        trust=services.trust,
        discovery=services.discovery,
        federated_catalog=services.federated_catalog,
        access_requests=services.access_requests,
        negotiations=services.negotiations,
        agreements=services.agreements,
        signatures=services.signatures,
        renewals=services.renewals,
        counter_offers=services.counter_offers,
        transfers=services.transfers,
        undelivered=Undelivered(parts.store),
        queries=services.queries,
        pulls=services.pulls,
        consents=services.consents,
        publishing=services.publishing,
        subscriptions=Subscriptions(parts.bus, new_id),
        events_address=DataAddress(
            endpoint_type="https://cloudevents.io/", endpoint=f"{settings.public_url}/events/v1"
        ),
        status={
            "participant": settings.participant_id,
            "parts": described(settings),
            "datasets": sorted(parts.catalogue),
        },
    )


def _health(services: Services) -> Callable[[], Awaitable[dict[str, str]]]:
    async def health() -> dict[str, str]:
        return {
            "store": await _ping(services.parts.store.ping),
            "event bus": await _ping(services.parts.bus.ping),
            "trust list": _trust(services),
        }

    return health


async def _ping(ping: Callable[[], Awaitable[None]]) -> str:
    try:
        await ping()
    except ConnectorError as error:
        return error.code
    return ""


def _trust(services: Services) -> str:
    """A list that has not been refreshed still counts until it expires; none at all does not."""
    try:
        services.trust.current()
    except Unavailable as error:
        return error.message
    return ""


def _pinned(settings: Settings) -> Sequence[Mapping[str, Any]]:
    file = settings.path(settings.registry_jwks)
    try:
        keys = json.loads(file.read_text(encoding="utf-8"))["keys"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsInvalid(
            f"{file} is not a JWKS file",
            where="registry_jwks",
            mend="Ask the orchestrator for the registry's keys.",
        ) from None
    return [key for key in keys if isinstance(key, dict)]


def _publish_keys(settings: Settings, keys: Keys) -> None:
    """The public keys beside the log, retired ones too, so that it can be verified with nothing running."""
    file = settings.path("audit.jwks.json")
    before = json.loads(file.read_text(encoding="utf-8"))["keys"] if file.exists() else []
    present = [dict(k) for k in keys.public_jwks() if k["use"] == "sig"]
    known = {k["kid"]: k for k in [*before, *present]}
    file.write_text(json.dumps({"keys": list(known.values())}, indent=2) + "\n", encoding="utf-8")


async def _offer_bootstrap(settings: Settings, services: Services) -> None:
    """Left in our own state folder by the first start: whoever may read it may become administrator, once."""
    if token := await services.api_keys.offer_bootstrap():
        file = settings.path(settings.state_dir) / BOOTSTRAP_FILE
        await asyncio.to_thread(key_files.replace, file, f"{token}\n".encode("ascii"))


async def _follow_keys(settings: Settings, services: Services) -> None:
    """Take up what `connector keys rotate` does to the folder, with nothing to restart."""
    keys = services.parts.keys
    while True:
        await services.parts.clock.sleep(KEYS_SECONDS)
        try:
            if await asyncio.to_thread(keys.refresh):
                _publish_keys(settings, keys)
                await services.auditor.record(AuditEvent.KEYS_CHANGED, object=keys.thumbprint())
        except ConfigurationError as error:
            _log.error("the keys could not be taken up: %s", error)
