"""Rich authorization requests (RFC 9396): which agreement, dataset, actions and purpose a token is for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from connector.access import jose
from connector.access.jose import Refusal
from connector.model.token import DETAIL_TYPE, AuthorizationDetail

_REQUEST_MEMBERS = frozenset({"type", "agreement", "dataset", "actions", "purpose"})
_MAX_ACTIONS = 8
_MAX_NAME_CHARS = 256


def requested_detail(parameter: str) -> AuthorizationDetail:
    """The one entry of an `authorization_details` parameter: one token, one agreement. Raises Refusal."""
    entries = jose.parse_json(parameter)
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise Refusal("authorization_details")
    if set(entries[0]) != _REQUEST_MEMBERS:  # §5: unknown members are refused; `grant` is ours to say
        raise Refusal("authorization_details")
    return from_wire(entries[0])


def from_wire(entry: Any) -> AuthorizationDetail:
    """Raises Refusal."""
    if not isinstance(entry, Mapping) or entry.get("type") != DETAIL_TYPE:
        raise Refusal("authorization_details")
    actions = entry.get("actions")
    if not isinstance(actions, list) or not 1 <= len(actions) <= _MAX_ACTIONS:
        raise Refusal("authorization_details")
    return AuthorizationDetail(
        agreement_id=_name(entry, "agreement"),
        dataset_id=_name(entry, "dataset"),
        actions=frozenset(_name({"action": action}, "action") for action in actions),
        purpose=_name(entry, "purpose"),
        grant_id=_name(entry, "grant") if "grant" in entry else "",
    )


def to_wire(detail: AuthorizationDetail) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": DETAIL_TYPE,
        "agreement": detail.agreement_id,
        "dataset": detail.dataset_id,
        "actions": sorted(detail.actions),
        "purpose": detail.purpose,
    }
    if detail.grant_id:
        entry["grant"] = detail.grant_id
    return entry


def to_parameter(detail: AuthorizationDetail) -> str:
    return json.dumps([to_wire(detail)], separators=(",", ":"))


def _name(entry: Mapping[str, Any], member: str) -> str:
    return jose.text(entry, member, max_chars=_MAX_NAME_CHARS)
