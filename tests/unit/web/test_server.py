"""Slow, endless and broken peers on real sockets: cut off in time, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
import uvicorn
from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from connector.web.app import App, create_app
from connector.web.server import GuardedProtocol, Limits, server

LIMITS = Limits(request_seconds=0.5, head_bytes=8_192, connections=40, unread_seconds=0.5)
SLACK_SECONDS = 1.5
"""The machine may be busy; a peer that is never cut off is still told from one that is."""

HEAD = b"POST /echo HTTP/1.1\r\nHost: kela\r\n"


class Site:
    """A server on a loopback port with the routes that these tests need."""

    def __init__(self, limits: Limits) -> None:
        self.bodies: list[bytes] = []
        router = APIRouter()
        router.add_api_route("/echo", self._echo, methods=["POST"], response_model=None)
        router.add_api_route("/refused", self._refused, methods=["POST"], response_model=None)
        router.add_api_route("/huge", self._huge, response_model=None)
        router.add_api_route("/trickle", self._trickle, response_model=None)
        app = create_app(App(routers=[router], health=self._health))
        self.server: uvicorn.Server = server(app, limits)
        self.port = 0
        self._peers: list[asyncio.StreamWriter] = []

    async def _health(self) -> dict[str, str]:
        return {}

    async def _echo(self, request: Request) -> Response:
        self.bodies.append(await request.body())
        return PlainTextResponse(f"{len(self.bodies[-1])} bytes")

    async def _refused(self) -> Response:
        return PlainTextResponse("no", status_code=401)

    async def _huge(self) -> Response:
        return PlainTextResponse("x" * 50_000_000)

    async def _trickle(self) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for _ in range(8):
                await asyncio.sleep(LIMITS.request_seconds / 4)
                yield b"alive\n"

        return StreamingResponse(lines())

    @property
    def open_connections(self) -> int:
        return len(self.server.server_state.connections)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._peers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        for writer in self._peers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, *sent: bytes) -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await self.connect()
        for part in sent:
            writer.write(part)
        with suppress(ConnectionError):
            await writer.drain()
        async with asyncio.timeout(LIMITS.request_seconds + SLACK_SECONDS):
            return await reader.read()


@asynccontextmanager
async def running(limits: Limits = LIMITS) -> AsyncIterator[Site]:
    site = Site(limits)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        site.port = listener.getsockname()[1]
        serving = asyncio.create_task(site.server.serve(sockets=[listener]))
        while not site.server.started:  # noqa: ASYNC110 - nor this
            await asyncio.sleep(0.01)
        try:
            yield site
        finally:
            await site.hang_up()
            site.server.should_exit = site.server.force_exit = True
            await serving


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


@contextmanager
def cut_off_in_time() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert LIMITS.request_seconds * 0.8 < time.monotonic() - began < LIMITS.request_seconds + SLACK_SECONDS


async def drip(site: Site, first: bytes, drop: bytes) -> bytes:
    """Send `first`, then `drop` every few milliseconds for as long as the server lets us; what it said."""
    reader, writer = await site.connect()
    writer.write(first)
    answer = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(LIMITS.request_seconds + SLACK_SECONDS):
            while not answer.done():
                with suppress(ConnectionError):
                    writer.write(drop)
                    await writer.drain()
                await asyncio.sleep(0.03)
            return await answer
    except ConnectionError:
        return b""


DRIPS: dict[str, tuple[bytes, bytes]] = {
    "nothing at all": (b"", b""),
    "empty lines": (b"", b"\r\n"),
    "request line": (b"POST /echo", b"o"),
    "headers": (HEAD, b"X-A: b\r\n"),
    "one header": (HEAD + b"X-A: ", b"b"),
    "body": (HEAD + b"Content-Length: 9000\r\n\r\n", b"{"),
    "chunked body": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n"),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
    "a body that waits for 100": (HEAD + b"Content-Length: 9000\r\nExpect: 100-continue\r\n\r\n", b""),
}


@pytest.mark.parametrize(("first", "drop"), DRIPS.values(), ids=DRIPS)
async def test_a_request_that_drips_is_cut_off(site: Site, first: bytes, drop: bytes) -> None:
    """Protocol, bad input: slow-loris peer. Head and body share one time limit; 408 is worth a retry."""
    with cut_off_in_time():
        answer = await drip(site, first, drop)
    assert b"408 Request Timeout" in answer
    assert site.bodies == [], "the application saw no request"


async def test_a_body_that_drips_on_after_the_answer_is_cut_off(site: Site) -> None:
    """Refused before the body was read: the answer stands alone, and the rest is not waited for."""
    head = b"POST /refused HTTP/1.1\r\nHost: kela\r\nContent-Length: 9000\r\n\r\n"
    with cut_off_in_time():
        answer = await drip(site, head, b"{")
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"408" not in answer


async def test_headers_without_end_are_refused(site: Site) -> None:
    """uvicorn would take them all in."""
    answer = await site.ask(HEAD, *[b"X-A: " + b"b" * 1_000 + b"\r\n"] * 20)
    assert b"431 Request Header Fields Too Large" in answer


async def test_two_hundred_dripping_peers_exhaust_nothing() -> None:
    """Protocol, bad input: meanwhile everybody else is answered at once; afterwards all are gone."""
    async with running(Limits(request_seconds=1.0)) as site:
        peers = [await site.connect() for _ in range(200)]
        for number, (_, writer) in enumerate(peers):
            writer.write(HEAD if number % 2 else HEAD + b"Content-Length: 9\r\n\r\n{")
        began = time.monotonic()
        for _ in range(20):
            assert b"2 bytes" in await site.ask(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        assert time.monotonic() - began < 1.0
        for reader, _ in peers:
            assert b"408" in await reader.read()
        assert site.open_connections == 0


async def test_beyond_the_limit_of_connections_the_longest_waiting_goes() -> None:
    """More drips than connections: they push out each other, not those who ask."""
    async with running(Limits(request_seconds=30, connections=20)) as site:
        peers = [await site.connect() for _ in range(60)]
        for _, writer in peers:
            with suppress(ConnectionError):
                writer.write(b"POST")
        assert b"2 bytes" in await site.ask(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        assert site.open_connections <= 20


async def test_a_connection_that_is_used_stays(site: Site) -> None:
    """The limit is for each request: requests in time go on for longer than it."""
    reader, writer = await site.connect()
    for _ in range(6):
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n")
        await asyncio.sleep(LIMITS.request_seconds / 4)
        writer.write(b"{}")
        assert b"2 bytes" in await reader.readuntil(b"2 bytes")


async def test_requests_may_follow_one_another_without_waiting(site: Site) -> None:
    """RFC 9112 §9.3.2: pipelined requests, in one write, are answered in order."""
    one = HEAD + b"Content-Length: 1\r\n\r\n1"
    last = HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n22"
    answer = await site.ask(one + one + last)
    assert answer.count(b"200 OK") == 3
    assert site.bodies == [b"1", b"1", b"22"]


async def test_a_long_answer_is_not_cut_off(site: Site) -> None:
    """The limits are for requests: a stream runs on for as long as somebody reads it."""
    reader, writer = await site.connect()
    writer.write(b"GET /trickle HTTP/1.1\r\nHost: kela\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).count(b"alive") == 8


async def test_an_answer_that_nobody_reads_is_dropped(site: Site) -> None:
    """Else each such peer would hold a whole answer in memory for good."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.connect(("127.0.0.1", site.port))
    peer.sendall(b"GET /huge HTTP/1.1\r\nHost: kela\r\n\r\n")
    await _until(lambda: site.open_connections == 1)
    await _until(lambda: site.open_connections == 0)
    peer.close()


