"""Blows at random moments: the same ones for the same seed, as far as the machine's timing allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from tests.crash.estate import PARTIES, Estate
from tests.parts.postgres import PostgresCluster

Blow = Callable[[random.Random], Awaitable[str]]
"""Breaks something, mends it, and says what it was."""


def kill_connectors(estate: Estate) -> Blow:
    """SIGKILL one or both, and start them again."""

    async def blow(chance: random.Random) -> str:
        victims = chance.choice([PARTIES[:1], PARTIES[1:], PARTIES])
        down = chance.choice([0.0, 0.0, 1.5])
        await estate.crash(victims, down_seconds=down)
        return f"{' and '.join(victims)} killed, started after {down} s"

    return blow


def kill_postgres(cluster: PostgresCluster) -> Blow:
    """Kill the server under both connectors, which are left alone: they find back by themselves."""

    async def blow(chance: random.Random) -> str:
        down = chance.choice([0.0, 0.5, 2.0])
        immediate = chance.random() < 0.5
        await asyncio.to_thread(cluster.crash, immediate_shutdown=immediate)
        await asyncio.sleep(down)
        await asyncio.to_thread(cluster.start)
        return f"PostgreSQL {'shut down at once' if immediate else 'killed'}, started after {down} s"

    return blow


async def wreak(blows: Sequence[Blow], times: int, chance: random.Random) -> list[str]:
    """What each blow was."""
    told: list[str] = []
    for _ in range(times):
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        told.append(await chance.choice(blows)(chance))
    return told
