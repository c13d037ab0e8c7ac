"""Many contracts at once, each a story of its own: negotiate, transfer, suspend, resume, end.

A story pushes towards a goal: a command whose answer was cut off is looked up before it is given again. What
it cannot look up (did this POST begin a negotiation?) it begins anew, and counts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.crash.client import PAUSE_SECONDS, Client, Cut, Refused
from tests.crash.estate import DATASET, PARTIES

CONTRACTS_PER_SECOND = 15
FINAL = ("COMPLETED", "TERMINATED")
_REASON = {"reason": "by the crash harness"}
_VERBS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "suspend": ("SUSPENDED", _REASON),
    "resume": ("STARTED", {}),
    "complete": ("COMPLETED", {}),
    "terminate": ("TERMINATED", _REASON),
}
"""By command: the state it leads to, and its body."""


@dataclass(slots=True)
class Tally:
    """What the applications know. `unsure`: calls that may have begun a process nobody has the pid of."""

    negotiations: dict[str, list[str]] = field(default_factory=lambda: {n: [] for n in PARTIES})
    transfers: dict[str, list[str]] = field(default_factory=lambda: {n: [] for n in PARTIES})
    unsure_negotiations: int = 0
    unsure_transfers: int = 0
    ended_agreements: dict[str, str] = field(default_factory=dict)
    """By the agreement's id: whose operator ended it."""
    ends: dict[str, set[str]] = field(default_factory=dict)
    """By the consumer's pid: in which states a transfer may have ended."""


class Load:
    def __init__(self, clients: Mapping[str, Client], offers: Mapping[str, str], seed: int) -> None:
        self.tally = Tally()
        self._clients = clients
        self._offers = offers
        self._seed = seed
        self._spread_seconds = 0.0

    async def run(self, contracts: int) -> None:
        """Half of them in each direction."""
        self._spread_seconds = contracts / CONTRACTS_PER_SECOND
        async with asyncio.TaskGroup() as stories:
            for number in range(contracts):
                stories.create_task(self._story(number), name=f"story {number}")

    async def _story(self, number: int) -> None:
        chance = random.Random(f"{self._seed}:{number}")
        names = PARTIES if number % 2 else PARTIES[::-1]
        consumer, provider = (self._clients[name] for name in names)
        await asyncio.sleep(chance.uniform(0, self._spread_seconds))  # so that blows meet every phase
        agreement = await self._negotiate(consumer, provider)
        for side in (consumer, provider):  # whose signatures follow the finalization
            await side.until(f"/agreements/{agreement}", lambda found: found["inForce"])
        for _ in range(chance.choice((1, 1, 2))):
            await self._transfer(consumer, provider, agreement, chance)
        if chance.random() < 0.15:
            ender = chance.choice((consumer, provider))
            await self._push(
                ender,
                f"/agreements/{agreement}",
                "terminate",
                _REASON,
                lambda found: found["state"] == "terminated",
            )
            self.tally.ended_agreements[agreement] = ender.name

    async def _negotiate(self, consumer: Client, provider: Client) -> str:
        asked = {"provider": provider.name, "dataset": DATASET, "offer": self._offers[provider.name]}

        def unsure() -> None:
            self.tally.unsure_negotiations += 1

        begun = await _begun(lambda: consumer.post("/negotiations", asked), unsure)
        self.tally.negotiations[consumer.name].append(begun["pid"])
        done = await consumer.until(
            f"/negotiations/{begun['pid']}", lambda n: n["state"] in ("FINALIZED", "TERMINATED")
        )
        assert done["state"] == "FINALIZED", done
        return str(done["agreement"])

    async def _transfer(
        self, consumer: Client, provider: Client, agreement: str, chance: random.Random
    ) -> None:
        asked = {"agreement": agreement, "format": "FederatedQuery-PULL"}

        def unsure() -> None:
            self.tally.unsure_transfers += 1

        begun = await _begun(lambda: consumer.post("/transfers", asked), unsure)
        self.tally.transfers[consumer.name].append(begun["pid"])
        ours = await consumer.until(f"/transfers/{begun['pid']}", lambda t: t["state"] != "REQUESTED")
        sides = ((consumer, ours["pid"]), (provider, ours["peerPid"]))
        for _ in range(chance.choice((0, 1, 2))):
            suspender = chance.choice(sides)
            await self._command(suspender, "suspend")
            await _seen_by(sides, "SUSPENDED")
            await self._command(suspender, "resume")  # who suspended it may resume it, whatever the role
            await _seen_by(sides, "STARTED")
        await self._end(sides, ours["pid"], chance)

    async def _end(self, sides: tuple[tuple[Client, str], ...], pid: str, chance: random.Random) -> None:
        """One side completes or terminates; or both speak at once, each what it likes."""
        speakers = sides if chance.random() < 0.3 else (chance.choice(sides),)
        verbs = [chance.choice(("complete", "terminate")) for _ in speakers]
        self.tally.ends[pid] = {_VERBS[verb][0] for verb in verbs}
        pushes = (self._command(s, v, settled=FINAL) for s, v in zip(speakers, verbs, strict=True))
        await asyncio.gather(*pushes)

    async def _command(self, side: tuple[Client, str], verb: str, settled: tuple[str, ...] = ()) -> None:
        client, pid = side
        state, body = _VERBS[verb]
        await self._push(
            client, f"/transfers/{pid}", verb, body, lambda t: t["state"] in (settled or (state,))
        )

    @staticmethod
    async def _push(
        client: Client, path: str, verb: str, body: Mapping[str, str], done: Callable[[Any], bool]
    ) -> None:
        """Give the command until it, or something as good, is on record."""
        while True:
            try:
                await client.post(f"{path}/{verb}", body)
                return
            except Cut:
                pass
            except Refused as refused:
                if refused.status != 409 and not refused.code.startswith("illegal"):
                    raise
            if done(await client.get(path)):
                return
            await asyncio.sleep(PAUSE_SECONDS)


async def _begun(begin: Callable[[], Awaitable[Any]], unsure: Callable[[], None]) -> Any:
    while True:
        try:
            return await begin()
        except Cut:
            unsure()
            await asyncio.sleep(PAUSE_SECONDS)


async def _seen_by(sides: tuple[tuple[Client, str], ...], state: str) -> None:
    for client, pid in sides:
        await client.until(f"/transfers/{pid}", lambda t: t["state"] == state)
