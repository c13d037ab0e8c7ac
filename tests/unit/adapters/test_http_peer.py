"""HttpPeer against hostile addresses and peers: nothing inwards is called, nothing broken is believed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from connector.adapters.http_peer import HttpPeer
from connector.errors import PeerError, PeerProtocolError, PeerUnreachable

TIMEOUT_SECONDS = 0.5

# --- addresses (SSRF) -------------------------------------------------------------------------------------

INWARDS = (
    # IPv4 in all spellings that a resolver takes
    *("http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/"),
    *("http://127.0.1/", "http://0/", "http://0.0.0.0/", "http://017700000001/", "http://127.000.000.001/"),
    *("http://10.0.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://169.254.169.254/"),
    *("http://100.100.100.200/", "http://198.18.0.1/", "http://192.0.2.1/", "http://203.0.113.1/"),
    *("http://240.0.0.1/", "http://255.255.255.255/", "http://239.255.255.250/", "http://192.0.0.1/"),
    # IPv6, and IPv4 within it
    *("http://[::]/", "http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::127.0.0.1]/"),
    *("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::ffff:169.254.169.254]/"),
    *("http://[::ffff:0:127.0.0.1]/", "http://[64:ff9b::169.254.169.254]/", "http://[64:ff9b:1::7f00:1]/"),
    *("http://[2002:7f00:1::]/", "http://[2001:0:7f00:1::]/", "http://[fe80::1]/", "http://[fe80::1%25lo]/"),
    *("http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fec0::1]/", "http://[ff02::1]/"),
    *("http://[2001:db8::1]/", "http://[100::1]/"),
    # names of this machine, and digits that are none to the eye
    *("http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://127.0.0.1./"),
    *("http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://loc\u00adalhost/"),
)

NO_ADDRESS = (
    *("http://kela.example:99999/", "http://kela.example:-1/", "http://kela.example:80:80/", "http://:80/"),
    *(
        "http://kela.example:8o/",
        "http:///x",
        "http://",
        "//kela.example/",
        "kela.example",
        "http:kela.example",
    ),
    *("http://kela.example@127.0.0.1/", "http://a:b@kela.example/", "http://@kela.example/"),
    *("ftp://kela.example/", "file:///etc/passwd", "gopher://kela.example/", "unix:///run/x.sock"),
    *("javascript:alert(1)", "http+unix://kela.example/", "HTTPS+x://kela.example/"),
    *(
        "http://[::1",
        "http://::1/",
        "http://[kela.example]/",
        "http://ke la.example/",
        "http://kela\n.example/",
    ),
    *("http://kela.example\x00/", "http://%6bela.example/%", "http://kela..example/", "http://" + "a" * 300),
)


@pytest.fixture
async def peer() -> AsyncIterator[HttpPeer]:
    client = HttpPeer()
    yield client
    await client.close()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where something tried to connect; nothing gets through."""
    tried: list[Any] = []

    async def connect(_loop: Any, _sock: Any, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    return tried


@pytest.mark.parametrize("url", INWARDS)
async def test_no_spelling_of_an_inner_address_is_called(
    peer: HttpPeer, url: str, connections: list[Any]
) -> None:
    """Protocol, bad input: SSRF. Refused, or resolved to nothing on this machine: no connection is made."""
    with pytest.raises(PeerError):
        await peer.request("GET", url, timeout_seconds=5)
    assert connections == []


@pytest.mark.parametrize("url", NO_ADDRESS)
async def test_what_is_no_plain_address_is_not_called(
    peer: HttpPeer, url: str, connections: list[Any]
) -> None:
    """Schemes, userinfo, ports, brackets, control characters: a typed error, never another exception."""
    with pytest.raises(PeerError):
        await peer.request("GET", url, timeout_seconds=5)
    assert connections == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://kela.example./", "http://kela.example.evil.example/", "http://evil.example/kela.example"),
        *("http://kela.example:8080/", "http://kelá.example/", "http://kela.example%2eevil.example/"),
        *("http://ķela.example/", "http://kela。example.evil.example/", "http://evil.example#@kela.example/"),
        "http://evil.example\\@kela.example/",
    ],
)
async def test_only_exactly_the_listed_host_is_called(url: str, connections: list[Any]) -> None:
    """Settings, trust list: what merely looks like a listed host is another one."""
    peer = HttpPeer(allowed_hosts={"kela.example:80"}, allow_private=True)
    with pytest.raises(PeerError) as caught:
        await peer.request("GET", url, timeout_seconds=5)
    assert caught.value.code == "peer_address_refused"
    assert connections == []
    await peer.close()


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Each look-up gives the next of `answers`; the names that were looked up."""
    asked: list[str] = []
    left = list(answers)

    async def getaddrinfo(_loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        found = left.pop(0)
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [(families[ipaddress.ip_address(a).version], 1, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["8.8.8.8", "::1"],
        ["2001:4860:4860::8888", "::ffff:10.0.0.1"],
        ["169.254.169.254", "8.8.8.8"],
    ],
)
async def test_a_name_that_points_inwards_is_not_called_at_all(
    peer: HttpPeer, monkeypatch: pytest.MonkeyPatch, connections: list[Any], found: list[str]
) -> None:
    """One inner address among public ones is enough."""
    resolving(monkeypatch, found)
    with pytest.raises(PeerError) as caught:
        await peer.request("GET", "http://kela.example/")
    assert caught.value.code == "peer_address_refused"
    assert connections == []


async def test_the_address_that_was_checked_is_the_one_that_is_called(
    peer: HttpPeer, monkeypatch: pytest.MonkeyPatch, connections: list[Any]
) -> None:
    """DNS rebinding: the name is looked up once for a request, and the connection goes where that pointed."""
    asked = resolving(monkeypatch, ["8.8.8.8", "8.8.4.4"], ["127.0.0.1"])
    with pytest.raises(PeerUnreachable):
        await peer.request("GET", "http://kela.example/")
    assert connections == [("8.8.8.8", 80), ("8.8.4.4", 80)]
    with pytest.raises(PeerError) as caught:
        await peer.request("GET", "http://kela.example/")
    assert caught.value.code == "peer_address_refused"
    assert asked == ["kela.example", "kela.example"]


# --- answers ----------------------------------------------------------------------------------------------

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


@asynccontextmanager
async def answering(*behaviours: Behaviour) -> AsyncIterator[str]:
    """A peer that behaves so on its first connections, in order, and well on all later ones."""
    left = list(behaviours)
    writers: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await (left.pop(0) if left else well)(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


def sending(*parts: bytes, then_close: bool = True) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
        if not then_close:
            await reader.read()

    return behave


def without_end(first: bytes, drop: bytes, pause_seconds: float = 0.0) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while not writer.is_closing():
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return behave


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

BROKEN: dict[str, Behaviour] = {
    "hangs up": sending(),
    "never answers": sending(then_close=False),
    "no HTTP": sending(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "binary": sending(bytes(range(256))),
    "a status that is none": sending(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a header without colon": sending(HEAD + b"Content-Length\r\n\r\n"),
    "both lengths": sending(HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "two lengths": sending(HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nfine!"),
    "a negative length": sending(HEAD + b"Content-Length: -4\r\n\r\nfine"),
    "a length beyond any": sending(HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    "less than it said": sending(HEAD + b"Content-Length: 40\r\n\r\nfine"),
    "a chunk size that is none": sending(CHUNKED + b"zz\r\nfine\r\n0\r\n\r\n"),
    "chunks without end": sending(CHUNKED + b"4\r\nfine\r\n"),
    "half a head": sending(HEAD + b"Content-Le"),
    "only interim answers": sending(b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    "another protocol": sending(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    ),
    "compressed": sending(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nfine"),
    "compressed in transfer": sending(
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"
    ),
    "drips its head": without_end(HEAD, b"X-A: b\r\n", 0.02),
    "drips its body": without_end(HEAD + b"Content-Length: 9000\r\n\r\n", b"x", 0.02),
    "a head without end": without_end(HEAD, b"X-A: " + b"b" * 1_000 + b"\r\n"),
    "a header without end": without_end(HEAD + b"X-A: ", b"b" * 1_000),
    "interim answers without end": without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body without end": without_end(HEAD + b"\r\n", b"x" * 10_000),
    "chunks without number": without_end(CHUNKED, b"3e8\r\n" + b"x" * 1_000 + b"\r\n"),
    "trailers without end": without_end(CHUNKED + b"0\r\n", b"X-A: " + b"b" * 1_000 + b"\r\n"),
    "a trailer without end": without_end(CHUNKED + b"0\r\nX-A: ", b"b" * 10_000),
    "a chunk extension without end": without_end(CHUNKED + b"4;", b"b" * 10_000),
}


@pytest.mark.parametrize("behaviour", BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_a_typed_error_in_time(behaviour: Behaviour) -> None:
    """Protocol, bad input: a peer that answers garbage, never, slowly or hugely. What it cost is bounded, and
    the next call to it is not the worse for it."""
    peer = HttpPeer(allow_private=True)
    loop = asyncio.get_running_loop()
    async with answering(behaviour) as url:
        began = loop.time()
        with pytest.raises((PeerUnreachable, PeerProtocolError)):
            await peer.request("POST", url, content=b"", timeout_seconds=TIMEOUT_SECONDS, max_bytes=100_000)
        assert loop.time() - began < TIMEOUT_SECONDS + 1
        assert (await peer.request("GET", url, timeout_seconds=5)).body == b"fine"
    await peer.close()


ODD: dict[str, tuple[bytes, int, bytes]] = {
    "an older HTTP": (b"HTTP/1.0 200 OK\r\n\r\nfine", 200, b"fine"),
    "no length": (HEAD + b"\r\nfine", 200, b"fine"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "an interim answer first": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, b"fine"),
    "no reason": (b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\nfine", 200, b"fine"),
    "a redirect": (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 307, b""),
    "the same length twice": (HEAD + b"Content-Length: 4\r\nX: y\r\n\r\nfine", 200, b"fine"),
}


@pytest.mark.parametrize(("sent", "status", "body"), ODD.values(), ids=ODD)
async def test_an_odd_answer_is_read_for_what_it_is(sent: bytes, status: int, body: bytes) -> None:
    """Old servers, gateways, redirects that nobody follows."""
    peer = HttpPeer(allow_private=True)
    async with answering(sending(sent)) as url:
        answer = await peer.request("GET", url, timeout_seconds=5)
        assert (answer.status, answer.body) == (status, body)
    await peer.close()


@pytest.mark.parametrize("pause_seconds", [0.0, 0.05])
async def test_an_answer_that_nobody_asked_for_answers_nothing(pause_seconds: float) -> None:
    """Two answers to one request, at once or a moment later: the second is never taken for the next one's."""

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(pause_seconds)
        writer.write(OK.replace(b"fine", b"evil"))
        await reader.read()

    peer = HttpPeer(allow_private=True)
    async with answering(twice) as url:
        for _ in range(3):
            assert (await peer.request("GET", url, timeout_seconds=5)).body == b"fine"
            await asyncio.sleep(pause_seconds * 2)
    await peer.close()
