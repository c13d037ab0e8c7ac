"""What the evidence files stand on: shared transactions, synced in time, each caller's work its own."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from connector.adapters import group_commit
from connector.adapters.group_commit import GroupCommit
from connector.errors import Conflict, Unavailable

SCHEMA = "CREATE TABLE IF NOT EXISTS facts (n INTEGER PRIMARY KEY);"


async def opened(path: Path) -> GroupCommit:
    file = GroupCommit(path, SCHEMA, name="test file")
    await file.open()
    return file


def insert(number: int, *, then: Exception | None = None) -> group_commit.Work[int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO facts VALUES (?)", (number,))
        if then is not None:
            raise then
        return number

    return work


def count(connection: sqlite3.Connection) -> int:
    (held,) = connection.execute("SELECT count(*) FROM facts").fetchone()
    return int(held)


async def test_one_callers_error_undoes_only_its_own_writes(tmp_path: Path) -> None:
    """In one shared transaction, a refusal of one caller is not the others' loss."""
    file = await opened(tmp_path / "f.sqlite")
    works = [insert(n, then=Conflict("no") if n % 3 == 0 else None) for n in range(30)]
    outcomes = await asyncio.gather(*(file.write(work) for work in works), return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Conflict)] == list(range(0, 30, 3))
    assert await file.read(count) == 20
    await file.close()


async def test_the_databases_trouble_is_everybodys(tmp_path: Path) -> None:
    """A transaction that cannot commit is Unavailable for all in it, and nothing of it stays."""
    file = await opened(tmp_path / "f.sqlite")
    outcomes = await asyncio.gather(*(file.write(insert(1)) for _ in range(3)), return_exceptions=True)
    held = await file.read(count)
    assert held == sum(outcome == 1 for outcome in outcomes) <= 1
    assert all(outcome == 1 or isinstance(outcome, Unavailable) for outcome in outcomes)
    await file.close()


async def test_a_cancelled_caller_harms_nobody(tmp_path: Path) -> None:
    """Its work may happen; the next caller is served."""
    file = await opened(tmp_path / "f.sqlite")
    task = asyncio.create_task(file.write(insert(1)))
    await asyncio.sleep(0)
    task.cancel()
    assert await file.write(insert(2)) == 2
    assert task.cancelled()
    await file.close()


async def test_synced_within_ten_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Architecture "Store": committed at once, synced within 10 ms, many commits by one sync."""
    synced = 0
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    file = await opened(tmp_path / "f.sqlite")
    for number in range(20):
        await file.write(insert(number))
    async with asyncio.timeout(1):
        while not synced:  # noqa: ASYNC110 - counted in another thread
            await asyncio.sleep(0.001)
    await file.close()
    assert synced < 20
    assert group_commit.SYNC_AFTER_SECONDS <= 0.010


async def test_after_a_failed_sync_nothing_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that lost writes once must not be believed again."""

    def fdatasync(_: int) -> None:
        raise OSError("I/O error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    file = await opened(tmp_path / "f.sqlite")
    await file.write(insert(1))
    await asyncio.sleep(10 * group_commit.SYNC_AFTER_SECONDS)
    with pytest.raises(Unavailable):
        await file.write(insert(2))
    await file.close()


async def test_readers_cannot_write(tmp_path: Path) -> None:
    """Reads run beside the writer, on a connection that cannot change the file."""
    file = await opened(tmp_path / "f.sqlite")
    with pytest.raises(Unavailable):
        await file.read(insert(1))
    await file.close()
    with pytest.raises(Unavailable, match="closed"):
        await file.write(insert(1))
