"""A peer's catalogue, read over DSP 2025-1 §5: page by page, only what has changed, never without bounds."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from connector.dsp.catalog import CatalogDataset, parse_dataset
from connector.dsp.messages import CatalogRequestMessage
from connector.dsp.peer_catalog import CatalogPage, read_page
from connector.dsp.wire import read_json
from connector.errors import MessageInvalid, PeerBusy, PeerProtocolError
from connector.model.participant import Participant
from connector.model.peer_catalog import DatasetProblem, SeenPage
from connector.model.token import SCOPE_DSP
from connector.ports import Clock, PeerResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.access.peers import Peers

NOT_MODIFIED = 304
_CONDITION_REFUSED = 412  # what RFC 9110 §13.1.2 has for If-None-Match on a POST
_METHOD_REFUSED = 405
_BUSY = frozenset({429, 503})
_READ = (NOT_MODIFIED, _CONDITION_REFUSED, _METHOD_REFUSED, *_BUSY)

_MAX_LINK_CHARACTERS = 8_192
_MAX_ETAG_CHARACTERS = 512
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_RELATION = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]+))', re.IGNORECASE)
_URL = re.compile(r"[\x21-\x7e]*")
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of one peer's catalogue is read in one pass. `short_pause_seconds`: the longest pause a busy
    peer may ask for in the middle of a pass before the pass is given up."""

    pages: int = 1_000
    page_bytes: int = 16_000_000
    bytes: int = 200_000_000
    datasets: int = 50_000
    page_seconds: float = 30.0
    short_pause_seconds: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRead:
    """One page's answer. `page` is None where it is as `SeenPage` has it."""

    url: str
    page: CatalogPage | None
    etag: str = ""
    digest: str = ""
    next_url: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeCatalog:
    datasets: Sequence[CatalogDataset]
    problems: Sequence[DatasetProblem]
    truncated: str


class PeerCatalogs:
    def __init__(self, peers: Peers, clock: Clock, bounds: Bounds = Bounds()) -> None:
        self._peers = peers
        self._clock = clock
        self.bounds = bounds

    async def catalog(self, provider: Participant) -> WholeCatalog:
        """All of it, as it is now. Raises PeerError."""
        walk = self.walk(provider)
        datasets: dict[str, CatalogDataset] = {}
        problems: list[DatasetProblem] = []
        async for read in walk:
            assert read.page is not None, "nothing was seen before"
            datasets.update({d.id: d for d in read.page.datasets})
            problems.extend(read.page.problems)
            if len(datasets) >= self.bounds.datasets:
                walk.truncated = walk.truncated or "datasets"
                break
        return WholeCatalog(datasets=list(datasets.values()), problems=problems, truncated=walk.truncated)

    async def dataset(self, provider: Participant, dataset_id: str) -> CatalogDataset:
        """Raises PeerError."""
        url = f"{provider.dsp_url}/catalog/datasets/{quote(dataset_id, safe='')}"
        wire = await self._peers.call(provider, "GET", url, resource=provider.dsp_url, scope=SCOPE_DSP)
        with _read_as_the_peers(provider):
            return parse_dataset(wire)

    def walk(self, provider: Participant, seen: Mapping[str, SeenPage] | None = None) -> Walk:
        """`seen`: pages by URL as they were last time, asked for only if they have changed."""
        return Walk(self._peers, self._clock, self.bounds, provider, seen or {})


