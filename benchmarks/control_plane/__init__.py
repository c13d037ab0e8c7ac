"""The control plane under load: ours and Eclipse EDC's, a consumer and a provider of the same kind each time.

How it is measured, alike for all: each connector is a process of its own on this machine, no TLS, warm before
the clock starts. Negotiations and transfers begin and are watched at the consumer's own API; a time is from
the request there to the poll that first sees the end of it, so it is rather too long (see `load`). Ours runs
as the product does: OAuth2 with DPoP towards the peer, policy decided in Rego, an audit record for each step,
an agreement signed by both; EDC with `iam-mock`, no policy functions, and everything in memory, with a data
plane of the tests. Approval is automatic on both sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.control_plane import edc, ours
from benchmarks.control_plane.catalogue import measure_catalogue
from benchmarks.control_plane.load import Figures, Pair, measure
from benchmarks.control_plane.plan import FULL, QUICK, Plan
from benchmarks.control_plane.rows import rows_of
from benchmarks.control_plane.where import rows_of_time
from tests.parts import edc as edc_part
from tests.parts.postgres import SETTINGS, fresh_database, running_postgres

TITLE = "The control plane, beside Eclipse EDC's"
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    plan = QUICK if quick else FULL
    figures = {name: _measured(name, pair, plan) for name, pair in _pairs()}
    catalogues = {
        "ours": measure_catalogue(ours.catalogue, plan),
        "EDC": measure_catalogue(edc.catalogue, plan),
    }
    rows = rows_of(figures, catalogues, plan, edc_version=edc_part.version())
    return [*rows, *rows_of_time(plan)]


def _measured(name: str, pair: Any, plan: Plan) -> Figures:
    print(f"  {name} ...", flush=True)
    with pair() as running:
        return asyncio.run(_load(running, plan))


async def _load(pair: Pair, plan: Plan) -> Figures:
    async with pair:
        return await measure(pair, plan)


def _pairs() -> Iterator[tuple[str, Any]]:
    yield "ours, SQLite", ours.running
    yield "ours, PostgreSQL", _ours_on_postgres
    yield "EDC, tuned", lambda: edc.running(edc_part.quick_state_machines())
    yield "EDC, defaults", lambda: edc.running({}, slow=True)


@contextmanager
def _ours_on_postgres() -> Iterator[Pair]:
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres({**SETTINGS, **DURABLE}))
        dsns = {name: fresh_database(server) for name in ours.NAMES}
        yield stack.enter_context(ours.running(dsns))
