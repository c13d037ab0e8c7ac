"""Transfer processes (DSP 2025-1 §9), as provider and as consumer.

Whatever stops a transfer ends its grants in the same commit: at our word at once, before the peer has
heard of it; at the peer's when it arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from connector.access import validity
from connector.access.bearer import Bearers
from connector.control_plane import agreements
from connector.control_plane.hooks import Complete, Start, Suspend, Terminate, TransferHook
from connector.control_plane.process import Processes, require_own_address
from connector.control_plane.unit import Environment, Unit, audit_codes, retried
from connector.dsp import transfer as rules
from connector.dsp.messages import (
    TransferCompletionMessage,
    TransferMessage,
    TransferRequestMessage,
    TransferStartMessage,
    TransferSuspensionMessage,
    TransferTerminationMessage,
)
from connector.errors import IllegalTransition, MessageInvalid, NotFound
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.negotiation import AgreementRecord, Role
from connector.model.participant import Participant
from connector.model.transfer import DataAddress, TransferProcess, TransferState
from connector.ports import GrantSelector, Transaction

SUSPENDED = "transfer_suspended"
ENDED = "transfer_ended"

PAGE = 500
"""Transfers read at a time, where a list may want few of them."""

Act = Start | Suspend | Complete | Terminate


class Transfers(Processes[TransferProcess, TransferMessage, Act]):
    NOUN = "transfer process"

    def __init__(
        self, environment: Environment, *, hook: TransferHook, bearers: Bearers | None = None
    ) -> None:
        """`bearers`: for plain DSP peers; without it no start carries one."""
        super().__init__(environment, rules, hook)
        self._bearers = bearers

    # --- ours to begin ----------------------------------------------------------------------------------

    async def request(
        self,
        agreement_id: str,
        format_: TransferFormat,
        *,
        data_address: DataAddress | None = None,
        dsp_url: str = "",
        by: str = "",
    ) -> TransferProcess:
        """As consumer: ask for the data of an agreement in one of its formats. One that is only about to be
        signed by both sides is waited for.

        `data_address`: where the provider is to push. `dsp_url`: the provider's protocol base, if not
        the one the agreement was negotiated with. Raises NotFound, NotPermitted.
        """
        record = await agreements.usable(self._environment, agreement_id)
        if record is None:
            raise NotFound("There is no such agreement of ours as a consumer.")
        async with self._environment.unit() as unit:
            message = TransferRequestMessage(
                id=self._environment.new_id(),
                consumer_pid=self._environment.new_id(),
                agreement_id=agreement_id,
                format=format_.value,
                callback_address=self._environment.dsp_url,
                data_address=data_address,
            )
            address = dsp_url.rstrip("/") or await self._provider_address(unit.tx, record)
            fresh = self._fresh(record.counter_party, Role.CONSUMER, message, format_, address)
            opened = replace(fresh, sending=message.kind, last_message_id=message.id)
            actor = by or self._environment.participant_id
            return await self._open(unit, opened, message, Role.CONSUMER, actor)

    # --- theirs to begin --------------------------------------------------------------------------------

    async def receive_request(
        self, peer: Participant, message: TransferRequestMessage
    ) -> tuple[TransferProcess, bool]:
        """A consumer's request. The bool tells whether it made a new process: a repeat does not.

        Raises NotFound where the agreement is not between us, MessageInvalid, IllegalTransition.
        """
        address = require_own_address(peer, message.callback_address)
        if message.data_address and message.data_address.endpoint:
            require_own_address(peer, message.data_address.endpoint, "dataAddress.endpoint")
        format_ = _format(message)

        async def step() -> tuple[TransferProcess, bool]:
            async with self._environment.unit() as unit:
                record = await unit.tx.agreement(message.agreement_id)
                if record is None or not agreements.is_provider_of(record, peer.id):
                    raise NotFound("There is no such agreement between us.")
                held = await unit.tx.transfer_by_peer(peer.id, message.consumer_pid)
                if held is not None:
                    return _same_request(held, message), False
                fresh = self._fresh(peer.id, Role.PROVIDER, message, format_, address)
                fresh = replace(fresh, received=(message.key,))
                return await self._open(unit, fresh, message, Role.CONSUMER, peer.id), True

        return await retried(step)

    # --- for our operator -------------------------------------------------------------------------------

    async def list(
        self,
        *,
        agreement_id: str | None = None,
        state: TransferState | None = None,
        limit: int = 100,
        after: str = "",
    ) -> Sequence[TransferProcess]:
        """By pid, ascending, after `after`."""
        found: list[TransferProcess] = []
        size = limit if state is None else PAGE
        async with self._environment.store.transaction(read_only=True) as tx:
            while len(found) < limit:
                page = await tx.transfers_page(agreement_id=agreement_id, limit=size, after=after)
                found += [t for t in page if state in (None, t.state)]
                if len(page) < size:
                    break
                after = page[-1].pid
        return found[:limit]

    async def suspend(
        self, pid: str, code: str = "", reasons: Sequence[str] = (), *, by: str = ""
    ) -> TransferProcess:
        """`reasons` go to the peer: no personal data in them. The grants end now."""
        return await self._do(pid, Suspend(code=code, reasons=tuple(reasons)), by=by)

    async def resume(self, pid: str, *, by: str = "") -> TransferProcess:
        return await self._do(pid, Start(), by=by)

    async def complete(self, pid: str, *, by: str = "") -> TransferProcess:
        return await self._do(pid, Complete(), by=by)

    async def terminate(
        self, pid: str, code: str, reasons: Sequence[str] = (), *, by: str = ""
    ) -> TransferProcess:
        return await self._do(pid, Terminate(code=code, reasons=tuple(reasons)), by=by)

    # --- for agreements ---------------------------------------------------------------------------------

    async def end_under(
        self,
        unit: Unit,
        agreement_id: str,
        reasons: tuple[str, ...],
        by: str,
        *,
        code: str = validity.ENDED,
    ) -> int:
        """Terminate every live transfer under an agreement that has ended or lapsed, but those that end
        already; how many there were."""
        live = [
            transfer
            for transfer in await unit.tx.transfers(agreement_id=agreement_id)
            if not transfer.state.final and transfer.sending not in (rules.COMPLETION, rules.TERMINATION)
        ]
        for transfer in live:
            await self._say(unit, transfer, self._termination(transfer, code, reasons), by=by)
        return len(live)

    # --- steps ------------------------------------------------------------------------------------------

    def _fresh(
        self,
        counter_party: str,
        role: Role,
        message: TransferRequestMessage,
        format_: TransferFormat,
        address: str,
    ) -> TransferProcess:
        now = self._environment.clock.now()
        return TransferProcess(
            pid=message.pid_of(role) or self._environment.new_id(),
            peer_pid=message.pid_of(role.other),
            role=role,
            state=rules.MACHINE.following(None, Role.CONSUMER, message.kind),
            counter_party=counter_party,
            peer_address=address,
            agreement_id=message.agreement_id,
            format=format_,
            data_address=message.data_address,
            created_at=now,
            updated_at=now,
        )

    @staticmethod
    async def _provider_address(tx: Transaction, record: AgreementRecord) -> str:
        negotiation = await tx.negotiation(record.negotiation_pid)
        if negotiation is None:
            raise NotFound("It is not known where this agreement's provider is.", mend="Name its DSP URL.")
        return negotiation.peer_address

    async def _record(
        self, unit: Unit, event: AuditEvent, process: TransferProcess, actor: str, code: str = ""
    ) -> None:
        await unit.record(
            event,
            process.pid,
            actor=actor,
            agreement=process.agreement_id,
            transfer=process.pid,
            outcome=process.state.value,
            reasons=audit_codes(code),
        )

    async def _stop(self, unit: Unit, process: TransferProcess, reason: str) -> None:
        if process.role is Role.PROVIDER:  # grants and bearers are the provider's
            await unit.stop_grants(GrantSelector(transfer_pid=process.pid), reason)
            if self._bearers is not None:
                await self._bearers.revoke(unit.tx, process.pid)

    async def _as_sent(
        self, unit: Unit, process: TransferProcess, message: TransferMessage
    ) -> TransferMessage:
        """A start for a plain DSP peer carries a new bearer. Nothing but the outbox has it in clear, and only
        until the peer does."""
        if not isinstance(message, TransferStartMessage) or message.data_address is None:
            return message
        if self._bearers is None or not self._bearers.serves(process):
            return message
        token = await self._bearers.issue(unit.tx, process)
        return replace(message, data_address=message.data_address.with_bearer(token))

    async def _tell_address(self, unit: Unit, process: TransferProcess) -> None:
        """A consumer resumed, and its bearer died with the suspension: the new one travels in a start message
        that moves nothing. The protocol has no other way to tell it."""
        if self._bearers is not None and self._bearers.serves(process):
            start = TransferStartMessage(data_address=process.data_address, **self._head(process))
            await unit.send(process, await self._as_sent(unit, process, start))

    # --- what Processes asks for ------------------------------------------------------------------------

    async def _load(self, tx: Transaction, pid: str) -> TransferProcess | None:
        return await tx.transfer(pid)

    async def _save(self, tx: Transaction, process: TransferProcess) -> TransferProcess:
        return await tx.save_transfer(process)

    def _message(self, process: TransferProcess, action: Act) -> TransferMessage:
        match action:
            case Start(address=address):
                # a consumer that resumes names no address
                told = (address or process.data_address) if process.role is Role.PROVIDER else None
                return TransferStartMessage(data_address=told, **self._head(process))
            case Suspend(code=code, reasons=reasons):
                return TransferSuspensionMessage(code=code, reason=reasons, **self._head(process))
            case Complete():
                return TransferCompletionMessage(**self._head(process))
            case Terminate(code=code, reasons=reasons):
                return self._termination(process, code, reasons)

    def _termination(self, process: TransferProcess, code: str, reasons: tuple[str, ...]) -> TransferMessage:
        return TransferTerminationMessage(code=code, reason=reasons, **self._head(process))

    def _moves_nothing(
        self, process: TransferProcess, message: TransferMessage, at: datetime
    ) -> TransferProcess | None:
        return rules.with_new_address(process, message, at=at)

    async def _said(
        self, unit: Unit, process: TransferProcess, message: TransferMessage, sender: Role, actor: str
    ) -> None:
        match message:
            case TransferStartMessage():
                await self._record(unit, AuditEvent.TRANSFER_STARTED, process, actor)
                if sender is not process.role:
                    await self._tell_address(unit, process)
            case TransferSuspensionMessage(code=code):
                await self._stop(unit, process, SUSPENDED)
                await self._record(unit, AuditEvent.TRANSFER_SUSPENDED, process, actor, code)
            case TransferCompletionMessage():
                await self._stop(unit, process, ENDED)
                await self._record(unit, AuditEvent.TRANSFER_ENDED, process, actor, "completed")
            case TransferTerminationMessage(code=code):
                await self._stop(unit, process, ENDED)
                await self._record(unit, AuditEvent.TRANSFER_ENDED, process, actor, code)
                if code == validity.ENDED and sender is not process.role:
                    reason = "; ".join(message.reasons)
                    await agreements.end_agreement(unit, process.agreement_id, reason, actor, code=code)


def _format(message: TransferRequestMessage) -> TransferFormat:
    try:
        return TransferFormat(message.format)
    except ValueError:
        raise MessageInvalid("is not a format of ours", where="format") from None


def _same_request(held: TransferProcess, message: TransferRequestMessage) -> TransferProcess:
    """DSP asks that a known `consumerPid` makes no second process; what is under way goes on as it is."""
    same = (held.role, held.agreement_id, held.format.value)
    if same != (Role.PROVIDER, message.agreement_id, message.format):
        raise IllegalTransition("There is another transfer process with this pid of yours already.")
    return held
