"""The provider's signed last word on a fragment, as it travels: a compact JWS of EndRecord.

Both ends of the transport speak through this module, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from connector.access import jose
from connector.model.fragment import EndRecord, HiddenPart
from connector.model.json import JsonObject
from connector.ports import Keys

TYP = "fragment-end+jwt"
METADATA_KEY = "end"
"""Of the custom metadata of the stream's last, empty record batch."""

MADE_AT_KEY = "madeat"
"""Of a batch's custom metadata: when the provider handed it over, RFC 3339. For measuring, not for trust."""

MAX_CHARS = 262_144
MAX_HIDDEN_PARTS = 1_000


def sign(record: EndRecord, keys: Keys) -> str:
    return keys.sign_jwt(to_wire(record), typ=TYP)


def to_wire(record: EndRecord) -> JsonObject:
    return {
        "rows": record.rows,
        "digest": record.digest,
        "auditId": record.audit_id,
        "grantId": record.grant_id,
        "policyRevision": record.policy_revision,
        "identified": record.identified,
        "groupsHidden": record.groups_hidden,
        "hidden": [hidden_to_wire(part) for part in record.hidden],
        "error": record.error,
    }


def verify(unverified: str, jwks: Iterable[Mapping[str, Any]]) -> EndRecord:
    """Raises jose.Refusal when it is not signed by one of `jwks` or is not an end record."""
    return _from_wire(jose.verify_jws(unverified, jwks, typ={TYP}, max_chars=MAX_CHARS))


def hidden_to_wire(part: HiddenPart) -> JsonObject:
    return {"what": part.what, "why": part.why, "enforcedBy": part.enforced_by}


def hidden_from_wire(wire: Any) -> tuple[HiddenPart, ...]:
    """Raises jose.Refusal."""
    if not isinstance(wire, list) or len(wire) > MAX_HIDDEN_PARTS:
        raise jose.Refusal("hidden")
    parts = []
    for item in wire:
        if not isinstance(item, dict):
            raise jose.Refusal("hidden")
        what, why, by = (_of(item, name, str) for name in ("what", "why", "enforcedBy"))
        parts.append(HiddenPart(what=what, why=why, enforced_by=by))
    return tuple(parts)


def _from_wire(claims: Mapping[str, Any]) -> EndRecord:
    return EndRecord(
        rows=_count(claims, "rows"),
        digest=_of(claims, "digest", str),
        audit_id=_of(claims, "auditId", str),
        grant_id=_of(claims, "grantId", str),
        policy_revision=_of(claims, "policyRevision", str),
        identified=_of(claims, "identified", bool),
        groups_hidden=_count(claims, "groupsHidden"),
        hidden=hidden_from_wire(claims.get("hidden")),
        error=_of(claims, "error", str),
    )


def _of(claims: Mapping[str, Any], name: str, kind: type) -> Any:
    value = claims.get(name)
    if type(value) is not kind:  # exactly: a bool is no count
        raise jose.Refusal(name)
    return value


def _count(claims: Mapping[str, Any], name: str) -> int:
    value: int = _of(claims, name, int)
    if value < 0:
        raise jose.Refusal(name)
    return value
