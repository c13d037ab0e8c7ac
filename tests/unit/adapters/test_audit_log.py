"""The audit log file: on record, signed, proven offline, and what tampering it finds."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from connector.access import audit, merkle
from connector.adapters.audit_log import HEAD_TYP, SqliteAuditLog, VerifiedLog, verify_audit
from connector.adapters.file_keys import FileKeys
from connector.errors import AuditBroken, ConfigurationError, Unavailable
from connector.model.audit import AuditEvent, AuditLeaf
from tests.unit.access.evidence import StillClock, fresh_keys

LEAVES, SECOND_HEAD = 20, 12
KEYS = fresh_keys()


def leaf(number: int, **about: object) -> AuditLeaf:
    return replace(
        AuditLeaf(
            id=f"id-{number}",
            at=StillClock().now(),
            event=AuditEvent.QUERY_DECIDED,
            participant="kela",
            purpose="service-planning",
        ),
        **about,  # type: ignore[arg-type]
    )


async def opened(path: Path, keys: FileKeys = KEYS, *, head_every_seconds: float = 60.0) -> SqliteAuditLog:
    log = SqliteAuditLog(path, keys=keys, clock=StillClock(), head_every_seconds=head_every_seconds)
    await log.open()
    return log


async def written(path: Path, keys: FileKeys = KEYS) -> None:
    """20 leaves; heads over 0, 12 and 20 of them."""
    log = await opened(path, keys)
    for number in range(LEAVES):
        if number == SECOND_HEAD:
            await log.head()
        await log.append(leaf(number))
    await log.close()


def verified(path: Path, keys: FileKeys = KEYS) -> VerifiedLog:
    return verify_audit(path, keys.public_jwks())


# --- the log --------------------------------------------------------------------------------------------


async def test_receipts_and_heads_follow_rfc_6962(tmp_path: Path) -> None:
    """Port AuditLog: numbers from 0, the leaf's own hash, and a head over everything so far."""
    log = await opened(tmp_path / "audit.sqlite")
    receipts = [await log.append(leaf(number)) for number in range(5)]
    head = await log.head()
    assert [r.index for r in receipts] == [0, 1, 2, 3, 4]
    assert [r.leaf_hash for r in receipts] == [audit.hash_of(leaf(n)).hex() for n in range(5)]
    assert (head.log, head.size) == ("kela", 5)
    assert head.root == merkle.root(audit.hash_of(leaf(n)) for n in range(5)).hex()
    assert head == await log.head(), "nothing new, so no new head"
    await log.close()


async def test_a_leaf_of_the_same_id_is_on_record_once(tmp_path: Path) -> None:
    """Protocol, crash safety: what a kill makes us tell again is not told twice; nor across a restart."""
    path = tmp_path / "audit.sqlite"
    log = await opened(path)
    first = [await log.append(leaf(number)) for number in range(3)]
    again = await asyncio.gather(*(log.append(leaf(number, rows=9)) for number in (1, 1, 3)))
    assert again[0] == again[1] == first[1]
    assert again[2].index == 3
    await log.close()
    log = await opened(path)
    assert await log.append(leaf(2)) == first[2]
    assert (await log.head()).size == 4
    await log.close()
    assert verified(path).size == 4


async def test_leaves_are_paged_in_order(tmp_path: Path) -> None:
    """Port AuditLog: what was appended is read back whole."""
    log = await opened(tmp_path / "audit.sqlite")
    for number in range(7):
        await log.append(leaf(number, rows=number))
    page = await log.leaves(after=1, limit=3)
    assert [(i, held.rows) for i, held in page] == [(2, 2), (3, 3), (4, 4)]
    assert page[0][1] == leaf(2, rows=2)
    assert await log.leaves(after=6) == []
    await log.close()


async def test_concurrent_appends_each_get_a_place(tmp_path: Path) -> None:
    """Architecture "Store": group commit. 500 at once, each on record, all numbered without a gap."""
    log = await opened(tmp_path / "audit.sqlite")
    receipts = await asyncio.gather(*(log.append(leaf(number)) for number in range(500)))
    assert sorted(r.index for r in receipts) == list(range(500))
    by_place = {r.index: r for r in receipts}
    for index, held in await log.leaves(limit=500):
        assert (by_place[index].audit_id, by_place[index].leaf_hash) == (held.id, audit.hash_of(held).hex())
    await log.close()
    assert verified(tmp_path / "audit.sqlite").signed_size == 500


