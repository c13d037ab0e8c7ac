"""Sign-in, API keys, the first administrator and the stop, over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from connector.access.api_keys import ApiKeys
from connector.access.front_door import FrontDoor
from connector.access.people import ApiTokens, issue_api_token
from connector.access.sessions import LIFE, Sessions
from connector.access.stopping import Stopping
from connector.errors import ConnectorError
from connector.model.audit import AuditEvent
from connector.model.person import PersonRole
from connector.model.transfer import Grant, GrantState
from connector.web.auth import session_cookie
from connector.web.errors import on_connector_error
from connector.web.people import OPEN_TO_ALL, PeopleServices, people_router
from tests.agreed import Agreed, detail
from tests.unit.access.test_oidc import Browser
from tests.unit.access.world import fresh_keys
from tests.unit.web.test_client_api import roles_of

URL = "https://kela.example"
KEYS = fresh_keys("kela")


class House:
    def __init__(self) -> None:
        self.agreed = Agreed()
        self.clock = self.agreed.clock
        self.store = self.agreed.store
        self.records: list[tuple[AuditEvent, dict[str, Any]]] = []
        self.browser = Browser()
        self.browser.clock = self.browser.provider.clock = self.browser.sign_in._clock = self.clock  # type: ignore[assignment]
        tokens = ApiTokens(KEYS, self.clock, audience=f"{URL}/v1", longest_seconds=300)
        self.keys = ApiKeys(self.store, self.clock, secrets.token_bytes, self.record)
        sessions = Sessions(self.store, self.clock, secrets.token_bytes)
        self.stopping = Stopping(self.store, self.clock, publish=self.publish, record=self.record)
        services = PeopleServices(
            door=FrontDoor(tokens, self.keys, sessions, origin=URL),
            keys=self.keys,
            sessions=sessions,
            sign_in=self.browser.sign_in,
            stopping=self.stopping,
            record=self.record,
            public_url=URL,
        )
        self.app = FastAPI()
        self.app.include_router(people_router(services))
        self.app.add_exception_handler(ConnectorError, on_connector_error)
        self.published: list[Any] = []

    async def record(self, event: AuditEvent, **fields: Any) -> None:
        self.records.append((event, fields))

    async def publish(self, grants: Any) -> None:
        self.published.extend(grants)

    async def open(self) -> Grant:
        return await self.agreed.admission.open(self.agreed.consumer, detail())

    def token(self, *roles: PersonRole) -> dict[str, str]:
        made = issue_api_token(
            KEYS, self.clock, audience=f"{URL}/v1", subject="root", roles=roles, purposes=[], token_id="t"
        )
        return {"Authorization": f"Bearer {made}"}

    async def sign_in(self, client: httpx.AsyncClient, return_to: str = "/console") -> httpx.Response:
        away = await client.get("/v1/sign-in", params={"return_to": return_to})
        assert away.status_code == 303
        query = httpx.URL(away.headers["location"]).params
        self.browser.provider.challenge, self.browser.provider.nonce = query["code_challenge"], query["nonce"]
        return await client.get("/v1/sign-in/callback", params={"state": query["state"], "code": "good"})


@pytest.fixture
async def house() -> House:
    made = House()
    await made.agreed.set_up()
    return made


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url=URL) as made:
        yield made


def test_every_route_names_its_roles_or_is_open_on_purpose() -> None:
    """Identity: a management route without a role fails; those that are open are named."""
    services = cast("PeopleServices", SimpleNamespace(door=None, public_url=URL))
    routes = [r for r in people_router(services).routes if isinstance(r, APIRoute)]
    assert {r.path for r in routes if not roles_of(r)} == OPEN_TO_ALL


async def test_signing_in_and_out(house: House, client: httpx.AsyncClient) -> None:
    """A session by cookie, unreadable to scripts, bound to the host; signing out ends it everywhere."""
    back = await house.sign_in(client)
    assert (back.status_code, back.headers["location"]) == (303, "/console")
    cookies = back.headers.get_list("set-cookie")
    session = next(c for c in cookies if c.startswith(session_cookie(URL)))
    for flag in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert flag in session
    assert session.startswith("__Host-")
    me = await client.get("/v1/me")
    assert me.json()["subject"] == "u-17"
    assert house.records[-1][0] is AuditEvent.PERSON_SIGNED_IN
    copied = dict(client.cookies)
    assert (await client.post("/v1/sign-out", headers={"Origin": URL})).status_code == 204
    assert (await client.get("/v1/me", headers={"Cookie": _header(copied)})).status_code == 401


def _header(cookies: dict[str, str]) -> str:
    return "; ".join(f"{k}={v}" for k, v in cookies.items())


async def test_a_session_ends_by_itself(house: House, client: httpx.AsyncClient) -> None:
    await house.sign_in(client)
    cookies = _header(dict(client.cookies))
    await house.clock.advance(LIFE.total_seconds() + 1)
    assert (await client.get("/v1/me", headers={"Cookie": cookies})).status_code == 401


@pytest.mark.parametrize(
    "origin", [None, "https://mallory.example", "null", "https://kela.example.mallory.example"]
)
async def test_other_sites_change_nothing_by_our_cookie(
    house: House, client: httpx.AsyncClient, origin: str | None
) -> None:
    """Cross-site request forgery: what changes something needs our own origin."""
    await house.sign_in(client)
    headers = {"Origin": origin} if origin else {}
    assert (await client.post("/v1/stop", json={"reason": "x"}, headers=headers)).status_code == 401
    assert not house.published
    if origin:
        assert (await client.post("/v1/sign-out", headers=headers)).status_code == 401
    assert (await client.post("/v1/stop", json={"reason": "x"}, headers={"Origin": URL})).status_code == 200


async def test_an_api_key_opens_what_it_was_made_for(house: House, client: httpx.AsyncClient) -> None:
    """Shown once, kept as a hash; roles, purposes and an end; revoked at once."""
    asked = {"name": "traffic feed", "roles": ["subscriber"], "purposes": ["statistics"], "days": 30}
    made = (await client.post("/v1/api-keys", json=asked, headers=house.token(PersonRole.ADMIN))).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert (await client.get("/v1/me", headers=bearer)).json() == {
        "subject": "app:traffic feed",
        "roles": ["subscriber"],
        "purposes": ["statistics"],
    }
    assert (await client.get("/v1/api-keys", headers=bearer)).status_code == 403
    listed = (await client.get("/v1/api-keys", headers=house.token(PersonRole.ADMIN))).json()["keys"]
    assert [k["id"] for k in listed] == [made["id"]]
    async with house.store.transaction(read_only=True) as tx:
        assert made["key"].split("_")[2] not in str(await tx.values(""))
    await house.clock.advance(timedelta(days=30).total_seconds())
    assert (await client.get("/v1/me", headers=bearer)).status_code == 401
    await house.clock.advance(-60)
    assert (await client.get("/v1/me", headers=bearer)).status_code == 200
    gone = await client.delete(f"/v1/api-keys/{made['id']}", headers=house.token(PersonRole.ADMIN))
    assert gone.status_code == 204
    assert (await client.get("/v1/me", headers=bearer)).status_code == 401


@pytest.mark.parametrize("role", ["admin", "approver", "dpo"])
async def test_no_app_decides_or_administers(house: House, client: httpx.AsyncClient, role: str) -> None:
    asked = {"name": "app", "roles": [role, "viewer"]}
    answer = await client.post("/v1/api-keys", json=asked, headers=house.token(PersonRole.ADMIN))
    assert answer.status_code == 403
    assert not await house.keys.list()


@pytest.mark.parametrize(
    "key",
    ["", "ck_", "ck_x_y", "ck_" + "0" * 16 + "_" + "A" * 43, "ck_" + "0" * 16 + "_" + "A" * 4_000, "ck_é_é"],
)
async def test_what_is_no_key_opens_nothing(client: httpx.AsyncClient, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}".encode()}
    assert (await client.get("/v1/me", headers=headers)).status_code == 401


async def test_the_first_administrator(house: House, client: httpx.AsyncClient) -> None:
    """A one-time token, left by the first start: good once, for a key that administers for a day."""
    token = await house.keys.offer_bootstrap()
    assert token
    wrong = await client.post("/v1/bootstrap", json={"token": "x" * 43, "name": "anna"})
    assert wrong.status_code == 403
    made = await client.post("/v1/bootstrap", json={"token": token, "name": "anna"})
    assert made.status_code == 201
    bearer = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await client.get("/v1/api-keys", headers=bearer)).status_code == 200
    assert (await client.post("/v1/bootstrap", json={"token": token, "name": "eve"})).status_code == 403
    assert await house.keys.offer_bootstrap() == ""
    await house.clock.advance(timedelta(days=1).total_seconds())
    assert (await client.get("/v1/me", headers=bearer)).status_code == 401


async def test_stop_ends_every_grant_and_keeps_new_ones_away(house: House, client: httpx.AsyncClient) -> None:
    """Identity: `connector stop --all` ends every grant at once, and it lasts over a restart."""
    grant = await house.open()
    answer = await client.post("/v1/stop", json={"reason": "drill"}, headers=house.token(PersonRole.OPERATOR))
    assert answer.json() == {"ended": 1}
    assert [(g.id, g.state) for g in house.published] == [(grant.id, GrantState.ENDED)]
    with pytest.raises(ConnectorError) as refused:
        await house.open()
    assert "nothing out" in str(refused.value)
    with pytest.raises(ConnectorError):
        await house.agreed.admission.load(grant.id)
    told = (await client.get("/v1/stop", headers=house.token(PersonRole.VIEWER))).json()
    assert (told["stopped"], told["by"], told["reason"]) == (True, "root", "drill")
    lift = await client.delete("/v1/stop", headers=house.token(PersonRole.OPERATOR))
    assert lift.status_code == 403
    assert (await client.delete("/v1/stop", headers=house.token(PersonRole.ADMIN))).status_code == 204
    assert (await house.open()).id != grant.id
    again = await client.delete("/v1/stop", headers=house.token(PersonRole.ADMIN))
    assert again.status_code == 409
