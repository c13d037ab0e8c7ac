"""The gateway for pushed events and the lines to our own applications: what strangers send, and its fate."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from connector.access.identity import single_value
from connector.adapters.event_log import EventLog
from connector.adapters.sqlite_store import SqliteStore
from connector.control_plane.inbox import INBOX, MAX_EVENTS
from connector.errors import ConnectorError, GrantStopped, RequestInvalid, TokenRejected
from connector.model.event import CloudEvent
from connector.web.errors import on_connector_error
from connector.web.events import MAX_BATCH_BYTES, events_router, parse_batch
from connector.web.lines import NDJSON, Subscriptions, json_lines
from tests.agreed import Agreed
from tests.ports.examples import event
from tests.unit.access.evidence import counting_ids

WIRE = {
    "specversion": "1.0",
    "id": "e1",
    "source": "urn:participant:kela",
    "type": "fi.kela.benefit.granted.v1",
    "time": "2026-11-22T09:00:00+02:00",
    "subject": "p1_abc",
    "purpose": "outreach",
    "datacontenttype": "application/json",
    "data": {"dataset": "kela.benefits"},
}


def batch(**changes: Any) -> bytes:
    wire = {k: v for k, v in {**WIRE, **changes}.items() if v is not ...}
    return json.dumps([wire]).encode()


# --- reading --------------------------------------------------------------------------------------------


def test_a_batch_of_cloudevents() -> None:
    """CloudEvents 1.0.2, JSON batch format: extensions are whatever is not an attribute."""
    (read,) = parse_batch(batch())
    assert (read.id, read.subject, read.data) == ("e1", "p1_abc", {"dataset": "kela.benefits"})
    assert read.extensions == {"purpose": "outreach"}
    assert read.time.isoformat() == "2026-11-22T07:00:00+00:00"
    assert parse_batch(b"[]") == []


REFUSED = {
    "another version": (batch(specversion="0.3"), "[0].specversion"),
    "no id": (batch(id=...), "[0].id"),
    "an empty id": (batch(id=""), "[0].id"),
    "an id that is a number": (batch(id=7), "[0].id"),
    "an endless id": (batch(id="x" * 1_001), "[0].id"),
    "half a character": (batch(id="\ud800"), "[0].id"),
    "a control character": (batch(subject="a\x00b"), "[0].subject"),
    "a line break": (batch(type="a\nb"), "[0].type"),
    "no source": (batch(source=...), "[0].source"),
    "no type": (batch(type=...), "[0].type"),
    "no time": (batch(time=...), "[0].time"),
    "a local time": (batch(time="2026-11-22T09:00:00"), "[0].time"),
    "no time at all": (batch(time="yesterday"), "[0].time"),
    "before the first year": (batch(time="0001-01-01T00:00:00+14:00"), "[0].time"),
    "after the last": (batch(time="9999-12-31T23:59:59-14:00"), "[0].time"),
    "data that is a text": (batch(data="x"), "[0].data"),
    "data as base64": (batch(data_base64="eA=="), "[0].data_base64"),
    "an extension in capitals": (batch(Purpose="x"), "[0].Purpose"),
    "an extension that is an object": (batch(purpose={}), "[0].purpose"),
    "an event that is a text": (b'["x"]', "[0]"),
    "no array": (b"{}", "body"),
    "no JSON": (b"[", "body"),
    "no UTF-8": (b'["\xff"]', "body"),
    "nested to death": (b"[" * 100_000, "body"),
    "a name twice": (b'[{"id": "a", "id": "b"}]', "body"),
    "no number": (batch().replace(b'"kela.benefits"', b"NaN"), "body"),
    "too many": (json.dumps([WIRE] * (MAX_EVENTS + 1)).encode(), "body"),
}


@pytest.mark.parametrize(("body", "where"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_batch_of_events_is_refused(body: bytes, where: str) -> None:
    """Whole, naming the event and the member, quoting nothing: a stranger's poison never reaches our bus."""
    with pytest.raises(RequestInvalid) as refused:
        parse_batch(body)
    assert refused.value.where == where


# --- the route ------------------------------------------------------------------------------------------


class InboxSpy:
    def __init__(self) -> None:
        self.taken: list[tuple[str, str, list[str]]] = []

    async def receive(self, sender: Any, transfer_pid: str, events: list[CloudEvent]) -> int:
        self.taken.append((sender.id, transfer_pid, [e.id for e in events]))
        return len(events)


def application(inbox: Any) -> httpx.AsyncClient:
    kela = Agreed().registry.participants["kela"]

    async def authenticate(request: Request) -> Any:
        if single_value(request.headers.getlist("authorization")) != "DPoP good":
            raise TokenRejected("no")
        return kela, None

    app = FastAPI()
    app.add_exception_handler(ConnectorError, on_connector_error)
    app.include_router(events_router(inbox, authenticate))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://youth.example")


