"""Grants opened, loaded and decided on: all that a use stands on is looked at, and refusals are kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connector.errors import (
    GrantStopped,
    NotPermitted,
    PeerUnreachable,
    Reason,
    RequestInvalid,
    SqlInvalid,
    Unavailable,
)
from connector.model.audit import AuditEvent
from connector.model.decision import ConsentRequirement, Deny
from connector.model.negotiation import Role
from connector.model.participant import ParticipantStatus
from connector.model.policy import AgreementState, Constraint, Policy, Rule
from connector.model.token import Actor
from connector.model.transfer import Grant, GrantState, TransferState
from connector.ports import GrantSelector
from tests.agreed import CONSUMER, PERMIT, PURPOSE, PUSH, Agreed, detail, record, transfer
from tests.clocks import START

Spoil = Callable[[Agreed], Awaitable[None]]
DENIED = Deny(reasons=(Reason(code="purpose", text="This purpose is not agreed.", source="odrl"),))


@pytest.fixture
async def agreed() -> Agreed:
    return await Agreed().set_up()


async def opened(agreed: Agreed) -> Grant:
    return await agreed.admission.open(agreed.consumer, detail())


async def grants_of(agreed: Agreed) -> list[Grant]:
    async with agreed.store.transaction(read_only=True) as tx:
        return list(await tx.grants(GrantSelector()))


# --- spoiling what a grant stands on --------------------------------------------------------------------


def spoil(name: str, **changes: Any) -> Spoil:
    async def agreement(agreed: Agreed) -> None:
        await agreed.change_agreement(**changes)

    async def transfer_(agreed: Agreed) -> None:
        await agreed.change_transfer(**changes)

    return agreement if name == "agreement" else transfer_


async def another_consumers(agreed: Agreed) -> None:
    await agreed.forget_agreement()
    async with agreed.store.transaction() as tx:
        await tx.save_agreement(record(consumer="city"))


async def ours_as_consumer(agreed: Agreed) -> None:
    """The other way round: they are the provider, and we hold their agreement."""
    turned = replace(record().agreement, assigner=CONSUMER, assignee="kela")
    await agreed.change_agreement(agreement=turned, role=Role.CONSUMER)


async def no_agreement(agreed: Agreed) -> None:
    await agreed.forget_agreement()


async def no_dataset(agreed: Agreed) -> None:
    agreed.datasets.clear()


async def denied(agreed: Agreed) -> None:
    agreed.decider.answer = DENIED


LIVE = {
    "unknown agreement": (no_agreement, "agreement_unknown"),
    "somebody else's agreement": (another_consumers, "agreement_unknown"),
    "we are its consumer": (ours_as_consumer, "agreement_unknown"),
    "agreement ended": (spoil("agreement", state=AgreementState.TERMINATED), "agreement_terminated"),
    "agreement not final": (spoil("agreement", state=AgreementState.PENDING), "agreement_not_final"),
    "terms lost": (spoil("agreement", terms=None), "dataset_unavailable"),
    "transfer suspended": (spoil("transfer", state=TransferState.SUSPENDED), "transfer_not_started"),
    "transfer requested": (spoil("transfer", state=TransferState.REQUESTED), "transfer_not_started"),
    "transfer ended": (spoil("transfer", state=TransferState.TERMINATED), "transfer_not_started"),
    "suspension decided, not yet acknowledged": (
        spoil("transfer", sending="TransferSuspensionMessage"),
        "transfer_not_started",
    ),
    "another format only": (spoil("transfer", format=PUSH), "transfer_not_started"),
    "dataset withdrawn": (no_dataset, "dataset_unavailable"),
}


@pytest.mark.parametrize(("spoiled", "code"), LIVE.values(), ids=LIVE)
async def test_open_refuses_what_is_not_live(agreed: Agreed, spoiled: Spoil, code: str) -> None:
    """Fail closed: no grant unless agreement, transfer, dataset and terms are all there, now."""
    await spoiled(agreed)
    with pytest.raises(NotPermitted) as refused:
        await opened(agreed)
    assert [r.code for r in refused.value.reasons] == [code]
    assert await grants_of(agreed) == []


@pytest.mark.parametrize(("spoiled", "code"), LIVE.values(), ids=LIVE)
async def test_load_refuses_what_is_no_longer_live(agreed: Agreed, spoiled: Spoil, code: str) -> None:
    """At each use everything is looked at anew, whatever the token says; the refusal is on record first."""
    grant = await opened(agreed)
    await spoiled(agreed)
    with pytest.raises(NotPermitted) as refused:
        await agreed.admission.load(grant.id)
    assert [r.code for r in refused.value.reasons] == [code]
    (leaf,) = agreed.audit.of(AuditEvent.ACCESS_REFUSED)
    assert refused.value.audit_id == leaf.id
    assert (leaf.actor, leaf.grant, leaf.outcome, leaf.reasons) == (CONSUMER, grant.id, "deny", (code,))


OPEN_ONLY = {
    "another dataset": ({"dataset_id": "clients"}, "agreement_dataset"),
    "unknown action": ({"actions": frozenset({"export"})}, "action_unknown"),
    "no action": ({"actions": frozenset()}, "action_unknown"),
    "two actions": ({"actions": frozenset({"query", "push"})}, "action_unknown"),
}


@pytest.mark.parametrize(("asked", "code"), OPEN_ONLY.values(), ids=OPEN_ONLY)
async def test_open_refuses_what_was_not_agreed(agreed: Agreed, asked: dict[str, Any], code: str) -> None:
    """RFC 9396: each member of the authorization detail is held against the agreement."""
    with pytest.raises(NotPermitted) as refused:
        await agreed.admission.open(agreed.consumer, detail(**asked))
    assert [r.code for r in refused.value.reasons] == [code]


async def test_the_policys_reasons_reach_who_asked(agreed: Agreed) -> None:
    """A purpose that the policy denies: its reasons, in the words of the policy."""
    await denied(agreed)
    with pytest.raises(NotPermitted) as refused:
        await agreed.admission.open(agreed.consumer, detail(purpose="marketing"))
    assert refused.value.reasons == DENIED.reasons
    assert agreed.decider.asked[-1].purpose == "marketing"
    assert await grants_of(agreed) == []


async def test_nothing_is_told_of_other_parties_agreements(agreed: Agreed) -> None:
    """Whoever guesses another's agreement id learns what he learns from one that does not exist."""
    texts = []
    for agreement_id in ("a1", "no-such-agreement"):
        with pytest.raises(NotPermitted) as refused:
            await agreed.admission.open(
                agreed.registry.participants["city"], detail(agreement_id=agreement_id)
            )
        texts.append((refused.value.message, refused.value.reasons, refused.value.mend))
    assert texts[0] == texts[1]
    assert agreed.decider.asked == []


