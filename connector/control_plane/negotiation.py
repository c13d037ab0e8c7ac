"""Contract negotiations (DSP 2025-1 §7), as provider and as consumer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from connector.access.vocabulary import classify
from connector.control_plane import agreements
from connector.control_plane.hooks import (
    APPROVAL,
    Accept,
    Agree,
    Finalize,
    Hold,
    NegotiationHook,
    Offer,
    Terminate,
    Verify,
)
from connector.control_plane.process import Processes, require_own_address
from connector.control_plane.signatures import AgreementSignatures
from connector.control_plane.unit import Environment, Unit, audit_codes, retried
from connector.dsp import negotiation as rules
from connector.dsp import policy
from connector.dsp.messages import (
    ContractAgreementMessage,
    ContractAgreementVerificationMessage,
    ContractNegotiationEventMessage,
    ContractNegotiationTerminationMessage,
    ContractOfferMessage,
    ContractRequestMessage,
    NegotiationEvent,
    NegotiationMessage,
)
from connector.dsp.wire import Fields
from connector.errors import (
    Conflict,
    IllegalTransition,
    MessageInvalid,
    NotPermitted,
    Reason,
    RequestInvalid,
)
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset, OfferTerms
from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation, NegotiationState, Role
from connector.model.participant import Participant
from connector.model.policy import Agreement
from connector.model.policy import Offer as WireOffer
from connector.ports import Transaction

Act = Agree | Offer | Accept | Verify | Finalize | Terminate
_Opening = ContractRequestMessage | ContractOfferMessage


class Negotiations(Processes[ContractNegotiation, NegotiationMessage, Act]):
    NOUN = "contract negotiation"

    def __init__(
        self,
        environment: Environment,
        *,
        hook: NegotiationHook,
        catalogue: Callable[[], Mapping[str, Dataset]],
        signatures: AgreementSignatures,
    ) -> None:
        super().__init__(environment, rules, hook)
        self._catalogue = catalogue
        self._signatures = signatures

    # --- ours to begin ----------------------------------------------------------------------------------

    async def request(
        self,
        provider: Participant,
        dataset_id: str,
        offer: JsonObject,
        *,
        dsp_url: str = "",
        by: str = "",
        renews: str = "",
    ) -> ContractNegotiation:
        """As consumer: ask for an agreement on `offer`, an Offer as the provider's catalogue shows it.

        `dsp_url`: where the provider's protocol base is, if not where the registry says. `renews`: our
        agreement that is to be followed by this one. Raises MessageInvalid where the offer is none.
        """
        message = ContractRequestMessage(
            id=self._environment.new_id(),
            consumer_pid=self._environment.new_id(),
            offer=_offer(offer, dataset_id),
            callback_address=self._environment.dsp_url,
        )
        return await self._begin(provider, Role.CONSUMER, message, dsp_url, by, renews)

    async def propose(
        self, consumer: Participant, dataset_id: str, offer: JsonObject, *, dsp_url: str = "", by: str = ""
    ) -> ContractNegotiation:
        """As provider: offer `offer` to a consumer that has not asked."""
        message = ContractOfferMessage(
            id=self._environment.new_id(),
            provider_pid=self._environment.new_id(),
            offer=_offer(offer, dataset_id),
            callback_address=self._environment.dsp_url,
        )
        return await self._begin(consumer, Role.PROVIDER, message, dsp_url, by)

    # --- theirs to begin --------------------------------------------------------------------------------

    async def receive_request(
        self, peer: Participant, message: ContractRequestMessage
    ) -> tuple[ContractNegotiation, bool]:
        """A consumer's first message. The bool tells whether it made a new process: a repeat does not."""
        if message.provider_pid:
            raise MessageInvalid("belongs to a negotiation that exists", where="providerPid")
        if message.offer.target is None:
            raise MessageInvalid("is required", where="offer.target")
        return await self._take(peer, Role.PROVIDER, message)

    async def receive_offer(
        self, peer: Participant, message: ContractOfferMessage
    ) -> tuple[ContractNegotiation, bool]:
        """A provider's first message, unasked."""
        if message.consumer_pid:
            raise MessageInvalid("belongs to a negotiation that exists", where="consumerPid")
        return await self._take(peer, Role.CONSUMER, message)

    # --- for our operator -------------------------------------------------------------------------------

    async def list(
        self, *, waiting: bool | None = None, limit: int = 100, after: str = ""
    ) -> Sequence[ContractNegotiation]:
        """By pid, after `after`; `waiting=True` those that wait for a person."""
        async with self._environment.store.transaction(read_only=True) as tx:
            return await tx.negotiations(waiting=waiting, limit=limit, after=after)

    def approver(self, negotiation: ContractNegotiation) -> str:
        """The subject of the only person who may decide on it; "" where any approver may."""
        terms = self._terms(negotiation) if negotiation.role is Role.PROVIDER else None
        return terms.approver if terms else ""

    async def approve(self, pid: str, *, by: str) -> ContractNegotiation:
        """Carry out what waits for approval. It is judged anew first: what held when it was asked for may
        not hold now. Raises NotFound, Conflict, NotPermitted; then it still waits."""
        held = await self._waiting(pid, by)
        action = await self._hook.decide(held)
        if isinstance(action, Hold) and action.why == APPROVAL and action.proposed:
            action = action.proposed
        if isinstance(action, Terminate):
            raise _denied(action)
        if not isinstance(action, Agree | Accept):
            raise Conflict("There is nothing to approve now.", code="nothing_to_approve")
        return await self._settled_by(by, held, action, AuditEvent.NEGOTIATION_APPROVED)

    async def refuse(self, pid: str, reasons: Sequence[str], *, by: str) -> ContractNegotiation:
        """End what waits for approval. `reasons` go to the peer: no personal data in them."""
        held = await self._waiting(pid, by)
        action = Terminate(code="refused", reasons=tuple(reasons))
        return await self._settled_by(by, held, action, AuditEvent.NEGOTIATION_REFUSED)

    async def counter(self, pid: str, document: JsonObject, *, by: str) -> ContractNegotiation:
        """Answer what waits for approval with another offer, `document`, for the other side to decide on.

        As provider it must be one that we publish for this dataset and would let this consumer have: what is
        offered must be enforceable as it stands. As consumer it may be any whose rules somebody makes hold;
        rules that the provider does not publish wait for its people, and may be refused.
        Raises NotFound, Conflict, NotPermitted, RequestInvalid; then it still waits.
        """
        held = await self._waiting(pid, by)
        offer = _offer(document, held.dataset_id)
        if offer.id == held.offer.get("@id") and policy.same_rules(offer.document, held.offer):
            raise Conflict("That is the offer that waits.", code="same_offer", mend="Approve it instead.")
        if held.role is Role.PROVIDER:
            await self._require_ours(held, offer)
        else:
            classify(offer.policy, trusts_consumer=True)  # what nobody can make hold is not asked for
        approved = offer.id if held.role is Role.PROVIDER and self._may_approve(held, offer, by) else ""
        return await self._settled_by(
            by,
            replace(held, approved_offer=approved),
            Offer(document=offer.document),
            AuditEvent.NEGOTIATION_COUNTERED,
        )

    async def terminate(
        self, pid: str, code: str, reasons: Sequence[str] = (), *, by: str = ""
    ) -> ContractNegotiation:
        """End a negotiation that has not ended. `reasons` go to the peer."""
        return await self._do(pid, Terminate(code=code, reasons=tuple(reasons)), by=by)

    # --- steps ------------------------------------------------------------------------------------------

    def _fresh(
        self, peer: Participant, role: Role, message: _Opening, dsp_url: str, sender: Role
    ) -> ContractNegotiation:
        now = self._environment.clock.now()
        return ContractNegotiation(
            pid=message.pid_of(role) or self._environment.new_id(),
            peer_pid=message.pid_of(role.other),
            role=role,
            state=rules.MACHINE.following(None, sender, message.kind),
            counter_party=peer.id,
            peer_address=dsp_url,
            dataset_id=message.offer.target or "",
            offer=message.offer.document,
            created_at=now,
            updated_at=now,
        )

    async def _begin(
        self, peer: Participant, role: Role, message: _Opening, dsp_url: str, by: str, renews: str = ""
    ) -> ContractNegotiation:
        fresh = self._fresh(peer, role, message, (dsp_url or peer.dsp_url).rstrip("/"), role)
        opened = replace(fresh, sending=message.kind, last_message_id=message.id, renews=renews)
        async with self._environment.unit() as unit:
            return await self._open(unit, opened, message, role, by or self._environment.participant_id)

    async def _take(
        self, peer: Participant, role: Role, message: _Opening
    ) -> tuple[ContractNegotiation, bool]:
        address = require_own_address(peer, message.callback_address)
        fresh = self._fresh(peer, role, message, address, role.other)
        fresh = replace(fresh, received=(message.key,))

        async def step() -> tuple[ContractNegotiation, bool]:
            async with self._environment.unit() as unit:
                held = await unit.tx.negotiation_by_peer(peer.id, fresh.peer_pid)
                if held is None:
                    return await self._open(unit, fresh, message, role.other, peer.id), True
                if rules.is_repeat(held, message):
                    return held, False
                raise IllegalTransition("There is a contract negotiation with this pid of yours already.")

        return await retried(step)

    async def _waiting(self, pid: str, by: str) -> ContractNegotiation:
        """Raises NotPermitted where somebody else than `by` is to decide."""
        held = await self.get(pid)
        if held.waiting_for != APPROVAL:
            raise Conflict("This negotiation does not wait for approval.", code="not_waiting")
        approver = self.approver(held)
        if approver not in ("", by):
            text = f"{approver!r} decides on this offer."
            raise NotPermitted(
                [Reason(code="not_the_approver", text=text, source="offer")],
                mend="Have them decide, or name another approver in the offer.",
            )
        return held

    def _terms(self, negotiation: ContractNegotiation) -> OfferTerms | None:
        """Ours, by the id of the last offer."""
        dataset = self._catalogue().get(negotiation.dataset_id)
        return dataset.offer_with_wire_id(str(negotiation.offer.get("@id"))) if dataset else None

    async def _require_ours(self, held: ContractNegotiation, offer: WireOffer) -> None:
        """Judged as if the consumer had accepted it already."""
        terms = self._terms(replace(held, offer=offer.document))
        if terms is None or not policy.same_rules(policy.render_offer("", terms.policy), offer.document):
            raise RequestInvalid(
                "is not an offer that we publish for this dataset",
                where="offer",
                code="offer_unknown",
                mend="Counter with the id of another offer of the descriptor.",
            )
        accepted = replace(held, offer=offer.document, state=NegotiationState.ACCEPTED, waiting_for="")
        action = await self._hook.decide(accepted)
        if isinstance(action, Terminate):
            raise _denied(action)

    def _may_approve(self, held: ContractNegotiation, offer: WireOffer, by: str) -> bool:
        """Whether who counters with this offer of ours could approve it as well."""
        return self.approver(replace(held, offer=offer.document)) in ("", by)

    async def _settled_by(
        self, person: str, held: ContractNegotiation, action: Act, event: AuditEvent
    ) -> ContractNegotiation:
        async with self._environment.unit() as unit:
            current = self._known(await self._load(unit.tx, held.pid))
            if current.version != held.version:
                raise Conflict("The negotiation has moved on.", code="moved_on", mend="Look at it again.")
            await self._record(unit, event, current, person)
            current = replace(current, approved_offer=held.approved_offer)
            return await self._say(unit, current, self._message(current, action), by=person)

    async def _record(
        self, unit: Unit, event: AuditEvent, process: ContractNegotiation, actor: str, code: str = ""
    ) -> None:
        await unit.record(
            event,
            process.pid,
            actor=actor,
            object=process.dataset_id,
            agreement=process.agreement_id,
            outcome=process.state.value,
            reasons=audit_codes(code),
        )

    def _agreement(self, process: ContractNegotiation) -> Agreement:
        document = policy.render_agreement(
            process.offer,
            agreement_id=self._environment.new_id(),
            target=process.dataset_id,
            assigner=self._environment.participant_id,
            assignee=process.counter_party,
            timestamp=self._environment.clock.now(),
        )
        return policy.parse_agreement(Fields(document, "agreement"))

    # --- what Processes asks for ------------------------------------------------------------------------

    async def _load(self, tx: Transaction, pid: str) -> ContractNegotiation | None:
        return await tx.negotiation(pid)

    async def _save(self, tx: Transaction, process: ContractNegotiation) -> ContractNegotiation:
        return await tx.save_negotiation(process)

    def _message(self, process: ContractNegotiation, action: Act) -> NegotiationMessage:
        head = self._head(process)
        match action:
            case Agree():
                return ContractAgreementMessage(agreement=self._agreement(process), **head)
            case Offer(document=document):
                kind = ContractRequestMessage if process.role is Role.CONSUMER else ContractOfferMessage
                return kind(offer=_offer(document, process.dataset_id), **head)
            case Accept():
                return ContractNegotiationEventMessage(event_type=NegotiationEvent.ACCEPTED, **head)
            case Verify():
                return ContractAgreementVerificationMessage(**head)
            case Finalize():
                return ContractNegotiationEventMessage(event_type=NegotiationEvent.FINALIZED, **head)
            case Terminate(code=code, reasons=reasons):
                return self._termination(process, code, reasons)

    def _termination(
        self, process: ContractNegotiation, code: str, reasons: tuple[str, ...]
    ) -> NegotiationMessage:
        return ContractNegotiationTerminationMessage(code=code, reason=reasons, **self._head(process))

    async def _said(
        self, unit: Unit, process: ContractNegotiation, message: NegotiationMessage, sender: Role, actor: str
    ) -> None:
        match message:
            case ContractRequestMessage():
                await self._record(unit, AuditEvent.NEGOTIATION_REQUESTED, process, actor)
            case ContractAgreementMessage(agreement=agreement):
                ours = self._catalogue().get(process.dataset_id) if sender is process.role else None
                await agreements.sign(unit, process, agreement, ours, actor)
            case ContractAgreementVerificationMessage():
                await self._record(unit, AuditEvent.AGREEMENT_VERIFIED, process, actor)
            case ContractNegotiationEventMessage(event_type=NegotiationEvent.FINALIZED):
                # the provider's own word: in force for us now, so that a quick consumer is not turned away
                if sender is process.role:
                    signed = self._signatures.signed
                    record = await agreements.put_into_force(unit, process.agreement_id, actor, signed)
                    await self._signatures.send(unit, record, process.peer_address)
                else:
                    await agreements.put_into_force(unit, process.agreement_id, actor)
            case ContractNegotiationTerminationMessage(code=code):
                await self._record(unit, AuditEvent.NEGOTIATION_TERMINATED, process, actor, code)
                await agreements.end_agreement(
                    unit, process.agreement_id, "negotiation_terminated", actor, code=code
                )

    async def _entered(self, unit: Unit, process: ContractNegotiation) -> None:
        if process.state is NegotiationState.FINALIZED:
            await agreements.announce_in_force(unit, process.agreement_id)

    async def _held(self, unit: Unit, process: ContractNegotiation, hold: Hold) -> None:
        if hold.why and process.waiting_for != hold.why:
            waiting = replace(process, waiting_for=hold.why, updated_at=unit.now)
            saved = await self._save(unit.tx, waiting)
            await self._record(
                unit, AuditEvent.NEGOTIATION_HELD, saved, self._environment.participant_id, hold.why
            )


def _offer(document: JsonObject, dataset_id: str) -> WireOffer:
    return policy.parse_offer(Fields(policy.offer_for(document, dataset_id), "offer"))


def _denied(action: Terminate) -> NotPermitted:
    texts = action.reasons or (action.code,)
    return NotPermitted(
        [Reason(code=action.code, text=text, source="policy") for text in texts],
        mend="Refuse the negotiation, or change what stands against it.",
    )
