"""Where EDC sends its events: its operator learns of a data address and its token by these alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.interop.data_plane import EDC
from tests.interop.ours import until
from tests.interop.serving import bound, serving, url_of


@dataclass(frozen=True, slots=True)
class Told:
    """A data address as EDC tells of it."""

    endpoint: str
    authorization: str


@dataclass
class Listener:
    url: str
    heard: list[Mapping[str, Any]] = field(default_factory=list)

    def address(self, transfer_id: str, *, other_than: str = "") -> Told:
        """The latest for this transfer, once one has come whose token is not `other_than`."""
        told: Told = until(lambda: self._latest(transfer_id, other_than), "EDC told of no new data address")
        return told

    def _latest(self, transfer_id: str, other_than: str) -> Told | None:
        for event in reversed(self.heard):
            payload = event["payload"]
            if payload["transferProcessId"] == transfer_id and payload.get("dataAddress"):
                found = payload["dataAddress"]["properties"]
                told = Told(_named(found, "endpoint"), _named(found, "authorization"))
                return told if told.authorization != other_than else None
        return None

    async def _hear(self, request: Request) -> Response:
        self.heard.append(await request.json())
        return Response()

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/", self._hear, methods=["POST"])])


@contextmanager
def running_listener() -> Iterator[Listener]:
    socket = bound()
    listener = Listener(f"{url_of(socket)}/")

    @asynccontextmanager
    async def opened() -> AsyncIterator[Starlette]:
        yield listener.app()

    with serving(opened, socket):
        yield listener


def _named(properties: Mapping[str, str], name: str) -> str:
    """EDC keeps the name as it came on the wire, or in its own namespace."""
    return properties.get(name) or properties.get(EDC + name, "")
