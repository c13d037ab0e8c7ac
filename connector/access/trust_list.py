"""The registry's trust list: a compact JWS (ES256, `trust-list+jwt`) by a key pinned at onboarding.

Payload: {iss, version, iat, exp, participants, collaborations}. A successor has a higher version; the same
version with another content is equivocation. After `exp` the list says nothing, and everything is denied.
Strict on purpose: one entry that is not understood refuses the whole list, at the registry already.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

from connector.access import jose
from connector.access.jose import LEEWAY_SECONDS, Refusal
from connector.model.json import JsonObject, from_rfc3339, to_rfc3339
from connector.model.participant import (
    Collaboration,
    CollaborationRole,
    Participant,
    ParticipantStatus,
    TrustList,
)
from connector.ports import Keys

TYP = "trust-list+jwt"
MAX_BYTES = 5_000_000
_PARTICIPANT_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
_COLLABORATION_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MAX_TEXT_CHARS = 512

Enumerated = TypeVar("Enumerated", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTrustList:
    """A verified list and its proof. `digest` is over the signed content: signatures differ each time."""

    content: TrustList
    token: str
    digest: str


def sign(content: TrustList, keys: Keys) -> str:
    """Raises Refusal where connectors would refuse the content."""
    claims = {
        "iss": content.issuer,
        "version": content.version,
        "iat": int(content.issued_at.timestamp()),
        "exp": int(content.expires_at.timestamp()),
        **entries_to_wire(content.participants.values(), content.collaborations.values()),
    }
    _from_claims(claims)
    return keys.sign_jwt(claims, typ=TYP)


def verify(token: str, pinned: Iterable[Mapping[str, Any]]) -> SignedTrustList:
    """Signature and shape; says nothing of time or order. Raises Refusal."""
    jws = jose.parse_jws(token, typ={TYP}, max_chars=MAX_BYTES)
    claims = jws.verified(jose.signing_key(pinned, jws.header.get("kid")))
    return SignedTrustList(
        content=_from_claims(claims), token=token, digest=hashlib.sha256(jws.payload).hexdigest()
    )


def accept(
    token: str,
    pinned: Iterable[Mapping[str, Any]],
    *,
    now: datetime,
    held: SignedTrustList | None = None,
) -> SignedTrustList:
    """A list to act on from now. Raises Refusal: `signature`, `exp`, `rollback`, `equivocation`, ..."""
    offered = verify(token, pinned)
    if offered.content.issued_at.timestamp() > now.timestamp() + LEEWAY_SECONDS:
        raise Refusal("iat")
    if now >= offered.content.expires_at:
        raise Refusal("exp")
    if held is not None and offered.content.version < held.content.version:
        raise Refusal("rollback")
    if held is not None and offered.content.version == held.content.version and offered.digest != held.digest:
        raise Refusal("equivocation")
    return offered


# --- wire form -----------------------------------------------------------------------------------------


def entries_to_wire(
    participants: Iterable[Participant], collaborations: Iterable[Collaboration]
) -> dict[str, list[JsonObject]]:
    return {
        "participants": [participant_to_wire(p) for p in sorted(participants, key=lambda p: p.id)],
        "collaborations": [collaboration_to_wire(c) for c in sorted(collaborations, key=lambda c: c.id)],
    }


def entries_from_wire(wire: JsonObject) -> tuple[dict[str, Participant], dict[str, Collaboration]]:
    """Raises Refusal where an entry is malformed, repeated, or names somebody who is not in the list."""
    participants = _by_id([participant_from_wire(p) for p in _list(wire, "participants")])
    collaborations = _by_id([collaboration_from_wire(c) for c in _list(wire, "collaborations")])
    if len({p.base_url for p in participants.values()}) != len(participants):
        raise Refusal("base_url_repeated")
    for collaboration in collaborations.values():
        if not participants.keys() >= collaboration.members.keys():
            raise Refusal("member_unknown")
        if not collaboration.has(collaboration.lead, CollaborationRole.PROVIDER):
            raise Refusal("lead")  # only a provider may make the secret
    return participants, collaborations


def participant_to_wire(participant: Participant) -> JsonObject:
    return {
        "id": participant.id,
        "name": participant.name,
        "base_url": participant.base_url,
        "jwks": {"keys": [dict(jwk) for jwk in participant.jwks]},
        "status": participant.status.value,
        "business_id": participant.business_id,
        "sector": participant.sector,
        "roles": sorted(participant.roles),
        "country": participant.country,
        "rulebook_version": participant.rulebook_version,
    }


def participant_from_wire(wire: Any) -> Participant:
    """Raises Refusal."""
    entry = _object(wire, "participant")
    return Participant(
        id=_slug(entry.get("id"), _PARTICIPANT_ID, "participant_id"),
        name=_line(entry, "name", required=True),
        base_url=_base_url(entry.get("base_url")),
        jwks=_jwks(entry.get("jwks")),
        status=_member(ParticipantStatus, entry.get("status"), "status"),
        business_id=_line(entry, "business_id"),
        sector=_line(entry, "sector"),
        roles=frozenset(_strings(entry.get("roles", []), "roles")),
        country=_line(entry, "country"),
        rulebook_version=_line(entry, "rulebook_version"),
    )


def collaboration_to_wire(collaboration: Collaboration) -> JsonObject:
    wire: dict[str, Any] = {
        "id": collaboration.id,
        "purpose": collaboration.purpose,
        "lead": collaboration.lead,
        "members": {member: sorted(roles) for member, roles in sorted(collaboration.members.items())},
        "generation": collaboration.generation,
    }
    if collaboration.valid_until is not None:
        wire["valid_until"] = to_rfc3339(collaboration.valid_until)
    return wire


def collaboration_from_wire(wire: Any) -> Collaboration:
    """Raises Refusal."""
    entry = _object(wire, "collaboration")
    members = _object(entry.get("members"), "members")
    generation = entry.get("generation")
    if isinstance(generation, bool) or not isinstance(generation, int) or generation < 1:
        raise Refusal("generation")
    return Collaboration(
        id=_slug(entry.get("id"), _COLLABORATION_ID, "collaboration_id"),
        purpose=_line(entry, "purpose", required=True),
        lead=_slug(entry.get("lead"), _PARTICIPANT_ID, "lead"),
        members={
            _slug(member, _PARTICIPANT_ID, "member"): frozenset(
                _member(CollaborationRole, role, "role") for role in _strings(roles, "role")
            )
            for member, roles in members.items()
        },
        generation=generation,
        valid_until=_rfc3339(entry["valid_until"]) if "valid_until" in entry else None,
    )


def _from_claims(claims: JsonObject) -> TrustList:
    version = claims.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise Refusal("version")
    participants, collaborations = entries_from_wire(claims)
    return TrustList(
        issuer=jose.text(claims, "iss", max_chars=_MAX_TEXT_CHARS),
        version=version,
        issued_at=datetime.fromtimestamp(jose.instant(claims, "iat"), UTC),
        expires_at=datetime.fromtimestamp(jose.instant(claims, "exp"), UTC),
        participants=participants,
        collaborations=collaborations,
    )


Entry = TypeVar("Entry", Participant, Collaboration)


def _by_id(entries: list[Entry]) -> dict[str, Entry]:
    found = {entry.id: entry for entry in entries}
    if len(found) != len(entries):
        raise Refusal("id_repeated")
    return found


def _jwks(wire: Any) -> tuple[Mapping[str, Any], ...]:
    """Public P-256 keys with distinct `kid`s, each for one use; at least one to verify signatures with."""
    keys = _list(_object(wire, "jwks"), "keys")
    for jwk in keys:
        jose.public_key(jwk)
        if jwk.get("use") not in ("sig", "enc"):
            raise Refusal("jwks")
        jose.text(jwk, "kid")
    kids = {jwk["kid"] for jwk in keys}
    if len(kids) != len(keys) or not any(jwk["use"] == "sig" for jwk in keys):
        raise Refusal("jwks")
    return tuple(keys)


def _base_url(value: Any) -> str:
    """As settings write it: http(s), a host, perhaps a path; no trailing slash, no query."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARS or not value.isascii():
        raise Refusal("base_url")
    try:
        parts = urlsplit(value)
        named = f"{parts.scheme}://{parts.netloc}{parts.path}"
        valid = bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        raise Refusal("base_url") from None
    if not valid or parts.scheme not in ("http", "https") or named != value or value.endswith("/"):
        raise Refusal("base_url")
    return value


def _rfc3339(value: Any) -> datetime:
    try:
        return from_rfc3339(value)
    except (TypeError, ValueError):
        raise Refusal("valid_until") from None


def _member(kind: type[Enumerated], value: Any, code: str) -> Enumerated:
    try:
        return kind(value)
    except ValueError:
        raise Refusal(code) from None


def _object(value: Any, code: str) -> JsonObject:
    if not isinstance(value, Mapping):
        raise Refusal(code)
    return value


def _list(wire: JsonObject, name: str) -> list[Any]:
    value = wire.get(name)
    if not isinstance(value, list):
        raise Refusal(name)
    return value


def _strings(value: Any, code: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise Refusal(code)
    return value


def _line(entry: JsonObject, name: str, *, required: bool = False) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARS or (required and not value):
        raise Refusal(name)
    return value


def _slug(value: Any, pattern: re.Pattern[str], code: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Refusal(code)
    return value
