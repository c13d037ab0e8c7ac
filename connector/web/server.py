"""The HTTP server: uvicorn, with limits on what a connection may cost before its request is there.

uvicorn itself waits for a head or a body for as long as the other side drips bytes, and takes in headers of
any length. A gateway in front holds more and speaks TLS; without one, these limits still hold.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`request_seconds`: in which a request must have arrived whole, from its first byte (the first one: from
    the connection). `head_bytes`: of request line and headers together.
    `connections`: open at once; with more, the one that has waited longest for its request is closed.
    `unread_seconds`: how long the other side may leave our answer lying; above what a stream may take, for
    a consumer may pause in it.
    """

    request_seconds: float = 20.0
    head_bytes: int = 65_536
    connections: int = 1_000
    unread_seconds: float = 180.0


def server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """No access log of its own: requests are told by the gateway's log and by the audit log."""

    class Guarded(GuardedProtocol):
        guard = Guard(limits)

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Guarded,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


@dataclass(slots=True)
class Guard:
    """What the connections of one server share: who still waits for a request, in order."""

    limits: Limits
    waiting: dict[GuardedProtocol, None] = field(default_factory=dict)


class GuardedProtocol(HttpToolsProtocol):
    """A connection is `waiting` from its opening, or from the first byte of a later request, until that
    request is there; a request that never comes costs no longer than the limit."""

    guard: Guard
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    # --- the connection ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.guard.limits.connections:
            next(iter(self.guard.waiting)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.guard.limits.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    # --- the request ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._wait()
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.guard.limits.head_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._wait()  # one that follows another in the same bytes
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arrived()
        self._in_head, self._head_bytes = True, 0

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.guard.limits.request_seconds, self._too_slow)
            self.guard.waiting[self] = None

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.guard.waiting.pop(self, None)

    def _too_slow(self) -> None:
        self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Answered only where this request has no answer yet; either way nothing more is read."""
        self._arrived()
        if self.transport.is_closing():
            return
        before = self.cycle is None or self.cycle.response_complete  # whatever was asked before is answered
        if before if self._in_head else not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
        self.transport.close()
