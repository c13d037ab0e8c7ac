"""The system's clock behind port Clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime


class SystemClock:
    """Wall-clock time of this host, UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """At least `seconds`; zero or less yields to other tasks once."""
        await asyncio.sleep(max(0.0, seconds))
