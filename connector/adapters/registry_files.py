"""The orchestrator's registry as files: `trust-list.json`, edited by the CLI, and its signed form.

`trust-list.json` says who takes part; `trust-list.jws` is what connectors get. It is signed anew, one version
on, when the content changes or half its life is over. The last signed version is read back from it, so a
restart never repeats a version; `version` in the JSON is a floor, for a folder restored without the JWS.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from connector.access import trust_list
from connector.access.jose import Refusal
from connector.access.trust_list import SignedTrustList
from connector.errors import ConfigurationError, Conflict, NotFound
from connector.model.json import JsonObject
from connector.model.participant import Collaboration, Participant, ParticipantStatus, TrustList
from connector.ports import Clock, Keys

SOURCE = "trust-list.json"
SIGNED = "trust-list.jws"
LIFE = timedelta(hours=24)
_MEND = "Mend the entry, or undo the last edit; `connector registry` commands check before they write."


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the folder's JSON says; `version` is the least that the next signed list may have."""

    issuer: str
    version: int
    participants: Mapping[str, Participant]
    collaborations: Mapping[str, Collaboration]


def create(folder: Path, *, issuer: str) -> None:
    """An empty list. Raises ConfigurationError where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if (folder / SOURCE).exists():
            raise ConfigurationError(
                "exists already", where=str(folder / SOURCE), mend="Edit it with `connector registry`."
            )
        _write(folder, Source(issuer=issuer, version=1, participants={}, collaborations={}))


def add_participant(folder: Path, participant: Participant) -> None:
    """Raises Conflict where the id is taken, ConfigurationError where the entry breaks the format."""
    with _edited(folder) as source:
        if participant.id in source.participants:
            raise Conflict(f"The participant {participant.id} is in the list already.")
        changed = {**source.participants, participant.id: participant}
        _write(folder, replace(source, participants=changed, version=source.version + 1))


def set_status(folder: Path, participant_id: str, status: ParticipantStatus) -> None:
    """Raises NotFound; who has left does not come back under the same entry (Conflict)."""
    with _edited(folder) as source:
        if (participant := source.participants.get(participant_id)) is None:
            raise NotFound(f"There is no participant {participant_id} in the list.")
        if participant.status is ParticipantStatus.LEFT and status is not ParticipantStatus.LEFT:
            raise Conflict(f"{participant_id} has left; admit it anew.")
        changed = {**source.participants, participant_id: replace(participant, status=status)}
        _write(folder, replace(source, participants=changed, version=source.version + 1))


def set_keys(
    folder: Path,
    participant_id: str,
    jwks: tuple[Mapping[str, Any], ...],
    *,
    replacing: tuple[Mapping[str, Any], ...],
) -> None:
    """Raises NotFound; Conflict where the entry's keys are no longer those that the change was judged by."""
    with _edited(folder) as source:
        if (participant := source.participants.get(participant_id)) is None:
            raise NotFound(f"There is no participant {participant_id} in the list.")
        if participant.jwks != replacing:
            raise Conflict("The keys have been changed in the meantime.", mend="Try again.")
        changed = {**source.participants, participant_id: replace(participant, jwks=jwks)}
        _write(folder, replace(source, participants=changed, version=source.version + 1))


def add_collaboration(folder: Path, collaboration: Collaboration) -> None:
    """Raises Conflict where the id is taken, ConfigurationError where it breaks the format (a member who is
    not in the list, a lead who is no provider)."""
    with _edited(folder) as source:
        if collaboration.id in source.collaborations:
            raise Conflict(f"The collaboration {collaboration.id} is in the list already.")
        changed = {**source.collaborations, collaboration.id: collaboration}
        _write(folder, replace(source, collaborations=changed, version=source.version + 1))


