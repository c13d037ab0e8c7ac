"""The crawler: reads everybody's catalogue now and then, politely, and keeps the index of what they offer.

Participants are leased rows of the index, so replicas share the work; what one crawl wrote page by page stays
when it breaks off, and what a catalogue no longer shows vanishes when it was read to its end.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from connector.control_plane.outbox import Backoff
from connector.control_plane.peer_catalogs import PageRead, PeerCatalogs
from connector.dsp.catalog import CatalogDataset
from connector.dsp.peer_catalog import summary
from connector.errors import ConnectorError, PeerBusy, PeerError, PeerUnreachable, RequestInvalid
from connector.model.participant import Participant, ParticipantStatus
from connector.model.peer_catalog import DatasetProblem, DatasetSummary, Freshness, SeenPage
from connector.ports import CatalogIndex, Clock, TrustRegistry

_log = logging.getLogger(__name__)

MAX_PROBLEMS = 20
"""Of a catalogue and of a page: named; all are counted."""

SPREAD = 0.2
"""Part of the interval by which two refreshes of one peer vary."""

_MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`pass_seconds`: the longest pass over one catalogue. `poll_seconds`: how soon a replica notices what
    another one was asked for."""

    refresh_seconds: float = 300.0
    at_once: int = 4
    poll_seconds: float = 2.0
    lease_seconds: float = 120.0
    pass_seconds: float = 600.0
    backoff: Backoff = field(default=Backoff(first_seconds=5.0, longest_seconds=3_600.0))


