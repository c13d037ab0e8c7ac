"""The load: a number of negotiations or transfers always in flight, each begun when another has ended.

Nobody is told of an end, so it is polled for, sparingly: first after 0.7 of the median so far, then at each
further tenth of it. A time is that of the poll that saw the end: too long by up to a tenth, never too short
by more than the poll that came too late.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.control_plane.plan import Plan

FIRST_LOOK, NEXT_LOOK, LEAST_PAUSE_SECONDS = 0.7, 0.1, 0.004
LONGEST_SECONDS = 120.0


class Pair(Protocol):
    """A running consumer and provider, as their operators drive them. `slow`: takes seconds for each step."""

    slow: bool

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, *_: object) -> None: ...

    async def negotiate(self) -> str:
        """Ask for an agreement; the negotiation's id."""
        ...

    async def agreement(self, negotiation_id: str) -> str:
        """Its agreement, "" while there is none. Raises where it has failed."""
        ...

    async def transfer(self, agreement_id: str) -> str: ...
    async def started(self, transfer_id: str) -> str:
        """The id itself once the transfer is started, else ""."""
        ...

    def resident_mb(self) -> Mapping[str, float]:
        """By role, `consumer` and `provider`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """`latencies` in seconds, of everything that began and ended within `seconds`."""

    latencies: list[float]
    seconds: float
    results: list[str]
    failed: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: int) -> float:
        if len(self.latencies) == 1:
            return self.latencies[0]
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[share - 1]


@dataclass(slots=True, kw_only=True)
class Figures:
    negotiations: dict[int, Phase] = field(default_factory=dict)
    transfers: Phase | None = None
    resident_mb: Mapping[str, float] = field(default_factory=dict)


class Failed(Exception):
    """What was begun came to a bad end by itself: counted, and no reason to stop measuring."""


async def measure(pair: Pair, plan: Plan) -> Figures:
    figures = Figures()
    seconds = plan.slow_seconds if pair.slow else plan.seconds
    warm = await under_load(pair.negotiate, pair.agreement, plan.in_flight[-1], plan.warm_seconds, plan.least)
    agreements = deque(warm.results)
    for in_flight in plan.in_flight:
        phase = await under_load(pair.negotiate, pair.agreement, in_flight, seconds, plan.least)
        figures.negotiations[in_flight] = phase
        agreements.extend(phase.results)

    async def transfer() -> str:
        agreements.rotate()  # an agreement may be used again: each transfer is a process of its own
        return await pair.transfer(agreements[0])

    figures.transfers = await under_load(
        transfer, pair.started, plan.transfers_in_flight, seconds, plan.least
    )
    figures.resident_mb = pair.resident_mb()
    return figures


async def under_load(
    begin: Callable[[], Awaitable[str]],
    end: Callable[[str], Awaitable[str]],
    in_flight: int,
    seconds: float,
    least: int,
) -> Phase:
    """Counted from when as many have ended as are in flight, so that what begins together is over, until
    `seconds` later and `least` have ended; what then is in flight ends uncounted."""
    latencies: list[float] = []
    results: list[str] = []
    recent: deque[float] = deque(maxlen=50)
    started, ended, failed, uncounted = 0.0, 0.0, 0, in_flight

    async def one_after_the_other() -> None:
        nonlocal started, ended, failed, uncounted
        while not ended:
            begun = time.perf_counter()
            try:
                found = await _awaited(end, await begin(), begun, recent)
            except Failed:
                failed += 1
                continue
            now = time.perf_counter()
            recent.append(now - begun)
            if ended:
                return
            results.append(found)
            if uncounted:
                uncounted -= 1
                started = now
                continue
            latencies.append(now - begun)
            if now - started >= seconds and len(latencies) >= least:
                ended = now

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_the_other())
    return Phase(latencies=latencies, seconds=ended - started, results=results, failed=failed)


async def _awaited(
    end: Callable[[str], Awaitable[str]], what: str, begun: float, recent: deque[float]
) -> str:
    usual = statistics.median(recent) if recent else 0.0
    await asyncio.sleep(max(usual * FIRST_LOOK - (time.perf_counter() - begun), 0))
    while not (found := await end(what)):
        if time.perf_counter() - begun > LONGEST_SECONDS:
            raise Failed(f"{what} did not end within {LONGEST_SECONDS:.0f} s")
        await asyncio.sleep(max(usual * NEXT_LOOK, LEAST_PAUSE_SECONDS))
    return found
