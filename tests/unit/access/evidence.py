"""What tests of the evidence share: keys made on the spot, a clock that stands still, countable ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

from cryptography.hazmat.primitives.asymmetric import ec

from connector.adapters.file_keys import FileKeys


class StillClock:
    def __init__(self, at: datetime = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


def fresh_keys(participant_id: str = "kela", root: bytes | None = None) -> FileKeys:
    signing, encryption = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    secret = root or encryption.private_numbers().private_value.to_bytes(32, "big")
    return FileKeys(participant_id, signing, encryption, secret)


def counting_ids(prefix: str = "id") -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"{prefix}-{next(numbers)}"