class Walk:
    """One pass over a catalogue. Iterate once; then `truncated` says why it ended early, or ""."""

    def __init__(
        self,
        peers: Peers,
        clock: Clock,
        bounds: Bounds,
        provider: Participant,
        seen: Mapping[str, SeenPage],
    ) -> None:
        self._peers = peers
        self._clock = clock
        self._bounds = bounds
        self._provider = provider
        self._seen = seen
        self.truncated = ""

    async def __aiter__(self) -> AsyncIterator[PageRead]:
        """Raises PeerError; PeerBusy where the peer wants a longer pause than a pass can wait."""
        url = f"{self._provider.dsp_url}/catalog/request"
        visited: set[str] = set()
        total = 0
        while url:
            visited.add(url)
            read = await self._page(url)
            yield read
            total += read.bytes
            url = read.next_url
            if url in visited:
                self._cut("link_loop")
            elif url and len(visited) >= self._bounds.pages:
                self._cut("pages")
            elif url and total >= self._bounds.bytes:
                self._cut("bytes")
            if self.truncated:
                return

    def _cut(self, why: str) -> None:
        self.truncated = self.truncated or why

    async def _page(self, url: str) -> PageRead:
        seen = self._seen.get(url)
        answer = await self._patiently(url, seen.etag if seen else "")
        if answer.status == NOT_MODIFIED:
            if seen is None or not seen.etag:
                raise PeerProtocolError("answered 304 to no condition", participant=self._provider.id)
            next_url = self._next(url, answer) if "link" in answer.headers else seen.next_url
            return PageRead(url=url, page=None, etag=seen.etag, next_url=next_url)
        digest = hashlib.sha256(answer.body).hexdigest()
        told = (_etag(answer), self._next(url, answer))
        same = seen is not None and (seen.digest, seen.etag, seen.next_url) == (digest, *told)
        with _read_as_the_peers(self._provider):
            page = None if same else await asyncio.to_thread(_parsed, answer.body)
        return PageRead(
            url=url,
            page=page,
            etag=told[0],
            digest=digest,
            next_url=told[1],
            bytes=len(answer.body),
        )

    async def _patiently(self, url: str, etag: str) -> PeerResponse:
        """Waits out one short pause that the peer asks for. Raises PeerBusy for a longer or a second one."""
        try:
            return await self._ask(url, etag)
        except PeerBusy as busy:
            if not 0 < busy.retry_after_seconds <= self._bounds.short_pause_seconds:
                raise
            await self._clock.sleep(busy.retry_after_seconds)
        return await self._ask(url, etag)

    async def _ask(self, url: str, etag: str) -> PeerResponse:
        """DSP leaves open by which method a `Link` is followed: most serve POST, some GET only."""
        answer = await self._send("POST", url, etag)
        if answer.status == _METHOD_REFUSED:
            answer = await self._send("GET", url, etag)
        if answer.status == _CONDITION_REFUSED and etag:
            answer = await self._send("POST", url, "")
        if answer.status in _BUSY:
            raise PeerBusy(
                f"answered {answer.status}",
                participant=self._provider.id,
                retry_after_seconds=retry_after_seconds(answer, self._clock.now()),
            )
        if answer.status >= 300 and answer.status != NOT_MODIFIED:
            raise PeerProtocolError(f"answered {answer.status}", participant=self._provider.id)
        return answer

    async def _send(self, method: str, url: str, etag: str) -> PeerResponse:
        return await self._peers.ask(
            self._provider,
            method,
            url,
            resource=self._provider.dsp_url,
            scope=SCOPE_DSP,
            body=CatalogRequestMessage().document() if method == "POST" else None,
            headers={"If-None-Match": etag} if etag else None,
            accept=_READ,
            timeout_seconds=self._bounds.page_seconds,
            max_bytes=self._bounds.page_bytes,
        )

    def _next(self, url: str, answer: PeerResponse) -> str:
        """ "" at the end, and where the link leads anywhere but below the peer's own DSP base."""
        target = next_link(answer)
        if target is None:
            return ""
        followed = urljoin(url, target)
        if not _is_below(followed, self._provider.dsp_url):
            self._cut("link_refused")
            return ""
        return followed.partition("#")[0]


def next_link(answer: PeerResponse) -> str | None:
    """The target of the header `Link` with relation `next` (RFC 8288)."""
    for target, parameters in _LINK.findall(answer.headers.get("link", "")[: 4 * _MAX_LINK_CHARACTERS]):
        relation = _RELATION.search(parameters)
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            return str(target).strip()
    return None


def retry_after_seconds(answer: PeerResponse, now: datetime) -> float:
    """RFC 9110 §10.2.3, seconds or a date; 0 where nothing usable is said."""
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit() and len(said) < 10:
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0


def _is_below(url: str, base: str) -> bool:
    if len(url) > _MAX_LINK_CHARACTERS or not _URL.fullmatch(url) or "\\" in url:
        return False
    try:
        given, ours = urlsplit(url), urlsplit(base)
        if "@" in given.netloc or given.port != ours.port:
            return False
    except ValueError:
        return False
    same_place = (given.scheme, given.hostname) == (ours.scheme, ours.hostname)
    steps = unquote(given.path).split("/")
    return same_place and given.path.startswith(f"{ours.path}/") and not {".", ".."} & set(steps)


def _etag(answer: PeerResponse) -> str:
    etag = answer.headers.get("etag", "")
    return etag if len(etag) <= _MAX_ETAG_CHARACTERS and _ETAG.fullmatch(etag) else ""


def _parsed(body: bytes) -> CatalogPage:
    """In a thread: a page of some megabytes takes a noticeable part of a second."""
    return read_page(read_json(body))


@contextmanager
def _read_as_the_peers(provider: Participant) -> Iterator[None]:
    """What a peer's catalogue breaks is the peer's fault, not that of whoever asked us."""
    try:
        yield
    except MessageInvalid as error:
        raise PeerProtocolError(
            f"its catalogue cannot be read: {error.message}", participant=provider.id
        ) from error
    except RecursionError:
        raise PeerProtocolError("its catalogue nests too deep", participant=provider.id) from None
