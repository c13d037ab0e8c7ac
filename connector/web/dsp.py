"""DSP 2025-1 over HTTPS (§4 to §10): parse, call one use case, render. Nothing is decided here.

Every route exists with and without a trailing slash. Errors are the protocol's own typed bodies; FastAPI
validates nothing here, so its 422 cannot occur.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from connector.control_plane.catalog import CONTINUATION, Catalogs, Served
from connector.control_plane.negotiation import Negotiations
from connector.control_plane.signatures import AgreementSignatures
from connector.control_plane.transfer import Transfers
from connector.dsp.messages import (
    BASE_PATH,
    CatalogError,
    CatalogRequestMessage,
    ContractAgreementMessage,
    ContractAgreementVerificationMessage,
    ContractNegotiationAck,
    ContractNegotiationError,
    ContractNegotiationEventMessage,
    ContractNegotiationTerminationMessage,
    ContractOfferMessage,
    ContractRequestMessage,
    Message,
    NegotiationMessage,
    TransferCompletionMessage,
    TransferError,
    TransferMessage,
    TransferProcessAck,
    TransferRequestMessage,
    TransferStartMessage,
    TransferSuspensionMessage,
    TransferTerminationMessage,
    parse,
    version_document,
)
from connector.dsp.wire import read_json
from connector.errors import (
    Conflict,
    ConnectorError,
    MessageInvalid,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RequestInvalid,
    Unavailable,
)
from connector.model.json import JsonObject
from connector.model.participant import Participant
from connector.web.direct import plain
from connector.web.errors import challenge
from connector.web.representations import Compressed, represent

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000
RETRY_AFTER_SECONDS = 1

Authenticate = Callable[[Request], Awaitable[Participant]]
"""Who asks, proved. Raises NotAuthenticated."""

# Looked up along the class hierarchy, nearest first. An illegal transition is 400: peers take a 404 for an
# unknown process, and a 403 would say that it exists.
STATUS: Mapping[type[ConnectorError], int] = {
    RequestInvalid: 400,
    NotAuthenticated: 401,
    NotPermitted: 404,
    NotFound: 404,
    Conflict: 400,
    Unavailable: 503,
}

M = TypeVar("M", bound=Message)
Handler = Callable[[Request, Participant], Awaitable[Response]]
RenderError = Callable[[str, str, list[str], Mapping[str, Any]], JsonObject]
"""Of code, path pid, reasons and the body as far as it could be read: the typed error."""


def dsp_router(
    *,
    catalogs: Catalogs,
    negotiations: Negotiations,
    transfers: Transfers,
    signatures: AgreementSignatures,
    authenticate: Authenticate,
    service_id: str,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> APIRouter:
    """Routes under /dsp/2025-1, and the version document, which is open to everybody."""
    router = APIRouter(tags=["dsp"])
    routes = _Routes(router, authenticate, max_body_bytes)
    _add_version(router, service_id)
    _add_catalog(routes, catalogs)
    _add_negotiations(routes, negotiations)
    _add_transfers(routes, transfers)
    _add_signatures(routes, signatures)
    return router


def _add_version(router: APIRouter, service_id: str) -> None:
    async def version(_request: Request) -> Response:
        return JSONResponse(version_document(service_id))

    _add(router, "GET", "/.well-known/dspace-version", version)


def _add_catalog(routes: _Routes, catalogs: Catalogs) -> None:
    compressed = Compressed()

    async def request(request: Request, peer: Participant) -> Response:
        message = parse(CatalogRequestMessage, request.state.body)
        token = request.query_params.get(CONTINUATION, "")
        return await answer(request, await catalogs.request(peer, message, token))

    async def dataset(request: Request, peer: Participant) -> Response:
        return await answer(request, await catalogs.dataset(peer, request.path_params["pid"]))

    async def answer(request: Request, served: Served) -> Response:
        return await represent(
            request,
            served.content,
            media_type="application/json",
            compressed=compressed,
            links={"next": served.next, "previous": served.previous},
        )

    routes.post("/catalog/request", _catalog_error, request)
    routes.get("/catalog/datasets/{pid}", _catalog_error, dataset)


def _add_negotiations(routes: _Routes, negotiations: Negotiations) -> None:
    async def request(request: Request, peer: Participant) -> Response:
        message = parse(ContractRequestMessage, request.state.body)
        process, created = await negotiations.receive_request(peer, message)
        return _answer(ContractNegotiationAck.of(process), created)

    async def offer(request: Request, peer: Participant) -> Response:
        message = parse(ContractOfferMessage, request.state.body)
        process, created = await negotiations.receive_offer(peer, message)
        return _answer(ContractNegotiationAck.of(process), created)

    async def state(request: Request, peer: Participant) -> Response:
        process = await negotiations.get_for(peer, request.path_params["pid"])
        return _answer(ContractNegotiationAck.of(process))

    def about(kind: type[NegotiationMessage]) -> Handler:
        async def receive(request: Request, peer: Participant) -> Response:
            message = parse(kind, request.state.body)
            process = await negotiations.receive(peer, request.path_params["pid"], message)
            return _answer(ContractNegotiationAck.of(process))

        return receive

    # fixed paths first: "request" and "offers" are no pids
    routes.post("/negotiations/request", _negotiation_error, request)
    routes.post("/negotiations/offers", _negotiation_error, offer)
    routes.get("/negotiations/{pid}", _negotiation_error, state)
    for kind in (
        ContractRequestMessage,
        ContractOfferMessage,
        ContractAgreementMessage,
        ContractAgreementVerificationMessage,
        ContractNegotiationEventMessage,
        ContractNegotiationTerminationMessage,
    ):
        routes.post(f"/negotiations/{{pid}}/{kind.STEP}", _negotiation_error, about(kind))


def _add_transfers(routes: _Routes, transfers: Transfers) -> None:
    async def request(request: Request, peer: Participant) -> Response:
        message = parse(TransferRequestMessage, request.state.body)
        process, created = await transfers.receive_request(peer, message)
        return _answer(TransferProcessAck.of(process), created)

    async def state(request: Request, peer: Participant) -> Response:
        process = await transfers.get_for(peer, request.path_params["pid"])
        return _answer(TransferProcessAck.of(process))

    def about(kind: type[TransferMessage]) -> Handler:
        async def receive(request: Request, peer: Participant) -> Response:
            message = parse(kind, request.state.body)
            process = await transfers.receive(peer, request.path_params["pid"], message)
            return _answer(TransferProcessAck.of(process))

        return receive

    routes.post("/transfers/request", _transfer_error, request)
    routes.get("/transfers/{pid}", _transfer_error, state)
    for kind in (
        TransferStartMessage,
        TransferCompletionMessage,
        TransferSuspensionMessage,
        TransferTerminationMessage,
    ):
        routes.post(f"/transfers/{{pid}}/{kind.STEP}", _transfer_error, about(kind))


def _add_signatures(routes: _Routes, signatures: AgreementSignatures) -> None:
    """Not DSP's own: what both sides of an agreement sign, for its two parties only."""

    async def shown(request: Request, peer: Participant) -> Response:
        return JSONResponse(await signatures.shown(peer, request.path_params["pid"]))

    async def receive(request: Request, peer: Participant) -> Response:
        answer = await signatures.receive(peer, request.path_params["pid"], request.state.body)
        return JSONResponse(answer)

    routes.get("/agreements/{pid:path}/signatures", _negotiation_error, shown)
    routes.post("/agreements/{pid:path}/signatures", _negotiation_error, receive)


