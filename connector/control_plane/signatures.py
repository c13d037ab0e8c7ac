"""The signatures of an agreement, exchanged beside DSP: `{protocol base}/agreements/{id}/signatures`.

The provider signs when it finalizes and sends its signature beside the FINALIZED event; the consumer, which
has verified the agreement, checks it, countersigns and answers with its own. One request, in nobody's way:
what is not signed by both gives no access (access/validity.py). A participant that has no such endpoint
needs the operator's exception: the setting `unsigned_peers`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import quote

from connector.access import agreement_signature as signature
from connector.access.agreement_signature import Checked
from connector.access.jose import Refusal
from connector.access.validity import ABSENT, WRONG, ends_at, why_not
from connector.control_plane.unit import Environment, Unit, audit_codes, retried
from connector.dsp import negotiation as rules
from connector.errors import Conflict, MessageInvalid, NotFound, PeerProtocolError
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset
from connector.model.json import JsonObject, to_rfc3339
from connector.model.negotiation import AgreementRecord, NegotiationState, Role
from connector.model.participant import Participant
from connector.model.policy import AgreementState
from connector.ports import Keys, OutboxMessage, Transaction, TrustRegistry

_log = logging.getLogger(__name__)

SIGNATURE = "signature"
"""The outbox's kind: to the counter-party, answered with its own signature."""

TYPE = "AgreementSignatureMessage"


class Fetch(Protocol):
    async def __call__(
        self, method: str, url: str, recipient: str, body: JsonObject | None = None
    ) -> JsonObject:
        """The object a peer answers. Raises PeerError."""
        ...


