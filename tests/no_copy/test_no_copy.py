"""After the whole demo, no person's data lies anywhere but where architecture.md's table allows.

The canaries are real values of the registers: ids, names and phones of persons whom the demo asked about,
and of many it did not; and the pseudonyms that crossed between organisations.
"""

from __future__ import annotations

import base64
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


def _canaries(population: Population) -> tuple[frozenset[bytes], tuple[bytes, ...]]:
    """What every person of the registers is known by, and the names of those the demo asked about."""
    known = {value.encode() for p in population.persons for value in (p.hetu, p.phone)}
    asked_about = (
        truth.a_consenting_client_with_benefits(population),
        truth.a_client_without_consent(population),
        truth.a_consenting_leaver(population),
        consents.never_asked(population),
    )
    return frozenset(known), tuple(person.name.encode() for person in asked_about)


HETU_OR_PHONE = re.compile(rb"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]|\+358 40 [0-9]{5}")


def _leaks(content: bytes, known: frozenset[bytes], names: tuple[bytes, ...]) -> set[bytes]:
    """In UTF-8, and in UTF-16 by way of its letters without the zeros between them."""
    found: set[bytes] = set()
    for text in (content, content.replace(b"\0", b"")):
        found |= known.intersection(HETU_OR_PHONE.findall(text))
        found |= {name for name in names if name in text}
    return found


def test_no_register_data_outside_the_registers(demo_run: DemoRun, population: Population) -> None:
    """Mission X2, architecture idea 5: stores, logs, audit, ledger, replay guard, keys, process logs."""
    known, names = _canaries(population)
    seen = 0
    found: dict[str, set[bytes]] = {}
    for name, content in _files(demo_run.folder):
        if any(name.startswith(f"{place}/") for place in ALLOWED):
            continue
        seen += 1
        if leaks := _leaks(content, known, names):
            found[name] = leaks
    assert seen > 20
    assert not found


def test_the_search_itself_finds_what_it_looks_for(population: Population) -> None:
    """Else the test above could not fail."""
    known, names = _canaries(population)
    person = population.persons[0]
    for text in (person.hetu, person.phone, names[0].decode()):
        assert _leaks(b"x" + text.encode() + b"y", known, names)
        assert _leaks(f"x{text}y".encode("utf-16-le"), known, names)


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


def test_no_secret_is_shared(demo_run: DemoRun) -> None:
    """Issue Identity: no private key and no root secret of one is anywhere in another's folder, as it is, in
    Base64 or in hexadecimal; the registry's neither."""
    files = dict(_files(demo_run.folder))
    secrets = {name: content for name, content in files.items() if "/keys/" in name and _is_secret(name)}
    owners = {name.split("/")[0] for name in secrets}
    assert owners >= {"registry", "kela", "employment", "school", "youth"}
    for name, secret in secrets.items():
        owner = name.split("/")[0]
        body = b"".join(line for line in secret.splitlines() if not line.startswith(b"-----"))
        spellings = (
            secret,
            body,
            base64.b64encode(secret),
            base64.urlsafe_b64encode(secret),
            secret.hex().encode(),
        )
        for other, content in files.items():
            if other.split("/")[0] != owner:
                assert not any(spelling in content for spelling in spellings), (name, other)


def test_settings_hold_no_secret(demo_run: DemoRun) -> None:
    """Issue Identity: participants prove themselves with keys; no setting opens a door."""
    settings = list(demo_run.folder.glob("*/connector.toml"))
    assert len(settings) >= 4
    for file in settings:
        assert not re.search(
            r"(?i)secret|password|passphrase|api_key|bearer", file.read_text(encoding="utf-8")
        ), file


def _is_secret(name: str) -> bool:
    return not name.endswith((".json", ".pub"))
