"""A request's bytes, and never more of them than are wanted."""

from __future__ import annotations

from fastapi import Request

from connector.errors import RequestInvalid


async def raw_body(request: Request, most: int) -> bytes:
    """Raises RequestInvalid as soon as it is longer than `most` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise RequestInvalid(f"The body is longer than {most} bytes.", where="body", code="body_too_long")
        chunks.append(chunk)
    return b"".join(chunks)