async def test_a_head_follows_by_itself(tmp_path: Path) -> None:
    """A leaf is under a signed head within the interval, with nobody asking; idle, nothing is signed."""
    path = tmp_path / "audit.sqlite"
    log = await opened(path, head_every_seconds=0.02)
    await log.append(leaf(0))
    async with asyncio.timeout(5):
        while verified(path).signed_size == 0:  # noqa: ASYNC110 - another process's view, by the file
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert verified(path).heads_checked == 2
    await log.close()


async def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Opened again, numbers and roots continue; and closing twice is no harm."""
    path = tmp_path / "audit.sqlite"
    await written(path)
    log = await opened(path)
    assert (await log.append(leaf(LEAVES))).index == LEAVES
    await log.close()
    await log.close()
    with pytest.raises(Unavailable):
        await log.append(leaf(0))
    assert verified(path).size == LEAVES + 1


async def test_the_file_only_grows(tmp_path: Path) -> None:
    """Append-only: an UPDATE or DELETE by mistake is refused by the file itself."""
    await written(tmp_path / "audit.sqlite")
    with closing(sqlite3.connect(tmp_path / "audit.sqlite")) as connection:
        for statement in ("DELETE FROM leaves", "UPDATE leaves SET idx = 99", "DELETE FROM heads"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


async def test_a_file_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """No record, no data: the append fails as a whole, and a later one works and verifies."""
    path = tmp_path / "audit.sqlite"
    log = await opened(path)
    await log.append(leaf(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO leaves (idx, leaf, hash) VALUES (1, x'7b7d', x'00')")
        with pytest.raises(Unavailable, match="cannot be written"):
            await log.append(leaf(1))
        other.execute("ROLLBACK")
    assert (await log.append(leaf(1))).index == 1
    await log.close()
    assert verified(path).size == 2


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
async def test_another_programs_file(tmp_path: Path, content: bytes) -> None:
    """Bad input: a file that is no log names itself; an empty one is a new log."""
    path = tmp_path / "audit.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(ConfigurationError, match=r"audit\.sqlite"):
            await opened(path)
    else:
        await (await opened(path)).close()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Bad input: the path is named, and nothing hangs."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        await opened(tmp_path / "nowhere" / "audit.sqlite")


WRITER = """
import asyncio, sys
from pathlib import Path
from connector.adapters import file_keys
from connector.adapters.audit_log import SqliteAuditLog
from connector.adapters.clock import SystemClock
from connector.model.audit import AuditEvent, AuditLeaf

async def main():
    clock = SystemClock()
    keys = file_keys.load(Path(sys.argv[2]), "kela")
    log = SqliteAuditLog(Path(sys.argv[1]), keys=keys, clock=clock, head_every_seconds=0.05)
    await log.open()
    async def one(number):
        event = AuditEvent.QUERY_DECIDED
        receipt = await log.append(AuditLeaf(id=str(number), at=clock.now(), event=event, participant="kela"))
        print(receipt.index, flush=True)
    number = 0
    while True:
        await asyncio.gather(*(one(number + i) for i in range(20)))
        number += 20

