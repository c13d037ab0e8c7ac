"""HTTP to other participants, on httpx: no redirects, no proxies from the environment, sizes capped.

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
from collections.abc import AsyncGenerator, AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager

import httpx

from connector.errors import PeerError, PeerProtocolError, PeerUnreachable
from connector.ports import PeerResponse

_CONNECT_SECONDS = 5.0
_KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which uvicorn closes an idle connection: one it just closed cannot be used again."""

_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=50, keepalive_expiry=_KEEPALIVE_SECONDS)
_EMBEDDED_V4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))
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
        self._clients: dict[tuple[str, str, int], httpx.AsyncClient] = {}

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
            async with asyncio.timeout(timeout_seconds):
                response = await self._send(method, target, headers, content, timeout_seconds)
                try:
                    body = await _read_capped(response, max_bytes, target)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _unreachable(target, "no answer in time") from None
        return PeerResponse(status=response.status_code, headers=_headers(response), body=body)

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
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._send(method, target, headers, content, timeout_seconds)
        except TimeoutError:
            raise _unreachable(target, "no answer in time") from None
        chunks = _chunks(response, target)
        try:
            start = PeerResponse(status=response.status_code, headers=_headers(response), body=b"")
            yield start, chunks
        finally:
            await chunks.aclose()
            await response.aclose()

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

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

    def _client(self, target: httpx.URL) -> httpx.AsyncClient:
        """One pool per host: connections are made to addresses, and one that was proved by TLS to lead to
        one host must never carry requests to another at the same address."""
        key = (target.scheme, target.host, _port(target))
        if key not in self._clients:
            self._clients[key] = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(
                    verify=self._tls, trust_env=False, limits=_LIMITS, socket_options=self._options
                ),
                follow_redirects=False,
                trust_env=False,
                # Compressed answers could unfold to any size between two looks at the cap.
                headers={"Accept-Encoding": "identity", "User-Agent": "dataspace-connector"},
            )
        return self._clients[key]

    async def _send(
        self,
        method: str,
        target: httpx.URL,
        headers: Mapping[str, str] | None,
        content: bytes | None,
        timeout_seconds: float,
    ) -> httpx.Response:
        """Try the checked addresses in turn, for as long as no connection comes about."""
        client = self._client(target)
        timeout = httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        for address in await self._addresses(target):
            request = client.build_request(
                method,
                target.copy_with(host=address),
                # The name stays in the Host header and in TLS, where the certificate is checked against it.
                headers={**(headers or {}), "Host": target.netloc.decode("ascii")},
                content=content,
                timeout=timeout,
                extensions={"sni_hostname": target.host},
            )
            try:
                return await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except httpx.HTTPError as error:
                raise _unreachable(target, "no answer") from error
        raise _unreachable(target, "no connection")

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
    except OSError:
        raise _unreachable(target, "its name does not resolve") from None
    return [ipaddress.ip_address(address[0]) for *_, address in found]


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _public(address.ipv4_mapped)
        if any(address in network for network in _EMBEDDED_V4):
            return False  # a gateway would turn it into an IPv4 address nobody checked
    return address.is_global and not (address.is_multicast or address.is_reserved)


async def _read_capped(response: httpx.Response, max_bytes: int, target: httpx.URL) -> bytes:
    body = bytearray()
    async for chunk in _chunks(response, target):
        body += chunk
        if len(body) > max_bytes:
            raise PeerProtocolError(f"{target.host} answered more than {max_bytes} bytes")
    return bytes(body)


async def _chunks(response: httpx.Response, target: httpx.URL) -> AsyncGenerator[bytes, None]:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise PeerProtocolError(f"{target.host} answered in an encoding that was not asked for")
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        raise _unreachable(target, "the answer broke off") from error


def _port(target: httpx.URL) -> int:
    return target.port or _DEFAULT_PORTS[target.scheme]


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _unreachable(target: httpx.URL, what: str) -> PeerUnreachable:
    return PeerUnreachable(f"{target.host}: {what}", mend="It is tried again later where that makes sense.")


def _refused(target: httpx.URL, why: str) -> PeerError:
    return PeerError(
        f"{target.host} {why}",
        mend="Check the address in the trust list, and `peer_private_addresses` in the settings.",
        code="peer_address_refused",
    )
