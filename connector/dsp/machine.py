"""A protocol's transitions as a table, and the steps both sides take over it. Knows no role's special rights.

The table is state -> {(who sends, which message): next state}; `None` is the state before the first
message. What is not in it is illegal, whoever asks. One process goes through three kinds of step:

decide       we chose a message; it is on its way, the public state stays
acknowledge  the peer has taken it: now the state moves
receive      the peer's message moves the state, and may tell that ours has arrived

Messages can cross. If the peer's message is only legal after ours, ours has arrived. If it is legal
before ours and not after, both sides spoke at once, and precedence decides the same way on both: the
stronger message stands (a termination over everything), the weaker one is refused or forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from connector.errors import Conflict, IllegalTransition
from connector.model.negotiation import ContractNegotiation, Role
from connector.model.transfer import TransferProcess

S = TypeVar("S", bound=StrEnum)
P = TypeVar("P", ContractNegotiation, TransferProcess)

Table = Mapping[S | None, Mapping[tuple[Role, str], S]]

MAX_REMEMBERED = 32
"""Messages of the peer that a process remembers, to recognise repeats; far more than are ever in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Generic[S]):
    """`name` in people's words. `precedence`: kinds of message from weak to strong; all others are weaker."""

    name: str
    table: Table[S]
    precedence: tuple[str, ...]

    def following(self, state: S | None, sender: Role, kind: str) -> S:
        """The state after `kind` from `sender`. Raises IllegalTransition."""
        try:
            return self.table[state][sender, kind]
        except KeyError:
            where = f"in state {state}" if state else "as a first message"
            text = f"{kind} from the {sender} is not allowed {where} of a {self.name}."
            raise IllegalTransition(text) from None

    def allows(self, state: S, sender: Role, kind: str) -> bool:
        return (sender, kind) in self.table[state]

    def strength(self, kind: str) -> int:
        return self.precedence.index(kind) + 1 if kind in self.precedence else 0

    @property
    def strongest(self) -> str:
        return self.precedence[-1]


def decide(machine: Machine[Any], process: P, kind: str, message_id: str, at: datetime) -> P:
    """We decided to send `kind`. Raises IllegalTransition, or Conflict while another message is in flight.

    A termination need not wait, unless what is in flight is an end already: the peer may have it.
    """
    if process.sending and (kind != machine.strongest or machine.table[_after_ours(machine, process)] == {}):
        raise Conflict(
            f"{process.sending} has not been acknowledged by the other participant yet.",
            mend="Try again in a moment.",
            code="message_in_flight",
        )
    machine.following(process.state, process.role, kind)
    return replace(process, sending=kind, last_message_id=message_id, updated_at=at)


def acknowledge(machine: Machine[Any], process: P, at: datetime) -> P:
    """The peer has taken the message in `sending`."""
    state = _after_ours(machine, process)
    return replace(process, state=state, sending="", updated_at=at)


def receive(machine: Machine[Any], process: P, kind: str, key: str, at: datetime) -> P:
    """The peer sent `kind`; `key` names that message. Raises IllegalTransition."""
    base = _settled(machine, process, kind)
    state = machine.following(base, process.role.other, kind)
    return replace(remember(process, key, at), state=state, sending="")


def remember(process: P, key: str, at: datetime) -> P:
    """The peer's message `key` came, and leaves the state as it is."""
    return replace(process, received=(*process.received, key)[-MAX_REMEMBERED:], updated_at=at)


def is_repeat(machine: Machine[Any], process: P, kind: str, message_id: str, key: str) -> bool:
    """Whether the peer said this before; recognised ahead of the table, which stays strict.

    A message with an `@id` is known by it. One without is a repeat only of the very last message, and
    only while the state is still the one that it led to: the same words may be said anew later.
    """
    if message_id:
        return key in process.received
    reached = {
        to for moves in machine.table.values() for by, to in moves.items() if by == (process.role.other, kind)
    }
    return process.received[-1:] == (key,) and process.state in reached


def _after_ours(machine: Machine[Any], process: P) -> Any:
    """The state once the message in `sending` has arrived. A first message has its state from the start."""
    if not process.sending or not process.peer_pid:
        return process.state
    return machine.following(process.state, process.role, process.sending)


def _settled(machine: Machine[Any], process: P, kind: str) -> Any:
    """The state from which the peer's `kind` is to be judged, with ours arrived or overruled."""
    peer = process.role.other
    after = _after_ours(machine, process)
    if machine.allows(after, peer, kind) or not machine.allows(process.state, peer, kind):
        return after
    if machine.strength(kind) >= machine.strength(process.sending):
        return process.state
    raise IllegalTransition(f"{kind} crossed our {process.sending}, which stands.")


def mermaid(machine: Machine[Any]) -> str:
    """The table as a Mermaid state diagram; `either` where both may send."""
    senders: dict[tuple[str, str, str], list[str]] = {}
    for state, moves in machine.table.items():
        for (sender, kind), to in moves.items():
            senders.setdefault((str(state or "[*]"), str(to), kind), []).append(str(sender))
    lines = ["stateDiagram-v2"]
    for (state_name, to_name, kind), by in senders.items():
        label = "either" if len(by) > 1 else by[0]
        # a colon would end the label early
        lines.append(f"    {state_name} --> {to_name}: {label}, {kind.replace(':', ' ')}")
    lines += [f"    {state} --> [*]" for state, moves in machine.table.items() if not moves]
    return "\n".join(lines) + "\n"