# --- the grant -------------------------------------------------------------------------------------------


async def test_a_grant_is_made_on_first_use_and_used_again(agreed: Agreed) -> None:
    """One grant per agreement, transfer and purpose: its epoch is the one stop signal for all their uses."""
    first = await opened(agreed)
    assert (first.consumer, first.purpose, first.transfer_pid) == (CONSUMER, PURPOSE, "t-query")
    assert (first.epoch, first.state, first.policy_revision) == (1, GrantState.ACTIVE, "policy-1")
    agreed.policy_revision = "policy-2"
    again = await opened(agreed)
    assert again == replace(first, policy_revision="policy-2")
    assert await grants_of(agreed) == [again]


async def test_another_purpose_is_another_grant(agreed: Agreed) -> None:
    """One token, one agreement, one purpose: consent to one purpose moves no other's epoch."""
    first = await opened(agreed)
    other = await agreed.admission.open(agreed.consumer, detail(purpose="case-work"))
    assert other.id != first.id


async def test_an_ended_grant_never_comes_back(agreed: Agreed) -> None:
    """After a suspension and a new start there is a new grant; the old one's tokens stay dead."""
    first = await opened(agreed)
    await agreed.write(lambda tx: tx.bump_grants(GrantSelector(), ended_reason="transfer_suspended"))
    second = await opened(agreed)
    assert second.id != first.id
    with pytest.raises(GrantStopped) as stopped:
        await agreed.admission.load(first.id)
    assert stopped.value.code == "transfer_suspended"
    assert (await agreed.admission.load(second.id)).grant.id == second.id


async def test_an_expired_grant_is_no_grant(agreed: Agreed) -> None:
    """The decision's expiry is the grant's. A later decision that permits makes a new one."""
    agreed.decider.answer = replace(PERMIT, expires_at=START + timedelta(hours=1))
    first = await opened(agreed)
    await agreed.clock.advance(3_600)
    with pytest.raises(GrantStopped) as stopped:
        await agreed.admission.load(first.id)
    assert stopped.value.code == "grant_expired"
    agreed.decider.answer = replace(PERMIT, expires_at=START + timedelta(hours=2))
    second = await opened(agreed)
    assert second.id != first.id
    held = {g.id: g for g in await grants_of(agreed)}
    assert (held[first.id].state, held[first.id].ended_reason) == (GrantState.ENDED, "grant_expired")
    assert (await agreed.admission.load(second.id)).grant.expires_at == START + timedelta(hours=2)


