"""What contract negotiations and transfer processes have in common: load -> pure step -> save + outbox.

Answer first, act later: a peer's message is answered once it is on record; what we do about it is decided
and sent by the outbox worker.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from connector.control_plane.hooks import Hold
from connector.control_plane.unit import MAX_COLLISIONS, Environment, Unit, retried, too_busy
from connector.dsp.messages import ProcessMessage
from connector.dsp.wire import Fields
from connector.errors import Conflict, MessageInvalid, NotFound, RequestInvalid
from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation, Role
from connector.model.participant import Participant
from connector.model.transfer import TransferProcess
from connector.ports import OutboxMessage, Transaction

_log = logging.getLogger(__name__)

P = TypeVar("P", ContractNegotiation, TransferProcess)
M = TypeVar("M", bound=ProcessMessage)
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
M_contra = TypeVar("M_contra", bound=ProcessMessage, contravariant=True)
P_contra = TypeVar("P_contra", ContractNegotiation, TransferProcess, contravariant=True)


class Rules(Protocol[P, M_contra]):
    """A protocol's pure steps: the modules connector.dsp.negotiation and connector.dsp.transfer."""

    def apply(self, process: P, sender: Role, message: M_contra, /, *, at: datetime) -> P: ...
    def decide(self, process: P, message: M_contra, /, *, at: datetime) -> P: ...
    def acknowledge(self, process: P, /, *, at: datetime) -> P: ...
    def receive(self, process: P, message: M_contra, /, *, at: datetime) -> P: ...
    def is_repeat(self, process: P, message: M_contra, /) -> bool: ...


class Hook(Protocol[P_contra, A_co]):
    async def decide(self, process: P_contra, /) -> A_co: ...


@runtime_checkable
class Selective(Protocol):
    """A hook that knows beforehand where it would only ever hold: there it need not be asked."""

    def concerns(self, process: Any, /) -> bool:
        """Pure, by role and state alone. False: `decide` would say Hold()."""
        ...


