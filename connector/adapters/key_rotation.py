"""Changing a participant's keys without an outage: publish, wait, sign, retire.

publish  a next signing key is made; the registry gets it beside the present one
wait     until everybody's trust list has it
sign     with it from now on; a new encryption key too. The old signing key goes on verifying
retire   the old ones are forgotten, once nothing signed with them lives any more

Each step leaves a folder that a connector can start from, wherever it is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from connector.access import jose
from connector.adapters import file_keys, key_files
from connector.adapters.file_keys import (
    ENCRYPTION,
    NEXT_SIGNING,
    OLD_ENCRYPTION,
    RETIRED,
    ROOT,
    SIGNING,
    FileKeys,
)
from connector.errors import Conflict
from connector.model.json import from_rfc3339, to_rfc3339

VERIFIES_FOR = timedelta(minutes=65)
"""How long a retired key goes on verifying: the longest life of anything signed with it, and some more."""


class Step(StrEnum):
    PUBLISH = "publish"
    SIGN = "sign"
    RETIRE = "retire"


def next_step(folder: Path) -> Step:
    if (folder / NEXT_SIGNING).exists():
        return Step.SIGN
    return Step.RETIRE if (folder / RETIRED).exists() else Step.PUBLISH


def published_kid(folder: Path, passphrase: bytes | None) -> str:
    """Of the next key."""
    key = key_files.private_key(folder / NEXT_SIGNING, passphrase).public_key()
    return jose.public_jwk(key, use="sig", alg=jose.ALGORITHM)["kid"]


def publish(folder: Path, participant_id: str, passphrase: bytes | None) -> FileKeys:
    """Raises Conflict where another change of keys is under way."""
    if next_step(folder) is not Step.PUBLISH:
        raise Conflict(
            "A change of keys is under way already.",
            mend=f"Go on with `connector keys rotate`: the next step is '{next_step(folder)}'.",
            code="rotation_under_way",
        )
    key_files.write_new(folder / NEXT_SIGNING, key_files.pem(file_keys.new_private(), passphrase))
    key_files.sync_folder(folder)
    return file_keys.load(folder, participant_id, passphrase)


def sign(folder: Path, participant_id: str, passphrase: bytes | None, *, now: datetime) -> FileKeys:
    """Raises Conflict where no next key is published."""
    if next_step(folder) is not Step.SIGN:
        raise Conflict("No next key is published.", code="rotation_not_published")
    present = file_keys.load(folder, participant_id, passphrase)
    old = next(jwk for jwk in present.public_jwks() if jwk["kid"] == present.thumbprint())
    _write_retired(folder, [{"jwk": dict(old), "until": to_rfc3339(now + VERIFIES_FOR)}])
    if not (folder / OLD_ENCRYPTION).exists():  # else we were cut off right here the last time
        key_files.replace(folder / OLD_ENCRYPTION, key_files.read(folder / ENCRYPTION))
        key_files.replace(folder / ENCRYPTION, key_files.pem(file_keys.new_private(), passphrase))
    os.replace(folder / NEXT_SIGNING, folder / SIGNING)  # noqa: PTH105 - the last step: it decides
    key_files.sync_folder(folder)
    return file_keys.load(folder, participant_id, passphrase)


def retire(
    folder: Path, participant_id: str, passphrase: bytes | None, *, now: datetime, at_once: bool = False
) -> FileKeys:
    """`at_once`: for a key that others may have. Raises Conflict before its time, naming it."""
    if next_step(folder) is not Step.RETIRE:
        raise Conflict("No key is to be retired.", code="rotation_not_signed")
    until = max(from_rfc3339(entry["until"]) for entry in file_keys.retired(folder))
    if now < until and not at_once:
        raise Conflict(
            f"Tokens signed with the old key live until {to_rfc3339(until)}.",
            mend="Try again then; `--at-once` if others may have the old key.",
            code="rotation_too_early",
        )
    (folder / OLD_ENCRYPTION).unlink(missing_ok=True)
    (folder / RETIRED).unlink()
    key_files.sync_folder(folder)
    return file_keys.load(folder, participant_id, passphrase)


def encrypt(folder: Path, participant_id: str, passphrase: bytes) -> FileKeys:
    """Seal the files of a folder that are not sealed yet. Raises KeysInvalid."""
    for name in (SIGNING, ENCRYPTION, NEXT_SIGNING, OLD_ENCRYPTION):
        path = folder / name
        if path.exists() and not key_files.is_sealed(key_files.read(path)):
            key_files.replace(path, key_files.pem(key_files.private_key(path, None), passphrase))
    if not key_files.is_sealed(key_files.read(folder / ROOT)):
        root = key_files.secret(folder / ROOT, None, file_keys.ROOT_BYTES)
        key_files.replace(folder / ROOT, key_files.sealed(root, passphrase))
    return file_keys.load(folder, participant_id, passphrase)


def _write_retired(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    key_files.replace(folder / RETIRED, json.dumps(entries, indent=2).encode("ascii") + b"\n")
