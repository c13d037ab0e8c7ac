"""The client API names who may call what, on every route."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute

from connector.model.person import PersonRole
from connector.web.client_api import ClientServices, client_router


def routes() -> list[APIRoute]:
    services = cast(ClientServices, SimpleNamespace(door=None))
    return [r for r in client_router(services).routes if isinstance(r, APIRoute)]


def roles_of(route: APIRoute) -> set[PersonRole]:
    return {role for d in route.dependant.dependencies for role in getattr(d.call, "roles", ())}


def test_every_route_names_the_roles_it_needs() -> None:
    """Identity: a route without a role fails; none is open to everybody."""
    found = routes()
    assert len(found) > 20
    assert not [r.path for r in found if not roles_of(r)]


def test_what_decides_or_ends_needs_more_than_a_viewer() -> None:
    """Mission C4: approving is the register's owner's; ending is the operator's."""
    by_path: dict[str, set[PersonRole]] = {f"{m} {r.path}": roles_of(r) for r in routes() for m in r.methods}
    assert by_path["POST /v1/negotiations/{pid}/approve"] == {PersonRole.APPROVER}
    assert by_path["POST /v1/negotiations/{pid}/refuse"] == {PersonRole.APPROVER}
    assert by_path["POST /v1/agreements/{agreement_id}/terminate"] == {PersonRole.OPERATOR}
    assert by_path["POST /v1/consents/{record_id}/withdraw"] == {PersonRole.CONSENT_DESK}
    for path, roles in by_path.items():
        if path.startswith("POST") and PersonRole.VIEWER in roles:
            raise AssertionError(f"a viewer may change something: {path}")


def test_no_personal_id_travels_in_a_url() -> None:
    """URLs stand in access logs: persons are named in bodies only (mission L6)."""
    names: set[str] = set()
    for route in routes():
        names |= {p.name for p in (*route.dependant.path_params, *route.dependant.query_params)}
    assert not names & {"person", "hetu", "personal_id", "subject"}


def test_the_description_is_openapi_3_1() -> None:
    """Mission X1."""
    app = FastAPI()
    app.include_router(client_router(cast(ClientServices, SimpleNamespace(door=None))))
    document: dict[str, Any] = app.openapi()
    assert document["openapi"].startswith("3.1")
