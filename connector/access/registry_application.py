"""What a participant asks of the registry, signed (ES256, `registry-application+jwt`).

admission   by the key it brings: who sends it holds that key. A person decides.
keys        by a key the registry has for it already: the new keys take effect at once. Nothing else of the
            entry may differ: a new base URL is a new admission.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from connector.access import jose, trust_list
from connector.access.jose import Refusal
from connector.model.participant import Participant, ParticipantStatus
from connector.ports import Keys

TYP = "registry-application+jwt"
MAX_CHARS = 32_768


class ApplicationKind(StrEnum):
    ADMISSION = "admission"
    KEYS = "keys"


LIFE = {ApplicationKind.ADMISSION: timedelta(days=30), ApplicationKind.KEYS: timedelta(minutes=10)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A verified application; `signed_by` is the kid of the key it was signed with."""

    id: str
    kind: ApplicationKind
    participant: Participant
    issued_at: datetime
    expires_at: datetime
    signed_by: str


def make(
    keys: Keys,
    participant: Participant,
    *,
    kind: ApplicationKind,
    audience: str,
    at: datetime,
    application_id: str,
) -> str:
    """`audience`: the registry's issuer identifier."""
    issued = int(at.timestamp())
    claims = {
        "iss": participant.id,
        "aud": audience,
        "iat": issued,
        "exp": issued + int(LIFE[kind].total_seconds()),
        "jti": application_id,
        "kind": kind.value,
        "participant": trust_list.participant_to_wire(participant),
    }
    return keys.sign_jwt(claims, typ=TYP)


def read_admission(token: str, *, audience: str, now: datetime) -> Application:
    """Raises Refusal."""
    jws = jose.parse_jws(token, typ={TYP}, max_chars=MAX_CHARS)
    claims = jws.unverified_claims()  # the key that must verify it is in it
    participant = trust_list.participant_from_wire(claims.get("participant"))
    jws.verified(jose.signing_key(participant.jwks, _kid(jws)))
    application = _application(claims, participant, _kid(jws), ApplicationKind.ADMISSION, audience, now)
    if participant.status is not ParticipantStatus.ACTIVE:
        raise Refusal("status")
    return application


def read_keys(token: str, held: Participant, *, audience: str, now: datetime) -> Application:
    """`held`: the entry as the registry has it. Raises Refusal."""
    jws = jose.parse_jws(token, typ={TYP}, max_chars=MAX_CHARS)
    claims = jws.verified(jose.signing_key(held.jwks, _kid(jws)))
    participant = trust_list.participant_from_wire(claims.get("participant"))
    if replace(participant, jwks=held.jwks) != held:
        raise Refusal("entry_differs")
    if held.status is not ParticipantStatus.ACTIVE:
        raise Refusal("status")
    return _application(claims, participant, _kid(jws), ApplicationKind.KEYS, audience, now)


def _application(
    claims: Mapping[str, Any],
    participant: Participant,
    signed_by: str,
    kind: ApplicationKind,
    audience: str,
    now: datetime,
) -> Application:
    if claims.get("kind") != kind:
        raise Refusal("kind")
    if claims.get("iss") != participant.id:
        raise Refusal("iss")
    if claims.get("aud") != audience:
        raise Refusal("aud")
    issued, expires = jose.instant(claims, "iat"), jose.instant(claims, "exp")
    if not issued <= expires <= issued + LIFE[kind].total_seconds():
        raise Refusal("life")
    jose.require_current(claims, now.timestamp())
    return Application(
        id=jose.text(claims, "jti"),
        kind=kind,
        participant=participant,
        issued_at=datetime.fromtimestamp(issued, now.tzinfo),
        expires_at=datetime.fromtimestamp(expires, now.tzinfo),
        signed_by=signed_by,
    )


def _kid(jws: jose.UnverifiedJws) -> str:
    return jose.text(jws.header, "kid")
