"""The stop signal and its barrier, under load and under failures: one grant, one stop signal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.access.grants import PATIENCE_SECONDS, STALE_SECONDS, EpochBoard, GrantWatch
from connector.errors import GrantStopped, Unavailable
from connector.model.transfer import Grant, GrantState
from connector.ports import GrantSelector
from tests.agreed import until
from tests.clocks import START, ManualClock
from tests.fakes import MemoryStore, MemoryTransaction
from tests.ports.examples import grant

SLACK_SECONDS = 1.0
"""What a busy machine may add to a bound."""


class FlakyStore(MemoryStore):
    """Its readers fail while it is down."""

    down = False

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[MemoryTransaction]:
        if self.down:
            raise Unavailable("the store does not answer")
        async with super().transaction(read_only=read_only) as tx:
            yield tx


@dataclass
class Wire:
    """What streams write: every write under way, with the epoch it was decided under.

    `barrier`: the epoch of each grant for which a barrier was passed; a write of an older one is too late.
    """

    under_way: list[tuple[str, int]] = field(default_factory=list)
    barrier: dict[str, int] = field(default_factory=dict)
    begun: int = 0
    too_late: int = 0

    def passed(self, moved: Grant) -> None:
        self.barrier[moved.id] = moved.epoch
        self.too_late += sum(g == moved.id and e < moved.epoch for g, e in self.under_way)

    @contextmanager
    def write(self, grant_id: str, epoch: int) -> Iterator[None]:
        self.begun += 1
        self.too_late += epoch < self.barrier.get(grant_id, 0)
        self.under_way.append((grant_id, epoch))
        try:
            yield
        finally:
            self.under_way.remove((grant_id, epoch))


class Stream:
    """Decides, checks, writes, as a data plane does: `how_long` tells each write's seconds, None for ever."""

    def __init__(
        self, world: World, grant_id: str, how_long: Callable[[], float | None], pause: float = 0.0
    ) -> None:
        self._world, self._grant_id = world, grant_id
        self._how_long, self._pause = how_long, pause
        self.stopped: GrantStopped | None = None
        self.cancelled = False
        self.decided_under: list[int] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        seen = await self._world.load(self._grant_id)
        await asyncio.sleep(self._pause)  # decided, and not yet registered
        try:
            with self._world.board.watch(seen, self.task.cancel) as watch:
                while True:
                    while watch.moved:
                        watch.decided(await self._world.load(self._grant_id))
                    await self._write(watch)
                    await asyncio.sleep(0)
        except GrantStopped as stopped:
            self.stopped = stopped
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def _write(self, watch: GrantWatch) -> None:
        seconds, epoch = self._how_long(), watch.seen.epoch
        self.decided_under.append(epoch)
        with watch.writing(), self._world.wire.write(self._grant_id, epoch):
            await (asyncio.sleep(seconds) if seconds is not None else asyncio.Event().wait())

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class World:
    """A board over a store that others write to as well."""

    def __init__(self, grants: Sequence[Grant] = ()) -> None:
        self.clock = ManualClock()
        self.store = FlakyStore(self.clock)
        self.board = EpochBoard(self.store, self.clock)
        self.wire = Wire()
        for g in grants or [grant("g1")]:
            self.store.state.grants[g.id] = g
        self.following = asyncio.create_task(self.board.run())

    async def load(self, grant_id: str) -> Grant:
        """As admission does: an ended grant is no grant."""
        async with self.store.transaction(read_only=True) as tx:
            found = await tx.grant(grant_id)
        assert found is not None
        if found.state is GrantState.ENDED:
            raise GrantStopped("the grant has ended", code=found.ended_reason)
        return found

    async def changed_elsewhere(self, selector: GrantSelector, *, ended_reason: str = "") -> Sequence[Grant]:
        """Committed by somebody who does not tell this board."""
        async with self.store.transaction() as tx:
            return await tx.bump_grants(selector, ended_reason=ended_reason)

    async def change(self, agreement_id: str = "urn:uuid:a1", *, ended_reason: str = "") -> Sequence[Grant]:
        """Commit, publish, return: what answers a withdrawal or a termination."""
        selector = GrantSelector(agreement_id=agreement_id)
        moved = await self.changed_elsewhere(selector, ended_reason=ended_reason)
        await self.board.publish(moved)
        return moved

    def stream(self, grant_id: str = "g1", seconds: float | None = 0.001, *, pause: float = 0.0) -> Stream:
        return Stream(self, grant_id, lambda: seconds, pause)

    async def close(self, *streams: Stream) -> None:
        for stream in streams:
            await stream.end()
        self.following.cancel()
        with suppress(asyncio.CancelledError):
            await self.following


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