class AgreementSignatures:
    """`connector.control_plane.outbox.Sender` for its kind."""

    def __init__(
        self,
        environment: Environment,
        *,
        keys: Keys,
        trust: TrustRegistry,
        fetch: Fetch,
        catalogue: Callable[[], Mapping[str, Dataset]],
    ) -> None:
        self._environment = environment
        self._keys = keys
        self._trust = trust
        self._fetch = fetch
        self._catalogue = catalogue

    # --- steps of a unit, for negotiation -----------------------------------------------------------------

    def signed(self, record: AgreementRecord, unit: Unit) -> AgreementRecord:
        """With our signature, to be saved by the caller."""
        return signature.signed_by_us(record, self._keys, unit.now)

    async def send(self, unit: Unit, record: AgreementRecord, peer_address: str) -> None:
        """Ours to the counter-party, in a queue of its own; nobody waits for it."""
        ours = record.signature_of(self._keys.participant_id)
        if ours is None or record.counter_party in self._environment.unsigned_peers:
            return
        message_id = self._environment.new_id()
        body = {"@type": TYPE, "@id": message_id, "agreement": record.agreement.id, "signature": ours.jws}
        unit.queue(
            OutboxMessage(
                id=message_id,
                process_pid=f"{SIGNATURE}:{record.agreement.id}",
                kind=SIGNATURE,
                recipient=record.counter_party,
                url=_url(peer_address, record.agreement.id),
                body=body,
                created_at=unit.now,
                due_at=unit.now,
            )
        )

    # --- for the counter-party ----------------------------------------------------------------------------

    async def receive(self, peer: Participant, agreement_id: str, body: JsonObject) -> JsonObject:
        """The counter-party's signature; answered with what we have. A repeat changes nothing.

        Raises NotFound for everybody else, MessageInvalid for a signature that is not over this agreement,
        Conflict where it comes before we have verified the agreement or after its end.
        """

        async def step() -> tuple[AgreementRecord, str]:
            async with self._environment.unit() as unit:
                record = _of_peer(await unit.tx.agreement_for_change(agreement_id), peer)
                if record.signature_of(peer.id):
                    return record, ""
                if record.state is AgreementState.TERMINATED or not await _is_verified(unit.tx, record):
                    raise Conflict("This agreement is not to be signed now.", code="not_to_be_signed")
                return await self._take(unit, record, body.get("signature"), peer)

        record, refused = await retried(step)
        if refused:
            raise MessageInvalid(f"is not yours over this agreement ({refused})", where="signature")
        return self._answer(record)

    async def shown(self, peer: Participant, agreement_id: str) -> JsonObject:
        """What we have, for the counter-party only. Raises NotFound."""
        async with self._environment.store.transaction(read_only=True) as tx:
            return self._answer(_of_peer(await tx.agreement(agreement_id), peer))

    # --- for our operator ---------------------------------------------------------------------------------

    def check(self, record: AgreementRecord) -> list[Checked]:
        """Every signature we hold, verified anew."""
        return [signature.check(record, s, self._jwks(s.participant)) for s in record.signatures]

    async def exchange(self, agreement_id: str) -> AgreementRecord:
        """Once more, for whoever missed it: fetch theirs, and send ours.

        Raises NotFound, Conflict, PeerError.
        """
        async with self._environment.store.transaction(read_only=True) as tx:
            record = await tx.agreement(agreement_id)
            address = await _address(tx, record) if record else ""
        if record is None:
            raise NotFound("There is no such agreement.")
        if record.state is not AgreementState.ACTIVE:
            raise Conflict("Only an agreement in force is signed.", code="not_to_be_signed")
        answer: JsonObject = {}
        if record.signature_of(record.counter_party) is None:
            answer = await self._fetch("GET", _url(address, agreement_id), record.counter_party)

        async def step() -> tuple[AgreementRecord, str]:
            async with self._environment.unit() as unit:
                held = await unit.tx.agreement_for_change(agreement_id)
                assert held is not None, "agreements are never deleted"
                peer = self._trust.current().participants.get(held.counter_party)
                theirs = _signature_in(answer, held.counter_party)
                if theirs is not None and peer is not None:
                    held, refused = await self._take(unit, held, theirs, peer)
                    if refused:
                        return held, refused
                if held.role is Role.PROVIDER or held.signature_of(held.counter_party):
                    held = self.signed(held, unit)
                    await unit.tx.save_agreement(held)
                    await self.send(unit, held, address)
                return held, ""

        held, refused = await retried(step)
        if refused:
            raise PeerProtocolError(f"signed something else ({refused})", participant=record.counter_party)
        return held

    # --- for the outbox worker ----------------------------------------------------------------------------

    async def consider(self, task: OutboxMessage, known: Any = None) -> None:  # noqa: ARG002
        raise AssertionError("no hook decides on signatures")

    async def acknowledged(
        self,
        message: OutboxMessage,
        answer: JsonObject | None,
        known: Any = None,  # noqa: ARG002 - an agreement is read anew
    ) -> None:
        """The counter-party has ours; its answer holds its own."""

        async def step() -> None:
            async with self._environment.unit() as unit:
                await unit.tx.sent(message.id)
                record = await unit.tx.agreement_for_change(str(message.body["agreement"]))
                peer = self._trust.current().participants.get(message.recipient)
                if record is None or peer is None or record.signature_of(peer.id):
                    return
                await self._take(unit, record, _signature_in(answer or {}, peer.id), peer)

        await retried(step)

    async def abandoned(self, message: OutboxMessage, why: str) -> None:
        """The counter-party has no such endpoint, or refuses: kept, so that the operator reads why."""

        async def step() -> None:
            async with self._environment.unit() as unit:
                await unit.tx.abandon(message.id, error=why)
                record = await unit.tx.agreement_for_change(str(message.body["agreement"]))
                if record is not None and not record.signature_of(record.counter_party):
                    text = f"{record.counter_party} did not take ours, and gave none of its own."
                    await unit.tx.save_agreement(replace(record, signature_problem=(ABSENT, text)))

        await retried(step)
        _log.error("agreement %s is not signed by both: %s", message.body["agreement"], why)

    # --- steps --------------------------------------------------------------------------------------------

    async def _take(
        self, unit: Unit, record: AgreementRecord, unverified: object, peer: Participant
    ) -> tuple[AgreementRecord, str]:
        """The record with both signatures; or without the peer's, and the code of what is wrong with it."""
        try:
            signed = signature.signed_by_peer(record, unverified, self._jwks(peer.id), unit.now)
        except Refusal as refusal:
            text = f"What {peer.id} signed is not this agreement ({refusal.code})."
            refused = replace(record, signature_problem=(WRONG, text))
            await unit.tx.save_agreement(refused)
            await unit.record(
                AuditEvent.SIGNATURE_REFUSED,
                record.negotiation_pid or record.agreement.id,
                actor=peer.id,
                object=record.agreement.target,
                agreement=record.agreement.id,
                reasons=audit_codes(refusal.code),
            )
            return refused, refusal.code
        signed = self.signed(signed, unit)
        await unit.tx.save_agreement(signed)
        return signed, ""

    def _jwks(self, participant_id: str) -> tuple[Mapping[str, Any], ...]:
        found = self._trust.current().participants.get(participant_id)
        return found.jwks if found else ()

    def _answer(self, record: AgreementRecord) -> JsonObject:
        dataset = self._catalogue().get(record.agreement.target)
        environment = self._environment
        reason = why_not(
            record, environment.clock.now(), unsigned_peers=environment.unsigned_peers, dataset=dataset
        )
        answer: dict[str, Any] = {
            "agreement": record.agreement.id,
            "statement": signature.statement(record),
            "state": record.state.value,
            "inForce": reason is None,
            "signatures": [{"participant": s.participant, "jws": s.jws} for s in record.signatures],
        }
        if reason is not None:
            answer["reason"] = {"code": reason.code, "text": reason.text}
        ending = ends_at(record, dataset) if dataset and record.role is Role.PROVIDER else None
        if ending is not None:
            answer["endsAt"] = to_rfc3339(ending)
        if record.ended_at is not None:
            answer["endedAt"] = to_rfc3339(record.ended_at)
        return answer


def _of_peer(record: AgreementRecord | None, peer: Participant) -> AgreementRecord:
    if record is None or record.counter_party != peer.id:
        raise NotFound("There is no such agreement.")
    return record


async def _is_verified(tx: Transaction, record: AgreementRecord) -> bool:
    """Whether we stand by the agreement: as provider once it is in force, as consumer once we said so."""
    if record.state is AgreementState.ACTIVE or record.role is Role.PROVIDER:
        return record.state is AgreementState.ACTIVE
    negotiation = await tx.negotiation(record.negotiation_pid)
    return negotiation is not None and (
        negotiation.state in (NegotiationState.VERIFIED, NegotiationState.FINALIZED)
        or negotiation.sending == rules.VERIFICATION
    )


async def _address(tx: Transaction, record: AgreementRecord) -> str:
    negotiation = await tx.negotiation(record.negotiation_pid)
    if negotiation is None:
        raise NotFound("It is not known where the other side of this agreement is.")
    return negotiation.peer_address


def _url(peer_address: str, agreement_id: str) -> str:
    return f"{peer_address.rstrip('/')}/agreements/{quote(agreement_id, safe='')}/signatures"


def _signature_in(answer: JsonObject, participant_id: str) -> object:
    """The participant's own in an answer; None where there is none."""
    listed = answer.get("signatures")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping) and item.get("participant") == participant_id:
            return item.get("jws")
    return None
