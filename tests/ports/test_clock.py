"""Port Clock: the system's clock and the one that tests turn."""

import asyncio
import time
from datetime import UTC, timedelta

import pytest

from connector.adapters.clock import SystemClock
from connector.ports import Clock
from tests.clocks import START, ManualClock


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["system", "manual"])
class TestClock:
    def test_now_is_aware_and_in_utc(self, clock: Clock) -> None:
        """Port Clock: an instant without an offset is no instant."""
        assert clock.now().utcoffset() == timedelta(0)
        assert clock.now().tzinfo is UTC

    def test_now_never_goes_back(self, clock: Clock) -> None:
        """Port Clock: two readings in order."""
        assert clock.now() <= clock.now()

    async def test_sleeping_for_no_time_lets_others_run(self, clock: Clock) -> None:
        """Port Clock: zero and negative durations (a due time that has passed) return after one round."""
        ran: list[str] = []
        others = asyncio.get_running_loop().create_task(_note(ran))
        await clock.sleep(0)
        await clock.sleep(-1)
        assert ran == ["ran"]
        await others


async def _note(ran: list[str]) -> None:
    ran.append("ran")


async def test_the_system_clock_sleeps_at_least_as_long_as_asked() -> None:
    """Port Clock: a lease is never renewed late because of a short sleep."""
    begun = time.monotonic()
    await SystemClock().sleep(0.02)
    assert time.monotonic() - begun >= 0.02


async def test_the_manual_clock_wakes_sleepers_in_order_and_at_their_own_times() -> None:
    """Tests turn the clock: background work must see the times it asked for, not the target of the jump."""
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, (clock.now() - START).total_seconds()))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sleeper("late", 5))
        tasks.create_task(sleeper("early", 2, 2))
        await asyncio.sleep(0)
        assert clock.sleepers == 2
        await clock.advance(10)
    assert woken == [("early", 2), ("early", 4), ("late", 5)]
    assert clock.now() == START + timedelta(seconds=10)


async def test_a_cancelled_sleeper_of_the_manual_clock_is_gone() -> None:
    """A stopped worker leaves no sleeper behind."""
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert clock.sleepers == 0
    await clock.advance(2)