# --- the barrier ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_after_publish_nothing_decided_before_is_being_written(seed: int) -> None:
    """The barrier: once a withdrawal is answered, no write under an older epoch is under way or begins,
    whatever the streams were doing: deciding, registering, writing, stuck on a reader that never reads."""
    rng = random.Random(seed)
    ids = [f"g{i}" for i in range(4)]
    world = World([grant(i, agreement_id=f"a-{i}") for i in ids])

    def durations(stuck_share: float) -> Callable[[], float | None]:
        return lambda: None if rng.random() < stuck_share else rng.choice((0.0, 0.001, 0.01, 0.12, 0.3))

    streams = [
        Stream(world, rng.choice(ids), durations(rng.choice((0.0, 0.02, 0.5))), pause=rng.uniform(0, 0.3))
        for _ in range(60)
    ]
    for _ in range(8):
        await asyncio.sleep(rng.uniform(0, 0.05))
        began = asyncio.get_running_loop().time()
        (moved,) = await world.change(f"a-{rng.choice(ids)}")
        world.wire.passed(moved)
        assert asyncio.get_running_loop().time() - began < PATIENCE_SECONDS + SLACK_SECONDS
    await asyncio.sleep(0.2)
    assert world.wire.too_late == 0
    assert world.wire.begun > 60
    await world.close(*streams)


async def test_a_stream_that_was_decided_before_and_registers_after_learns_of_it(world: World) -> None:
    """A decision that was taken before the withdrawal, for a stream that registers only after the barrier
    was passed, must not be written under: not even until the next poll."""
    old = await world.load("g1")
    await world.change()
    with world.board.watch(old, lambda: None) as watch:
        assert watch.moved


async def test_what_one_stream_learned_outlives_it(world: World) -> None:
    """The stream that ran when the consent was withdrawn is over; one decided before that begins now."""
    old = await world.load("g1")
    with world.board.watch(old, lambda: None):
        await world.change()
    with world.board.watch(old, lambda: None) as watch:
        assert watch.moved


async def test_a_write_that_is_slow_to_stop_is_waited_for(world: World) -> None:
    """Cancelled is not yet over: bytes may be on their way to the transport until the write is left."""
    seen, writing, over = await world.load("g1"), asyncio.Event(), asyncio.Event()

    async def write() -> None:
        task = asyncio.current_task()
        assert task is not None
        with world.board.watch(seen, task.cancel) as watch, watch.writing():
            writing.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                over.set()

    slow = asyncio.create_task(write())
    await writing.wait()
    await world.change()
    assert over.is_set()
    await asyncio.wait([slow])


async def test_a_stuck_write_is_cancelled_within_the_patience(world: World) -> None:
    """A reader that does not read delays a withdrawal by 150 ms at most, and loses its stream."""
    stuck = world.stream(seconds=None)
    await until(lambda: world.wire.begun == 1)
    began = asyncio.get_running_loop().time()
    await world.change()
    assert (
        PATIENCE_SECONDS * 0.9 <= asyncio.get_running_loop().time() - began < PATIENCE_SECONDS + SLACK_SECONDS
    )
    assert world.wire.under_way == []
    await asyncio.wait([stuck.task])
    assert stuck.cancelled


