"""Streams of JSON lines to our own applications: rows as they come, events as they arrive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from connector.control_plane.inbox import INBOX
from connector.errors import ConnectorError
from connector.ports import EventBus
from connector.web import render

NDJSON = "application/x-ndjson"
POLL_SECONDS = 1.0


def json_lines(lines: AsyncIterator[Mapping[str, Any]]) -> StreamingResponse:
    """One line each; an error on the way is the last line, since the status has been sent."""

    async def encoded() -> AsyncIterator[bytes]:
        try:
            async for line in lines:
                # a lone surrogate, which a peer may send, becomes the escape it came as
                yield json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        except ConnectorError as error:
            retryable = bool(getattr(error, "retryable", False))
            failure = {"error": {"code": error.code, "detail": error.message, "retryable": retryable}}
            yield json.dumps(failure).encode() + b"\n"

    return StreamingResponse(encoded(), media_type=NDJSON, headers={"Cache-Control": "no-store"})


class Subscriptions:
    """Our applications' view of what other participants pushed."""

    def __init__(self, bus: EventBus, new_id: Callable[[], str]) -> None:
        self._bus = bus
        self._new_id = new_id

    async def follow(self, group: str, *, from_latest: bool) -> AsyncIterator[Mapping[str, Any]]:
        """Each event once per group, committed when the next one is asked for; no group: for this call only.

        The first line says that the subscription stands, so that nothing after it is missed. A line
        `alive` comes every second, so that a reader notices a connection that died.
        """
        async with self._bus.subscribe(INBOX, group or self._new_id()) as subscription:
            while from_latest and (passed := await subscription.poll(timeout_seconds=0)):
                await subscription.commit(passed[-1].offset)
            yield {"type": "subscribed"}
            while True:
                batch = await subscription.poll(timeout_seconds=POLL_SECONDS)
                for delivered in batch:
                    yield render.event(delivered.event)
                    await subscription.commit(delivered.offset)
                if not batch:
                    yield {"type": "alive"}
