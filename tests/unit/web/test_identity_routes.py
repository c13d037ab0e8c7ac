"""Identity over HTTP: token endpoint, metadata, registry, secret exchange."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import FastAPI

from connector.access import registry_application, trust_list
from connector.access.registry_application import ApplicationKind
from connector.access.rfc6749 import MAX_FORM_BYTES
from connector.adapters import registry_files
from connector.adapters.registry_desk import RegistryDesk
from connector.adapters.registry_files import RegistryFolder
from connector.control_plane.collaborations import CollaborationSecrets
from connector.errors import ConfigurationError, ConnectorError
from connector.model.participant import Collaboration, CollaborationRole, ParticipantStatus
from connector.web.auth import peer_auth
from connector.web.collaborations import collaborations_router
from connector.web.errors import on_connector_error
from connector.web.oauth2 import oauth2_router
from connector.web.registry import registry_app
from tests.unit.access.world import FORM, ManualClock, MemoryStore, World, fresh_keys, participant


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def kela(world: World) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(oauth2_router(world.server, world.status))
    app.add_exception_handler(ConnectorError, on_connector_error)
    secrets_ = CollaborationSecrets(
        keys=world.keys["kela"],
        store=MemoryStore(),  # type: ignore[arg-type]
        registry=world.registry,
        peer=None,  # type: ignore[arg-type]  # the lead asks nobody
        tokens=None,  # type: ignore[arg-type]
        clock=world.clock,
        random_bytes=secrets.token_bytes,
        record=world._audit,
    )
    authenticate = peer_auth(
        world.verifier,
        world.registry,
        public_url=world.kela.base_url,
        resource=world.kela.dsp_url,
        scope="dsp",
    )
    app.include_router(collaborations_router(authenticate, secrets_))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=world.kela.base_url) as client:
        yield client


async def test_a_token_over_http(kela: httpx.AsyncClient, world: World) -> None:
    """RFC 6749 §5.1: JSON, never stored by caches."""
    response = await kela.post("/oauth2/token", data=world.data_form(), headers={"DPoP": world.proof()})
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.headers.get_list("content-type") == ["application/json"]
    assert response.json()["token_type"] == "DPoP"


async def test_errors_are_oauth_errors(kela: httpx.AsyncClient, world: World) -> None:
    """RFC 6749 §5.2."""
    response = await kela.post("/oauth2/token", data=world.form("mallory"), headers={"DPoP": world.proof()})
    assert response.status_code == 400
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "error": "invalid_client",
        "error_description": "Client authentication failed.",
    }


async def test_two_proof_headers_are_refused(kela: httpx.AsyncClient, world: World) -> None:
    headers = [("DPoP", world.proof()), ("DPoP", world.proof()), ("Content-Type", FORM)]
    response = await kela.post("/oauth2/token", content=urlencode(world.form()), headers=headers)
    assert response.json()["error"] == "invalid_dpop_proof"


async def test_parameters_in_the_query_count_for_nothing(kela: httpx.AsyncClient, world: World) -> None:
    """RFC 6749 §3.2: they would end up in logs."""
    response = await kela.post("/oauth2/token", params=world.form(), headers={"DPoP": world.proof()})
    assert response.json()["error"] == "invalid_request"


async def test_a_body_is_read_no_further_than_needed(kela: httpx.AsyncClient, world: World) -> None:
    """A client that never stops sending is answered after 32 KB."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1
            yield b"x" * 8_192

    response = await kela.post("/oauth2/token", content=endless(), headers={"Content-Type": FORM})
    assert response.json()["error"] == "invalid_request"
    assert sent <= MAX_FORM_BYTES // 8_192 + 2


