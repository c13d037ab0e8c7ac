"""HTTP to other participants: no redirects, no proxies from the environment, sizes capped.

Addresses come from others (a trust list, a callback address in a message), so each is checked before a
connection is made: first the host against the list of allowed ones, then every address its name resolves to;
the connection goes to the address that was checked, so the name cannot point elsewhere a moment later.
Error texts name the host and nothing else of the URL.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Container, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from connector.adapters.http_wire import Exchange, Pool, WireError, request_head
from connector.errors import PeerError, PeerProtocolError, PeerUnreachable
from connector.ports import PeerResponse

_CONNECT_SECONDS = 5.0
_OURS: Mapping[str, str] = {
    "Accept": "*/*",
    # Compressed answers could unfold to any size between two looks at the cap.
    "Accept-Encoding": "identity",
    "User-Agent": "dataspace-connector",
}
_EMBEDDED_V4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))
_ASKED_FOR = {"content-encoding": "identity", "transfer-encoding": "chunked"}
_DEFAULT_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HttpPeer:
    """`connector.ports.PeerClient`. Response headers have lower-case names.

    `allowed_hosts`: `host` or `host:port`, lower case, looked up at each call; None allows every host.
    `receive_buffer_bytes`: the kernel's, per connection; 0 leaves it to the kernel. What it holds has left
    the provider and reached nobody: a small one bounds what a stop comes too late for.
    `allow_private`: whether hosts may be at loopback, private or other not globally reachable addresses.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Container[str] | None = None,
        allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int = 0,
    ) -> None:
        self._allowed_hosts = allowed_hosts
        self._allow_private = allow_private
        self._tls = tls if tls is not None else ssl.create_default_context()
        self._options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)] * bool(
            receive_buffer_bytes
        )
        self._pools: dict[tuple[str, str, int, str], Pool] = {}

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
        """`timeout_seconds` is for all of it."""
        target = self._parse(url)
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._sent(method, target, headers, content) as answer,
            ):
                body = await _read_capped(answer, max_bytes, target)
        except TimeoutError:
            raise _unreachable(target, "no answer in time") from None
        return PeerResponse(status=answer.status, headers=_joined(answer.headers), body=body)

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
        """`timeout_seconds` is for the headers, then for each chunk. Leaving early closes the connection."""
        target = self._parse(url)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(timeout_seconds):
                    answer = await stack.enter_async_context(self._sent(method, target, headers, content))
            except TimeoutError:
                raise _unreachable(target, "no answer in time") from None
            chunks = _chunks(answer, target, timeout_seconds)
            stack.push_async_callback(chunks.aclose)
            yield PeerResponse(status=answer.status, headers=_joined(answer.headers), body=b""), chunks

    async def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _parse(self, url: str) -> httpx.URL:
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            raise PeerError("an address of a peer is not a URL", code="peer_address_refused") from None
        if target.scheme not in _DEFAULT_PORTS or not target.host or target.userinfo:
            raise PeerError("an address of a peer is not plain http(s)", code="peer_address_refused")
        if self._allowed_hosts is not None:
            authority = f"{target.host}:{_port(target)}"
            if target.host not in self._allowed_hosts and authority not in self._allowed_hosts:
                raise _refused(target, "is not among the hosts that may be called")
        return target

    @asynccontextmanager
    async def _sent(
        self, method: str, target: httpx.URL, headers: Mapping[str, str] | None, content: bytes | None
    ) -> AsyncIterator[Exchange]:
        """Try the checked addresses in turn, for as long as no connection comes about."""
        # The name stays in the Host header and in TLS, where the certificate is checked against it.
        sent = {"Host": target.netloc.decode("ascii"), **_OURS, **(headers or {})}
        try:
            head = request_head(method, target.raw_path, sent, content)
        except ValueError:
            raise PeerError("a request to a peer is not HTTP", code="peer_address_refused") from None
        for address in await self._addresses(target):
            exchange = self._pool(target, address).exchange(
                head, content or b"", connect_seconds=_CONNECT_SECONDS
            )
            try:
                answer = await exchange.__aenter__()
            except (OSError, TimeoutError):
                continue
            except WireError as error:
                raise _unreachable(target, "no answer") from error
            try:
                yield answer
            except BaseException:
                await exchange.__aexit__(*sys.exc_info())
                raise
            await exchange.__aexit__(None, None, None)
            return
        raise _unreachable(target, "no connection")

    def _pool(self, target: httpx.URL, address: str) -> Pool:
        """By host too: a connection that was proved by TLS to lead to one host must never carry requests to
        another at the same address."""
        key = (target.scheme, target.host, _port(target), address)
        if key not in self._pools:
            self._pools[key] = Pool(
                address,
                key[2],
                tls=self._tls if target.scheme == "https" else None,
                server_name=target.host,
                options=self._options,
            )
        return self._pools[key]

    async def _addresses(self, target: httpx.URL) -> list[str]:
        found = await _resolve(target)
        if not self._allow_private and not all(_public(address) for address in found):
            # One bad address among good ones is enough: a name that points inwards is not to be called.
            raise _refused(target, "is at an address that may not be called")
        return [str(address) for address in found]


async def _resolve(target: httpx.URL) -> list[Address]:
    try:
        return [ipaddress.ip_address(target.host)]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.raw_host.decode("ascii"), _port(target), type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):  # UnicodeError: a label that is empty or too long
        raise _unreachable(target, "its name does not resolve") from None
    return [ipaddress.ip_address(address[0]) for *_, address in found]


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _public(address.ipv4_mapped)
        if address.is_site_local or any(address in network for network in _EMBEDDED_V4):
            return False  # a gateway would turn it into an IPv4 address nobody checked
    return address.is_global and not (address.is_multicast or address.is_reserved)


async def _read_capped(answer: Exchange, max_bytes: int, target: httpx.URL) -> bytes:
    body = bytearray()
    async for chunk in _chunks(answer, target):
        body += chunk
        if len(body) > max_bytes:
            raise PeerProtocolError(f"{target.host} answered more than {max_bytes} bytes")
    return bytes(body)


async def _chunks(
    answer: Exchange, target: httpx.URL, timeout_seconds: float | None = None
) -> AsyncGenerator[bytes, None]:
    if any(value.lower() != _ASKED_FOR[name] for name, value in answer.headers if name in _ASKED_FOR):
        raise PeerProtocolError(f"{target.host} answered in an encoding that was not asked for")
    try:
        while True:
            async with asyncio.timeout(timeout_seconds):
                chunk = await answer.next_chunk()
            if not chunk:
                return
            yield chunk
    except WireError as error:
        raise _unreachable(target, "the answer broke off") from error
    except TimeoutError:
        raise _unreachable(target, "the answer stalled") from None


def _port(target: httpx.URL) -> int:
    return target.port or _DEFAULT_PORTS[target.scheme]


def _unreachable(target: httpx.URL, what: str) -> PeerUnreachable:
    return PeerUnreachable(f"{target.host}: {what}", mend="It is tried again later where that makes sense.")


def _refused(target: httpx.URL, why: str) -> PeerError:
    return PeerError(
        f"{target.host} {why}",
        mend="Check the address in the trust list, and `peer_private_addresses` in the settings.",
        code="peer_address_refused",
    )


def _joined(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A field that comes more than once is one list (RFC 9110 §5.3): a `Link` may."""
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