async def test_a_narrower_decision_shortens_the_grant(agreed: Agreed) -> None:
    """The earliest expiry: what was decided last counts for the grant that is used again."""
    await opened(agreed)
    agreed.decider.answer = replace(PERMIT, expires_at=START + timedelta(minutes=5))
    assert (await opened(agreed)).expires_at == START + timedelta(minutes=5)


async def test_what_ends_while_the_policies_are_asked_is_ended(agreed: Agreed) -> None:
    """Asking takes time; a grant is not made under an agreement that was terminated in between."""

    async def terminate() -> None:
        await agreed.change_agreement(state=AgreementState.TERMINATED)

    agreed.decider.meanwhile = terminate
    with pytest.raises(NotPermitted) as refused:
        await opened(agreed)
    assert refused.value.reasons[0].code == "agreement_terminated"
    assert await grants_of(agreed) == []


async def test_a_start_that_is_on_its_way_opens(agreed: Agreed) -> None:
    """The consumer may act on our start message before its acknowledgement has reached us (DSP §9)."""
    await agreed.change_transfer(state=TransferState.REQUESTED, sending="TransferStartMessage")
    assert (await opened(agreed)).transfer_pid == "t-query"


async def test_a_grant_stands_on_its_own_transfer(agreed: Agreed) -> None:
    """Another transfer that was started under the same agreement does not keep it alive."""
    grant = await opened(agreed)
    await agreed.change_transfer(state=TransferState.TERMINATED)
    await agreed.write(lambda tx: tx.save_transfer(transfer("t-other")))
    with pytest.raises(NotPermitted):
        await agreed.admission.load(grant.id)


# --- load -------------------------------------------------------------------------------------------------


async def test_load_gives_all_that_a_use_stands_on(agreed: Agreed) -> None:
    """Agreement, transfer, dataset and consumer of one moment, and the consent version of that moment."""
    grant = await opened(agreed)
    await agreed.write(lambda tx: tx.bump_consent_version(PURPOSE, CONSUMER))
    live = await agreed.admission.load(grant.id)
    assert live.grant == replace(grant, consent_version=1)
    assert live.record.agreement.id == "a1"
    assert live.transfer.pid == "t-query"
    assert live.dataset is agreed.datasets["benefits"]
    assert live.consumer is agreed.consumer


async def test_an_unknown_grant_is_refused(agreed: Agreed) -> None:
    """A token of ours may name a grant that a restored store does not hold."""
    with pytest.raises(NotPermitted) as refused:
        await agreed.admission.load("no-such-grant")
    assert refused.value.reasons[0].code == "grant_unknown"


@pytest.mark.parametrize("status", [ParticipantStatus.SUSPENDED, ParticipantStatus.LEFT, None])
async def test_who_is_not_active_in_the_registry_uses_nothing(
    agreed: Agreed, status: ParticipantStatus | None
) -> None:
    """An expelled participant's grant stops at the next use, even before its epochs have been raised."""
    grant = await opened(agreed)
    if status is None:
        del agreed.registry.participants[CONSUMER]
    else:
        agreed.registry.set_status(CONSUMER, status)
    with pytest.raises(GrantStopped) as stopped:
        await agreed.admission.load(grant.id)
    assert stopped.value.code == "participant_inactive"
    (leaf,) = agreed.audit.of(AuditEvent.ACCESS_REFUSED)
    assert leaf.reasons == ("participant_inactive",)


async def test_an_expired_trust_list_denies(agreed: Agreed) -> None:
    """Who takes part is not known: nobody does."""
    grant = await opened(agreed)
    agreed.registry.expired = True
    with pytest.raises(Unavailable):
        await agreed.admission.load(grant.id)


async def test_needs_consent_is_read_from_the_agreement(agreed: Agreed) -> None:
    """The agreement pins its policy: today's offer does not change what it asks for."""
    asked = Constraint(
        left_operand="dsc:consentStatus", operator="isAnyOf", right_operand=["dpv:ConsentGiven"]
    )
    grant = await opened(agreed)
    assert not (await agreed.admission.load(grant.id)).needs_consent
    agreement = replace(
        record().agreement, policy=Policy(permissions=(Rule(action="use", constraints=(asked,)),))
    )
    await agreed.change_agreement(agreement=agreement)
    assert (await agreed.admission.load(grant.id)).needs_consent


# --- decide -----------------------------------------------------------------------------------------------


