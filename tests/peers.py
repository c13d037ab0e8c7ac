"""The in-process twin of PeerClient: other participants as ASGI applications, with no socket in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from connector.errors import PeerProtocolError, PeerUnreachable
from connector.ports import PeerResponse

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


class InProcessPeer:
    """`connector.ports.PeerClient` over `apps`, by base URL.

    Streams for real: the application waits in `send` until its last chunk was taken, and is cancelled when
    the stream is left early (a server would let it run on and tell it `http.disconnect`). What no socket can
    do wrong it cannot show: no connection pool, no TLS, no partial writes, no checks of addresses.
    """

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = dict(apps)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_seconds: float = 10.0,
        max_bytes: int = 10_000_000,
    ) -> PeerResponse:
        host = urlsplit(url).hostname
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self.stream(method, url, headers=headers, content=content) as (start, chunks),
            ):
                body = bytearray()
                async for chunk in chunks:
                    body += chunk
                    if len(body) > max_bytes:
                        raise PeerProtocolError(f"{host} answered more than {max_bytes} bytes")
        except TimeoutError:
            raise PeerUnreachable(f"{host}: no answer in time") from None
        return PeerResponse(status=start.status, headers=start.headers, body=bytes(body))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_seconds: float = 60.0,
    ) -> AsyncIterator[tuple[PeerResponse, AsyncIterator[bytes]]]:
        exchange = _Exchange(self._app(url), _scope(method, url, headers or {}), content or b"")
        try:
            try:
                async with asyncio.timeout(timeout_seconds):
                    start = await exchange.start()
            except TimeoutError:
                raise PeerUnreachable(f"{urlsplit(url).hostname}: no answer in time") from None
            chunks = exchange.chunks(timeout_seconds)
            yield start, chunks
            await chunks.aclose()
        finally:
            await exchange.stop()

    async def close(self) -> None:
        pass

    def _app(self, url: str) -> ASGIApp:
        for base_url, app in self._apps.items():
            if url == base_url or url.startswith((f"{base_url}/", f"{base_url}?")):
                return app
        raise PeerUnreachable(f"{urlsplit(url).hostname}: no connection")


class _Exchange:
    """One request to one application, in a task of its own; messages pass one at a time."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], content: bytes) -> None:
        self._host = str(scope["server"][0])
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1)
        self._incoming: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        self._task = asyncio.ensure_future(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        # As with a server: the error is for the application's own log, the client sees a broken answer.
        with suppress(Exception):
            await app(scope, self._receive, self._messages.put)
        await self._messages.put(None)

    async def _receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop(0)
        await asyncio.Event().wait()  # no disconnect but by cancellation
        raise AssertionError

    async def start(self) -> PeerResponse:
        message = await self._messages.get()
        if message is None:
            return PeerResponse(status=500, headers={}, body=b"")
        headers: dict[str, str] = {}
        for raw_name, raw_value in message["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return PeerResponse(status=message["status"], headers=headers, body=b"")

    async def chunks(self, timeout_seconds: float) -> AsyncGenerator[bytes, None]:
        more = True
        while more:
            try:
                async with asyncio.timeout(timeout_seconds):
                    message = await self._messages.get()
            except TimeoutError:
                raise PeerUnreachable(f"{self._host}: the answer broke off") from None
            if message is None:
                raise PeerUnreachable(f"{self._host}: the answer broke off")
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def _scope(method: str, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    parts = urlsplit(url)
    named = {"host": parts.netloc, **{k.lower(): v for k, v in headers.items()}}
    path = parts.path or "/"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": parts.scheme,
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": parts.query.encode("ascii"),
        "root_path": "",
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in named.items()],
        "client": ("127.0.0.1", 0),
        "server": (parts.hostname, parts.port or 80),
        "state": {},
    }
