"""The data API for peers: what a token may see, and fragments of federated queries as Arrow streams."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from connector.data_plane.pipeline import Pipeline, Running
from connector.errors import RequestInvalid
from connector.web.auth import PeerAuth

ARROW_STREAM = "application/vnd.apache.arrow.stream"
MAX_STATEMENT_BYTES = 64_000


def data_router(pipeline: Pipeline, authenticate: PeerAuth, *, default_batch_rows: int) -> APIRouter:
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
        return FragmentResponse(pipeline, running)

    return router


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


class FragmentResponse(Response):
    """Writes the stream itself, so that the stop signal can cut a write that a slow reader holds up."""

    def __init__(self, pipeline: Pipeline, running: Running) -> None:
        super().__init__(media_type=ARROW_STREAM)
        self._pipeline = pipeline
        self._running = running

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({writer, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            writer.cancel()
            await asyncio.gather(gone, writer, return_exceptions=True)
        if not writer.cancelled() and (error := writer.exception()):
            raise error

    async def _write(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            with self._pipeline.watched(self._running, task.cancel) as watch:
                headers = [(b"content-type", ARROW_STREAM.encode()), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async with aclosing(self._pipeline.chunks(self._running, watch)) as chunks:
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._pipeline.never_begun(self._running)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
