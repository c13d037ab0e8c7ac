"""How much of it: the whole takes several minutes, the quick one tells only that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`seconds`: of each phase, and no fewer than `least` ends; `slow_seconds` with EDC's defaults, where one
    negotiation takes several seconds."""

    in_flight: tuple[int, ...] = (1, 16, 64)
    transfers_in_flight: int = 16
    warm_seconds: float
    seconds: float
    slow_seconds: float
    least: int
    catalogue_sizes: tuple[int, ...]
    catalogue_seconds: float


FULL = Plan(
    warm_seconds=6,
    seconds=8,
    slow_seconds=12,
    least=5,
    catalogue_sizes=(10, 1_000, 10_000),
    catalogue_seconds=4,
)
QUICK = Plan(
    in_flight=(1, 16),
    warm_seconds=2,
    seconds=3,
    slow_seconds=8,
    least=1,
    catalogue_sizes=(10, 100),
    catalogue_seconds=1,
)
