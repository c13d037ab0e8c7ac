"""One run from start to verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash import stores
from tests.crash.client import PAUSE_SECONDS, Client
from tests.crash.estate import DATASET, LEASE_SECONDS, PARTIES, Estate
from tests.crash.havoc import Blow, kill_connectors, kill_postgres, wreak
from tests.crash.load import Load
from tests.crash.verdict import faults
from tests.parts.postgres import fresh_database, postgres_cluster

QUIET_SECONDS = LEASE_SECONDS + 60.0
"""After the last blow a lease of the dead runs out, and pauses between attempts pass."""

Kinds = Callable[[Estate], Sequence[Blow]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`faults` empty: all is as it must be."""

    faults: list[str]
    blows: list[str]
    facts: Mapping[str, object]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        lines += [f"blow: {blow}" for blow in self.blows]
        lines += [f"FAULT: {fault}" for fault in self.faults]
        return "\n".join(f"  {line}" for line in lines)


def on_sqlite(folder: Path, *, seed: int, contracts: int, blows: int) -> Outcome:
    """The connectors are killed."""
    return _run(Estate(folder), lambda estate: [kill_connectors(estate)], seed, contracts, blows)


def on_postgres(
    folder: Path, *, seed: int, contracts: int, blows: int, connectors_too: bool = False
) -> Outcome:
    """PostgreSQL, which holds both stores, is killed under them. Raises PartUnavailable."""
    with postgres_cluster() as cluster:
        server = cluster.start()
        estate = Estate(folder, {name: fresh_database(server) for name in PARTIES})

        def kinds(estate: Estate) -> Sequence[Blow]:
            return [kill_postgres(cluster), *([kill_connectors(estate)] if connectors_too else [])]

        return _run(estate, kinds, seed, contracts, blows)


def _run(estate: Estate, kinds: Kinds, seed: int, contracts: int, blows: int) -> Outcome:
    """Start both, load them, strike, wait until all is quiet, stop, compare."""
    estate.create()
    try:
        estate.start()
        return asyncio.run(_load_and_strike(estate, kinds(estate), seed, contracts, blows))
    finally:
        estate.stop()


async def _load_and_strike(
    estate: Estate, kinds: Sequence[Blow], seed: int, contracts: int, blows: int
) -> Outcome:
    clients = {name: Client(estate, name) for name in PARTIES}
    offers = {name: await _offer_of(name, clients) for name in PARTIES}
    load = Load(clients, offers, seed)
    began = time.monotonic()
    struck, _ = await asyncio.gather(wreak(kinds, blows, random.Random(seed)), load.run(contracts))
    done = time.monotonic()
    await _quiet(estate)
    quiet = time.monotonic()
    for client in clients.values():
        await client.close()
    await asyncio.to_thread(estate.stop)
    held = {name: await stores.held(estate, name) for name in PARTIES}
    facts = {
        "seed": seed,
        "connectors killed": estate.kills,
        "negotiations": _pairs(len(side.negotiations) for side in held.values()),
        "agreements": _pairs(len(side.agreements) for side in held.values()),
        "transfers": _pairs(len(side.transfers) for side in held.values()),
        "calls cut off": sum(client.cut_calls for client in clients.values()),
        "of them perhaps a beginning": load.tally.unsure_negotiations + load.tally.unsure_transfers,
        "seconds of load and blows": round(done - began, 1),
        "seconds until quiet": round(quiet - done, 1),
    }
    return Outcome(faults=faults(estate, load.tally, held), blows=struck, facts=facts)


def _pairs(counts: Iterable[int]) -> str:
    return " / ".join(map(str, counts))


async def _offer_of(provider: str, clients: Mapping[str, Client]) -> str:
    consumer = next(client for name, client in clients.items() if name != provider)
    (seen,) = (await consumer.get("/catalog", participant=provider))["participants"]
    (dataset,) = [d for d in seen["datasets"] if d["id"] == DATASET]
    return str(dataset["offers"][0]["id"])


async def _quiet(estate: Estate) -> None:
    """Nothing is left to be sent on either side, a few times running: an answer may make new work."""
    calm = 0
    deadline = time.monotonic() + QUIET_SECONDS
    while calm < 3 and time.monotonic() < deadline:
        left = [await stores.pending(estate, name) for name in PARTIES]
        calm = 0 if any(left) else calm + 1
        await asyncio.sleep(PAUSE_SECONDS)