def _answer(ack: Message, created: bool = False) -> Response:
    return JSONResponse(ack.document(), status_code=201 if created else 200)


# --- the frame around every route -------------------------------------------------------------------------


class _Routes:
    """Adds routes below the protocol's base, each within: who asks, what they say, how errors look."""

    def __init__(self, router: APIRouter, authenticate: Authenticate, max_body_bytes: int) -> None:
        self._router = router
        self._authenticate = authenticate
        self._max_body_bytes = max_body_bytes

    def get(self, path: str, error: RenderError, handler: Handler) -> None:
        self._add("GET", path, error, handler)

    def post(self, path: str, error: RenderError, handler: Handler) -> None:
        self._add("POST", path, error, handler)

    def _add(self, method: str, path: str, error: RenderError, handler: Handler) -> None:
        async def endpoint(request: Request) -> Response:
            request.state.body = {}
            try:
                peer = await self._authenticate(request)
                if method == "POST":
                    request.state.body = read_json(await _body(request, self._max_body_bytes))
                return await handler(request, peer)
            except ClientDisconnect:
                raise
            except Exception as exc:
                return _failed(exc, error, request)

        endpoint.__name__ = f"dsp_{method.lower()}{path.translate(_NAMES)}"
        _add(self._router, method, BASE_PATH + path, endpoint)


