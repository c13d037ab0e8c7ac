"""Queries while they run: what is remembered, for how long, and who may stop them (issue Query: cancel)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from connector.errors import Conflict, NotFound, NotPermitted, Reason, RequestInvalid
from connector.query import running
from connector.query.running import QueryState, RunningQueries, RunningQuery
from tests.clocks import ManualClock

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def queries(clock: ManualClock) -> RunningQueries:
    return RunningQueries(clock)


async def at_once(_query: RunningQuery) -> str:
    return "answer"


async def never(_query: RunningQuery) -> str:
    await asyncio.Event().wait()
    return "never"


async def refused(_query: RunningQuery) -> str:
    raise NotPermitted([Reason(code="hidden", text="Maija's", source="kela")])


async def test_what_failed_is_remembered_by_its_code_only(queries: RunningQueries) -> None:
    """Mission L6: no text of a peer, which may quote a value, is kept."""
    with pytest.raises(NotPermitted):
        await queries.run("q-failed", "anna", "outreach", refused)
    query = queries.get("q-failed", "anna")
    assert (query.state, query.error) == (QueryState.FAILED, "not_permitted")
    assert "Maija" not in repr(query)


async def test_a_cancelled_query_tells_whoever_waits(queries: RunningQueries) -> None:
    """Issue Query: cancel."""
    asking = asyncio.create_task(queries.run("q-1", "anna", "outreach", never))
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        queries.cancel("q-1", "eve")
    assert queries.cancel("q-1", "anna").state is QueryState.CANCELLED
    with pytest.raises(Conflict) as told:
        await asking
    assert told.value.code == "query_cancelled"


async def test_leaving_cancels_the_work(queries: RunningQueries) -> None:
    """Issue Query: nothing goes on for an asker who has left."""
    ended = asyncio.Event()

    async def work(_query: RunningQuery) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asking = asyncio.create_task(queries.run("q-1", "anna", "outreach", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert ended.is_set()
    assert queries.get("q-1", "anna").state is QueryState.CANCELLED


async def test_what_has_ended_stays_as_it_ended(queries: RunningQueries) -> None:
    """A late cancel changes nothing."""
    assert await queries.run("q-1", "anna", "outreach", at_once) == "answer"
    assert queries.cancel("q-1", "anna").state is QueryState.DONE


async def test_an_id_belongs_to_one_query(queries: RunningQueries) -> None:
    """Nobody can take over another's id, not even to learn whether it is known to be theirs."""
    await queries.run("q-1", "anna", "outreach", at_once)
    with pytest.raises(Conflict):
        await queries.run("q-1", "eve", "outreach", at_once)


async def test_what_ended_is_forgotten(queries: RunningQueries, clock: ManualClock) -> None:
    """After ten minutes, when the next one comes."""
    await queries.run("q-1", "anna", "outreach", at_once)
    await clock.advance(running.REMEMBERED.total_seconds() + 1)
    await queries.run("q-2", "anna", "outreach", at_once)
    with pytest.raises(NotFound):
        queries.get("q-1", "anna")


async def test_what_runs_is_never_pushed_out(
    queries: RunningQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory: the oldest that ended goes first; with none that ended, no more is begun."""
    monkeypatch.setattr(running, "MOST_REMEMBERED", 2)
    await queries.run("q-ended", "anna", "outreach", at_once)
    asking = [asyncio.create_task(queries.run(f"q-{n}", "anna", "outreach", never)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        queries.get("q-ended", "anna")
    with pytest.raises(RequestInvalid):
        await queries.run("q-more", "anna", "outreach", at_once)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
