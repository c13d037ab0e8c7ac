"""The disclosure ledger: who has looked, with no row and no id in the file."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.access.ledger import Ledger, seal, unseal
from connector.adapters.file_keys import FileKeys
from connector.adapters.ledger_file import SqliteLedger
from connector.errors import AuditBroken, ConfigurationError
from connector.model.audit import LedgerEntry
from tests.unit.access.evidence import StillClock, counting_ids, fresh_keys

KEY = bytes(range(32))
UNSEALED = LedgerEntry(
    id="e1",
    at=StillClock().now(),
    audit_id="a1",
    agreement="ag",
    grant="g",
    dataset="benefits",
    recipient="city",
    purpose="service-planning",
    subjects=3,
    rows=5,
    ciphertext=b"",
    sha256="",
)


async def opened(path: Path) -> SqliteLedger:
    store = SqliteLedger(path)
    await store.open()
    return store


def ledger(store: SqliteLedger, keys: FileKeys | None = None) -> Ledger:
    return Ledger(store, keys or fresh_keys(), StillClock(), counting_ids())


async def record(to: Ledger, subjects: list[bytes], *, recipient: str = "city", rows: int = 1) -> LedgerEntry:
    return await to.record(
        subjects,
        rows=rows,
        audit_id="a1",
        agreement="ag",
        grant="g",
        dataset="benefits",
        recipient=recipient,
        purpose="service-planning",
    )


async def test_ordinals_are_stable(tmp_path: Path) -> None:
    """Port DisclosureLedger: made on first sight, the same ever after, repeats and restarts included."""
    store = await opened(tmp_path / "ledger.sqlite")
    first = await store.ordinals([b"b", b"a", b"b"])
    assert first[0] == first[2] != first[1]
    await store.close()
    store = await opened(tmp_path / "ledger.sqlite")
    more = await store.ordinals([b"c", b"a", b"b"])
    assert more[1:] == [first[1], first[0]]
    assert more[0] not in first
    assert await store.ordinals([]) == []
    await store.close()


async def test_thirty_thousand_subjects_in_bulk(tmp_path: Path) -> None:
    """A whole register in one fragment: its ordinals take less than 150 ms, new or known."""
    store = await opened(tmp_path / "ledger.sqlite")
    subjects = [os.urandom(27) for _ in range(30_000)]
    took = []
    for _ in range(4):
        started = time.perf_counter()
        ordinals = await store.ordinals(subjects)
        took.append(time.perf_counter() - started)
    assert len(set(ordinals)) == 30_000
    assert min(took) < 0.150, "the others may have met a busy machine"
    few = await store.ordinals(subjects[:700])
    assert few == ordinals[:700], "few of many are looked up another way"
    await store.close()


async def test_who_has_looked_at_my_data(tmp_path: Path) -> None:
    """Architecture "Disclosure ledger": a subject's entries, oldest first, and nobody else's."""
    store = await opened(tmp_path / "ledger.sqlite")
    book = ledger(store)
    one = await record(book, [b"aino", b"eino", b"aino"], rows=3)
    await record(book, [b"eino"])
    two = await record(book, [b"aino"], recipient="employment")
    assert await book.who_looked(b"aino") == [one, two]
    assert await book.who_looked(b"aino", recipient="employment") == [two]
    assert await book.who_looked(b"nobody") == []
    assert (one.subjects, one.rows) == (2, 3)
    await store.close()


async def test_nothing_of_the_subjects_can_be_read(tmp_path: Path) -> None:
    """Architecture idea 5: encrypted. Neither the set nor the same set twice shows in the file."""
    store = await opened(tmp_path / "ledger.sqlite")
    book = ledger(store)
    one, two = [await record(book, [b"aino", b"eino"]) for _ in range(2)]
    assert one.ciphertext != two.ciphertext
    assert one.sha256 != two.sha256
    with pytest.raises(AuditBroken):
        unseal(one, key=KEY)
    await store.close()


async def test_another_connectors_key_opens_nothing(tmp_path: Path) -> None:
    """The key is derived from this connector's own secret."""
    store = await opened(tmp_path / "ledger.sqlite")
    await record(ledger(store), [b"aino"])
    with pytest.raises(AuditBroken, match="id-1"):
        await ledger(store).who_looked(b"aino")
    await store.close()


async def test_an_entry_moved_to_another_recipient_is_found(tmp_path: Path) -> None:
    """Every other member is bound to the ciphertext."""
    path = tmp_path / "ledger.sqlite"
    store = await opened(path)
    book = ledger(store)
    await record(book, [b"aino"])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE entries SET recipient = 'nobody'")
        connection.commit()
    with pytest.raises(AuditBroken, match="id-1"):
        await book.who_looked(b"aino")
    await store.close()


@given(st.sets(st.integers(0, 2**32 - 1), max_size=50))
def test_sealing_keeps_the_set(ordinals: set[int]) -> None:
    """A portable Roaring bitmap goes in and comes out."""
    entry = seal(replace(UNSEALED, subjects=len(ordinals)), sorted(ordinals), key=KEY, nonce=bytes(12))
    assert set(unseal(entry, key=KEY)) == ordinals


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 6},
        {"subjects": 4},
        {"purpose": "statistics"},
        {"recipient": "school"},
        {"audit_id": "a2"},
        {"id": "e2"},
        {"at": StillClock().now().replace(year=2025)},
        {"sha256": "0" * 64},
        {"ciphertext": b""},
        {"ciphertext": bytes(60)},
    ],
)
def test_any_change_is_found(change: dict[str, object]) -> None:
    """AES-256-GCM with every other member as associated data."""
    entry = seal(UNSEALED, [1, 2, 3], key=KEY, nonce=bytes(12))
    assert len(unseal(entry, key=KEY)) == 3
    with pytest.raises(AuditBroken):
        unseal(replace(entry, **change), key=KEY)  # type: ignore[arg-type]


async def test_another_programs_file(tmp_path: Path) -> None:
    """Bad input: named, and nothing half-starts."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigurationError, match=r"ledger\.sqlite"):
        await opened(path)
