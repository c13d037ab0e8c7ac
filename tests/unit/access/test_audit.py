"""Canonical leaves and the Auditor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connector.access import audit
from connector.errors import AuditBroken, Unavailable
from connector.model.audit import AuditEvent, AuditLeaf, Receipt, TreeHead
from tests.unit.access.evidence import StillClock, counting_ids, fresh_keys

AT = datetime(2026, 11, 22, 10, 30, 0, 123456, tzinfo=UTC)


@dataclass
class ListLog:
    """Keeps leaves in memory, or refuses them all."""

    kept: list[AuditLeaf] = field(default_factory=list)
    broken: bool = False

    async def append(self, leaf: AuditLeaf) -> Receipt:
        if self.broken:
            raise Unavailable("The audit log cannot be written.")
        self.kept.append(leaf)
        return Receipt(audit_id=leaf.id, index=len(self.kept) - 1, leaf_hash=audit.hash_of(leaf).hex())

    async def head(self) -> TreeHead:
        raise NotImplementedError

    async def leaves(self, *, after: int = -1, limit: int = 100) -> list[tuple[int, AuditLeaf]]:
        raise NotImplementedError

    async def close(self) -> None: ...


def auditor(log: ListLog) -> audit.Auditor:
    return audit.Auditor(log, StillClock(AT), counting_ids(), "kela", fresh_keys())


def test_canonical_bytes_are_rfc_8785_without_empty_members() -> None:
    """RFC 8785: sorted members, no spaces; empty texts, tuples and None left out, False and 0 kept."""
    leaf = AuditLeaf(
        id="a1",
        at=AT,
        event=AuditEvent.QUERY_ENDED,
        participant="kela",
        on_behalf_of="city",
        rows=0,
        identified=False,
        reasons=("pää syy",),
    )
    assert audit.canonical(leaf).decode() == (
        '{"at":"2026-11-22T10:30:00.123Z","event":"query:outcome:recorded","id":"a1","identified":false,'
        '"onBehalfOf":"city","participant":"kela","reasons":["pää syy"],"rows":0,"version":1}'
    )
    assert audit.hash_of(leaf) == hashlib.sha256(b"\0" + audit.canonical(leaf)).digest()


def test_instants_are_written_in_utc() -> None:
    """The same instant in another zone is the same leaf."""
    from datetime import timezone

    leaf = AuditLeaf(id="a", at=AT, event=AuditEvent.TOKEN_ISSUED, participant="kela")
    elsewhere = replace(leaf, at=AT.astimezone(timezone(timedelta(hours=2))))
    assert audit.canonical(leaf) == audit.canonical(elsewhere)


async def test_what_is_recorded_can_be_read_back_whole() -> None:
    """Skeleton: the final shape of the audit leaf; parse is the inverse of canonical."""
    log = ListLog()
    receipt = await auditor(log).record(
        AuditEvent.QUERY_DECIDED,
        actor="city",
        purpose="service-planning",
        agreement="ag-1",
        epoch=3,
        outcome="permit",
        reasons=("consent", "k=5"),
        consent_version=7,
        identified=True,
        subjects=12,
    )
    (leaf,) = log.kept
    assert receipt.audit_id == leaf.id
    assert leaf.at == AT.replace(microsecond=123000)
    assert audit.parse(audit.canonical(leaf)) == leaf


async def test_no_record_no_data() -> None:
    """Architecture idea 6: a log that cannot be written stops what was to be recorded."""
    with pytest.raises(Unavailable):
        await auditor(ListLog(broken=True)).record(AuditEvent.QUERY_DECIDED)


@pytest.mark.parametrize("hostile", ["\ud800 lone surrogate", "x" * 1_000_000, "\x00\x1f", "𐀀" * 3000])
async def test_what_a_stranger_sends_cannot_stop_or_swell_the_record(hostile: str) -> None:
    """A denial must be recorded whatever the denied sent."""
    log = ListLog()
    await auditor(log).record(AuditEvent.ACCESS_REFUSED, object=hostile, reasons=(hostile,))
    data = audit.canonical(log.kept[0])
    assert len(data) < 20_000
    assert audit.parse(data) == log.kept[0]


def test_statements_are_kept_as_keyed_hashes() -> None:
    """Architecture idea 5: literals as keyed hashes. Equal under one key, unrelated under another's."""
    one, other = auditor(ListLog()), auditor(ListLog())
    sql = "SELECT 1 FROM kela.benefits WHERE id = '010190-900X'"
    assert one.statement_hash(sql) == one.statement_hash(sql)
    assert one.statement_hash(sql) != one.statement_hash(sql + " ")
    assert one.statement_hash(sql) != other.statement_hash(sql)
    assert one.statement_hash(sql) != hashlib.sha256(sql.encode()).hexdigest()


GOOD: dict[str, Any] = {
    "at": '"2026-11-22T10:30:00.000Z"',
    "event": '"token:access:issued"',
    "id": '"a"',
    "participant": '"kela"',
    "version": "1",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "2"},
        {"event": '"token:access:forged"'},
        {"at": '"2026-11-22T10:30:00"'},
        {"at": '"2026-11-22T12:30:00.000+02:00"'},
        {"zz": '"unknown"'},
        {"actor": '""'},
        {"id": None},
        {"version": "1 "},
        {"at": "7"},
    ],
)
def test_only_canonical_leaves_are_read(changed: dict[str, str | None]) -> None:
    """A leaf in any other spelling, version or shape is no evidence."""
    members = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
    data = "{" + ",".join(f'"{name}":{members[name]}' for name in sorted(members)) + "}"
    with pytest.raises(AuditBroken):
        audit.parse(data.encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b'{"version":1', b"[" * 100_000])
def test_nonsense_is_no_leaf(data: bytes) -> None:
    """Bytes from a damaged file are refused, whatever they are."""
    with pytest.raises(AuditBroken):
        audit.parse(data)
