"""6 The record: the decision before the data, the outcome after.

A leaf is hashed as its canonical bytes: RFC 8785 of the wire form, camelCase members, empty ones left
out, instants as RFC 3339 UTC with milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import Any, TypedDict, Unpack

import rfc8785

from connector.access.merkle import leaf_hash
from connector.errors import AuditBroken
from connector.model.audit import AuditEvent, AuditLeaf, Receipt
from connector.model.json import JsonObject, from_rfc3339, to_rfc3339
from connector.ports import AuditLog, Clock, Keys

VERSION = 1
MAX_TEXT_CHARS = 2_000
"""Of one member. What a stranger sends (an id, a reason) must not swell or stop the log."""


class LeafFields(TypedDict, total=False):
    """What a caller states about a fact; the rest of AuditLeaf is the Auditor's to fill in."""

    actor: str
    on_behalf_of: str
    object: str
    purpose: str
    legal_basis: str
    agreement: str
    transfer: str
    grant: str
    epoch: int | None
    outcome: str
    reasons: tuple[str, ...]
    policy_revision: str
    contract_revision: str
    consent_version: int | None
    statement: str
    rows: int | None
    bytes: int | None
    subjects: int | None
    groups_hidden: int | None
    identified: bool | None
    ledger: str
    refers: str
    trace: str


class Auditor:
    """Puts facts on record in this connector's log."""

    def __init__(
        self, log: AuditLog, clock: Clock, new_id: Callable[[], str], participant_id: str, keys: Keys
    ) -> None:
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._participant_id = participant_id
        self._statement_key = keys.derive("audit-statement")

    async def record(self, event: AuditEvent, *, fact: str = "", **about: Unpack[LeafFields]) -> Receipt:
        """On record when it returns. Raises Unavailable: then what was to be recorded must not happen.

        `fact` names it: what has one is on record once, however often it is told.
        """
        leaf = AuditLeaf(
            id=fact or self._new_id(),
            at=_whole_milliseconds(self._clock.now()),
            event=event,
            participant=self._participant_id,
            **_recordable(about),
        )
        return await self._log.append(leaf)

    def statement_hash(self, sql: str) -> str:
        """For `statement`: the owner can compare, nobody can read the literals in it."""
        return hmac.new(self._statement_key, sql.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def canonical(leaf: AuditLeaf) -> bytes:
    """The bytes that are stored and hashed."""
    wire = {_camel(f.name): _wire(getattr(leaf, f.name)) for f in fields(leaf)}
    return rfc8785.dumps({name: value for name, value in wire.items() if value not in (None, "", [])})


def hash_of(leaf: AuditLeaf) -> bytes:
    """RFC 6962 leaf hash."""
    return leaf_hash(canonical(leaf))


def parse(data: bytes) -> AuditLeaf:
    """Raises AuditBroken when `data` are not exactly the canonical bytes of a leaf."""
    try:
        leaf = _from_wire(json.loads(data))
        if canonical(leaf) != data:
            raise ValueError("not canonical")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AuditBroken("A leaf is not the canonical JSON of an audit leaf.") from error
    return leaf


def _from_wire(wire: Any) -> AuditLeaf:
    if not isinstance(wire, dict) or wire.get("version") != VERSION:
        raise ValueError("unknown version")
    values: dict[str, Any] = {_SNAKE[name]: value for name, value in wire.items()}
    values["at"] = from_rfc3339(values["at"])
    values["event"] = AuditEvent(values["event"])
    if "reasons" in values:
        values["reasons"] = tuple(values["reasons"])
    return AuditLeaf(**values)


def _recordable(about: LeafFields) -> JsonObject:
    """The same facts in a form that can always be written: no lone surrogates, no endless texts."""
    return {name: _bounded(value) for name, value in about.items()}


def _bounded(value: object) -> Any:
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"
    if isinstance(value, list | tuple):
        return tuple(_bounded(item) for item in value)
    return value


def _wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_rfc3339(value)
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _whole_milliseconds(instant: datetime) -> datetime:
    """What the wire form keeps, so that a leaf read back equals the leaf written."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_SNAKE = {_camel(f.name): f.name for f in fields(AuditLeaf)}
