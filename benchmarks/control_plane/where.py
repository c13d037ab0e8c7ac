"""Where the processor time of ours goes: the same load once more, with sampled processes."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.control_plane import ours
from benchmarks.control_plane.load import under_load
from benchmarks.control_plane.plan import Plan
from benchmarks.report import row

IN_FLIGHT = 16


def rows_of_time(plan: Plan) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="benchmark-samples-") as scratch:
        with ours.running(samples=Path(scratch)) as pair:
            negotiations = asyncio.run(_load(pair, plan))
        found: list[Counter[str]] = [
            Counter(json.loads(file.read_text())) for file in Path(scratch).iterdir()
        ]
    seconds = sum(found, Counter())
    where = f"ours, SQLite, sampled at {IN_FLIGHT} in flight, both sides"
    per_negotiation = seconds.total() / negotiations * 1000
    yield row(f"{where}: processor time of one negotiation", per_negotiation, "ms")
    for area, spent in seconds.most_common():
        yield row(f"{where}: of it {area}", 100 * spent / seconds.total(), "%")


async def _load(pair: ours.OurPair, plan: Plan) -> int:
    """How many negotiations the samples are of."""
    async with pair:
        await under_load(pair.negotiate, pair.agreement, IN_FLIGHT, plan.warm_seconds, plan.least)
        pair.sample_anew()
        phase = await under_load(pair.negotiate, pair.agreement, IN_FLIGHT, plan.seconds, plan.least)
        return len(phase.results)
