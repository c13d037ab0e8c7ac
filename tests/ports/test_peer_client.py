"""Port PeerClient, on the in-process twin and on sockets against a real uvicorn server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn

from connector.adapters.http_peer import HttpPeer
from connector.errors import PeerError, PeerProtocolError, PeerUnreachable
from connector.ports import PeerClient
from tests.peers import InProcessPeer

CHUNK = b"x" * 65_536
CHUNKS = 4_000  # 262 MB: no buffer between the two holds that much


class Peer:
    """The other participant's application: a path per behaviour. Shared by all tests of this file."""

    def __init__(self) -> None:
        self.produced = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"].rpartition("/")[2]
        await getattr(self, f"_{name}")(scope, receive, send)

    async def _echo(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        seen = {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": {k.decode(): v.decode() for k, v in scope["headers"]},
            "body": body.decode(),
        }
        await answer(send, 200, json.dumps(seen).encode(), {"X-Seen": "yes"})

    async def _missing(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 404, b"no")

    async def _failing(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 503, b"later")

    async def _moved(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 302, b"", {"Location": "/echo"})

    async def _linked(self, scope: Any, receive: Any, send: Any) -> None:
        links = [(b"link", b'<a>; rel="previous"'), (b"link", b'<b>; rel="next"')]
        await send({"type": "http.response.start", "status": 304, "headers": links})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _large(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, b"x" * 1_000)

    async def _slow(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3)
        await answer(send, 200, b"")

    async def _stalled(self, scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.sleep(3)

    async def _long(self, scope: Any, receive: Any, send: Any) -> None:
        self.produced = 0
        await begin(send)
        for _ in range(CHUNKS):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.produced += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _three(self, scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        for part in (b"one", b"two", b"three"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _broken(self, scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError("as a crash would")

    async def _zipped(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, b"\x1f\x8b", {"Content-Encoding": "gzip"})


async def begin(send: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
    wire = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": wire})


async def answer(send: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    await begin(send, status, {"Content-Length": str(len(body)), **(headers or {})})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@pytest.fixture(scope="module")
def app() -> Peer:
    return Peer()


@pytest.fixture(scope="module")
def server(app: Peer) -> Iterator[str]:
    """A real server on a free loopback port, in a thread."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", ws="none", log_level="critical", timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(5)


class PeerClientContract:
    """What every PeerClient does. Subclasses say which, and where the peer is."""

    @pytest.fixture
    def base_url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def peer(self, base_url: str, app: Peer) -> PeerClient:
        raise NotImplementedError

    async def test_a_request_arrives_as_it_was_sent(self, peer: PeerClient, base_url: str) -> None:
        response = await peer.request(
            "POST",
            f"{base_url}/a%2Fb/echo?q=%C3%A4",
            headers={"Authorization": "DPoP t", "Content-Type": "application/json"},
            content=b"{}",
        )
        seen = json.loads(response.body)
        assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/a%2Fb/echo", "q=%C3%A4")
        assert seen["headers"]["authorization"] == "DPoP t"
        assert seen["headers"]["host"] == base_url.removeprefix("http://")
        assert seen["body"] == "{}"

    async def test_header_names_come_in_lower_case(self, peer: PeerClient, base_url: str) -> None:
        response = await peer.request("GET", f"{base_url}/echo")
        assert response.headers["x-seen"] == "yes"

    @pytest.mark.parametrize(
        ("path", "status", "body"), [("missing", 404, b"no"), ("failing", 503, b"later")]
    )
    async def test_any_status_is_an_answer(
        self, peer: PeerClient, base_url: str, path: str, status: int, body: bytes
    ) -> None:
        response = await peer.request("GET", f"{base_url}/{path}")
        assert (response.status, response.body) == (status, body)

    async def test_a_redirect_is_not_followed(self, peer: PeerClient, base_url: str) -> None:
        """A peer must not choose where our tokens go."""
        assert (await peer.request("GET", f"{base_url}/moved")).status == 302

    async def test_a_field_that_comes_twice_is_one_list(self, peer: PeerClient, base_url: str) -> None:
        """RFC 9110 §5.3, DSP 2025-1 §5: `Link` may; on a 304 too, which has no body and no length."""
        for _ in range(2):
            answer = await peer.request("GET", f"{base_url}/linked", timeout_seconds=2)
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["link"] == '<a>; rel="previous", <b>; rel="next"'

    async def test_an_answer_is_read_up_to_the_cap(self, peer: PeerClient, base_url: str) -> None:
        assert len((await peer.request("GET", f"{base_url}/large", max_bytes=1_000)).body) == 1_000
        with pytest.raises(PeerProtocolError):
            await peer.request("GET", f"{base_url}/large", max_bytes=999)
        with pytest.raises(PeerProtocolError):
            await peer.request("GET", f"{base_url}/long", max_bytes=1_000_000)

    async def test_silence_is_unreachable(self, peer: PeerClient, base_url: str) -> None:
        with pytest.raises(PeerUnreachable):
            await peer.request("GET", f"{base_url}/slow", timeout_seconds=0.2)
        with pytest.raises(PeerUnreachable):
            await peer.request("GET", f"{base_url}/stalled", timeout_seconds=0.2)
        with pytest.raises(PeerUnreachable):
            async with peer.stream("GET", f"{base_url}/slow", timeout_seconds=0.2):
                pass

    async def test_nobody_there_is_unreachable(self, peer: PeerClient) -> None:
        with pytest.raises(PeerUnreachable) as caught:
            await peer.request("GET", "http://127.0.0.1:1/secret?token=x")
        assert "127.0.0.1" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "token" not in str(caught.value)

    async def test_a_stream_gives_headers_first_then_chunks(self, peer: PeerClient, base_url: str) -> None:
        async with peer.stream("GET", f"{base_url}/three") as (start, chunks):
            assert (start.status, start.body) == (200, b"")
            assert b"".join([chunk async for chunk in chunks]) == b"onetwothree"

    async def test_a_stream_waits_for_its_reader(self, peer: PeerClient, base_url: str, app: Peer) -> None:
        """Backpressure: the peer stops producing while nobody reads."""
        async with peer.stream("GET", f"{base_url}/long") as (_, chunks):
            await anext(chunks)
            await asyncio.sleep(0.3)
            waiting = app.produced
            await asyncio.sleep(0.2)
            assert app.produced == waiting < CHUNKS

    async def test_leaving_a_stream_stops_the_peer(self, peer: PeerClient, base_url: str, app: Peer) -> None:
        async with peer.stream("GET", f"{base_url}/long") as (_, chunks):
            await anext(chunks)
        # The same client goes on working: nothing is left in a pool half read.
        assert (await peer.request("GET", f"{base_url}/large")).status == 200

    async def test_a_broken_stream_is_unreachable(self, peer: PeerClient, base_url: str) -> None:
        async with peer.stream("GET", f"{base_url}/broken") as (_, chunks):
            assert await anext(chunks) == b"half"
            with pytest.raises(PeerUnreachable):
                await anext(chunks)
        with pytest.raises(PeerUnreachable):
            await peer.request("GET", f"{base_url}/broken")

    async def test_a_stalled_stream_is_unreachable(self, peer: PeerClient, base_url: str) -> None:
        async with peer.stream("GET", f"{base_url}/stalled", timeout_seconds=0.3) as (_, chunks):
            assert await anext(chunks) == b"first"
            with pytest.raises(PeerUnreachable):
                await anext(chunks)


class TestInProcessPeer(PeerClientContract):
    @pytest.fixture
    def base_url(self) -> str:
        return "http://kela.example"

    @pytest.fixture
    def peer(self, base_url: str, app: Peer) -> PeerClient:
        return InProcessPeer({base_url: app})


class TestHttpPeer(PeerClientContract):
    @pytest.fixture
    def base_url(self, server: str) -> str:
        return server

    @pytest.fixture
    async def peer(self, base_url: str, app: Peer) -> AsyncIterator[PeerClient]:
        peer = HttpPeer(allow_private=True)
        yield peer
        await peer.close()

    async def test_an_answer_that_would_unfold_is_refused(self, peer: PeerClient, base_url: str) -> None:
        """Identity encoding is asked for; a compressed answer could be of any size."""
        with pytest.raises(PeerProtocolError):
            await peer.request("GET", f"{base_url}/zipped")
        seen = json.loads((await peer.request("GET", f"{base_url}/echo")).body)
        assert seen["headers"]["accept-encoding"] == "identity"

    async def test_the_environment_has_no_say(
        self, base_url: str, app: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No proxy and no .netrc that a variable could smuggle in."""
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        peer = HttpPeer(allow_private=True)
        assert (await peer.request("GET", f"{base_url}/large")).status == 200
        await peer.close()

    async def test_a_name_is_resolved_and_kept(self, base_url: str) -> None:
        """The connection goes to the checked address; the Host header keeps the name."""
        peer = HttpPeer(allow_private=True)
        port = base_url.rpartition(":")[2]
        seen = json.loads((await peer.request("GET", f"http://localhost:{port}/echo")).body)
        assert seen["headers"]["host"] == f"localhost:{port}"
        await peer.close()


PRIVATE = [
    "http://127.0.0.1/",
    "http://127.1.2.3:8080/",
    "http://10.0.0.1/",
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/",
    "http://0.0.0.0/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://localhost/",
    "https://localhost:8443/",
]


@pytest.mark.parametrize("url", PRIVATE)
async def test_private_addresses_are_not_called(url: str) -> None:
    """Addresses come from others: without leave, none of ours is called (SSRF)."""
    peer = HttpPeer()
    with pytest.raises(PeerError) as caught:
        await peer.request("GET", url)
    assert caught.value.code == "peer_address_refused"
    await peer.close()


@pytest.mark.parametrize(
    "url", ["ftp://kela.example/", "file:///etc/passwd", "http://a:b@kela.example/", "kela", ""]
)
async def test_only_plain_http_urls_are_called(url: str) -> None:
    peer = HttpPeer(allow_private=True)
    with pytest.raises(PeerError) as caught:
        await peer.request("GET", url)
    assert caught.value.code == "peer_address_refused"
    await peer.close()


async def test_only_listed_hosts_are_called(server: str) -> None:
    """By host, or by host and port; looked up at each call, so the list may change."""
    allowed: set[str] = set()
    peer = HttpPeer(allowed_hosts=allowed, allow_private=True)
    with pytest.raises(PeerError):
        await peer.request("GET", f"{server}/large")
    for entry in ("127.0.0.1", server.removeprefix("http://")):
        allowed.add(entry)
        assert (await peer.request("GET", f"{server}/large")).status == 200
        allowed.clear()
    allowed.add("127.0.0.1:1")
    with pytest.raises(PeerError):
        await peer.request("GET", f"{server}/large")
    await peer.close()


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    peer = HttpPeer()
    with pytest.raises(PeerUnreachable):
        await peer.request("GET", "http://nobody.invalid/")
    await peer.close()
