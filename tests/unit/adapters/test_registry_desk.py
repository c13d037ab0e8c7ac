"""Admission: a signed application, a person who decides, and no change for anybody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from connector.access import registry_application, trust_list
from connector.access.registry_application import ApplicationKind
from connector.adapters import registry_desk, registry_files
from connector.adapters.file_keys import FileKeys
from connector.errors import Conflict, ConnectorError, NotFound, RequestInvalid
from connector.model.participant import Participant, ParticipantStatus
from tests.unit.access.world import START, fresh_keys, participant

ISSUER = "https://registry.example"
KELA, NEW = fresh_keys("kela"), fresh_keys("school")
ENTRY = replace(participant(NEW), business_id="1234567-8", sector="education", rulebook_version="1.0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    registry_files.create(tmp_path, issuer=ISSUER)
    registry_files.add_participant(tmp_path, participant(KELA))
    return tmp_path


def application(
    keys: FileKeys = NEW,
    entry: Participant = ENTRY,
    *,
    kind: ApplicationKind = ApplicationKind.ADMISSION,
    audience: str = ISSUER,
    application_id: str = "a1",
) -> str:
    return registry_application.make(
        keys, entry, kind=kind, audience=audience, at=START, application_id=application_id
    )


def changed(**changes: Any) -> Participant:
    return replace(ENTRY, **changes)


def test_a_person_admits_an_applicant(folder: Path) -> None:
    """Identity issue: a new participant sends a signed application, a person approves."""
    received = registry_desk.receive(folder, application(), now=START)
    assert registry_desk.public(received)["state"] == "waiting"
    assert "school" not in registry_files.read(folder).participants
    assert registry_desk.receive(folder, application_id_of(folder), now=START) == received  # a repeat
    assert [r.application.signed_by for r in registry_desk.waiting(folder)] == [NEW.thumbprint()]
    registry_desk.approve(folder, "a1", by="orchestrator:anna", now=START)
    assert registry_files.read(folder).participants["school"] == ENTRY
    assert not registry_desk.waiting(folder)
    found = registry_desk.found(folder, "a1")
    assert (found.decision, found.by) == ("approved", "orchestrator:anna")


def application_id_of(folder: Path) -> str:
    return registry_desk.found(folder, "a1").token


def test_an_applicant_is_told_why_not(folder: Path) -> None:
    registry_desk.receive(folder, application(), now=START)
    registry_desk.refuse(folder, "a1", by="anna", reason="The rulebook is not signed.", now=START)
    assert registry_desk.public(registry_desk.found(folder, "a1"))["reason"] == "The rulebook is not signed."
    with pytest.raises(Conflict, match="refused already"):
        registry_desk.approve(folder, "a1", by="anna", now=START)
    assert "school" not in registry_files.read(folder).participants


Forgery = Callable[[], str]

FORGERIES: list[tuple[str, Forgery, str]] = [
    ("by a key it does not bring", lambda: application(fresh_keys("school")), "key_unknown"),
    ("for another registry", lambda: application(audience="https://other.example"), "aud"),
    ("a change of keys as an admission", lambda: application(kind=ApplicationKind.KEYS), "kind"),
    ("already suspended", lambda: application(entry=changed(status=ParticipantStatus.SUSPENDED)), "status"),
    ("not a JWS", lambda: "x", "malformed"),
    ("too long", lambda: "x" * 40_000, "oversize"),
    ("an id that is no slug", lambda: application(entry=changed(id="../x")), "participant_id"),
    ("an address with a query", lambda: application(entry=changed(base_url="https://x/?a")), "base_url"),
]  # fmt: skip


@pytest.mark.parametrize(("forge", "code"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES])
def test_what_is_not_signed_right_is_refused(folder: Path, forge: Forgery, code: str) -> None:
    """Proof of possession of the new key; nothing is kept of a forgery."""
    with pytest.raises(RequestInvalid, match=rf"\({code}\)"):
        registry_desk.receive(folder, forge(), now=START)
    assert not (folder / registry_desk.FOLDER).exists()


@pytest.mark.parametrize("application_id", ["../trust-list", "a/b", "", "x" * 65])
def test_ids_are_no_paths(folder: Path, application_id: str) -> None:
    with pytest.raises(RequestInvalid):
        registry_desk.found(folder, application_id)
    with pytest.raises(ConnectorError):
        registry_desk.receive(folder, application(application_id=application_id or "a b"), now=START)


def test_an_id_in_use_is_not_given_twice(folder: Path) -> None:
    mallory = fresh_keys("kela")
    with pytest.raises(Conflict, match="in the list already"):
        registry_desk.receive(folder, application(mallory, participant(mallory)), now=START)
    registry_desk.receive(folder, application(), now=START)
    other = fresh_keys("youth")
    with pytest.raises(Conflict, match="another application"):
        registry_desk.receive(folder, application(other, participant(other)), now=START)


def test_an_old_application_is_not_approved(folder: Path) -> None:
    registry_desk.receive(folder, application(), now=START)
    with pytest.raises(RequestInvalid, match="exp"):
        registry_desk.approve(folder, "a1", by="anna", now=START + timedelta(days=31))
    with pytest.raises(NotFound):
        registry_desk.approve(folder, "a2", by="anna", now=START)


# --- new keys --------------------------------------------------------------------------------------------


def with_keys(*keys: FileKeys, **changes: Any) -> Participant:
    jwks = tuple(k for key in keys for k in key.public_jwks() if k["use"] == "sig")
    jwks += tuple(k for k in keys[-1].public_jwks() if k["use"] == "enc")
    return replace(participant(KELA), jwks=jwks, **changes)


def change(folder: Path, signer: FileKeys, entry: Participant) -> None:
    token = application(signer, entry, kind=ApplicationKind.KEYS)
    registry_desk.change_keys(folder, "kela", token, now=START)


def test_a_key_in_the_list_vouches_for_the_next(folder: Path) -> None:
    """Rotation: publish beside the old one, sign with the new one, drop the old one."""
    new = fresh_keys("kela")
    change(folder, KELA, with_keys(KELA, new))
    change(folder, new, with_keys(new))
    signed = registry_files.RegistryFolder(folder, keys=fresh_keys("registry"), clock=_Clock()).signed()
    assert signed.content.participants["kela"].jwks[0]["kid"] == new.thumbprint()
    with pytest.raises(RequestInvalid, match="key_unknown"):
        change(folder, KELA, with_keys(KELA))
    assert trust_list.participant_to_wire(registry_files.read(folder).participants["kela"])


class _Clock:
    def now(self) -> Any:
        return START


def test_nothing_but_keys_is_changed_by_a_key(folder: Path) -> None:
    """A stolen key must not move a participant to another address or lift its suspension."""
    for entry in (
        with_keys(KELA, base_url="https://mallory.example"),
        with_keys(KELA, name="Somebody else"),
        with_keys(KELA, roles=frozenset({"orchestrator"})),
    ):
        with pytest.raises(RequestInvalid, match="entry_differs"):
            change(folder, KELA, entry)
    registry_files.set_status(folder, "kela", ParticipantStatus.SUSPENDED)
    with pytest.raises(RequestInvalid):
        change(folder, KELA, with_keys(KELA, status=ParticipantStatus.SUSPENDED))


def test_strangers_change_nobodys_keys(folder: Path) -> None:
    mallory = fresh_keys("kela")
    with pytest.raises(RequestInvalid, match="key_unknown"):
        change(folder, mallory, with_keys(mallory))
    with pytest.raises(NotFound):
        registry_desk.change_keys(folder, "nobody", application(kind=ApplicationKind.KEYS), now=START)
