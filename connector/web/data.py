"""The data API for peers: what a token may see, fragments of federated queries as Arrow streams, and what a
permit shows of a dataset as plain HTTP.

A plain HTTP client reads no end record: that an answer was stopped shows by HTTP itself (web/streams.py), and
a JSON array that was cut is no JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from connector.access.grants import GrantWatch
from connector.data_plane.pipeline import Pipeline, Running
from connector.data_plane.rows import WRITERS
from connector.errors import RequestInvalid
from connector.web.auth import PeerAuth, ReaderAuth
from connector.web.streams import Cancel, Streamed

ARROW_STREAM = "application/vnd.apache.arrow.stream"
MAX_STATEMENT_BYTES = 64_000


HTTP_BATCH_ROWS = 1_024
"""Small enough that turning one into text holds nobody up."""


def data_router(
    pipeline: Pipeline, authenticate: PeerAuth, authenticate_reader: ReaderAuth, *, default_batch_rows: int
) -> APIRouter:
    router = APIRouter(prefix="/data/v1", tags=["data"])

    @router.get("/datasets/{dataset_id}")
    async def describe(dataset_id: str, request: Request) -> JSONResponse:
        _, claims = await authenticate(request)
        return JSONResponse(await pipeline.describe(claims, dataset_id))

    @router.post("/datasets/{dataset_id}/query", response_class=Response)
    async def query(dataset_id: str, request: Request) -> Response:
        _, claims = await authenticate(request)
        sql, batch_rows = _asked(await body_of(request, MAX_STATEMENT_BYTES), default_batch_rows)
        running = await pipeline.prepare(claims, dataset_id, sql=sql, batch_rows=batch_rows)
        return _answer(pipeline, running, ARROW_STREAM, partial(pipeline.chunks, running))

    @router.get("/http/{dataset_id}", response_class=Response)
    async def read(dataset_id: str, request: Request) -> Response:
        """All that the permit shows of the dataset: as a JSON array, JSON lines or CSV, by `Accept`."""
        claims = await authenticate_reader(request, dataset_id)
        _require_chunks(request)
        media_type = acceptable(request.headers.getlist("accept"))
        rows = min(default_batch_rows, HTTP_BATCH_ROWS)
        running = await pipeline.prepare_view(claims, dataset_id, batch_rows=rows)
        texts = partial(pipeline.texts, running, writer=WRITERS[media_type]())
        return _answer(pipeline, running, media_type, texts)

    return router


def _answer(
    pipeline: Pipeline,
    running: Running,
    media_type: str,
    chunks_of: Callable[[GrantWatch], AsyncGenerator[bytes, None]],
) -> Streamed:
    @asynccontextmanager
    async def opened(cancel: Cancel) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        try:
            with pipeline.watched(running, cancel) as watch:
                async with aclosing(chunks_of(watch)) as chunks:
                    yield media_type, chunks
        finally:
            await pipeline.never_begun(running)

    return Streamed(opened)


def _require_chunks(request: Request) -> None:
    """Over HTTP/1.0 nothing would tell a cut answer from a whole one."""
    if request.scope.get("http_version") == "1.0":
        raise RequestInvalid("Data is read over HTTP/1.1 or later.", where="protocol")


def acceptable(headers: Sequence[str]) -> str:
    """The media type to answer with (RFC 9110 §12.5.1): the first of ours among the best liked. Raises
    RequestInvalid where there is none."""
    liked = dict(map(_media_range, ",".join(headers).split(","))) if headers else {"*/*": 1.0}

    def liking(media_type: str) -> float:
        ranges = (media_type, f"{media_type.split('/')[0]}/*", "*/*")
        return next((liked[r] for r in ranges if r in liked), 0.0)

    best = max(WRITERS, key=liking)
    if liking(best) <= 0:
        known = ", ".join(WRITERS)
        raise RequestInvalid("This data has no such form.", where="Accept", mend=f"Ask for one of {known}.")
    return best


def _media_range(text: str) -> tuple[str, float]:
    """Name and weight; what cannot be read counts as not liked."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    return name, float(weight) if _WEIGHT.fullmatch(weight) else 0.0


_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


async def body_of(request: Request, max_bytes: int) -> bytes:
    """The body, refused before it is whole where it is too large."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise RequestInvalid(f"The body is larger than {max_bytes} bytes.", where="body")
        chunks.append(chunk)
    return b"".join(chunks)


def json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestInvalid("The body is not JSON.", where="body") from None
    if not isinstance(value, dict):
        raise RequestInvalid("The body is not a JSON object.", where="body")
    return value


def _asked(body: bytes, default_batch_rows: int) -> tuple[str, int]:
    asked = json_object(body)
    sql, batch_rows = asked.get("sql"), asked.get("batchRows", default_batch_rows)
    if not isinstance(sql, str) or not sql:
        raise RequestInvalid("A statement is missing.", where="sql")
    if not isinstance(batch_rows, int) or isinstance(batch_rows, bool) or not 1 <= batch_rows <= 1_000_000:
        raise RequestInvalid("Rows per batch are between 1 and 1,000,000.", where="batchRows")
    return sql, batch_rows
