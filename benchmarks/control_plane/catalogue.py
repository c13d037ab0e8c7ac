"""How fast a provider answers catalogue requests: its first page, over and over, and all pages once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpx

from benchmarks.control_plane.plan import Plan
from benchmarks.control_plane.processes import resident_mb

DSP_CONTEXT = "https://w3id.org/dspace/2025/1/context.jsonld"
IN_FLIGHT = 8
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?')

Prove = Callable[[str, httpx.Response | None], Awaitable[Mapping[str, str]]]
"""Headers that prove the sender of a POST to this URL; given the answer that refused the ones before."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A provider's, and how a peer asks for it."""

    url: str
    body: Mapping[str, Any]
    prove: Prove
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueFigures:
    """`pages_seconds`: to read all of it, page after page; `datasets`: how many that were."""

    per_second: float
    page: int
    pages_seconds: float
    datasets: int
    resident_mb: float


def measure_catalogue(
    running: Callable[[int], AbstractContextManager[Catalogue]], plan: Plan
) -> dict[int, CatalogueFigures]:
    found = {}
    for size in plan.catalogue_sizes:
        print(f"  catalogue of {size} ...", flush=True)
        with running(size) as catalogue:
            found[size] = asyncio.run(_measured(catalogue, plan))
    return found


async def _measured(catalogue: Catalogue, plan: Plan) -> CatalogueFigures:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits) as http:
        await _first_pages(http, catalogue, plan.catalogue_seconds)  # warm
        page, per_second = await _first_pages(http, catalogue, plan.catalogue_seconds)
        begun = time.perf_counter()
        datasets = await _all_pages(http, catalogue)
        took = time.perf_counter() - begun
    return CatalogueFigures(
        per_second=per_second,
        page=page,
        pages_seconds=took,
        datasets=datasets,
        resident_mb=resident_mb(catalogue.pid),
    )


async def _first_pages(http: httpx.AsyncClient, catalogue: Catalogue, seconds: float) -> tuple[int, float]:
    """Datasets on the page, and how many pages a second."""
    answered, page = 0, 0
    begun = time.perf_counter()

    async def one_after_the_other() -> None:
        nonlocal answered, page
        while time.perf_counter() - begun < seconds:
            answer = await _ask(http, catalogue, catalogue.url)
            page, answered = len(answer.json().get("dataset", ())), answered + 1

    await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
    return page, answered / (time.perf_counter() - begun)


async def _all_pages(http: httpx.AsyncClient, catalogue: Catalogue) -> int:
    url, datasets = catalogue.url, 0
    while url:
        answer = await _ask(http, catalogue, url)
        datasets += len(answer.json().get("dataset", ()))
        following = _NEXT.search(",".join(answer.headers.get_list("link")))
        url = urljoin(url, following[1]) if following else ""
    return datasets


async def _ask(http: httpx.AsyncClient, catalogue: Catalogue, url: str) -> httpx.Response:
    answer = None
    for _ in range(3):  # a nonce may be asked for
        headers = await catalogue.prove(url, answer)
        answer = await http.post(url, json=catalogue.body, headers=headers)
        if answer.status_code != 401:
            break
    assert answer is not None
    return answer.raise_for_status()
