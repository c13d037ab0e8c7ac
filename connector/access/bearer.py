"""Opaque bearers: how a plain DSP peer, which knows none of our tokens, reads over `HttpData-PULL`.

Only participants that the operator listed get one. It is made with each start message of a transfer and
replaces the one before; it dies in the same commit as whatever stops the transfer. The store holds its
SHA-256, which is also what it is looked up by: the time that a look-up takes tells about hashes only. It
states no purpose, so the agreement must name exactly one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import replace

from connector.access.admission import ACTIONS, Admission
from connector.access.audit import Auditor
from connector.access.jose import Refusal
from connector.errors import GrantStopped, NotPermitted, TokenRejected
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.negotiation import AgreementRecord, Role
from connector.model.policy import Policy, Rule
from connector.model.token import AuthorizationDetail, BearerClaims
from connector.model.transfer import TransferProcess
from connector.ports import Store, Transaction

_AUTHORIZATION = re.compile(r"Bearer ([A-Za-z0-9_-]{43})", re.IGNORECASE)
_BY_HASH = "bearer:"
_BY_TRANSFER = "bearer-of:"
_NAMING = frozenset({"eq", "isA", "isAnyOf"})
"""Operators by which a constraint names the purposes that it allows; others name what it excludes."""


class Bearers:
    """`new_token`: 256 random bits, base64url. `peers`: participant ids that the operator listed."""

    def __init__(
        self,
        *,
        store: Store,
        admission: Admission,
        auditor: Auditor,
        new_token: Callable[[], str],
        peers: Collection[str],
    ) -> None:
        self._store = store
        self._admission = admission
        self._auditor = auditor
        self._new_token = new_token
        self._peers = frozenset(peers)

    def serves(self, transfer: TransferProcess) -> bool:
        """Whether the start of this transfer carries a bearer."""
        pulled = transfer.role is Role.PROVIDER and transfer.format is TransferFormat.HTTP_DATA_PULL
        return pulled and transfer.counter_party in self._peers

    # --- in the transaction that starts or stops the transfer ---------------------------------------------

    async def issue(self, tx: Transaction, transfer: TransferProcess) -> str:
        """A new bearer for the start message; the one before it is dead once `tx` commits."""
        await self.revoke(tx, transfer.pid)
        token = self._new_token()
        digest = _digest(token)
        await tx.put_value(_BY_HASH + digest, {"transfer": transfer.pid})
        await tx.put_value(_BY_TRANSFER + transfer.pid, {"sha256": digest})
        return token

    async def revoke(self, tx: Transaction, transfer_pid: str) -> None:
        held = await tx.value(_BY_TRANSFER + transfer_pid)
        if held is not None:
            await tx.delete_values([_BY_HASH + str(held["sha256"]), _BY_TRANSFER + transfer_pid])

    # --- at each use --------------------------------------------------------------------------------------

    async def verify(self, authorization_header: str | None, dataset_id: str) -> BearerClaims:
        """The claims of a live bearer for this dataset, its grant opened. The caller has refused repeated
        headers. Raises TokenRejected, the same for every fault; its cause holds the code, for our log."""
        try:
            transfer, record = await self._found(authorization_header)
            if record.agreement.target != dataset_id:
                raise Refusal("bearer_dataset")
            return await self._opened(transfer, record)
        except Refusal as refusal:
            raise TokenRejected("The bearer was not accepted.") from refusal

    async def _found(self, header: str | None) -> tuple[TransferProcess, AgreementRecord]:
        match = _AUTHORIZATION.fullmatch(header or "")
        if match is None:
            raise Refusal("scheme")
        async with self._store.transaction(read_only=True) as tx:
            held = await tx.value(_BY_HASH + _digest(match[1]))
            transfer = await tx.transfer(str(held["transfer"])) if held else None
            record = await tx.agreement(transfer.agreement_id) if transfer else None
        if transfer is None or record is None:
            raise Refusal("bearer_unknown")
        if not self.serves(transfer):
            raise Refusal("bearer_not_for_this_peer")
        return transfer, record

    async def _opened(self, transfer: TransferProcess, record: AgreementRecord) -> BearerClaims:
        """Whatever refuses a grant refuses the bearer; why, our audit log tells."""
        purpose = only_purpose(record.agreement.policy)
        if not purpose:
            raise Refusal("purpose_not_single")
        detail = AuthorizationDetail(
            agreement_id=record.agreement.id,
            dataset_id=record.agreement.target,
            actions=frozenset({ACTIONS[transfer.format]}),
            purpose=purpose,
        )
        try:
            consumer = self._admission.participant(transfer.counter_party)
            grant = await self._admission.open(consumer, detail, transfer_pid=transfer.pid)
        except (NotPermitted, GrantStopped) as refused:
            codes = tuple(r.code for r in getattr(refused, "reasons", ())) or (refused.code,)
            await self._auditor.record(
                AuditEvent.ACCESS_REFUSED,
                actor=transfer.counter_party,
                object=detail.dataset_id,
                purpose=detail.purpose,
                agreement=detail.agreement_id,
                transfer=transfer.pid,
                outcome="deny",
                reasons=codes,
            )
            raise Refusal(codes[0]) from refused
        return BearerClaims(subject=transfer.counter_party, detail=replace(detail, grant_id=grant.id))


def only_purpose(policy: Policy) -> str:
    """The one purpose that every permission names; "" where they name none, or several."""
    named = policy.values_of("purpose")
    if len(named) != 1 or not all(map(_names_purposes, policy.permissions)):
        return ""
    return next(iter(named))


def _names_purposes(permission: Rule) -> bool:
    operators = [leaf.operator for leaf in permission.leaves() if leaf.left_operand == "purpose"]
    return bool(operators) and _NAMING.issuperset(operators)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
