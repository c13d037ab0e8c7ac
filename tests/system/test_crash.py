"""Crash safety: connectors, or the database under them, killed in the middle of many contracts.

`make crash ARGS="--rounds 20 --blows 50"` does the same for longer; a seed that failed is repeated by
`--seed`. Everything goes through the product's own processes, real identity included.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.run import Outcome, on_postgres, on_sqlite
from tests.parts import PartUnavailable
from tests.parts.plugin import in_ci

CONTRACTS = 24
BLOWS = 3


@pytest.fixture
def seed() -> int:
    """Another one each time: `CRASH_SEED` names one."""
    return int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1_000_000))


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_connectors_are_killed(tmp_path: Path, seed: int) -> None:
    """Protocol, "It must show" 3. SIGKILL on one or both: every process is in an allowed state, the same on
    both sides; one agreement per negotiation, its bytes equal; every fact is on record once."""
    judge(on_sqlite(tmp_path / "estate", seed=seed, contracts=CONTRACTS, blows=BLOWS))


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_postgresql_is_killed(tmp_path: Path, seed: int) -> None:
    """Protocol, "It must show" 3: the same with PostgreSQL killed under both stores. The connectors are not
    restarted: they find back by themselves."""
    try:
        outcome = on_postgres(tmp_path / "estate", seed=seed, contracts=CONTRACTS, blows=BLOWS)
    except PartUnavailable as error:
        if in_ci():
            raise
        pytest.skip(f"PostgreSQL can't be had. {error}")
    judge(outcome)


def judge(outcome: Outcome) -> None:
    print(outcome)
    assert not outcome.faults, f"\n{outcome}"
