"""Answers of any length whose end can be told.

An error before the first chunk is answered as one. Behind it, HTTP has no word for "this is not all" but
silence: the answer ends without its last chunk, the connection with it, and every client sees a body that is
not complete (RFC 9112 §8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from connector.errors import ConnectorError
from connector.web.leaving import disconnected

_log = logging.getLogger(__name__)

Cancel = Callable[[], object]
"""Ends the task that writes, and so its pending write."""

OpenStream = Callable[[Cancel], AbstractAsyncContextManager[tuple[str, AsyncIterator[bytes]]]]
"""The media type and the chunks, for as long as they are written; left early when the client leaves."""


class Streamed(Response):
    """Writes the stream itself, so that it can be cut while a slow reader holds up a write."""

    def __init__(self, open_stream: OpenStream) -> None:
        super().__init__()
        self._open_stream = open_stream

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({writer, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            writer.cancel()
            await asyncio.gather(gone, writer, return_exceptions=True)
        if not writer.cancelled() and (error := writer.exception()):
            raise error

    async def _write(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        started = False
        try:
            async with self._open_stream(task.cancel) as (media_type, chunks):
                first = await anext(chunks, b"")
                await send({"type": "http.response.start", "status": 200, "headers": _headers(media_type)})
                started = True
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except ConnectorError as error:
            if not started:
                raise
            _log.info("an answer was cut: %s", error.code)
            return  # without the last chunk: the server ends the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(media_type: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", media_type.encode("latin-1")),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
