"""The client's HTTP/1.1: what a peer may answer, and what ends the connection (bad input: garbage)."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from connector.adapters.http_peer import HttpPeer
from connector.adapters.http_wire import MOST_HEAD_BYTES, request_head
from connector.errors import PeerError, PeerUnreachable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Answers each request with the next of `answers`, byte by byte as they stand; None hangs up."""

    def __init__(self, *answers: bytes | None, chunk: int = 1 << 20) -> None:
        self.answers = list(answers)
        self.chunk = chunk
        self.connections = 0
        self.requests: list[bytes] = []
        self.close_after = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head.lower())
                length = int(found[1]) if found else 0
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                for start in range(0, len(answer), self.chunk):
                    writer.write(answer[start : start + self.chunk])
                    await writer.drain()
                if self.close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def calling(peer: Peer) -> AsyncIterator[tuple[HttpPeer, str]]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    client = HttpPeer(allow_private=True)
    try:
        yield client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


async def test_a_connection_is_kept_and_used_again() -> None:
    """One connection for a negotiation's messages, not one each."""
    peer = Peer(OK, OK, OK)
    async with calling(peer) as (client, url):
        for _ in range(3):
            assert (await client.request("POST", url, content=b"{}")).body == b"ok"
    assert peer.connections == 1
    assert peer.requests[0].startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert peer.requests[0].endswith(b"Content-Length: 2\r\n\r\n{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake",
        OK + b"stray",
    ],
    ids=["close", "1.0", "an answer to nothing", "stray bytes"],
)
async def test_what_cannot_be_trusted_with_a_second_request_is_closed(answer: bytes) -> None:
    """Bytes that nobody asked for never become the answer to the next request."""
    peer = Peer(answer, OK)
    async with calling(peer) as (client, url):
        assert (await client.request("GET", url)).body == b"ok"
        assert (await client.request("GET", url)).body == b"ok"
    assert peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            200,
            b"abcde",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", 201, b"x"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nTrailer: t\r\n\r\n",
            200,
            b"x",
        ),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, b""),
    ],
    ids=["chunked", "no content", "continue", "trailers", "empty"],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
async def test_every_framing_is_read(answer: bytes, status: int, body: bytes, chunk: int) -> None:
    peer = Peer(answer, OK, chunk=chunk)
    async with calling(peer) as (client, url):
        response = await client.request("GET", url)
        assert (response.status, response.body) == (status, body)
        assert "trailer" not in response.headers
        assert (await client.request("GET", url)).body == b"ok"
    assert peer.connections == 1


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    peer = Peer(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    peer.close_after = True
    async with calling(peer) as (client, url):
        assert (await client.request("GET", url)).body == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MOST_HEAD_BYTES + 1),
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MOST_HEAD_BYTES // 6 + 2),
    ],
    ids=[
        "nothing",
        "another protocol",
        "zeros",
        "no status",
        "two lengths",
        "length and chunks",
        "negative",
        "no chunk",
        "half",
        "upgrade",
        "endless header",
        "endless headers",
    ],
)
async def test_garbage_is_unreachable(answer: bytes | None) -> None:
    """Bad input: a peer that answers garbage is a clean retry, and leaves nothing behind."""
    peer = Peer(answer, OK)
    peer.close_after = True
    async with calling(peer) as (client, url):
        with pytest.raises(PeerUnreachable):
            await client.request("GET", url, timeout_seconds=2)
        if not peer.answers:
            peer.answers.append(OK)
        assert (await client.request("GET", url)).body == b"ok"


async def test_an_idle_connection_that_the_peer_closed_is_not_used() -> None:
    peer = Peer(OK, OK)
    peer.close_after = True
    async with calling(peer) as (client, url):
        assert (await client.request("GET", url)).body == b"ok"
        await asyncio.sleep(0.05)
        assert (await client.request("GET", url)).body == b"ok"
    assert peer.connections == 2


async def test_a_large_body_waits_for_its_reader_and_the_connection_lives_on() -> None:
    """Backpressure ends with the body: the next request finds a connection that reads again."""
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000
    peer = Peer(big, OK)
    async with calling(peer) as (client, url):
        async with client.stream("GET", url) as (_, chunks):
            await asyncio.sleep(0.05)
            assert sum([len(chunk) async for chunk in chunks]) == 3_000_000
        assert (await client.request("GET", url)).body == b"ok"
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", b"/a b", {}),
        ("GET", b"/a\r\nX: y", {}),
        ("GET x", b"/", {}),
        ("GET", b"/", {"X": "a\r\nY: b"}),
        ("GET", b"/", {"X\r\nY": "b"}),
        ("GET", b"/", {"X": "a\x00"}),
        ("GET", b"/", {"": "a"}),
        ("GET", b"/", {"X": "\u0100"}),
    ],
)
def test_one_request_never_becomes_two(method: str, target: bytes, headers: dict[str, str]) -> None:
    """What comes from others (a pid in a path, a token) cannot end a line."""
    with pytest.raises(ValueError, match="not a"):
        request_head(method, target, headers, None)


async def test_a_token_that_would_end_a_line_is_refused() -> None:
    peer = Peer(OK)
    async with calling(peer) as (client, url):
        with pytest.raises(PeerError):
            await client.request("GET", url, headers={"Authorization": "DPoP a\r\nX: y"})
    assert peer.requests == []


async def test_a_small_receive_buffer_is_set_before_the_connection_is_made() -> None:
    """`receive_buffer_bytes`: the window is agreed on when the connection is made."""
    seen: list[int] = []
    honest: Callable[..., None] = socket.socket.setsockopt

    class Recording(socket.socket):
        def setsockopt(self, *args: int) -> None:  # type: ignore[override]
            if args[:2] == (socket.SOL_SOCKET, socket.SO_RCVBUF):
                seen.append(args[2])
            honest(self, *args)

    peer = Peer(OK)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    client = HttpPeer(allow_private=True, receive_buffer_bytes=8_192)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("connector.adapters.http_wire.socket.socket", Recording)
        port = server.sockets[0].getsockname()[1]
        assert (await client.request("GET", f"http://127.0.0.1:{port}/")).body == b"ok"
    assert seen == [8_192]
    await client.close()
    server.close()
    await server.wait_closed()
