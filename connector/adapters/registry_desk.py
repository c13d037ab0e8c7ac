"""Applications to the registry, as files of its folder: received by the service, decided by a person.

`applications/<id>.json`: {"application": <JWS>, "received": ..., "decision": "", "by", "at", "reason"}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from connector.access import registry_application
from connector.access.jose import Refusal
from connector.access.registry_application import Application
from connector.adapters import registry_files
from connector.errors import Conflict, NotFound, RequestInvalid, Unavailable
from connector.model.json import JsonObject, from_rfc3339, to_rfc3339
from connector.ports import Clock

FOLDER = "applications"
MOST_WAITING = 1_000
"""Anybody may apply: more than this wait for nobody."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """`decision` is "" while it waits, then `approved` or `refused`."""

    application: Application
    token: str
    received_at: datetime
    decision: str = ""
    by: str = ""
    reason: str = ""


class RegistryDesk:
    """What the registry's service offers of this to participants. `web.registry.Desk`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def receive(self, token: str) -> JsonObject:
        return public(receive(self._folder, token, now=self._clock.now()))

    def found(self, application_id: str) -> JsonObject:
        return public(found(self._folder, application_id))

    def change_keys(self, participant_id: str, token: str) -> JsonObject:
        application = change_keys(self._folder, participant_id, token, now=self._clock.now())
        return {"participant": participant_id, "keys": [k["kid"] for k in application.participant.jwks]}


def public(received: Received) -> JsonObject:
    """What anybody with its id may know of an application."""
    return {
        "id": received.application.id,
        "participant": received.application.participant.id,
        "received": to_rfc3339(received.received_at),
        "state": received.decision or "waiting",
        "reason": received.reason,
    }


def receive(folder: Path, token: str, *, now: datetime) -> Received:
    """An admission to be decided on; a repeat is answered alike. Raises RequestInvalid, Conflict or
    Unavailable."""
    source = registry_files.read(folder)
    application = _read(token, source.issuer, now)
    path = _path(folder, application.id)
    if path.exists():
        held = _load(path)
        if held.token != token:
            raise Conflict("There is another application with this id.", code="application_id_taken")
        return held
    if application.participant.id in source.participants:
        raise Conflict(
            f"{application.participant.id} is in the list already.",
            mend="Choose another id; keys are changed by `connector keys rotate`.",
            code="participant_id_taken",
        )
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if sum(1 for _ in _waiting(folder)) >= MOST_WAITING:
        raise Unavailable("Too many applications wait.", mend="Ask the orchestrator.")
    received = Received(application=application, token=token, received_at=now)
    _save(path, received)
    return received


def change_keys(folder: Path, participant_id: str, token: str, *, now: datetime) -> Application:
    """Takes effect with the next signed list. Raises NotFound, RequestInvalid."""
    source = registry_files.read(folder)
    held = source.participants.get(participant_id)
    if held is None:
        raise NotFound("There is no such participant.")
    try:
        application = registry_application.read_keys(token, held, audience=source.issuer, now=now)
    except Refusal as refusal:
        raise _refused(refusal) from refusal
    registry_files.set_keys(folder, participant_id, application.participant.jwks, replacing=held.jwks)
    return application


def found(folder: Path, application_id: str) -> Received:
    """Raises NotFound."""
    path = _path(folder, application_id)
    if not path.exists():
        raise NotFound("There is no such application.")
    return _load(path)


def waiting(folder: Path) -> list[Received]:
    return sorted(_waiting(folder), key=lambda r: r.received_at)


def approve(folder: Path, application_id: str, *, by: str, now: datetime) -> Received:
    """The participant is in the list from now on. Raises NotFound, Conflict; RequestInvalid where its time is
    over: keys that were good then may not be now."""
    held = _undecided(folder, application_id)
    application = _read(held.token, registry_files.read(folder).issuer, now)
    registry_files.add_participant(folder, application.participant)
    return _decide(folder, held, "approved", by, now)


def refuse(folder: Path, application_id: str, *, by: str, reason: str, now: datetime) -> Received:
    """`reason` is shown to the applicant."""
    return _decide(folder, _undecided(folder, application_id), "refused", by, now, reason)


def _undecided(folder: Path, application_id: str) -> Received:
    held = found(folder, application_id)
    if held.decision:
        raise Conflict(f"The application is {held.decision} already.", code="application_decided")
    return held


def _decide(
    folder: Path, held: Received, decision: str, by: str, now: datetime, reason: str = ""
) -> Received:
    decided = replace(held, decision=decision, by=by, reason=reason)
    _save(_path(folder, held.application.id), decided, at=now)
    return decided


def _read(token: str, issuer: str, now: datetime) -> Application:
    try:
        return registry_application.read_admission(token, audience=issuer, now=now)
    except Refusal as refusal:
        raise _refused(refusal) from refusal


def _refused(refusal: Refusal) -> RequestInvalid:
    return RequestInvalid(
        f"The application was not accepted ({refusal.code}).",
        mend="Make it anew with `connector apply` or `connector keys rotate`.",
        code="application_refused",
    )


def _path(folder: Path, application_id: str) -> Path:
    if not _ID.fullmatch(application_id):
        raise RequestInvalid("is letters, digits, - and _", where="application id")
    return folder / FOLDER / f"{application_id}.json"


def _waiting(folder: Path) -> Iterator[Received]:
    for path in sorted((folder / FOLDER).glob("*.json")):
        received = _load(path)
        if not received.decision:
            yield received


def _load(path: Path) -> Received:
    """What was verified when it came; its time may be over by now."""
    held: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    received_at = from_rfc3339(held["received"])
    application = registry_application.read_admission(
        held["application"], audience=held["issuer"], now=received_at
    )
    return Received(
        application=application,
        token=held["application"],
        received_at=received_at,
        decision=held["decision"],
        by=held["by"],
        reason=held["reason"],
    )


def _save(path: Path, received: Received, *, at: datetime | None = None) -> None:
    issuer = registry_files.read(path.parent.parent).issuer
    registry_files.replace_file(
        path,
        json.dumps(
            {
                "application": received.token,
                "issuer": issuer,
                "received": to_rfc3339(received.received_at),
                "decision": received.decision,
                "by": received.by,
                "at": to_rfc3339(at) if at else "",
                "reason": received.reason,
            },
            indent=2,
        )
        + "\n",
    )
