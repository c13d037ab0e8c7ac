"""`python -m tests.parts.install`: fetch or build the real parts ahead of the tests, and say what is missing.

Exit status 0; with CI=true, 1 when a part is missing.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.parts import PartUnavailable, cache, edc, kafka, keycloak, opa, postgres, tck

PARTS: dict[str, tuple[Callable[[], Path], Callable[[], str]]] = {
    "OPA": (opa.opa_binary, opa.version),
    "Kafka": (kafka.broker_jars, kafka.version),
    "PostgreSQL": (postgres.server_folder, postgres.version),
    "EDC": (edc.edc_jars, edc.version),
    "Keycloak": (keycloak.keycloak_home, keycloak.version),
    "DSP TCK": (tck.kit_jars, tck.version),
}


def main() -> int:
    """Install each part that is not there yet; print one line, or the reason, for each."""
    print(f"Real parts for the tests, cache {cache.root()}:", flush=True)
    missing = [name for name, (find, version) in PARTS.items() if not _install(name, find, version)]
    if not missing:
        return 0
    print(f"Missing: {', '.join(missing)}. The tests that need them will be skipped; in CI they fail.")
    return 1 if os.environ.get("CI") == "true" else 0


def _install(name: str, find: Callable[[], Path], version: Callable[[], str]) -> bool:
    print(f"  {name:<11}", end="", flush=True)
    begun = time.monotonic()
    try:
        place = find()
        print(f"{version():<9} {place} ({time.monotonic() - begun:.0f} s)", flush=True)
    except PartUnavailable as error:
        print(f"missing: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