def read(folder: Path) -> Source:
    """Raises ConfigurationError, naming the file and what is wrong."""
    path = folder / SOURCE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise Refusal("object")
        participants, collaborations = trust_list.entries_from_wire(document)
        issuer, version = document.get("issuer"), document.get("version")
        if not isinstance(issuer, str) or not issuer or type(version) is not int or version < 1:
            raise Refusal("issuer or version")
    except FileNotFoundError:
        raise ConfigurationError(
            "is missing", where=str(path), mend="Run `connector registry init`."
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(error.msg, where=f"{path}:{error.lineno}", mend=_MEND) from None
    except UnicodeDecodeError:
        raise ConfigurationError("is not UTF-8", where=str(path), mend=_MEND) from None
    except Refusal as refusal:
        raise ConfigurationError(
            f"an entry is malformed ({refusal.code})", where=str(path), mend=_MEND
        ) from None
    return Source(issuer=issuer, version=version, participants=participants, collaborations=collaborations)


class RegistryFolder:
    """Keeps the signed list in step with the JSON. One process writes it; the file may be served as it is."""

    def __init__(self, folder: Path, *, keys: Keys, clock: Clock, life: timedelta = LIFE) -> None:
        self._folder = folder
        self._keys = keys
        self._clock = clock
        self._life = life
        self._signed: SignedTrustList | None = None
        self._stamp: tuple[int, int, int] | None = None

    def signed(self) -> SignedTrustList:
        """The list to serve now, signed anew where due. Raises ConfigurationError."""
        stamp = self._source_stamp()
        if self._signed is None or stamp != self._stamp or self._ageing(self._signed.content):
            with _locked(self._folder):
                self._signed = self._in_step(read(self._folder))
            self._stamp = stamp
        return self._signed

    def public_jwks(self) -> tuple[Mapping[str, Any], ...]:
        """What connectors pin."""
        return tuple(jwk for jwk in self._keys.public_jwks() if jwk["use"] == "sig")

    def _in_step(self, source: Source) -> SignedTrustList:
        last = self._last_signed()
        if last is not None and _same(last.content, source) and not self._ageing(last.content):
            return last
        now = self._clock.now()
        content = TrustList(
            issuer=source.issuer,
            version=max(source.version, last.content.version + 1 if last else 1),
            issued_at=now,
            expires_at=now + self._life,
            participants=source.participants,
            collaborations=source.collaborations,
        )
        token = trust_list.sign(content, self._keys)
        replace_file(self._folder / SIGNED, token + "\n")
        return trust_list.verify(token, self._keys.public_jwks())

    def _last_signed(self) -> SignedTrustList | None:
        path = self._folder / SIGNED
        try:
            return trust_list.verify(path.read_text(encoding="ascii").strip(), self._keys.public_jwks())
        except FileNotFoundError:
            return None
        except (Refusal, UnicodeDecodeError):
            raise ConfigurationError(
                "is not signed by this registry's key",
                where=str(path),
                mend="Restore it; or remove it and raise `version` in trust-list.json above the last one.",
            ) from None

    def _ageing(self, content: TrustList) -> bool:
        return self._clock.now() >= content.expires_at - self._life / 2

    def _source_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = (self._folder / SOURCE).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _same(content: TrustList, source: Source) -> bool:
    return (
        content.issuer == source.issuer
        and content.version >= source.version
        and content.participants == source.participants
        and content.collaborations == source.collaborations
    )


def _to_wire(source: Source) -> JsonObject:
    return {
        "issuer": source.issuer,
        "version": source.version,
        **trust_list.entries_to_wire(source.participants.values(), source.collaborations.values()),
    }


def _write(folder: Path, source: Source) -> None:
    """Checked as connectors will check it, before anything is written."""
    wire = _to_wire(source)
    try:
        trust_list.entries_from_wire(wire)
    except Refusal as refusal:
        raise ConfigurationError(
            f"the entry is malformed ({refusal.code})",
            where=str(folder / SOURCE),
            mend="Nothing was changed.",
        ) from None
    replace_file(folder / SOURCE, json.dumps(wire, indent=2, ensure_ascii=False) + "\n")


def replace_file(path: Path, content: str) -> None:
    """Whole or not at all, also across a power cut."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.chmod(0o644)  # public by nature
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _edited(folder: Path) -> Iterator[Source]:
    with _locked(folder):
        yield read(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two commands, or a command and the service, never write at once."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise ConfigurationError(
            "is missing", where=str(folder), mend="Run `connector registry init`."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