class Crawler:
    def __init__(
        self,
        *,
        participant_id: str,
        trust: TrustRegistry,
        catalogs: PeerCatalogs,
        index: CatalogIndex,
        clock: Clock,
        chance: Callable[[], float],
        new_id: Callable[[], str],
        wake: asyncio.Event,
        pace: Pace = Pace(),
    ) -> None:
        """`chance`: random numbers in [0, 1). `wake` is set when somebody is due earlier than thought."""
        self._participant_id = participant_id
        self._trust = trust
        self._catalogs = catalogs
        self._index = index
        self._clock = clock
        self._chance = chance
        self._new_id = new_id
        self._wake = wake
        self._pace = pace
        self._enrolled: frozenset[str] | None = None
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled; then what is under way is given up, and its leases with it."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._wake.clear()
                for task in await self._start_due(self._pace.at_once - len(running)):
                    running.add(task)
                    task.add_done_callback(running.discard)
                    task.add_done_callback(lambda _: self._wake.set())  # its place is free
                await self._woken_or_polling()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def step(self) -> int:
        """Everybody who is due now, `at_once` of them; returns how many there were."""
        tasks = await self._start_due(self._pace.at_once)
        await asyncio.gather(*tasks)
        return len(tasks)

    # --- who is due ---------------------------------------------------------------------------------------

    async def _start_due(self, room: int) -> Sequence[asyncio.Task[None]]:
        if room <= 0:
            return []
        lease = self._new_id()
        try:
            others = self._others()
            if frozenset(others) != self._enrolled:
                await self._index.enrol(others.keys(), now=self._clock.now())
                self._enrolled = frozenset(others)
            due = await self._index.claim(
                self._clock.now(),
                among=others.keys(),
                lease=lease,
                lease_seconds=self._pace.lease_seconds,
                limit=room,
            )
        except ConnectorError as error:  # no trust list, or no database: nobody is asked meanwhile
            self._report(error.code)
            return []
        self._report("")
        return [
            asyncio.create_task(self._visit(others[f.participant], f, lease), name=f"crawl {f.participant}")
            for f in due
        ]

    def _others(self) -> dict[str, Participant]:
        found = self._trust.current().participants.values()
        return {
            p.id: p for p in found if p.status is ParticipantStatus.ACTIVE and p.id != self._participant_id
        }

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:  # once per change
            _log.warning("catalogues are not refreshed: %s", problem)
        self._problem = problem

    async def _woken_or_polling(self) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        polling = asyncio.ensure_future(self._clock.sleep(self._pace.poll_seconds))
        try:
            await asyncio.wait({woken, polling}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            polling.cancel()
            await asyncio.gather(woken, polling, return_exceptions=True)

    # --- one visit ----------------------------------------------------------------------------------------

    async def _visit(self, provider: Participant, before: Freshness, lease: str) -> None:
        """Never raises but CancelledError. Where even the bookkeeping fails, the lease runs out."""
        begun = self._clock.now()
        try:
            try:
                async with asyncio.timeout(self._pace.pass_seconds):
                    read = await self._read(provider, lease)
            except TimeoutError:
                late = PeerUnreachable("its catalogue takes too long to read", participant=provider.id)
                await self._failed(before, begun, lease, late)
            except (PeerError, RequestInvalid) as error:  # the peer's fault, or a text no database takes
                await self._failed(before, begun, lease, error)
            else:
                await self._done(before, begun, lease, read)
        except asyncio.CancelledError:
            await self._index.release(lease)
            raise
        except ConnectorError as error:  # the lease was lost, or our own database does not answer
            _log.warning("the catalogue of %s was not taken up: %s", provider.id, error.code)
        except Exception as error:
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("crawling %s failed: %s\n%s", provider.id, type(error).__name__, place)

    async def _read(self, provider: Participant, lease: str) -> _Read:
        seen = await self._index.pages(provider.id)
        walk = self._catalogs.walk(provider, seen)
        read = _Read(room=self._catalogs.bounds.datasets)
        async for answer in walk:
            if answer.page is None:
                read.add(seen[answer.url])
            else:
                await self._keep(provider, answer, read, lease)
            if read.full:
                walk.truncated = walk.truncated or "datasets"
                break
        read.truncated = walk.truncated
        return read

    async def _keep(self, provider: Participant, answer: PageRead, read: _Read, lease: str) -> None:
        assert answer.page is not None
        fresh = [d for d in answer.page.datasets if d.id not in read.datasets]
        fitting = fresh[: max(0, read.room - len(read.datasets))]
        problems = answer.page.problems
        whole = len(fitting) == len(fresh)  # else it must not pass for unchanged when there is more room
        page = SeenPage(
            url=answer.url,
            etag=answer.etag if whole else "",
            digest=answer.digest if whole else "",
            next_url=answer.next_url,
            datasets=tuple(d.id for d in answer.page.datasets if d.id in read.datasets)
            + tuple(d.id for d in fitting),
            rejected=len(problems),
            problems=problems[:MAX_PROBLEMS],
        )
        await self._index.put(
            provider.id,
            page,
            await asyncio.to_thread(_summaries, fitting),
            lease=lease,
            lease_seconds=self._pace.lease_seconds,
            seen_at=self._clock.now(),
        )
        read.add(page)
        read.full = read.full or not whole

    async def _done(self, before: Freshness, begun: datetime, lease: str, read: _Read) -> None:
        pause = self._pace.refresh_seconds * (1 - SPREAD / 2 + SPREAD * self._chance())
        freshness = Freshness(
            participant=before.participant,
            next_attempt=self._clock.now() + timedelta(seconds=pause),
            last_attempt=begun,
            last_success=begun,
            rejected=read.rejected,
            problems=tuple(read.problems[:MAX_PROBLEMS]),
            truncated=read.truncated,
        )
        await self._index.finish(freshness, lease=lease, keep=(read.urls, read.datasets))

    async def _failed(self, before: Freshness, begun: datetime, lease: str, error: ConnectorError) -> None:
        """The last good copy stays, and says since when it is one."""
        now = self._clock.now()
        pause = self._pace.backoff.pause(before.failures + 1, self._chance())
        asked_for = timedelta(seconds=error.retry_after_seconds if isinstance(error, PeerBusy) else 0.0)
        longest = timedelta(seconds=self._pace.backoff.longest_seconds)
        freshness = replace(
            before,
            next_attempt=now + max(pause, min(asked_for, longest)),
            not_before=now + min(asked_for, longest) if asked_for else None,
            last_attempt=begun,
            failing_since=before.failing_since or begun,
            failures=before.failures + 1,
            error_code=error.code,
            error=error.message[:_MAX_ERROR_CHARACTERS],
        )
        await self._index.finish(freshness, lease=lease)


@dataclass(slots=True)
class _Read:
    """What one pass has found so far."""

    room: int
    urls: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    rejected: int = 0
    problems: list[DatasetProblem] = field(default_factory=list)
    full: bool = False
    truncated: str = ""

    def add(self, page: SeenPage) -> None:
        self.urls.add(page.url)
        self.datasets.update(page.datasets)
        self.rejected += page.rejected
        self.problems.extend(page.problems[: MAX_PROBLEMS - len(self.problems)])


def _summaries(datasets: Sequence[CatalogDataset]) -> Sequence[DatasetSummary]:
    return [summary(dataset) for dataset in datasets]
