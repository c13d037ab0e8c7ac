"""The figures as the report's lines: ours beside EDC's as ratios with targets, then each system's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.control_plane.catalogue import CatalogueFigures
from benchmarks.control_plane.load import Figures
from benchmarks.control_plane.plan import Plan
from benchmarks.report import row

DEFAULTS, TUNED = "EDC, defaults", "EDC, tuned"
OURS = ("ours, SQLite", "ours, PostgreSQL")
LATENCY_TO_DEFAULTS, LATENCY_TO_TUNED, MEMORY = 0.1, 0.5, 0.5

Row = dict[str, Any]


def rows_of(
    figures: Mapping[str, Figures],
    catalogues: Mapping[str, Mapping[int, CatalogueFigures]],
    plan: Plan,
    *,
    edc_version: str,
) -> list[Row]:
    named = {name.replace("EDC", f"EDC {edc_version}"): found for name, found in figures.items()}
    return [
        *(line for ours in OURS for line in _ratios(ours, figures, plan)),
        *(line for name, found in named.items() for line in _system(name, found)),
        *_catalogues(catalogues, edc_version),
    ]


def _ratios(ours: str, figures: Mapping[str, Figures], plan: Plan) -> Iterator[Row]:
    own, tuned, defaults = figures[ours], figures[TUNED], figures[DEFAULTS]
    for other, name, most in ((defaults, DEFAULTS, LATENCY_TO_DEFAULTS), (tuned, TUNED, LATENCY_TO_TUNED)):
        for in_flight in plan.in_flight:
            pair = (own.negotiations[in_flight], other.negotiations[in_flight])
            ratio = pair[0].percentile(50) / pair[1].percentile(50)
            what = f"{ours} to {name}: p50 of a negotiation, {in_flight} in flight"
            yield row(what, ratio, "x", f"≤ {most:g} x", ratio <= most)
    for in_flight in plan.in_flight:
        ratio = own.negotiations[in_flight].per_second / tuned.negotiations[in_flight].per_second
        what = f"{ours} to {TUNED}: negotiations finalized/s, {in_flight} in flight"
        yield row(what, ratio, "x", "≥ 1 x", ratio >= 1)
    assert own.transfers is not None
    assert tuned.transfers is not None
    ratio = own.transfers.per_second / tuned.transfers.per_second
    yield row(f"{ours} to {TUNED}: transfers started/s", ratio, "x", "≥ 1 x", ratio >= 1)
    ratio = sum(own.resident_mb.values()) / sum(tuned.resident_mb.values())
    what = f"{ours} to {TUNED}: memory of consumer and provider"
    yield row(what, ratio, "x", f"≤ {MEMORY:g} x", ratio <= MEMORY)


def _system(name: str, found: Figures) -> Iterator[Row]:
    for in_flight, phase in found.negotiations.items():
        where = f"{name}: negotiations, {in_flight} in flight"
        yield row(f"{where}, finalized/s", phase.per_second, "/s")
        yield row(f"{where}, failed", phase.failed, "")
        for share in (50, 95, 99):
            yield row(f"{where}, p{share}", phase.percentile(share) * 1000, "ms")
    if found.transfers is not None:
        yield row(f"{name}: transfers started/s", found.transfers.per_second, "/s")
        yield row(f"{name}: transfers, p50", found.transfers.percentile(50) * 1000, "ms")
    for role, megabytes in found.resident_mb.items():
        yield row(f"{name}: resident memory of the {role} after the load", megabytes, "MB")


def _catalogues(found: Mapping[str, Mapping[int, CatalogueFigures]], edc_version: str) -> Iterator[Row]:
    for size in found["ours"]:
        for name, figures in (("ours", found["ours"][size]), (f"EDC {edc_version}", found["EDC"][size])):
            where = f"{name}: catalogue of {size:,} datasets"
            yield row(f"{where}, requests/s, {figures.page} datasets a page", figures.per_second, "/s")
            yield row(f"{where}, all {figures.datasets:,} read", figures.pages_seconds, "s")
            yield row(f"{where}, resident memory of the provider", figures.resident_mb, "MB")
        ours, edc = found["ours"][size], found["EDC"][size]
        per_dataset = (ours.per_second * ours.page) / (edc.per_second * edc.page)
        yield row(
            f"ours to EDC: datasets told/s, catalogue of {size:,}",
            per_dataset,
            "x",
            "≥ 1 x",
            per_dataset >= 1,
        )
