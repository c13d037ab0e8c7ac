"""TransferProcess (DSP 2025-1 §9): the transition table, and what each message leaves in the process.

Two rules stand beside the table. A consumer cannot resume what the provider suspended: the specification
would let it, and a suspension would then bind nobody. A provider may tell a consumer a new address by a
start message in STARTED: tokens die with a suspension, and a consumer's resumption brings none back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from connector.dsp import machine
from connector.dsp.messages import (
    TransferCompletionMessage,
    TransferMessage,
    TransferRequestMessage,
    TransferStartMessage,
    TransferSuspensionMessage,
    TransferTerminationMessage,
)
from connector.errors import IllegalTransition
from connector.model.negotiation import Role
from connector.model.transfer import DataAddress, TransferProcess, TransferState

REQUEST = TransferRequestMessage.TYPE
START = TransferStartMessage.TYPE
SUSPENSION = TransferSuspensionMessage.TYPE
COMPLETION = TransferCompletionMessage.TYPE
TERMINATION = TransferTerminationMessage.TYPE

_C, _P = Role.CONSUMER, Role.PROVIDER
_S = TransferState
_TERMINATION = {(_C, TERMINATION): _S.TERMINATED, (_P, TERMINATION): _S.TERMINATED}

TABLE: machine.Table[TransferState] = MappingProxyType(
    {
        None: {(_C, REQUEST): _S.REQUESTED},
        _S.REQUESTED: {(_P, START): _S.STARTED, **_TERMINATION},
        _S.STARTED: {
            (_C, COMPLETION): _S.COMPLETED,
            (_P, COMPLETION): _S.COMPLETED,
            (_C, SUSPENSION): _S.SUSPENDED,
            (_P, SUSPENSION): _S.SUSPENDED,
            **_TERMINATION,
        },
        _S.SUSPENDED: {(_C, START): _S.STARTED, (_P, START): _S.STARTED, **_TERMINATION},
        _S.COMPLETED: {},
        _S.TERMINATED: {},
    }
)

MACHINE = machine.Machine(
    name="transfer process", table=TABLE, precedence=(SUSPENSION, COMPLETION, TERMINATION)
)


def apply(
    transfer: TransferProcess, sender: Role, message: TransferMessage, *, at: datetime
) -> TransferProcess:
    """The transfer once both sides have `message` from `sender`. Raises IllegalTransition."""
    _check_resumption(transfer, sender, message)
    state = MACHINE.following(transfer.state, sender, message.kind)
    return replace(transfer, state=state, sending="", updated_at=at, **_left_by(transfer, sender, message))


def decide(transfer: TransferProcess, message: TransferMessage, *, at: datetime) -> TransferProcess:
    """We will send `message`; the state moves when the peer has it. Raises IllegalTransition, Conflict."""
    _check_resumption(transfer, transfer.role, message)
    step = machine.decide(MACHINE, transfer, message.kind, message.id, at)
    return replace(step, **_left_by(transfer, transfer.role, message))


def acknowledge(transfer: TransferProcess, *, at: datetime) -> TransferProcess:
    """The peer has the message in `sending`."""
    return machine.acknowledge(MACHINE, transfer, at)


def receive(transfer: TransferProcess, message: TransferMessage, *, at: datetime) -> TransferProcess:
    """The peer's message. Raises IllegalTransition; then nothing has changed."""
    sender = transfer.role.other
    _check_resumption(transfer, sender, message)
    step = machine.receive(MACHINE, transfer, message.kind, message.key, at)
    peer_pid = transfer.peer_pid or message.pid_of(sender)
    return replace(step, peer_pid=peer_pid, **_left_by(transfer, sender, message))


def with_new_address(
    transfer: TransferProcess, message: TransferMessage, *, at: datetime
) -> TransferProcess | None:
    """The consumer's process with the address that a start message tells in STARTED; nothing moves. None
    where it is no such message, and the table decides."""
    if transfer.role is Role.PROVIDER or transfer.state is not TransferState.STARTED or transfer.sending:
        return None
    if not isinstance(message, TransferStartMessage) or message.data_address is None:
        return None
    return replace(machine.remember(transfer, message.key, at), data_address=message.data_address)


def is_repeat(transfer: TransferProcess, message: TransferMessage) -> bool:
    """Whether the peer sent this message before: then it is answered, and nothing changes."""
    return machine.is_repeat(MACHINE, transfer, message.kind, message.id, message.key)


def _check_resumption(transfer: TransferProcess, sender: Role, message: TransferMessage) -> None:
    by_consumer = isinstance(message, TransferStartMessage) and sender is Role.CONSUMER
    if by_consumer and transfer.suspended_by is Role.PROVIDER:
        raise IllegalTransition("The provider suspended this transfer: only the provider resumes it.")


def _left_by(transfer: TransferProcess, sender: Role, message: TransferMessage) -> Mapping[str, Any]:
    match message:
        case TransferStartMessage(data_address=address):
            told = address if sender is Role.PROVIDER else None  # a consumer that resumes names no address
            return {"data_address": told or transfer.data_address, "suspended_by": None, "reasons": ()}
        case TransferSuspensionMessage():
            # where both suspend at once, the provider's suspension stands
            by = Role.PROVIDER if transfer.suspended_by is Role.PROVIDER else sender
            return {"suspended_by": by, "reasons": message.reasons}
        case TransferCompletionMessage():
            return {"data_address": _disarmed(transfer)}
        case TransferTerminationMessage():
            reasons = message.reasons or ((message.code,) if message.code else ())
            return {"data_address": _disarmed(transfer), "reasons": reasons}
    return {}


def _disarmed(transfer: TransferProcess) -> DataAddress | None:
    """No token is kept beyond its transfer."""
    return transfer.data_address.without_secrets() if transfer.data_address else None