asyncio.run(main())
"""


async def test_sigkill_loses_nothing_that_was_on_record(tmp_path: Path) -> None:
    """Skeleton, bad input: killed while writing, every receipt handed out is still in the log afterwards."""
    from connector.adapters import file_keys

    path, folder = tmp_path / "audit.sqlite", tmp_path / "keys"
    keys = file_keys.create(folder, "kela")
    for _ in range(2):
        with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(folder)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            seen = [int(writer.stdout.readline()) for _ in range(300)]
            os.kill(writer.pid, signal.SIGKILL)
            seen += [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
        assert verified(path, keys).size > max(seen), "also as it lies there, before it is opened again"
        log = await opened(path, keys)
        assert (await log.head()).size > max(seen)
        await log.close()
        proof = verified(path, keys)
        assert proof.signed_size == proof.size


# --- tampering ------------------------------------------------------------------------------------------


def _rewrite(connection: sqlite3.Connection, index: int, number: int) -> None:
    data = audit.canonical(leaf(number))
    connection.execute(
        "UPDATE leaves SET leaf = ?, hash = ? WHERE idx = ?", (data, merkle.leaf_hash(data), index)
    )


def _changed(connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE leaves SET leaf = CAST(replace(leaf, 'planning', 'plunning') AS BLOB) WHERE idx = 7"
    )


def _changed_with_its_hash(connection: sqlite3.Connection) -> None:
    _rewrite(connection, 7, 99)


def _removed(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM leaves WHERE idx = 7")


def _removed_and_renumbered(connection: sqlite3.Connection) -> None:
    _removed(connection)
    for index in range(8, LEAVES):
        connection.execute("UPDATE leaves SET idx = ? WHERE idx = ?", (index - 1, index))


def _reordered(connection: sqlite3.Connection) -> None:
    for index, place in ((7, 99), (8, 7), (99, 8)):
        connection.execute("UPDATE leaves SET idx = ? WHERE idx = ?", (place, index))


def _inserted(connection: sqlite3.Connection) -> None:
    for index in range(LEAVES - 1, 6, -1):
        connection.execute("UPDATE leaves SET idx = ? WHERE idx = ?", (index + 1, index))
    connection.execute("INSERT INTO leaves SELECT 7, leaf, hash FROM leaves WHERE idx = 6")


def _doubled(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE loose AS SELECT * FROM leaves")
    connection.execute("INSERT INTO loose SELECT * FROM leaves WHERE idx = 6")
    connection.execute("DROP TABLE leaves")
    connection.execute("ALTER TABLE loose RENAME TO leaves")


def _truncated(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM leaves WHERE idx >= 15")


def _emptied(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM leaves")


def _without_heads(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM heads")


def _forged_root(connection: sqlite3.Connection) -> None:
    _rewrite(connection, 19, 99)
    hashes = [row[0] for row in connection.execute("SELECT hash FROM leaves ORDER BY idx")]
    connection.execute("UPDATE heads SET root = ? WHERE size = 20", (merkle.root(hashes).hex(),))


def _resigned_by_another(connection: sqlite3.Connection) -> None:
    _rewrite(connection, 19, 99)
    hashes = [row[0] for row in connection.execute("SELECT hash FROM leaves ORDER BY idx")]
    root = merkle.root(hashes).hex()
    claims = {"log": "kela", "size": 20, "root": root, "time": "2026-11-22T10:30:00.000Z"}
    jws = fresh_keys().sign_jwt(claims, typ=HEAD_TYP)
    connection.execute("UPDATE heads SET root = ?, jws = ? WHERE size = 20", (root, jws))


def _head_of_another_time(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE heads SET jws = (SELECT jws FROM heads WHERE size = 12) WHERE size = 20")


def _signed_as_something_else(connection: sqlite3.Connection) -> None:
    (root,) = connection.execute("SELECT root FROM heads WHERE size = 20").fetchone()
    claims = {"log": "kela", "size": 20, "root": root, "time": "2026-11-22T10:30:00.000Z"}
    connection.execute("UPDATE heads SET jws = ? WHERE size = 20", (KEYS.sign_jwt(claims, typ="JWT"),))


def _of_another_log(connection: sqlite3.Connection) -> None:
    (root,) = connection.execute("SELECT root FROM heads WHERE size = 20").fetchone()
    claims = {"log": "school", "size": 20, "root": root, "time": "2026-11-22T10:30:00.000Z"}
    connection.execute("UPDATE heads SET jws = ? WHERE size = 20", (KEYS.sign_jwt(claims, typ=HEAD_TYP),))


def _not_text(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE leaves SET leaf = 'text' WHERE idx = 7")


def _no_tables(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE leaves")


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (_changed, "Leaf 7 fails"),
        (_changed_with_its_hash, "Leaf 0 fails, or one behind it up to 11"),
        (_removed, "Leaf 7 is missing"),
        (_removed_and_renumbered, "Leaf 0 fails, or one behind it up to 11"),
        (_reordered, "Leaf 0 fails, or one behind it up to 11"),
        (_inserted, "Leaf 0 fails, or one behind it up to 11"),
        (_doubled, "Leaf 7 fails: it is not numbered so"),
        (_truncated, "Leaf 15 is missing: a signed head covers 20 leaves, the log holds 15"),
        (_emptied, "Leaf 0 is missing"),
        (_without_heads, "Leaf 0 fails: the log holds no signed head"),
        (_forged_root, "head over 20 leaves was signed for something else"),
        (_resigned_by_another, "signature of the head over 20 leaves fails"),
        (_head_of_another_time, "head over 20 leaves was signed for something else"),
        (_signed_as_something_else, "signature of the head over 20 leaves fails"),
        (_of_another_log, r"head over 20 leaves belongs to another log \(school\)"),
        (_not_text, "Leaf 7 fails"),
        (_no_tables, "not a readable audit log"),
    ],
)
async def test_tampering_is_found(
    tmp_path: Path, tamper: Callable[[sqlite3.Connection], None], named: str
) -> None:
    """Skeleton, evidence: a tampered copy fails, and the first leaf that fails is named."""
    path, copy = tmp_path / "audit.sqlite", tmp_path / "copy.sqlite"
    await written(path)
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        for trigger in ("leaves_stay", "leaves_keep", "heads_stay", "heads_keep"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("DROP INDEX leaves_by_id")
        tamper(connection)
        connection.commit()
    with pytest.raises(AuditBroken, match=named):
        verified(copy)
    assert verified(path) == VerifiedLog(
        log="kela",
        size=LEAVES,
        root=merkle.root(audit.hash_of(leaf(n)) for n in range(LEAVES)).hex(),
        heads_checked=3,
        signed_size=LEAVES,
    )


@pytest.mark.parametrize(
    "tamper", [_truncated, _emptied, _without_heads, _forged_root, _head_of_another_time]
)
async def test_a_connector_does_not_go_on_with_a_broken_end(
    tmp_path: Path, tamper: Callable[[sqlite3.Connection], None]
) -> None:
    """On opening the tail is checked again: no new head is ever signed over a log that was cut."""
    path = tmp_path / "audit.sqlite"
    await written(path)
    with closing(sqlite3.connect(path)) as connection:
        for trigger in ("leaves_stay", "leaves_keep", "heads_stay", "heads_keep"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("DROP INDEX leaves_by_id")
        tamper(connection)
        connection.commit()
    with pytest.raises(AuditBroken):
        await opened(path)


async def test_an_older_leaf_changed_stays_found_after_new_heads(tmp_path: Path) -> None:
    """Going on writing does not launder a change: the old frontier is what new heads extend."""
    path = tmp_path / "audit.sqlite"
    await written(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER leaves_stay")
        connection.execute("DROP INDEX leaves_by_id")
        _changed_with_its_hash(connection)
        connection.commit()
    log = await opened(path)
    await log.append(leaf(LEAVES))
    await log.close()
    with pytest.raises(AuditBroken, match="Leaf 0 fails"):
        verified(path)


async def test_a_retired_key_opens_but_must_be_named_to_verify(tmp_path: Path) -> None:
    """After a key change the log goes on; offline, both public keys are needed."""
    path, old, new = tmp_path / "audit.sqlite", fresh_keys(), fresh_keys()
    await written(path, old)
    log = await opened(path, new)
    await log.append(leaf(LEAVES))
    await log.close()
    with pytest.raises(AuditBroken, match="head over 0 leaves"):
        verified(path, new)
    assert verify_audit(path, [*old.public_jwks(), *new.public_jwks()]).size == LEAVES + 1


async def test_a_damaged_file_is_broken_evidence(tmp_path: Path) -> None:
    """Not a stack trace: any damage to the file is an AuditBroken."""
    path = tmp_path / "audit.sqlite"
    await written(path)
    data = bytearray(path.read_bytes())
    for start in range(0, len(data), 512):
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes(data[:start] + bytes(64) + data[start + 64 :])
        try:
            assert verified(copy).size == LEAVES, "only unused space was hit"
        except AuditBroken:
            continue
    with pytest.raises(AuditBroken, match="no such file"):
        verified(tmp_path / "missing.sqlite")


async def test_a_read_only_copy_can_be_verified(tmp_path: Path) -> None:
    """Offline: a copy on a medium nothing can be written to."""
    path = tmp_path / "copy" / "audit.sqlite"
    path.parent.mkdir()
    await written(path)
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert verified(path).size == LEAVES
        assert [p.name for p in path.parent.iterdir()] == ["audit.sqlite"]
    finally:
        path.parent.chmod(0o700)
