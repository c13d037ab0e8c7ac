"""A small data plane for EDC: it hands out addresses with a token each, and bytes to who brings the token.

EDC tells a data plane what to do by HTTP (Data Plane Signaling): `/start`, `/{flow}/suspend`,
`/{flow}/terminate`. Started again after a suspension, a flow gets a new token.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.interop.serving import bound, serving, url_of

EDC = "https://w3id.org/edc/v0.0.1/ns/"
DSPACE = "https://w3id.org/dspace/v0.8/"
HTTP_ENDPOINT = "https://w3id.org/idsa/v4.1/HTTP"
TRANSFER_TYPE = "HttpData-PULL"


@dataclass
class DataPlane:
    """`assets`: what the bytes of each are. `heard`: what EDC asked for, in order."""

    base_url: str
    assets: Mapping[str, bytes]
    tokens: dict[str, str] = field(default_factory=dict)
    """Of a flow that is open -> its token."""
    datasets: dict[str, str] = field(default_factory=dict)
    heard: list[tuple[str, str]] = field(default_factory=list)

    @property
    def signaling_url(self) -> str:
        return f"{self.base_url}/dataflows"

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/dataflows/check", self._check),
                Route("/dataflows/start", self._start, methods=["POST"]),
                Route("/dataflows/{flow}/{step}", self._stop, methods=["POST"]),
                Route("/data/{flow}", self._read),
            ]
        )

    async def _check(self, _request: Request) -> Response:
        return Response()

    async def _start(self, request: Request) -> Response:
        message = await request.json()
        flow, asset = str(message["processId"]), str(message["datasetId"])
        self.heard.append(("start", flow))
        if asset not in self.assets:
            return Response(status_code=404)
        self.tokens[flow], self.datasets[flow] = secrets.token_urlsafe(), asset
        return JSONResponse(
            _response(
                endpoint=f"{self.base_url}/data/{flow}", authorization=self.tokens[flow], authType="bearer"
            )
        )

    async def _stop(self, request: Request) -> Response:
        flow, step = request.path_params["flow"], request.path_params["step"]
        self.heard.append((step, flow))
        self.tokens.pop(flow, None)
        return Response()

    async def _read(self, request: Request) -> Response:
        flow = request.path_params["flow"]
        token = self.tokens.get(flow)
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is None or not secrets.compare_digest(sent, token):
            return Response(status_code=403)
        return Response(self.assets[self.datasets[flow]], media_type="application/octet-stream")


@contextmanager
def running_data_plane(assets: Mapping[str, bytes]) -> Iterator[DataPlane]:
    listener = bound()
    plane = DataPlane(url_of(listener), assets)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Starlette]:
        yield plane.app()

    with serving(opened, listener):
        yield plane


def _response(**properties: str) -> Mapping[str, Any]:
    """EDC's own JSON-LD: a data address is a type and a list of properties, the endpoint among them."""
    return {
        "@context": {"@vocab": EDC, "dspace": DSPACE},
        "@type": "DataFlowResponseMessage",
        "dataAddress": {
            "@type": "dspace:DataAddress",
            "dspace:endpointType": HTTP_ENDPOINT,
            "dspace:endpointProperties": [
                {"@type": "dspace:EndpointProperty", "dspace:name": EDC + name, "dspace:value": value}
                for name, value in properties.items()
            ],
        },
    }


def main(assets: Sequence[str]) -> None:
    """`python -m tests.interop.data_plane ASSET ...`: its URL on standard output, then until standard input
    closes. For measurements, where it must take nothing from the load."""
    with running_data_plane(dict.fromkeys(assets, b"")) as plane:
        print(plane.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
