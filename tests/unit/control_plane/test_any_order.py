"""Both act at will while messages are lost, late or doubled: in the end both hold the same (Protocol)."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.errors import Conflict, PeerUnreachable
from connector.model.json import JsonObject
from connector.ports import OutboxMessage
from tests.pair import ConnectorPair, Side, connected

SIDES = st.sampled_from(["consumer", "provider"])
ACTS = st.tuples(
    st.sampled_from(["suspend", "resume", "complete", "terminate", "work", "work", "work"]), SIDES
)
WEATHER = st.lists(st.sampled_from(["ok", "lost", "answer lost", "twice", "slow", "crossed"]), max_size=20)


def stormy(side: Side, other: Side, weather: list[str]) -> None:
    """`slow`: the other side acts on the message before our call returns; `crossed`: before it arrives."""
    calm = side.outside

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        now = weather.pop() if weather else "ok"
        if now == "lost":
            raise PeerUnreachable("lost")
        if now == "crossed":
            await other.worker.step()
        answer = await calm(message)
        if now == "twice":
            answer = await calm(message)
        if now == "slow":
            await other.worker.step(limit=3)
        if now == "answer lost":
            raise PeerUnreachable("answer lost")
        return answer

    side.outside = deliver


async def act(pair: ConnectorPair, name: str, side: Side) -> None:
    if name == "work":
        await side.worker.step()
        return
    arguments: tuple[Any, ...] = ("code",) if name in ("suspend", "terminate") else ()
    # an act that does not fit the state is refused here already, and changes nothing
    with contextlib.suppress(Conflict):
        await getattr(side.transfers, name)(side.only_transfer.pid, *arguments)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTS, max_size=14), WEATHER)
async def test_transfers_end_alike_whatever_crosses(acts: list[tuple[str, str]], weather: list[str]) -> None:
    """No order of acts and no weather leaves two connectors in different states, or anything unsent."""
    pair = connected(attempts=50)
    transfer = await pair.started(await pair.negotiated())
    await pair.provider.grant(transfer)
    stormy(pair.consumer, pair.provider, weather)
    stormy(pair.provider, pair.consumer, weather)
    for name, which in acts:
        await act(pair, name, getattr(pair, which))
        pair.assert_same()
    for _ in range(25):
        await pair.settle()
        await pair.clock.advance(600)
    ours, theirs = pair.consumer.only_transfer, pair.provider.only_transfer
    assert (ours.state, ours.sending) == (theirs.state, theirs.sending)
    assert theirs.sending == ""
    for side in (pair.consumer, pair.provider):
        assert [row for row in side.store.state.outbox if not row.abandoned] == []
    if not theirs.open:
        assert pair.provider.store.state.grants["grant"].ended_reason


NEGOTIATION_ACTS = st.tuples(
    st.sampled_from(["terminate", "approve", "refuse", "work", "work", "work"]), SIDES
)


@settings(max_examples=150, deadline=None)
@given(st.lists(NEGOTIATION_ACTS, max_size=20), WEATHER)
async def test_negotiations_end_alike_whatever_crosses(
    acts: list[tuple[str, str]], weather: list[str]
) -> None:
    """The same for negotiations: an agreement is in force on both sides, or on neither."""
    pair = connected(attempts=50)
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    stormy(pair.consumer, pair.provider, weather)
    stormy(pair.provider, pair.consumer, weather)
    for name, which in acts:
        side: Side = getattr(pair, which)
        pid = side.only_negotiation.pid
        with contextlib.suppress(Conflict):
            if name == "terminate":
                await side.negotiations.terminate(pid, "code")
            elif name == "approve":
                await side.negotiations.approve(pid, by="x")
            elif name == "refuse":
                await side.negotiations.refuse(pid, [], by="x")
            else:
                await side.worker.step()
        pair.assert_same()
    for _ in range(25):
        await pair.settle()
        await pair.clock.advance(600)
    ours, theirs = pair.consumer.only_negotiation, pair.provider.only_negotiation
    assert ours.state is theirs.state
    assert ours.state.final
    held = [list(side.store.state.agreements.values()) for side in (pair.consumer, pair.provider)]
    in_force = [[r.state for r in records if r.state == "active"] for records in held]
    assert in_force[0] == in_force[1]
