"""Negotiations, transfers and agreements, as port Transaction has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from connector.adapters.sql.connection import Connection
from connector.adapters.sql.documents import decode, encode
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.transfer import TransferProcess


class Processes:
    """A version is the number of times a process was saved; saving it anew needs the latest one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def negotiation(self, pid: str) -> ContractNegotiation | None:
        row = await self._connection.fetchone("negotiation", pid)
        return decode(ContractNegotiation, row[0]) if row else None

    async def negotiation_by_peer(self, counter_party: str, peer_pid: str) -> ContractNegotiation | None:
        row = await self._connection.fetchone("negotiation_by_peer", counter_party, peer_pid)
        return decode(ContractNegotiation, row[0]) if row else None

    async def negotiations(
        self, *, waiting: bool | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[ContractNegotiation]:
        query = {None: "negotiations", True: "negotiations_waiting", False: "negotiations_moving"}[waiting]
        rows = await self._connection.fetch(query, after, limit)
        return [decode(ContractNegotiation, row[0]) for row in rows]

    async def save_negotiation(self, negotiation: ContractNegotiation) -> ContractNegotiation:
        saved = replace(negotiation, version=negotiation.version + 1)
        await self._connection.post(
            "update_negotiation" if negotiation.version else "insert_negotiation",
            saved.pid,
            saved.counter_party,
            saved.peer_pid,
            saved.waiting_for,
            saved.version,
            encode(saved),
            otherwise="This negotiation was changed by someone else in the meantime.",
        )
        return saved

    async def transfer(self, pid: str) -> TransferProcess | None:
        row = await self._connection.fetchone("transfer", pid)
        return decode(TransferProcess, row[0]) if row else None

    async def transfer_by_peer(self, counter_party: str, peer_pid: str) -> TransferProcess | None:
        row = await self._connection.fetchone("transfer_by_peer", counter_party, peer_pid)
        return decode(TransferProcess, row[0]) if row else None

    async def transfers(self, *, agreement_id: str | None = None) -> Sequence[TransferProcess]:
        if agreement_id is None:
            rows = await self._connection.fetch("transfers")
        else:
            rows = await self._connection.fetch("transfers_of_agreement", agreement_id)
        return [decode(TransferProcess, row[0]) for row in rows]

    async def transfers_page(
        self, *, agreement_id: str | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[TransferProcess]:
        rows = await self._connection.fetch("transfers_page", after, agreement_id, limit)
        return [decode(TransferProcess, row[0]) for row in rows]

    async def save_transfer(self, transfer: TransferProcess) -> TransferProcess:
        saved = replace(transfer, version=transfer.version + 1)
        await self._connection.post(
            "update_transfer" if transfer.version else "insert_transfer",
            saved.pid,
            saved.counter_party,
            saved.peer_pid,
            saved.agreement_id,
            saved.version,
            encode(saved),
            otherwise="This transfer was changed by someone else in the meantime.",
        )
        return saved

    async def agreement(self, agreement_id: str) -> AgreementRecord | None:
        row = await self._connection.fetchone("agreement", agreement_id)
        return decode(AgreementRecord, row[0]) if row else None

    async def agreement_for_change(self, agreement_id: str) -> AgreementRecord | None:
        row = await self._connection.fetchone("agreement_for_change", agreement_id)
        return decode(AgreementRecord, row[0]) if row else None

    async def agreements(self, *, counter_party: str | None = None) -> Sequence[AgreementRecord]:
        if counter_party is None:
            rows = await self._connection.fetch("agreements")
        else:
            rows = await self._connection.fetch("agreements_with", counter_party)
        return [decode(AgreementRecord, row[0]) for row in rows]

    async def save_agreement(self, record: AgreementRecord) -> None:
        """Raises Conflict where it would bring a terminated agreement back: endings are for good."""
        await self._connection.post(
            "save_agreement",
            record.agreement.id,
            record.counter_party,
            record.state,
            encode(record),
            otherwise="This agreement was terminated: it cannot become active again.",
        )
