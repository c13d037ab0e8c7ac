"""`python -m tests.conformance`: the kit on both stores. Exit status 1 unless all 65 tests pass on each."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tests.conformance import runs
from tests.parts import PartUnavailable, run_apart, tck, temporary_folder
from tests.parts.postgres import fresh_database, running_postgres


def main() -> int:
    # what the connector says of a peer that refuses or is late is part of many tests
    logging.basicConfig(level=logging.CRITICAL)
    try:
        tck.kit_jars()
        print(f"DSP conformance kit {tck.version()}, on SQLite and PostgreSQL at once …", flush=True)
        with running_postgres() as postgres, temporary_folder("conformance") as folder:
            stores = {runs.SQLITE: "", runs.POSTGRESQL: fresh_database(postgres)}
            reports = run_apart(lambda: runs.run_on(stores, Path(folder)))
    except PartUnavailable as error:
        print(f"The kit could not be run: {error}", file=sys.stderr)
        return 1
    print("\n".join(runs.table(reports)))
    return 1 if runs.problems(reports) else 0


if __name__ == "__main__":
    sys.exit(main())