BROKEN: dict[str, bytes] = {
    "both lengths": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n{{{{{",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "length that is none": HEAD + b"Content-Length: 0x10\r\n\r\n",
    "length beyond any": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "chunk size that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk size beyond any": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "space before colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "folded header": HEAD + b"X-A: b\r\n c\r\n\r\n",
    "NUL in a header": HEAD + b"X-A: \x00\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no target": b"GET\r\n\r\n",
    "spaces in the target": b"GET /a b HTTP/1.1\r\n\r\n",
    "target out of ASCII": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: kela\r\n\r\n",
    "absolute target without host": b"GET http:///echo HTTP/1.1\r\nHost: kela\r\n\r\n",
    "method unknown": b"BREW /echo HTTP/1.1\r\nHost: kela\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_http_is_refused_at_the_door(
    site: Site, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9112 §6.3, §11.2: ambiguous lengths smuggle requests, so they are refused, and the connection
    closed; nothing reaches the application and nothing of it is an error of ours."""
    answer = await site.ask(sent)
    assert answer.startswith((b"HTTP/1.1 4", b"")), answer
    assert b" 5" not in answer[:12]
    assert site.bodies == []
    assert "Exception" not in caplog.text


async def test_a_length_that_is_too_short_makes_no_second_request(site: Site) -> None:
    """What is left over is the start of another request, and no good one."""
    answer = await site.ask(HEAD + b'Content-Length: 2\r\n\r\n{}"secret": 1}')
    assert site.bodies == [b"{}"]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"secret" not in answer


async def test_a_peer_that_leaves_in_the_middle_is_forgotten(site: Site) -> None:
    """Half a request and then a reset: no connection, no timer, no task stays."""
    for part in (b"POST", HEAD, HEAD + b"Content-Length: 9\r\n\r\n{", b""):
        _, writer = await site.connect()
        writer.write(part)
        await writer.drain()
        await _until(lambda: site.open_connections == 1)
        writer.transport.abort()
        await _until(lambda: site.open_connections == 0)
    await _until(lambda: not site.server.server_state.tasks)
    protocol = site.server.config.http_protocol_class
    assert issubclass(protocol, GuardedProtocol)
    assert protocol.guard.waiting == {}


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMITS.request_seconds + SLACK_SECONDS):
        while not true():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