class Processes(ABC, Generic[P, M, A]):
    """The use cases of one protocol. `NOUN` is what people call one of its processes."""

    NOUN = "process"

    def __init__(self, environment: Environment, rules: Rules[P, M], hook: Hook[P, A | Hold]) -> None:
        self._environment = environment
        self._rules: Rules[P, M] = rules
        self._hook: Hook[P, A | Hold] = hook
        self._concerns = hook.concerns if isinstance(hook, Selective) else _everything

    # --- what the protocols differ in -------------------------------------------------------------------

    @abstractmethod
    async def _load(self, tx: Transaction, pid: str) -> P | None: ...

    @abstractmethod
    async def _save(self, tx: Transaction, process: P) -> P: ...

    @abstractmethod
    def _message(self, process: P, action: A) -> M:
        """The message that carries `action` out."""

    @abstractmethod
    def _termination(self, process: P, code: str, reasons: tuple[str, ...]) -> M: ...

    @abstractmethod
    async def _said(self, unit: Unit, process: P, message: M, sender: Role, actor: str) -> None:
        """What follows from `message`, ours or theirs, in the same commit: records, grants, evidence.
        `actor`: the participant or the person of ours behind it."""

    async def _as_sent(self, unit: Unit, process: P, message: M) -> M:  # noqa: ARG002 - for those who override
        """`message` as it leaves: it may carry what is not kept with the process."""
        return message

    def _moves_nothing(self, process: P, message: M, at: datetime) -> P | None:  # noqa: ARG002
        """The process with what `message` tells beside the state machine; None where the table decides."""
        return None

    async def _entered(self, unit: Unit, process: P) -> None:
        """What follows from a state that both sides now hold."""

    async def _held(self, unit: Unit, process: P, hold: Hold) -> None:
        """What follows from a decision to wait."""

    # --- for people and for peers -----------------------------------------------------------------------

    async def get(self, pid: str) -> P:
        """Raises NotFound."""
        async with self._environment.store.transaction(read_only=True) as tx:
            return self._known(await self._load(tx, pid))

    async def get_for(self, peer: Participant, pid: str) -> P:
        """For the counter-party only: for anybody else it does not exist. Raises NotFound."""
        async with self._environment.store.transaction(read_only=True) as tx:
            return await self._of_peer(tx, peer, pid)

    async def receive(self, peer: Participant, pid: str, message: M) -> P:
        """A message of the peer about our process `pid`. A repeat changes nothing and is answered alike.

        Raises NotFound, MessageInvalid, IllegalTransition; then nothing has changed.
        """

        async def step() -> P:
            async with self._environment.unit() as unit:
                held = await self._of_peer(unit.tx, peer, pid)
                self._check_pids(held, message)
                if self._rules.is_repeat(held, message):
                    return held
                if (aside := self._moves_nothing(held, message, unit.now)) is not None:
                    return await self._save(unit.tx, aside)
                moved = self._rules.receive(held, message, at=unit.now)
                if held.sending:  # it has arrived, or was overruled: nothing is left to be sent
                    await unit.tx.sent(held.last_message_id)
                return await self._moved(unit, moved, message, held.role.other, peer.id)

        return await retried(step)

    async def _do(self, pid: str, action: A, *, by: str = "") -> P:
        """Carry `action` out for the person `by`. Raises NotFound, IllegalTransition, Conflict."""

        async def step() -> P:
            async with self._environment.unit() as unit:
                held = self._known(await self._load(unit.tx, pid))
                return await self._say(unit, held, self._message(held, action), by=by)

        return await retried(step)

    # --- for the outbox worker --------------------------------------------------------------------------

    async def consider(self, task: OutboxMessage, known: P | None = None) -> None:
        """Ask the hook what to do about the state in `task`, and do it; drop it where all has moved on.
        `known`: the process as it was when it asked; whether it still is so, the commit finds out."""
        pid = str(task.body["pid"])
        held = known if known is not None else await self._look(pid)
        for _ in range(MAX_COLLISIONS):
            if held is None or not _undecided(held, task):
                async with self._environment.unit() as unit:
                    await unit.tx.sent(task.id)
                return None
            action = await self._hook.decide(held)
            try:
                return await self._decided(task, held, action)
            except Conflict:
                current = await self._look(pid)
                if current is not None and current.version == held.version:
                    raise  # nobody was first: it cannot be done
                held = current
        raise too_busy()

    async def _decided(self, task: OutboxMessage, held: P, action: A | Hold) -> None:
        async with self._environment.unit() as unit:
            await unit.tx.sent(task.id)
            if isinstance(action, Hold):
                await self._held(unit, held, action)
            else:
                await self._say(unit, held, self._message(held, action))

    async def acknowledged(
        self, message: OutboxMessage, answer: JsonObject | None, known: P | None = None
    ) -> None:
        """The peer took `message`; its answer to a first message tells its pid. `known`: the process as it
        was when it decided to send this; whether it still is so, the commit finds out."""

        async def step() -> None:
            nonlocal known
            held, known = known, None
            async with self._environment.unit() as unit:
                await unit.tx.sent(message.id)
                held = held or await self._load(unit.tx, message.process_pid)
                if held is None or not _in_flight(held, message):
                    return  # its arrival was clear already
                moved = self._rules.acknowledge(held, at=unit.now)
                if not moved.peer_pid:
                    moved = replace(moved, peer_pid=_peer_pid(held, answer or {}))
                await self._settle(unit, await self._save(unit.tx, moved))

        await retried(step)

    async def abandoned(self, message: OutboxMessage, why: str) -> None:
        """The peer refused `message` or cannot be reached: the process ends, and the operator reads why."""

        async def step() -> None:
            async with self._environment.unit() as unit:
                held = await self._load(unit.tx, message.process_pid)
                if held is None or not _in_flight(held, message):
                    await unit.tx.sent(message.id)  # overruled meanwhile: its fate is of no interest
                    return
                await unit.tx.abandon(message.id, error=why)
                await self._give_up(unit, held, why)

        await retried(step)
        _log.error("%s %s with %s: %s", self.NOUN, message.process_pid, message.recipient, why)

    # --- steps ------------------------------------------------------------------------------------------

    async def _say(self, unit: Unit, process: P, message: M, *, by: str = "") -> P:
        """Decide to send `message`. Without a pid of the peer there is nobody to send it to."""
        if not process.peer_pid:
            return await self._end_unanswered(unit, process, message, by)
        saved = await self._save(unit.tx, self._rules.decide(process, message, at=unit.now))
        await self._said(unit, saved, message, saved.role, by or self._environment.participant_id)
        await unit.send(saved, await self._as_sent(unit, saved, message))
        return saved

    async def _open(self, unit: Unit, process: P, message: M, sender: Role, actor: str) -> P:
        """A process comes to be by its first message; its state is there from the start."""
        saved = await self._save(unit.tx, process)
        await self._said(unit, saved, message, sender, actor)
        if sender is saved.role:
            await unit.send(saved, message)
        elif self._concerns(saved):
            await unit.ask(saved)
        return saved

    async def _moved(self, unit: Unit, process: P, message: M, sender: Role, actor: str) -> P:
        saved = await self._save(unit.tx, process)
        await self._said(unit, saved, message, sender, actor)
        await self._settle(unit, saved)
        return saved

    async def _settle(self, unit: Unit, process: P) -> None:
        await self._entered(unit, process)
        if not process.state.final and self._concerns(process):
            await unit.ask(process)

    async def _give_up(self, unit: Unit, process: P, why: str) -> None:
        """The peer is told, unless it is the termination itself that did not arrive."""
        ours = self._termination(process, "", ()).kind
        reasons = (*process.reasons, why) if process.sending == ours else (why,)
        termination = self._termination(process, "message_failed", reasons)
        idle = replace(process, sending="")
        if process.sending == ours:
            await self._end_here(unit, idle, termination, self._environment.participant_id)
        else:
            await self._say(unit, idle, termination)

    async def _end_unanswered(self, unit: Unit, process: P, message: M, by: str) -> P:
        if message.kind != self._termination(process, "", ()).kind:
            raise Conflict(
                "The other participant has not answered yet.",
                mend="Try again in a moment.",
                code="not_answered",
            )
        if process.sending:
            await unit.tx.sent(process.last_message_id)
        idle = replace(process, sending="")
        return await self._end_here(unit, idle, message, by or self._environment.participant_id)

    async def _end_here(self, unit: Unit, process: P, termination: M, actor: str) -> P:
        """End it on our side alone: the peer cannot be told, or would not hear."""
        ended = self._rules.apply(process, process.role, termination, at=unit.now)
        return await self._moved(unit, ended, termination, process.role, actor)

    def _head(self, process: P) -> Mapping[str, Any]:
        """What every message of a process carries."""
        return {
            "id": self._environment.new_id(),
            "provider_pid": process.provider_pid,
            "consumer_pid": process.consumer_pid,
        }

    # --- checks -----------------------------------------------------------------------------------------

    async def _look(self, pid: str) -> P | None:
        async with self._environment.store.transaction(read_only=True) as tx:
            return await self._load(tx, pid)

    async def _of_peer(self, tx: Transaction, peer: Participant, pid: str) -> P:
        process = self._known(await self._load(tx, pid))
        if process.counter_party != peer.id:
            raise self._unknown()
        return process

    def _known(self, process: P | None) -> P:
        if process is None:
            raise self._unknown()
        return process

    def _unknown(self) -> NotFound:
        return NotFound(f"There is no such {self.NOUN}.")

    @staticmethod
    def _check_pids(process: P, message: M) -> None:
        """Both pids must be those of the process; the peer's may be learned from its first message."""
        if message.pid_of(process.role) != process.pid:
            raise MessageInvalid("is not the one in the path", where=f"{process.role}Pid")
        theirs = message.pid_of(process.role.other)
        if process.peer_pid and theirs != process.peer_pid:
            raise MessageInvalid("is not the one of this process", where=f"{process.role.other}Pid")


