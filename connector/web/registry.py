"""The orchestrator's participant registry over HTTP: the signed trust list, and what participants may ask.

Nothing here admits anybody: an application waits for a person. New keys are taken where a key in the list
vouches for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from connector.access.registry_application import MAX_CHARS
from connector.access.trust_list import SignedTrustList
from connector.errors import ConfigurationError, ConnectorError
from connector.model.json import JsonObject
from connector.web.errors import on_connector_error, on_unforeseen
from connector.web.raw_body import raw_body

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/trust-list+jwt"


class RegistrySource(Protocol):
    """The registry's folder (`adapters.registry_files.RegistryFolder`)."""

    def signed(self) -> SignedTrustList: ...
    def public_jwks(self) -> Sequence[Mapping[str, Any]]: ...


class Desk(Protocol):
    """Where applications are received (`adapters.registry_desk`). Both raise ConnectorError."""

    def receive(self, token: str) -> JsonObject: ...
    def found(self, application_id: str) -> JsonObject: ...
    def change_keys(self, participant_id: str, token: str) -> JsonObject: ...


class _Served:
    """The last good list goes on being served where the folder cannot be read: connectors judge its age."""

    def __init__(self, source: RegistrySource) -> None:
        self._source = source
        self._last = source.signed()
        self.problem = ""

    async def current(self) -> SignedTrustList:
        try:
            self._last = await asyncio.to_thread(self._source.signed)
            self.problem = ""
        except ConfigurationError as error:
            if str(error) != self.problem:
                _log.error("the trust list could not be brought up to date: %s", error)
            self.problem = str(error)
        return self._last


def registry_app(source: RegistrySource, desk: Desk) -> FastAPI:
    """Raises ConfigurationError at once where the folder has no list that can be signed."""
    served = _Served(source)
    app = FastAPI(title="Participant registry", openapi_url=None)
    app.add_exception_handler(ConnectorError, on_connector_error)
    app.add_exception_handler(Exception, on_unforeseen)

    @app.get("/trust-list")
    async def get_trust_list(request: Request) -> Response:
        current = await served.current()
        # Over content and version, not the signature: it names one list, whoever serves it.
        etag = f'"{current.content.version}-{current.digest[:32]}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if etag in _entity_tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(current.token, media_type=MEDIA_TYPE, headers=headers)

    @app.get("/jwks")
    async def get_jwks() -> Response:
        return JSONResponse({"keys": list(source.public_jwks())}, headers={"Cache-Control": "no-cache"})

    @app.post("/applications", status_code=202)
    async def apply(request: Request) -> JSONResponse:
        token = await _application(request)
        return JSONResponse(await asyncio.to_thread(desk.receive, token), status_code=202)

    @app.get("/applications/{application_id}")
    async def get_application(application_id: str) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(desk.found, application_id))

    @app.post("/participants/{participant_id}/keys")
    async def change_keys(participant_id: str, request: Request) -> JSONResponse:
        token = await _application(request)
        return JSONResponse(await asyncio.to_thread(desk.change_keys, participant_id, token))

    @app.get("/health/live")
    async def get_live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get("/health/ready")
    async def get_ready() -> Response:
        """503 while an edit of the folder cannot be signed; the last good list is served meanwhile."""
        await served.current()
        status = {"status": "failing" if served.problem else "ready"}
        return JSONResponse(status, status_code=503 if served.problem else 200)

    return app


async def _application(request: Request) -> str:
    body = await raw_body(request, MAX_CHARS)
    return body.decode("ascii", "replace").strip()


def _entity_tags(header: str) -> frozenset[str]:
    """RFC 9110 §13.1.2, weak comparison."""
    return frozenset(tag.strip().removeprefix("W/") for tag in header.split(","))
