"""The orchestrator's folder: edits are checked, signed versions only grow."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from connector.access import trust_list
from connector.adapters import registry_files
from connector.adapters.registry_files import RegistryFolder
from connector.errors import ConfigurationError, Conflict, NotFound
from connector.model.participant import Collaboration, CollaborationRole, ParticipantStatus
from tests.unit.access.world import ManualClock, fresh_keys, participant

KEYS = fresh_keys("registry")
KELA, CITY = (participant(fresh_keys(name)) for name in ("kela", "city"))
PLANNING = Collaboration(
    id="planning-2026",
    purpose="service-planning",
    lead="kela",
    members={
        "kela": frozenset({CollaborationRole.PROVIDER}),
        "city": frozenset({CollaborationRole.CONSUMER}),
    },
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    registry_files.create(tmp_path, issuer="https://registry.example")
    registry_files.add_participant(tmp_path, KELA)
    registry_files.add_participant(tmp_path, CITY)
    return tmp_path


def opened(folder: Path, clock: ManualClock | None = None) -> RegistryFolder:
    return RegistryFolder(folder, keys=KEYS, clock=clock or ManualClock())


def test_what_is_edited_is_what_is_signed(folder: Path) -> None:
    registry_files.add_collaboration(folder, PLANNING)
    registry_files.set_status(folder, "city", ParticipantStatus.SUSPENDED)
    signed = opened(folder).signed()
    content = trust_list.verify(signed.token, opened(folder).public_jwks()).content
    assert content.participants == {"kela": KELA, "city": replace(CITY, status=ParticipantStatus.SUSPENDED)}
    assert content.collaborations == {"planning-2026": PLANNING}
    assert content.expires_at - content.issued_at == timedelta(hours=24)
    assert (folder / registry_files.SIGNED).read_text().strip() == signed.token  # may be served as a file


def test_a_running_registry_sees_each_edit_as_a_new_version(folder: Path) -> None:
    registry = opened(folder)
    first = registry.signed().content.version
    assert registry.signed().content.version == first
    registry_files.set_status(folder, "city", ParticipantStatus.SUSPENDED)
    assert registry.signed().content.version > first


def test_an_edit_by_hand_counts_too(folder: Path) -> None:
    """The JSON's own version is only a floor: who edits by hand need not count."""
    registry = opened(folder)
    first = registry.signed().content
    path = folder / registry_files.SOURCE
    path.write_text(path.read_text().replace('"name": "City"', '"name": "City of Helsinki"'))
    assert registry.signed().content.participants["city"].name == "City of Helsinki"
    assert registry.signed().content.version == first.version + 1


def test_a_restart_repeats_no_version(folder: Path) -> None:
    """The same content is served as it was signed; other content is a version on."""
    before = opened(folder).signed()
    assert opened(folder).signed().token == before.token
    registry_files.set_status(folder, "city", ParticipantStatus.LEFT)
    assert opened(folder).signed().content.version > before.content.version


def test_it_is_signed_anew_when_half_its_life_is_over(folder: Path) -> None:
    clock = ManualClock()
    registry = opened(folder, clock)
    first = registry.signed().content
    clock.advance(12 * 3600 - 1)
    assert registry.signed().content == first
    clock.advance(1)
    renewed = registry.signed().content
    assert renewed.version == first.version + 1
    assert renewed.expires_at == clock.now() + timedelta(hours=24)


def test_a_lost_signed_file_does_not_roll_back(folder: Path) -> None:
    """As long as the JSON is there: each command raised its floor."""
    version = opened(folder).signed().content.version
    (folder / registry_files.SIGNED).unlink()
    assert opened(folder).signed().content.version >= version


def test_a_signed_file_of_another_key_stops_the_registry(folder: Path) -> None:
    RegistryFolder(folder, keys=fresh_keys("other"), clock=ManualClock()).signed()
    with pytest.raises(ConfigurationError, match=r"trust-list\.jws"):
        opened(folder).signed()


def test_commands_refuse_what_does_not_fit(folder: Path) -> None:
    """And leave the file as it was."""
    before = (folder / registry_files.SOURCE).read_bytes()
    with pytest.raises(Conflict):
        registry_files.add_participant(folder, KELA)
    with pytest.raises(ConfigurationError, match="base_url_repeated"):
        registry_files.add_participant(folder, replace(KELA, id="kela_two"))
    with pytest.raises(ConfigurationError, match="participant_id"):
        registry_files.add_participant(folder, replace(KELA, id="Kela Two", base_url="https://two.example"))
    with pytest.raises(NotFound):
        registry_files.set_status(folder, "nobody", ParticipantStatus.LEFT)
    with pytest.raises(ConfigurationError, match="lead"):
        registry_files.add_collaboration(folder, replace(PLANNING, lead="city"))
    with pytest.raises(ConfigurationError, match="exists already"):
        registry_files.create(folder, issuer="https://registry.example")
    assert (folder / registry_files.SOURCE).read_bytes() == before


def test_who_has_left_does_not_come_back(folder: Path) -> None:
    registry_files.set_status(folder, "city", ParticipantStatus.LEFT)
    with pytest.raises(Conflict, match="admit it anew"):
        registry_files.set_status(folder, "city", ParticipantStatus.ACTIVE)


def test_a_suspended_participant_may_come_back(folder: Path) -> None:
    registry_files.set_status(folder, "city", ParticipantStatus.SUSPENDED)
    registry_files.set_status(folder, "city", ParticipantStatus.ACTIVE)
    assert registry_files.read(folder).participants["city"].status is ParticipantStatus.ACTIVE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"trust-list\.json:1"),
        ("[]", "malformed"),
        ('{"issuer": "x", "version": 0, "participants": [], "collaborations": []}', "version"),
        ('{"issuer": "x", "version": 1, "participants": [{}], "collaborations": []}', "participant_id"),
    ],
)
def test_a_file_that_is_not_understood_is_named(folder: Path, content: str, message: str) -> None:
    (folder / registry_files.SOURCE).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        opened(folder).signed()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="connector registry init"):
        registry_files.set_status(tmp_path / "nowhere", "city", ParticipantStatus.LEFT)
    with pytest.raises(ConfigurationError, match="connector registry init"):
        opened(tmp_path).signed()


def test_the_file_is_for_people_to_read(folder: Path) -> None:
    document = json.loads((folder / registry_files.SOURCE).read_text())
    assert [p["id"] for p in document["participants"]] == ["city", "kela"]
    assert not list(folder.glob(".trust-list.json.*"))