_NAMES = str.maketrans({"/": "_", "{": "", "}": ""})


def _add(
    router: APIRouter, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]
) -> None:
    plain(endpoint)
    router.add_api_route(path, endpoint, methods=[method], response_model=None)
    router.add_api_route(f"{path}/", endpoint, methods=[method], response_model=None, include_in_schema=False)


async def _body(request: Request, most: int) -> bytes:
    """The whole body. Raises MessageInvalid as soon as it is longer than `most` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise MessageInvalid(f"The body is longer than {most} bytes.", code="body_too_long")
        chunks.append(chunk)
    return b"".join(chunks)


# --- errors -----------------------------------------------------------------------------------------------


def _failed(error: Exception, render: RenderError, request: Request) -> Response:
    status = _status_of(error)
    if isinstance(error, ConnectorError) and status != 500:
        code, reasons = error.code, _reasons(error)
    else:
        # nothing of it goes out, and to the log only type and place: texts can hold values
        place = "".join(traceback.format_tb(error.__traceback__))
        _log.error("unforeseen error in DSP: %s\n%s", type(error).__name__, place)
        code, reasons = "internal", ["An error of ours."]
    headers = {503: {"Retry-After": str(RETRY_AFTER_SECONDS)}}
    if status == 401 and isinstance(error, ConnectorError):
        headers[401] = challenge(error)
    body = render(code, request.path_params.get("pid", ""), reasons, request.state.body)
    return JSONResponse(body, status_code=status, headers=headers.get(status))


def _status_of(error: Exception) -> int:
    return next((STATUS[c] for c in type(error).__mro__ if c in STATUS), 500)


def _reasons(error: ConnectorError) -> list[str]:
    if isinstance(error, NotPermitted) and error.reasons:
        return [reason.text for reason in error.reasons]
    return [str(error)]


def error_beside_routes(path: str, status: int, reason: str) -> JsonObject | None:
    """The typed error for a path of ours that no route takes, or not by this method; None for other paths."""
    if path != BASE_PATH and not path.startswith(f"{BASE_PATH}/"):
        return None
    family, _, rest = path.removeprefix(BASE_PATH).lstrip("/").partition("/")
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "request_invalid")
    return _FAMILIES.get(family, _catalog_error)(code, rest.partition("/")[0], [reason], {})


def _catalog_error(code: str, _pid: str, reasons: list[str], _body: Mapping[str, Any]) -> JsonObject:
    return CatalogError(code=code, reason=tuple(reasons)).document()


def _negotiation_error(code: str, pid: str, reasons: list[str], body: Mapping[str, Any]) -> JsonObject:
    return ContractNegotiationError(code=code, reason=tuple(reasons), **_pids(pid, body)).document()


def _transfer_error(code: str, pid: str, reasons: list[str], body: Mapping[str, Any]) -> JsonObject:
    return TransferError(code=code, reason=tuple(reasons), **_pids(pid, body)).document()


_FAMILIES: Mapping[str, RenderError] = {
    "negotiations": _negotiation_error,
    "agreements": _negotiation_error,
    "transfers": _transfer_error,
}
"""By the first step of a path below the base; everything else is the catalogue's."""


def _pids(pid: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The typed errors need both: what the body said, else the path's, else something that is no pid."""

    def told(name: str) -> str:
        value = body.get(name)
        return value if isinstance(value, str) and value else pid or "unknown"

    return {"provider_pid": told("providerPid"), "consumer_pid": told("consumerPid")}