async def test_a_write_that_ends_in_time_is_not_cut(world: World) -> None:
    """The barrier waits for a write under way; the stream goes on under the new epoch."""
    stream = world.stream(seconds=0.03)
    await until(lambda: world.wire.begun == 1)
    (moved,) = await world.change()
    await until(lambda: moved.epoch in stream.decided_under)
    assert not stream.task.done()
    await stream.end()


async def test_a_write_of_the_new_decision_is_left_alone(world: World) -> None:
    """Only older decisions are stopped: who has seen the new epoch may take its time."""
    with world.board.watch(await world.load("g1"), lambda: pytest.fail("cancelled")) as watch:
        (moved,) = await world.change()
        watch.decided(moved)
        with watch.writing():
            await asyncio.wait_for(world.board.settle([moved]), 0.05)


@pytest.mark.parametrize(
    ("about", "waits"),
    [(None, True), (["anna"], True), (("ben", "anna"), True), (["ben"], False), ([], False)],
)
async def test_a_withdrawal_waits_for_writes_about_its_person(
    world: World, about: Sequence[str] | None, waits: bool
) -> None:
    """A slow reader of other persons' rows neither delays a withdrawal nor loses its stream by it; where
    the bytes may be about anybody, they are about her. An ending without a person is about everybody."""
    seen, writing = await world.load("g1"), asyncio.Event()

    async def write() -> None:
        task = asyncio.current_task()
        assert task is not None
        with world.board.watch(seen, task.cancel) as watch, watch.writing(about):
            writing.set()
            await asyncio.Event().wait()

    stuck = asyncio.create_task(write())
    await writing.wait()
    moved = await world.changed_elsewhere(GrantSelector())
    async with asyncio.timeout(PATIENCE_SECONDS + SLACK_SECONDS):
        await world.board.publish(moved, subject="anna")
    await asyncio.sleep(0)
    assert stuck.done() is waits
    await world.board.publish(moved)
    await asyncio.wait([stuck])
    assert stuck.cancelled()


async def test_a_store_that_is_ahead_of_the_board_makes_nobody_decide_for_ever(world: World) -> None:
    """Another replica bumps; this one decides anew before its own poll has seen it: once is enough."""
    with world.board.watch(await world.load("g1"), lambda: None) as watch:
        (first,) = await world.changed_elsewhere(GrantSelector())
        world.board.changed([first])
        await world.changed_elsewhere(GrantSelector())
        assert watch.moved
        watch.decided(await world.load("g1"))
        assert watch.seen.epoch == 3
        assert not watch.moved


async def test_streams_of_other_grants_are_not_disturbed() -> None:
    """Ending one agreement neither stops nor delays another's streams, stuck ones included."""
    world = World([grant("g1"), grant("g2", agreement_id="urn:uuid:a2")])
    other, stuck = world.stream("g2", 0.001), world.stream("g2", None)
    mine = world.stream("g1")
    await until(lambda: len(other.decided_under) > 3 and len(stuck.decided_under) == 1)
    await world.change("urn:uuid:a1", ended_reason="agreement_terminated")
    await asyncio.wait([mine.task])
    assert mine.stopped is not None
    assert mine.stopped.code == "agreement_terminated"
    so_far = len(other.decided_under)
    await until(lambda: len(other.decided_under) > so_far + 3)
    assert not stuck.task.done()
    await world.close(other, stuck)


# --- what a stream notices ------------------------------------------------------------------------------


async def test_moved_is_noticed_on_the_next_check(world: World) -> None:
    """No await lies between `changed` and the next check that sees it."""
    with world.board.watch(await world.load("g1"), lambda: None) as watch:
        assert not watch.moved
        moved = replace(watch.seen, epoch=2)
        world.board.changed([moved])
        assert watch.moved
        watch.decided(moved)
        assert not watch.moved


@given(st.permutations([(1, False), (2, False), (3, True), (4, False), (3, False)]))
def test_epochs_only_rise_and_an_ending_is_for_good(news: Sequence[tuple[int, bool]]) -> None:
    """Whatever order the news of a grant comes in, the last word is the highest epoch, and ended."""
    clock = ManualClock()
    board = EpochBoard(MemoryStore(clock), clock)
    with board.watch(grant("g1"), lambda: None) as watch:
        for epoch, ended in news:
            state = GrantState.ENDED if ended else GrantState.ACTIVE
            board.changed([grant("g1", epoch=epoch, state=state)])
        assert board.latest(watch.seen) == (4, GrantState.ENDED)