def require_own_address(peer: Participant, address: str, where: str = "callbackAddress") -> str:
    """`address` without a trailing slash, if it lies below the base URL that the registry states for `peer`.

    Else a participant could make us call anybody (SSRF). Raises RequestInvalid.
    """
    trimmed = address.rstrip("/")
    inside = trimmed == peer.base_url or trimmed.startswith(f"{peer.base_url}/")
    steps = trimmed.split("/")
    if (
        not inside
        or ".." in steps
        or "." in steps
        or any(c in trimmed for c in "\\?#@%")
        or not all("!" <= c <= "~" for c in trimmed)  # no space, no control character, ASCII only
    ):
        raise RequestInvalid(
            "must lie below your base URL in the participant registry",
            where=where,
            code="address_not_yours",
        )
    return trimmed


def _everything(_process: object) -> bool:
    return True


def _undecided(process: ContractNegotiation | TransferProcess, task: OutboxMessage) -> bool:
    return process.state.value == task.body["state"] and not process.state.final and not process.sending


def _in_flight(process: ContractNegotiation | TransferProcess, message: OutboxMessage) -> bool:
    return bool(process.sending) and process.last_message_id == message.id


def _peer_pid(process: ContractNegotiation | TransferProcess, answer: JsonObject) -> str:
    """The pid in the answer to a first message; "" where it is not one about our process. The peer's next
    message tells it as well."""
    try:
        fields = Fields(answer)
        if fields.identifier(f"{process.role}Pid") == process.pid:
            return fields.identifier(f"{process.role.other}Pid")
    except MessageInvalid as error:
        _log.warning("the first answer of %s is of no use: %s", process.counter_party, error.where)
    return ""
