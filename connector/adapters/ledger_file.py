"""The disclosure ledger in a SQLite file of its own, `ledger.sqlite`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from connector.adapters.group_commit import GroupCommit
from connector.model.audit import LedgerEntry
from connector.model.json import from_rfc3339, to_rfc3339

_SCHEMA = """
CREATE TABLE IF NOT EXISTS subjects (token BLOB PRIMARY KEY, ordinal INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (last INTEGER NOT NULL);
INSERT INTO counter (last) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM counter);
CREATE TABLE IF NOT EXISTS entries (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, audit_id TEXT NOT NULL,
  agreement TEXT NOT NULL, grant_id TEXT NOT NULL, dataset TEXT NOT NULL, recipient TEXT NOT NULL,
  purpose TEXT NOT NULL, subjects INTEGER NOT NULL, rows INTEGER NOT NULL, ciphertext BLOB NOT NULL,
  sha256 TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS entries_by_recipient ON entries (recipient, seq);
"""
_TAKE_ORDINALS = "UPDATE counter SET last = last + ? RETURNING last"
_INSERT_SUBJECTS = "INSERT INTO subjects (token, ordinal) VALUES (?, ?)"
_ENTRY = (
    "id, at, audit_id, agreement, grant_id, dataset, recipient, purpose, subjects, rows, ciphertext, sha256"
)
_INSERT_ENTRY = f"INSERT INTO entries ({_ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
_ENTRIES = f"SELECT {_ENTRY} FROM entries WHERE ?1 IS NULL OR recipient = ?1 ORDER BY seq"  # noqa: S608 - constants
_COUNT = "SELECT last FROM counter"
_ALL_SUBJECTS = "SELECT token, ordinal FROM subjects"
_LOOKUP_TOKENS = 500
_SCAN_FACTOR = 4  # reading this many tokens in order costs what looking up one does


class SqliteLedger:
    """`connector.ports.DisclosureLedger`. `open` first; one process owns the file."""

    def __init__(self, path: Path) -> None:
        self._file = GroupCommit(path, _SCHEMA, name="disclosure ledger")

    async def open(self) -> None:
        """Raises ConfigurationError."""
        await self._file.open()

    async def ordinals(self, subjects: Sequence[bytes]) -> Sequence[int]:
        return await self._file.write(lambda connection: _ordinals(connection, subjects))

    async def write(self, entry: LedgerEntry) -> None:
        row = (
            entry.id,
            to_rfc3339(entry.at),
            entry.audit_id,
            entry.agreement,
            entry.grant,
            entry.dataset,
            entry.recipient,
            entry.purpose,
            entry.subjects,
            entry.rows,
            entry.ciphertext,
            entry.sha256,
        )
        await self._file.write(lambda connection: connection.execute(_INSERT_ENTRY, row).rowcount)

    async def entries(self, *, recipient: str | None = None) -> Sequence[LedgerEntry]:
        rows = await self._file.read(lambda connection: connection.execute(_ENTRIES, (recipient,)).fetchall())
        return [_entry(*row) for row in rows]

    async def close(self) -> None:
        await self._file.close()


def _ordinals(connection: sqlite3.Connection, subjects: Sequence[bytes]) -> list[int]:
    known = _known(connection, subjects)
    # sorted: neighbours on disk are written together, and ordinals say nothing of who came first
    fresh = sorted({token for token in subjects if token not in known})
    if fresh:
        (last,) = connection.execute(_TAKE_ORDINALS, (len(fresh),)).fetchone()
        made = dict(zip(fresh, range(last - len(fresh) + 1, last + 1), strict=True))
        connection.executemany(_INSERT_SUBJECTS, made.items())
        known.update(made)
    return [known[token] for token in subjects]


def _known(connection: sqlite3.Connection, subjects: Sequence[bytes]) -> dict[bytes, int]:
    (held,) = connection.execute(_COUNT).fetchone()
    if held <= len(subjects) * _SCAN_FACTOR:
        return dict(connection.execute(_ALL_SUBJECTS))
    known: dict[bytes, int] = {}
    for start in range(0, len(subjects), _LOOKUP_TOKENS):
        page = subjects[start : start + _LOOKUP_TOKENS]
        marks = ",".join("?" * len(page))
        known.update(
            connection.execute(f"SELECT token, ordinal FROM subjects WHERE token IN ({marks})", page)  # noqa: S608
        )
    return known


def _entry(
    entry_id: str,
    at: str,
    audit_id: str,
    agreement: str,
    grant: str,
    dataset: str,
    recipient: str,
    purpose: str,
    subjects: int,
    rows: int,
    ciphertext: bytes,
    sha256: str,
) -> LedgerEntry:
    return LedgerEntry(
        id=entry_id,
        at=from_rfc3339(at),
        audit_id=audit_id,
        agreement=agreement,
        grant=grant,
        dataset=dataset,
        recipient=recipient,
        purpose=purpose,
        subjects=subjects,
        rows=rows,
        ciphertext=ciphertext,
        sha256=sha256,
    )
