"""Policies over HTTP: who may see, submit and approve; and a revision by its whole digest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from connector.access.front_door import Asked
from connector.errors import ConnectorError
from connector.model.person import Person, PersonRole
from connector.web.errors import on_connector_error
from connector.web.policies import PolicyServices, policies_router
from tests.unit.control_plane.test_policies import FIRST, Office, digest
from tests.unit.web.test_client_api import roles_of

R = PersonRole
REVISION = digest(FIRST)


class Door:
    """Knows everybody by what the header says: `name role`."""

    async def person(self, asked: Asked) -> Person:
        name, role = str(asked.authorization).split()
        return Person(subject=name, roles=frozenset({PersonRole(role)}), purposes=frozenset())


@pytest.fixture
async def office() -> Office:
    return await Office(1).restart()


@pytest.fixture
async def client(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(policies_router(PolicyServices(door=Door(), policies=office.policies)))
    app.add_exception_handler(ConnectorError, on_connector_error)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kela") as made:
        yield made


def as_(name: str, role: PersonRole) -> dict[str, str]:
    return {"Authorization": f"{name} {role}"}


def test_every_route_names_its_roles() -> None:
    router = policies_router(PolicyServices(door=Door(), policies=cast("Any", None)))
    assert all(roles_of(r) for r in router.routes if isinstance(r, APIRoute))


async def test_from_submission_to_approval(client: httpx.AsyncClient, office: Office) -> None:
    """Identity: four eyes on publishing a policy."""
    before = (await client.get("/v1/policies", headers=as_("eve", R.VIEWER))).json()
    assert before["active"] is None
    assert before["approvalsNeeded"] == 1
    assert before["waiting"]["revision"] == REVISION
    shown = await client.get(f"/v1/policies/{REVISION}", headers=as_("eve", R.VIEWER))
    assert shown.json() == {"revision": REVISION, "modules": dict(FIRST)}
    assert (
        await client.post(f"/v1/policies/{REVISION}/submit", headers=as_("anna", R.OPERATOR))
    ).status_code == 200
    own = await client.post(f"/v1/policies/{REVISION}/approve", headers=as_("anna", R.APPROVER))
    assert (own.status_code, own.json()["deniedBy"][0]["code"]) == (403, "own_submission")
    done = (await client.post(f"/v1/policies/{REVISION}/approve", headers=as_("bea", R.APPROVER))).json()
    assert done["waiting"] is None
    assert [s["by"] for s in done["active"]["approvedBy"]] == ["bea"]
    assert office.engine.modules == FIRST


@pytest.mark.parametrize("role", [r for r in PersonRole if r is not R.APPROVER])
async def test_nobody_else_approves(client: httpx.AsyncClient, office: Office, role: PersonRole) -> None:
    """Not the administrator either: approving is nobody's by implication."""
    refused = await client.post(f"/v1/policies/{REVISION}/approve", headers=as_("x", role))
    assert refused.status_code == 403
    assert office.engine.modules is None


@pytest.mark.parametrize("revision", [REVISION[:16], "x", "0" * 64])
async def test_a_part_of_a_digest_is_no_revision(client: httpx.AsyncClient, revision: str) -> None:
    for method, path in (("GET", ""), ("POST", "/approve")):
        found = await client.request(method, f"/v1/policies/{revision}{path}", headers=as_("bea", R.APPROVER))
        assert found.status_code == 404
