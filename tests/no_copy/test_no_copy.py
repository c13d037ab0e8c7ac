"""After the whole demo, no person's data lies anywhere but where architecture.md's table allows.

The canaries are real values of the registers: ids, names and phones of persons whom the demo asked about,
and of many it did not; and the pseudonyms that crossed between organisations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.demo import consents, truth
from connector.demo.population import Population, generate
from tests.system.demo_run import PERSONS, SEED, DemoRun

ALLOWED = {"employment/data", "kela/data", "school/data"}
"""The registers themselves."""

PSEUDONYM = re.compile(rb"[px]1_[a-z2-7]{20,}")
PSEUDONYMS_ALLOWED = {"youth/state/connector.sqlite", "youth/state/connector.sqlite-wal"}
"""Events by reference, in the consumer's own bus: type, pseudonym, link."""


@pytest.fixture(scope="module")
def population() -> Population:
    return generate(seed=SEED, persons=PERSONS)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes()


def _canaries(population: Population) -> set[str]:
    asked_about = [
        truth.a_consenting_client_with_benefits(population),
        truth.a_client_without_consent(population),
        truth.a_consenting_leaver(population),
        consents.never_asked(population),
    ]
    persons = [*asked_about, *population.persons[::50]]
    found: set[str] = set()
    for person in persons:
        found |= {person.hetu, person.phone}
    found |= {p.name for p in asked_about}
    return found


def test_no_register_data_outside_the_registers(demo_run: DemoRun, population: Population) -> None:
    """Mission X2, architecture idea 5: stores, logs, audit, ledger, replay guard, keys, process logs."""
    canaries = _canaries(population)
    needles = [(c, c.encode(), c.encode("utf-16-le")) for c in canaries]
    seen = 0
    found: list[tuple[str, str]] = []
    for name, content in _files(demo_run.folder):
        if any(name.startswith(f"{place}/") for place in ALLOWED):
            continue
        seen += 1
        found += [(name, canary) for canary, one, two in needles if one in content or two in content]
    assert seen > 20
    assert not found


def test_the_canaries_are_really_in_the_registers(demo_run: DemoRun, population: Population) -> None:
    """Else the test above could not fail."""
    leaver = truth.a_consenting_leaver(population)
    register = (demo_run.folder / "school/data/leavers.csv").read_text(encoding="utf-8")
    assert leaver.hetu in register
    assert leaver.phone in register


def test_pseudonyms_lie_only_where_events_by_reference_do(demo_run: DemoRun) -> None:
    """Architecture idea 5: fragment rows live in memory; no result is kept."""
    holders = {name for name, content in _files(demo_run.folder) if PSEUDONYM.search(content)}
    assert holders <= PSEUDONYMS_ALLOWED, holders
    assert holders, "the events that the demo pushed are on the consumer's bus"


def test_private_keys_and_state_are_for_the_owner_only(demo_run: DemoRun) -> None:
    """Keys are files of mode 0600; so is everything that holds state."""
    for file in demo_run.folder.rglob("*"):
        if file.is_file() and file.parent.name in ("keys", "state"):
            assert file.stat().st_mode & 0o077 == 0, file