async def test_a_push_is_taken_for_its_transfer() -> None:
    """`POST {base}/events/v1/{transfer}`: answered with how many were new."""
    inbox = InboxSpy()
    async with application(inbox) as client:
        answer = await client.post(
            "/events/v1/urn:uuid:t1", content=batch(), headers={"Authorization": "DPoP good"}
        )
    assert (answer.status_code, answer.json()) == (200, {"accepted": 1})
    assert inbox.taken == [("kela", "urn:uuid:t1", ["e1"])]


@pytest.mark.parametrize(
    "headers",
    [[], [("Authorization", "DPoP bad")], [("Authorization", "DPoP good"), ("Authorization", "DPoP good")]],
)
async def test_nobody_pushes_without_a_token(headers: list[tuple[str, str]]) -> None:
    """Before the body is read. A repeated header is refused: two readers could take two of them."""
    inbox = InboxSpy()
    async with application(inbox) as client:
        answer = await client.post("/events/v1/t1", content=b"[", headers=headers)
    assert answer.status_code == 401
    assert inbox.taken == []


async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    """5 MB."""
    inbox, sent = InboxSpy(), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000_000:
            sent += 1_000_000
            yield b"x" * 1_000_000

    async with application(inbox) as client:
        answer = await client.post("/events/v1/t1", content=endless(), headers={"Authorization": "DPoP good"})
    assert answer.status_code == 400
    assert "larger" in answer.json()["detail"]
    assert sent <= MAX_BATCH_BYTES + 2_000_000


# --- lines to our own applications ----------------------------------------------------------------------


async def lines_of(*parts: Any) -> list[Any]:
    async def produce() -> AsyncIterator[Mapping[str, Any]]:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part

    response = json_lines(produce())
    assert response.media_type == NDJSON
    content = b"".join([bytes(c) async for c in response.body_iterator])  # type: ignore[arg-type]
    return [json.loads(line) for line in content.splitlines()]


async def test_each_line_is_json() -> None:
    """As the rows and events come, in UTF-8; half a character, which a peer may send, breaks nothing."""
    assert await lines_of({"rows": [["Åström", 1]]}, {"x": "\ud800\nb"}) == [
        {"rows": [["Åström", 1]]},
        {"x": "\ud800\nb"},
    ]


async def test_an_error_on_the_way_is_the_last_line() -> None:
    """The status has been sent already: an answer is never silently short."""
    error = GrantStopped("a consent has changed; ask again", code="consent_changed", retryable=True)
    assert await lines_of({"rows": []}, error) == [
        {"rows": []},
        {
            "error": {
                "code": "consent_changed",
                "detail": "a consent has changed; ask again",
                "retryable": True,
            }
        },
    ]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    store = SqliteStore(tmp_path / "connector.sqlite")
    await store.open()
    try:
        yield EventLog(store.database, new_id=counting_ids("member"))
    finally:
        await store.close()


class Reader:
    """One application's stream."""

    def __init__(self, log: EventLog, group: str, *, latest: bool = False) -> None:
        self._lines = Subscriptions(log, counting_ids("once")).follow(group, from_latest=latest)

    async def next(self) -> str:
        """The next line's id, or its type where it is no event."""
        line = await anext(self._lines)
        return str(line.get("id", line["type"]))

    async def read(self, count: int) -> list[str]:
        """That many events, and then it leaves."""
        assert await self.next() == "subscribed"
        found = [await self.next() for _ in range(count)]
        await self._lines.aclose()  # type: ignore[attr-defined]
        return found


async def test_a_group_goes_on_where_it_was(log: EventLog) -> None:
    """Each event once per group: what the application has not asked beyond comes again, the rest does not."""
    await log.publish(INBOX, [event(f"e{i}") for i in range(6)])
    assert await Reader(log, "app").read(3) == ["e0", "e1", "e2"]
    assert await Reader(log, "app").read(2) == ["e2", "e3"]
    assert await Reader(log, "other").read(1) == ["e0"]


async def test_from_latest_passes_over_what_was_there(log: EventLog) -> None:
    """The first line says that the subscription stands: nothing after it is missed."""
    await log.publish(INBOX, [event(f"e{i}") for i in range(250)])
    reader = Reader(log, "app", latest=True)
    assert await reader.next() == "subscribed"
    await log.publish(INBOX, [event("new")])
    assert await reader.next() == "new"
    await reader._lines.aclose()  # type: ignore[attr-defined]


async def test_without_a_group_it_begins_at_the_start_each_time(log: EventLog) -> None:
    """For this call only."""
    await log.publish(INBOX, [event("e0"), event("e1")])
    subscriptions = Subscriptions(log, counting_ids("once"))
    for _ in range(2):
        lines = subscriptions.follow("", from_latest=False)
        assert [(await anext(lines)).get("id") for _ in range(2)] == [None, "e0"]
        await lines.aclose()  # type: ignore[attr-defined]


async def test_a_quiet_subscription_says_that_it_lives(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a reader notices a connection that died."""
    monkeypatch.setattr("connector.web.lines.POLL_SECONDS", 0.01)
    reader = Reader(log, "app")
    assert [await reader.next() for _ in range(3)] == ["subscribed", "alive", "alive"]
    await reader._lines.aclose()  # type: ignore[attr-defined]
