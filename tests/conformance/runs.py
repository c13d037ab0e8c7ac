"""The kit against a connector on each store, all at once: they mostly wait for one another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests.conformance import kit
from tests.conformance.connector import running_connector
from tests.conformance.kit import NAMES, Report
from tests.parts import HOST, free_ports

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"


async def run_on(stores: Mapping[str, str], folder: Path) -> dict[str, Report]:
    """`stores`: name -> DSN, "" for SQLite. `folder` takes a folder for each. Raises PartUnavailable."""
    ports = free_ports(len(stores))
    reports = await asyncio.gather(
        *(_run(folder / name, dsn, port) for (name, dsn), port in zip(stores.items(), ports, strict=True))
    )
    return dict(zip(stores, reports, strict=True))


async def _run(folder: Path, store_dsn: str, port: int) -> Report:
    participant, kits = folder / "participant", folder / "kit"
    kits.mkdir(parents=True)
    peer_url = f"http://{HOST}:{port}"
    async with running_connector(participant, peer_url=peer_url, store_dsn=store_dsn) as connector:
        return await kit.run(connector, kits, port)


def table(reports: Mapping[str, Report]) -> list[str]:
    """A line for each test, then the totals and whatever keeps a run from being a proof."""
    layout = "{:<11}" + "  {:<10}" * len(reports) + "  {}"
    titles = {name: title for report in reports.values() for name, title in report.titles.items()}
    names = [*NAMES, *sorted({n for r in reports.values() for n in r.outcomes} - set(NAMES))]
    lines = [layout.format("test", *reports, "what it verifies")]
    lines += [
        layout.format(
            name, *(r.outcomes.get(name, "missing") for r in reports.values()), titles.get(name, "")
        )
        for name in names
    ]
    totals = [f"{len(report.passed)} of {len(NAMES)}" for report in reports.values()]
    seconds = ", ".join(f"{store} {report.seconds:.0f} s" for store, report in reports.items())
    lines.append(layout.format("passed", *totals, seconds))
    return lines + problems(reports)


def problems(reports: Mapping[str, Report]) -> list[str]:
    """Of all runs; empty when each passed every test that there has to be."""
    return [f"{store}: {problem}" for store, report in reports.items() for problem in report.problems()]
