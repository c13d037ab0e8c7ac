"""What was given up, for the operator (Protocol: gives up loudly)."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from connector.control_plane.undelivered import Undelivered
from connector.model.person import Person, PersonRole
from connector.ports import OutboxMessage
from connector.web.app import App, create_app
from connector.web.client_api import ClientServices, client_router
from tests.clocks import ManualClock
from tests.fakes import MemoryStore

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


class OpenDoor:
    async def person(self, asked: Any) -> Person:
        return Person(
            subject="aino", roles=frozenset({PersonRole(asked.authorization)}), purposes=frozenset()
        )


async def well() -> dict[str, str]:
    return {}


async def get(store: MemoryStore, role: PersonRole, **params: Any) -> httpx.Response:
    services = SimpleNamespace(door=OpenDoor(), undelivered=Undelivered(store))
    app = create_app(App(routers=[client_router(cast(ClientServices, services))], health=well, title="x"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://city.example/v1"
    ) as http:
        return await http.get("/outbox/abandoned", params=params, headers={"authorization": role.value})


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore(ManualClock())
    async with store.transaction() as tx:
        for n in range(3):
            await tx.enqueue(
                OutboxMessage(
                    id=f"m{n}",
                    process_pid=f"p{n}",
                    kind="transfer",
                    recipient="kela",
                    url="http://kela.example/x",
                    body={"@type": "TransferStartMessage", "dataAddress": {"token": "s3cret"}},
                    created_at=NOW,
                    due_at=NOW,
                    attempts=n,
                )
            )
            await tx.abandon(f"m{n}", error="kela refused it")
    return store


async def test_the_operator_reads_what_was_given_up_and_why(store: MemoryStore) -> None:
    """The latest first, page by page; nothing of what is for the peer alone."""
    first = (await get(store, PersonRole.OPERATOR, limit=2)).json()
    assert [m["id"] for m in first["messages"]] == ["m2", "m1"]
    assert first["messages"][0] == {
        "id": "m2",
        "process": "p2",
        "kind": "transfer",
        "message": "TransferStartMessage",
        "recipient": "kela",
        "decidedAt": "2026-11-22T09:00:00.000Z",
        "attempts": 2,
        "reason": "kela refused it",
    }
    rest = await get(store, PersonRole.VIEWER, limit=2, before=first["next"])
    assert [m["id"] for m in rest.json()["messages"]] == ["m0"]
    assert rest.json()["next"] is None
    assert "s3cret" not in rest.text


async def test_nobody_else_reads_it(store: MemoryStore) -> None:
    assert (await get(store, PersonRole.ANALYST)).status_code == 403
