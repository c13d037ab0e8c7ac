"""The gateway for event batches that other participants push: CloudEvents 1.0.2, JSON batch format."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from connector.access import jose
from connector.control_plane.inbox import MAX_EVENTS, Inbox
from connector.errors import RequestInvalid
from connector.model.event import CloudEvent
from connector.model.json import from_rfc3339
from connector.web.auth import PeerAuth
from connector.web.data import body_of

BATCH = "application/cloudevents-batch+json"
MAX_BATCH_BYTES = 5_000_000
_CORE = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "dataschema", "datacontenttype", "data"}
)
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What CloudEvents 1.0.2 §3.1 keeps out of strings."""

_EXTENSION = re.compile(r"[a-z0-9]{1,20}")


def events_router(inbox: Inbox, authenticate: PeerAuth) -> APIRouter:
    router = APIRouter(prefix="/events/v1", tags=["events"])

    @router.post("/{transfer_pid}", status_code=200)
    async def receive(transfer_pid: str, request: Request) -> JSONResponse:
        sender, _ = await authenticate(request)
        events = parse_batch(await body_of(request, MAX_BATCH_BYTES))
        return JSONResponse({"accepted": await inbox.receive(sender, transfer_pid, events)})

    return router


def parse_batch(body: bytes) -> list[CloudEvent]:
    """Raises RequestInvalid naming the event and the member."""
    try:
        batch = jose.parse_json(body.decode("utf-8"))
    except (UnicodeDecodeError, jose.Refusal):
        raise RequestInvalid("The body is not JSON in UTF-8, or has a name twice.", where="body") from None
    if not isinstance(batch, list) or len(batch) > MAX_EVENTS:
        raise RequestInvalid(f"A batch is an array of at most {MAX_EVENTS} events.", where="body")
    return [parse_event(entry, f"[{i}]") for i, entry in enumerate(batch)]


def parse_event(wire: Any, where: str) -> CloudEvent:
    if not isinstance(wire, dict):
        raise RequestInvalid("An event is an object.", where=where)
    if wire.get("specversion") != "1.0":
        raise RequestInvalid("Only CloudEvents 1.0 are understood.", where=f"{where}.specversion")
    try:
        time = from_rfc3339(_text(wire, "time", where))
    except (ValueError, OverflowError):
        raise RequestInvalid("Not an RFC 3339 instant with an offset.", where=f"{where}.time") from None
    data = wire.get("data", {})
    if not isinstance(data, dict):
        raise RequestInvalid("The data of an event is an object.", where=f"{where}.data")
    return CloudEvent(
        id=_text(wire, "id", where),
        source=_text(wire, "source", where),
        type=_text(wire, "type", where),
        time=time,
        subject=_text(wire, "subject", where, required=False),
        dataschema=_text(wire, "dataschema", where, required=False),
        data=data,
        extensions={name: _extension(wire, name, where) for name in wire if name not in _CORE},
    )


def _extension(wire: dict[str, Any], name: str, where: str) -> str:
    if not _EXTENSION.fullmatch(name):
        raise RequestInvalid(
            "Attribute names are lower-case letters and digits.", where=f"{where}.{name[:40]}"
        )
    return _text(wire, name, where, required=False)


def _text(wire: dict[str, Any], name: str, where: str, *, required: bool = True) -> str:
    value = wire.get(name, "")
    if not isinstance(value, str) or len(value) > 1_000 or (required and not value):
        raise RequestInvalid("A text of at most 1,000 characters is wanted.", where=f"{where}.{name}")
    if _UNFIT.search(value):
        raise RequestInvalid("A text holds control characters or half a character.", where=f"{where}.{name}")
    return value
