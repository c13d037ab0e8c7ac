"""`python -m tests.crash`: as long and as hard as the arguments say. Exit code 1 where anything is amiss."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.crash.run import on_postgres, on_sqlite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first round; a random one by default")
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed and fresh stores")
    parser.add_argument("--contracts", type=int, default=200, help="in each round, half each way")
    parser.add_argument("--blows", type=int, default=20, help="kills in each round")
    parser.add_argument("--postgres", action="store_true", help="both stores on PostgreSQL, killed as well")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    failed = 0
    for round_seed in range(seed, seed + asked.rounds):
        with tempfile.TemporaryDirectory(prefix="connector-crash-") as folder:
            about = {"seed": round_seed, "contracts": asked.contracts, "blows": asked.blows}
            place = Path(folder) / "estate"
            if asked.postgres:
                outcome = on_postgres(place, **about, connectors_too=True)
            else:
                outcome = on_sqlite(place, **about)
        failed += bool(outcome.faults)
        print(f"round with seed {round_seed}: {'FAILED' if outcome.faults else 'as it must be'}\n{outcome}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
