"""Entity tags and gzip (RFC 9110 §8.8, §12.5.3, §13.1.2) for answers that are large and change seldom.

Such an answer holds no secret, and nothing that its reader wrote into it beside one: its compressed length
tells nothing (BREACH).
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

SMALLEST_GZIP_BYTES = 1_024
"""Below, what gzip saves is less than what it costs."""

_INLINE_BYTES = 65_536
_LEVEL = 5
_MOST_KEPT_BYTES = 32_000_000
_CODING = re.compile(r"\s*(?P<name>\*|[A-Za-z0-9._-]+)\s*(;\s*[qQ]\s*=\s*(?P<q>[01](\.\d{0,3})?)\s*)?")


class Compressed:
    """What was compressed lately, by the entity tag: the tag names the content, whoever asks for it."""

    def __init__(self, most_bytes: int = _MOST_KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    async def of(self, tag: str, content: bytes) -> bytes:
        if (kept := self._kept.get(tag)) is not None:
            self._kept.move_to_end(tag)
            return kept
        if len(content) > _INLINE_BYTES:
            packed = await asyncio.to_thread(gzip.compress, content, _LEVEL, mtime=0)
        else:
            packed = gzip.compress(content, _LEVEL, mtime=0)
        self._keep(tag, packed)
        return packed

    def _keep(self, tag: str, packed: bytes) -> None:
        if tag in self._kept or len(packed) > self._most_bytes:
            return
        self._kept[tag] = packed
        self._bytes += len(packed)
        while self._bytes > self._most_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)


async def represent(
    request: Request,
    content: bytes,
    *,
    media_type: str,
    compressed: Compressed,
    links: Mapping[str, str] | None = None,
    vary: str = "Accept-Encoding",
    cache_control: str = "private, no-cache",
    write: Callable[[bytes], Awaitable[bytes]] | None = None,
) -> Response:
    """200 with a weak entity tag, 304 where the reader has it already. `links`: relation -> absolute URL.
    `write` makes of the content what goes out, and is called only where it does.

    A weak tag, for it names the content and not its coding. On a POST too, though RFC 9110 §13.1.2 has 412
    there: only a crawler that asks for it gets one, and what it asked is a read.
    """
    link = ", ".join(f'<{url}>; rel="{relation}"' for relation, url in (links or {}).items() if url)
    digest = hashlib.sha256(b"\n".join((media_type.encode(), link.encode(), content))).hexdigest()[:32]
    tag = f'W/"{digest}"'
    headers = {"ETag": tag, "Cache-Control": cache_control, "Vary": vary, **({"Link": link} if link else {})}
    if matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    if write is not None:
        content = await write(content)
    if len(content) >= SMALLEST_GZIP_BYTES and accepts_gzip(request.headers.get("accept-encoding", "")):
        content = await compressed.of(tag, content)
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=media_type, headers=headers)


def matches(if_none_match: str, tag: str) -> bool:
    """By weak comparison; `*` is any."""
    tags = {t.strip().removeprefix("W/") for t in if_none_match.split(",")}
    return "*" in tags or tag.removeprefix("W/") in tags


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is named, or `*` where it is not, with a quality above zero. No header, no coding."""
    qualities: dict[str, float] = {}
    for item in accept_encoding.split(","):
        if coding := _CODING.fullmatch(item):
            qualities[coding["name"].lower()] = float(coding["q"] or 1)
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0
