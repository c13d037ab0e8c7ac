"""The catalogue in DCAT-AP over HTTP: `/catalog` for everybody, `/catalog/restricted` for peers.

The format is what the path ends in, or else what the reader prefers (RFC 9110 §12.5.1).
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from connector.control_plane.catalog import CONTINUATION, Served
from connector.control_plane.dcat_catalogs import OPEN, RESTRICTED, DcatCatalogs
from connector.dsp.dcat import PREFIXES
from connector.model.participant import Participant
from connector.web.representations import Compressed, represent

JSON_LD = "application/ld+json"
FORMATS: Mapping[str, str] = {
    ".jsonld": JSON_LD,
    ".ttl": "text/turtle",
    ".rdf": "application/rdf+xml",
}
"""By the path's end. The first is what a reader gets who does not mind."""

_XML = FORMATS[".rdf"]
_ALSO_ACCEPTED = {"application/json": JSON_LD, "application/xml": _XML, "text/xml": _XML}
_RANGE = re.compile(r"\s*(?P<type>[^;,\s]+)\s*(;.*?)??(;\s*[qQ]\s*=\s*(?P<q>[01](\.\d{0,3})?)\s*)?")
_KEPT = 64

Serialise = Callable[[bytes, str, Mapping[str, str]], bytes]
"""`serialise(json_ld, media_type, prefixes)`; blocks."""

Authenticate = Callable[[Request], Awaitable[Participant]]
Page = Callable[[Request, str, str], Awaitable[Served]]
"""`page(request, token, suffix)`"""


def dcat_router(catalogs: DcatCatalogs, *, authenticate: Authenticate, serialise: Serialise) -> APIRouter:
    """Errors are RFC 9457 problems, by the application's own handlers."""
    router = APIRouter(tags=["catalogue"])
    answers = _Answers(serialise)

    async def everybodys(_request: Request, token: str, suffix: str) -> Served:
        return await catalogs.open(token, suffix)

    async def peers(request: Request, token: str, suffix: str) -> Served:
        return await catalogs.restricted(await authenticate(request), token, suffix)

    for suffix in ("", *FORMATS):
        answers.add(router, OPEN, suffix, everybodys, cache_control="public, no-cache")
        answers.add(router, RESTRICTED, suffix, peers, cache_control="private, no-cache")
    return router


class _Answers:
    def __init__(self, serialise: Serialise) -> None:
        self._serialise = serialise
        self._compressed = Compressed()
        self._written: OrderedDict[tuple[bytes, str], bytes] = OrderedDict()

    def add(self, router: APIRouter, path: str, suffix: str, page: Page, *, cache_control: str) -> None:
        async def endpoint(request: Request) -> Response:
            accept = request.headers.get("accept", "")
            media_type = FORMATS[suffix] if suffix else preferred(accept)
            if media_type is None:
                offered = {"title": "No format that is accepted", "status": 406, "detail": ", ".join(FORMATS)}
                return JSONResponse(offered, status_code=406, media_type="application/problem+json")
            served = await page(request, request.query_params.get(CONTINUATION, ""), suffix)
            return await represent(
                request,
                served.content,
                write=partial(self._written_as, media_type),
                media_type=media_type if media_type == JSON_LD else f"{media_type}; charset=utf-8",
                compressed=self._compressed,
                links={"next": served.next, "previous": served.previous},
                vary="Accept-Encoding" if suffix else "Accept, Accept-Encoding",
                cache_control=cache_control,
            )

        endpoint.__name__ = f"{path.strip('/').replace('/', '_')}{suffix.replace('.', '_')}"
        router.add_api_route(f"{path}{suffix}", endpoint, methods=["GET"], response_model=None)
        router.add_api_route(
            f"{path}{suffix}", endpoint, methods=["HEAD"], response_model=None, include_in_schema=False
        )

    async def _written_as(self, media_type: str, document: bytes) -> bytes:
        """Written once for as long as the document is the same."""
        if media_type == JSON_LD:
            return document
        key = (document, media_type)
        if key not in self._written:
            self._written[key] = await asyncio.to_thread(self._serialise, document, media_type, PREFIXES)
            if len(self._written) > _KEPT:
                self._written.popitem(last=False)
        else:
            self._written.move_to_end(key)
        return self._written[key]


def preferred(accept: str) -> str | None:
    """The format with the highest quality, ours first among equals; None where none is accepted."""
    qualities = dict(_ranges(accept)) if accept.strip() else {"*/*": 1.0}
    found = ""
    best = 0.0
    for media_type in FORMATS.values():
        names = [media_type, *(n for n, m in _ALSO_ACCEPTED.items() if m == media_type)]
        asked = [qualities[n] for n in names if n in qualities]
        main = media_type.partition("/")[0]
        quality = max(asked) if asked else qualities.get(f"{main}/*", qualities.get("*/*", 0.0))
        if quality > best:
            found, best = media_type, quality
    return found or None


def _ranges(accept: str) -> list[tuple[str, float]]:
    """Media ranges with their quality; what cannot be read is left out."""
    matches = [m for m in map(_RANGE.fullmatch, accept.split(",")) if m]
    return [(m["type"].lower(), float(m["q"] or 1)) for m in matches]