async def test_another_processs_change_is_noticed_within_a_second(world: World) -> None:
    """A replica commits and dies before telling anybody: the poll finds it (250 ms)."""
    stream = world.stream()
    await until(lambda: world.wire.begun > 2)
    await world.changed_elsewhere(GrantSelector(), ended_reason="participant_inactive")
    for _ in range(4):
        await world.clock.advance(0.25)
        await asyncio.sleep(0.01)
    await asyncio.wait([stream.task], timeout=1)
    assert stream.stopped is not None
    assert stream.stopped.code == "participant_inactive"


async def test_a_store_that_cannot_be_read_stops_streams_after_a_second(world: World) -> None:
    """A copy of the epochs over a second old is no copy: `grants_stale`, worth a retry."""
    stream = world.stream()
    await until(lambda: world.wire.begun > 2)
    world.store.down = True
    for _ in range(3):
        await world.clock.advance(0.25)
    await asyncio.sleep(0.01)
    assert not stream.task.done()  # three quarters of a second: still good
    await world.clock.advance(STALE_SECONDS)
    await asyncio.wait([stream.task], timeout=1)
    assert stream.stopped is not None
    assert (stream.stopped.code, stream.stopped.retryable) == ("grants_stale", True)


async def test_the_board_recovers_when_the_store_does(world: World) -> None:
    """After an outage new streams run, and the board still follows what others change."""
    stream = world.stream()
    await until(lambda: world.wire.begun > 2)
    world.store.down = True
    await world.clock.advance(2)
    await asyncio.wait([stream.task], timeout=1)
    world.store.down = False
    again = world.stream()
    await until(lambda: len(again.decided_under) > 2)
    await world.changed_elsewhere(GrantSelector(), ended_reason="transfer_suspended")
    for _ in range(4):
        await world.clock.advance(0.25)
        await asyncio.sleep(0.01)
    await asyncio.wait([again.task], timeout=1)
    assert again.stopped is not None
    assert again.stopped.code == "transfer_suspended"


async def test_a_grant_that_has_run_out_stops_its_streams(world: World) -> None:
    """An agreement's last day ends a push that has been running for months."""
    soon = grant("g1", expires_at=START + timedelta(seconds=0.5))
    with world.board.watch(soon, lambda: None) as watch:
        assert not watch.moved
        await world.clock.advance(0.5)
        with pytest.raises(GrantStopped) as stopped:
            _ = watch.moved
        assert stopped.value.code == "grant_expired"


async def test_a_grant_that_is_no_longer_there_stops_its_streams(world: World) -> None:
    """A store restored from before the grant: what cannot be found cannot be stood on."""
    with world.board.watch(await world.load("g1"), lambda: None) as watch:
        world.store.state = replace(world.store.state, grants={})
        await world.clock.advance(0.25)
        await asyncio.sleep(0.01)
        assert watch.moved


# --- housekeeping ---------------------------------------------------------------------------------------


async def test_it_forgets_what_nobody_watches_any_more(world: World) -> None:
    """A connector that runs for a year does not remember every grant it ever stopped; watched ones stay."""
    with world.board.watch(await world.load("g1"), lambda: None) as watch:
        world.board.changed([grant("g1", epoch=7), grant("g2", epoch=7)])
        await world.clock.advance(2 * 3600)
        world.board.changed([grant("g3", epoch=2)])
        assert world.board.latest(grant("g2"))[0] == 1
        assert world.board.latest(watch.seen)[0] == 7


async def test_it_counts_the_streams_that_run(world: World) -> None:
    """For the metrics."""
    with world.board.watch(grant("g1"), lambda: None), world.board.watch(grant("g1"), lambda: None):
        assert world.board.running == 2
    assert world.board.running == 0
