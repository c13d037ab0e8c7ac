"""HTTP/1.1 as a client, as little of it as calls to peers need: one request at a time on a connection, kept
alive, answers read with backpressure.

A general client costs more than all else a message costs together; this one is a parser (httptools, which the
server uses too) and a pool. It follows nothing, decodes nothing, keeps no cookies and reads no environment.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import httptools

KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which uvicorn closes an idle connection: one it just closed cannot be used again."""

MOST_CONNECTIONS = 200
MOST_IDLE = 50
MOST_HEAD_BYTES = 65_536
_UNREAD_BYTES = 32_768
"""Of a body that nobody takes: more is not read from the socket."""

_METHOD = re.compile(r"[A-Z]{1,16}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"[\x21-\x7e]+")


class WireError(Exception):
    """No answer, a broken one, or one that is not HTTP/1.1."""


class Exchange:
    """One answer as it comes in: head first, then the body in chunks."""

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self._connection = connection
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._has_head = False
        self._ended = False
        self._error: WireError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # --- for who asked ---

    async def head(self) -> None:
        while not self._has_head:
            await self._more()

    async def next_chunk(self) -> bytes:
        """b"" at the end."""
        while not self._unread:
            if self._ended:
                return b""
            await self._more()
        chunk = self._unread.popleft()
        self._unread_bytes -= len(chunk)
        return chunk

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._connection.go_on()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- for the connection ---

    @property
    def has_head(self) -> bool:
        return self._has_head

    @property
    def ended(self) -> bool:
        return self._ended

    def begin(self, status: int) -> None:
        self.status, self._has_head = status, True
        self._wake()

    def add(self, chunk: bytes) -> None:
        self._unread.append(chunk)
        self._unread_bytes += len(chunk)
        if self._unread_bytes >= _UNREAD_BYTES:
            self._connection.hold()
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: WireError) -> None:
        if not self._ended:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection to one address; `exchange` is the request under way."""

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._until_close = False
        self._reusable = False
        self._held = False
        self._head_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()

    # --- for the pool ---

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        return self.open and self._reusable

    async def ask(self, head: bytes, content: bytes) -> Exchange:
        """Send a request; the answer comes by itself."""
        assert self._transport is not None
        self.exchange = exchange = Exchange(self)
        self._parser = httptools.HttpResponseParser(self)
        self._until_close = self._reusable = False
        self._head_bytes = 0
        self._transport.write(head + content)
        await self._writable.wait()
        return exchange

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- reading no faster than the reader ---

    def hold(self) -> None:
        if not self._held and self.open:
            self._held = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def go_on(self) -> None:
        if self._held and self.open:
            self._held = False
            cast("asyncio.Transport", self._transport).resume_reading()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None or exchange.ended or self._parser is None:
            self.close()  # nobody asked
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the answer is not HTTP/1.1")
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self._fail("the answer's head is too long, or what stands beside its body")

    def eof_received(self) -> None:
        return None  # close

    def connection_lost(self, _exc: Exception | None) -> None:
        self._writable.set()
        if self.exchange is not None:
            if self._until_close and self.exchange.has_head and _exc is None:
                self.exchange.end()
            else:
                self.exchange.fail(WireError("the connection broke off"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _fail(self, why: str) -> None:
        if self.exchange is not None:
            self.exchange.fail(WireError(why))
        self.close()

    # --- httptools ---

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if not exchange.has_head:  # trailers are nobody's business
            exchange.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        exchange, parser = self.exchange, self._parser
        assert exchange is not None
        assert parser is not None
        status = parser.get_status_code()
        if 100 <= status < 200:  # the answer is yet to come
            exchange.headers.clear()
            return
        names = {name for name, _ in exchange.headers}
        self._until_close = not names & {"content-length", "transfer-encoding"}
        self._reusable = bool(parser.should_keep_alive())
        exchange.begin(status)

    def on_body(self, body: bytes) -> None:
        assert self.exchange is not None
        self._head_bytes = 0  # from here on: of extensions and trailers, which the parser would keep
        if self.exchange.ended:
            self._reusable = False
        else:
            self.exchange.add(body)

    def on_message_begin(self) -> None:
        if self.exchange is not None and self.exchange.ended:  # more than was asked for
            self._reusable = False
            self.close()

    def on_message_complete(self) -> None:
        if self.exchange is not None and self.exchange.has_head:
            self.exchange.end()


class Pool:
    """Connections to one address, and with TLS to one name there."""

    def __init__(
        self,
        address: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        server_name: str,
        options: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        self._address = address
        self._port = port
        self._tls = tls
        self._server_name = server_name
        self._options = options
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    @asynccontextmanager
    async def exchange(
        self, head: bytes, content: bytes, *, connect_seconds: float
    ) -> AsyncIterator[Exchange]:
        """The answer, its head read. Raises OSError or TimeoutError where no connection comes about,
        WireError where no answer does. Leaving before its end closes the connection."""
        async with self._room:
            connection = self._kept() or await self._connected(connect_seconds)
            in_order = False
            try:
                answer = await connection.ask(head, content)
                await answer.head()
                yield answer
                in_order = answer.ended and connection.reusable
            finally:
                if in_order:
                    self._keep(connection)
                else:
                    connection.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _kept(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - KEEPALIVE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since >= oldest:
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        connection.go_on()  # to hear of its end
        self._idle.append(connection)
        if len(self._idle) > MOST_IDLE:
            self._idle.pop(0).close()

    async def _connected(self, connect_seconds: float) -> Connection:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in self._options:
                sock.setsockopt(*option)
            async with asyncio.timeout(connect_seconds):
                await loop.sock_connect(sock, (self._address, self._port))
                _, connection = await loop.create_connection(
                    Connection,
                    sock=sock,
                    ssl=self._tls,
                    server_hostname=self._server_name if self._tls else None,
                )
        except BaseException:
            sock.close()
            raise
        return connection


def request_head(method: str, target: bytes, headers: Mapping[str, str], content: bytes | None) -> bytes:
    """Raises ValueError for what could be read as more than one request."""
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        raise ValueError("not a request line")
    lines = [f"{method} {target.decode('ascii')} HTTP/1.1"]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError("not a header")
        lines.append(f"{name}: {value}")
    if content is not None or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(content or b'')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