async def test_decide_asks_with_all_that_is_known(agreed: Agreed) -> None:
    """Purpose and format from the grant, terms from the agreement, the person's role from the token."""
    live = await agreed.admission.load((await opened(agreed)).id)
    actor = Actor(subject="worker-7", kind="case_worker")
    assert await agreed.admission.decide(live, "query", actor=actor) is PERMIT
    asked = agreed.decider.asked[-1]
    assert (asked.stage, asked.purpose, asked.format) == ("query", PURPOSE, "FederatedQuery-PULL")
    assert (asked.consumer, asked.agreement, asked.terms) == (live.consumer, live.record, live.record.terms)
    assert asked.actor_roles == {"case_worker"}


@pytest.mark.parametrize(
    "foreign",
    [
        ConsentRequirement(purpose="research", recipient=CONSUMER),
        ConsentRequirement(purpose=PURPOSE, recipient="city"),
    ],
)
async def test_a_consent_that_could_not_stop_the_use_is_refused(
    agreed: Agreed, foreign: ConsentRequirement
) -> None:
    """A withdrawal raises the epochs of its own purpose and recipient: a policy that asks for another
    consent would go on after it. What cannot be enforced is denied."""
    live = await agreed.admission.load((await opened(agreed)).id)
    agreed.decider.answer = replace(PERMIT, consent=(*PERMIT.consent, foreign))
    with pytest.raises(NotPermitted) as refused:
        await agreed.admission.decide(live, "query")
    assert refused.value.reasons[0].code == "consent_not_enforceable"


# --- on record --------------------------------------------------------------------------------------------

SQL = "SELECT status FROM benefits WHERE hetu = '010190-123A'"


async def test_a_decision_is_a_leaf_before_the_first_byte(agreed: Agreed) -> None:
    """Who, what, for which purpose, under what, on whose behalf; the statement only as a keyed hash."""
    live = await agreed.admission.load((await opened(agreed)).id)
    receipt = await agreed.admission.on_record(
        live,
        AuditEvent.QUERY_DECIDED,
        PERMIT,
        statement=SQL,
        actor=Actor(subject="worker-7", kind="case_worker"),
    )
    (leaf,) = agreed.audit.of(AuditEvent.QUERY_DECIDED)
    assert leaf.id == receipt.audit_id
    assert (leaf.actor, leaf.on_behalf_of, leaf.object) == (CONSUMER, "worker-7", "benefits")
    assert (leaf.purpose, leaf.agreement, leaf.grant) == (PURPOSE, "a1", live.grant.id)
    assert (leaf.outcome, leaf.reasons, leaf.policy_revision) == ("permit", (), "policy-1")
    assert leaf.statement == agreed.auditor.statement_hash(SQL)
    assert "010190" not in repr(leaf)


async def test_a_refusal_is_on_record_before_who_asked_hears_of_it(agreed: Agreed) -> None:
    """Denials too, and the answer names the leaf."""
    live = await agreed.admission.load((await opened(agreed)).id)
    with pytest.raises(NotPermitted) as refused:
        async with agreed.admission.refusals_on_record(live, AuditEvent.QUERY_DECIDED, statement=SQL):
            raise NotPermitted(DENIED.reasons, mend="Ask for another purpose.")
    (leaf,) = agreed.audit.of(AuditEvent.QUERY_DECIDED)
    assert refused.value.audit_id == leaf.id
    assert (refused.value.reasons, refused.value.mend) == (DENIED.reasons, "Ask for another purpose.")
    assert (leaf.outcome, leaf.reasons) == ("deny", ("purpose",))


@pytest.mark.parametrize(
    "error",
    [
        SqlInvalid("There is no such column: hetu2.", code="unknown_column"),
        PeerUnreachable("the lead does not answer", participant="kela"),
        Unavailable("the register cannot be read", code="source_unavailable"),
    ],
)
async def test_whatever_keeps_a_use_from_happening_is_on_record(
    agreed: Agreed, error: RequestInvalid
) -> None:
    """A statement that is refused and a part of ours that fails are denials like any other."""
    live = await agreed.admission.load((await opened(agreed)).id)
    with pytest.raises(type(error)) as refused:
        async with agreed.admission.refusals_on_record(live, AuditEvent.QUERY_DECIDED, statement=SQL):
            raise error
    assert refused.value is error
    (leaf,) = agreed.audit.of(AuditEvent.QUERY_DECIDED)
    assert (leaf.outcome, leaf.reasons) == ("deny", (error.code,))


async def test_a_refusal_that_cannot_be_recorded_is_not_told(agreed: Agreed) -> None:
    """No record, no answer: only that a part of ours fails."""
    live = await agreed.admission.load((await opened(agreed)).id)
    agreed.audit.down = True
    with pytest.raises(Unavailable) as failed:
        async with agreed.admission.refusals_on_record(live, AuditEvent.QUERY_DECIDED):
            raise NotPermitted(DENIED.reasons)
    assert "purpose" not in str(failed.value)