async def test_metadata_and_keys_are_public(kela: httpx.AsyncClient, world: World) -> None:
    """RFC 8414 §3, RFC 7517 §5."""
    metadata = (await kela.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == world.kela.base_url
    keys = (await kela.get(metadata["jwks_uri"])).json()["keys"]
    assert keys == [dict(jwk) for jwk in world.keys["kela"].public_jwks()]


# --- the secret ------------------------------------------------------------------------------------------


async def ask_secret(kela: httpx.AsyncClient, world: World, client: str) -> httpx.Response:
    path = "/collaborations/planning-2026/secret"
    url = world.kela.base_url + path
    token = await world.access_token(client)
    return await kela.post(
        path, headers={"Authorization": f"DPoP {token}", "DPoP": world.use_proof(token, client, htu=url)}
    )


def planning() -> Collaboration:
    provider, consumer = frozenset({CollaborationRole.PROVIDER}), frozenset({CollaborationRole.CONSUMER})
    return Collaboration(
        id="planning-2026",
        purpose="service-planning",
        lead="kela",
        members={"kela": provider, "youth": provider, "city": consumer},
    )


async def test_the_secret_goes_to_a_provider_and_not_to_a_consumer(
    kela: httpx.AsyncClient, world: World
) -> None:
    """Pseudonym domains: never to a consumer; each request proves who asks."""
    world.registry.collaborations["planning-2026"] = planning()
    given = await ask_secret(kela, world, "youth")
    assert given.status_code == 200
    assert given.headers["content-type"] == "application/jose"
    assert given.headers["cache-control"] == "no-store"
    assert world.keys["youth"].decrypt_jwe(given.text)
    refused = await ask_secret(kela, world, "city")
    assert refused.status_code == 403
    assert refused.json()["deniedBy"][0]["code"] == "not_a_provider"
    assert (await kela.post("/collaborations/planning-2026/secret")).status_code == 401


async def test_an_unknown_collaboration_is_not_found(kela: httpx.AsyncClient, world: World) -> None:
    assert (await ask_secret(kela, world, "youth")).status_code == 404


# --- the registry ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    registry_files.create(tmp_path, issuer="https://registry.example")
    for name in ("kela", "city"):
        registry_files.add_participant(tmp_path, participant(fresh_keys(name)))
    return tmp_path


@pytest.fixture
async def registry(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    source = RegistryFolder(folder, keys=fresh_keys("registry"), clock=ManualClock())
    app = registry_app(source, RegistryDesk(folder, ManualClock()))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="https://registry.example"
    ) as client:
        yield client


async def test_the_trust_list_is_sent_once(registry: httpx.AsyncClient, folder: Path) -> None:
    """ETag and 304 (RFC 9110 §13.1.2) until something changes."""
    first = await registry.get("/trust-list")
    assert first.headers["content-type"] == "application/trust-list+jwt"
    keys = (await registry.get("/jwks")).json()["keys"]
    assert set(trust_list.verify(first.text, keys).content.participants) == {"kela", "city"}
    for tag in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = await registry.get("/trust-list", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    registry_files.set_status(folder, "city", ParticipantStatus.SUSPENDED)
    changed = await registry.get("/trust-list", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    content = trust_list.verify(changed.text, keys).content
    assert content.participants["city"].status is ParticipantStatus.SUSPENDED


async def test_a_broken_edit_leaves_the_last_good_list(registry: httpx.AsyncClient, folder: Path) -> None:
    """Half-written or mistaken: connectors keep what was signed, the operator sees the fault."""
    first = await registry.get("/trust-list")
    (folder / registry_files.SOURCE).write_text("{")
    assert (await registry.get("/trust-list")).text == first.text
    assert (await registry.get("/health/ready")).status_code == 503
    assert (await registry.get("/health/live")).status_code == 200


def test_a_registry_without_a_list_does_not_start(tmp_path: Path) -> None:
    folder = RegistryFolder(tmp_path, keys=fresh_keys("registry"), clock=ManualClock())
    with pytest.raises(ConfigurationError):
        registry_app(folder, RegistryDesk(tmp_path, ManualClock()))


async def test_an_application_over_http(registry: httpx.AsyncClient, folder: Path) -> None:
    """Anybody may apply, nobody is admitted by it; faults are problems (RFC 9457)."""
    keys = fresh_keys("school")
    token = registry_application.make(
        keys,
        participant(keys),
        kind=ApplicationKind.ADMISSION,
        audience="https://registry.example",
        at=ManualClock().now(),
        application_id="a1",
    )
    answer = await registry.post("/applications", content=token)
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    assert (await registry.get("/applications/a1")).json()["participant"] == "school"
    assert "school" not in registry_files.read(folder).participants
    for path, content, status in (
        ("/applications", "x", 400),
        ("/applications", "x" * 100_000, 400),
        ("/participants/kela/keys", token, 400),
        ("/participants/nobody/keys", token, 404),
    ):
        refused = await registry.post(path, content=content)
        assert refused.status_code == status, path
        assert refused.headers["content-type"] == "application/problem+json"
    assert (await registry.get("/applications/b")).status_code == 404
