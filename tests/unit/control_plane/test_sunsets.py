"""Terms that end, datasets that retire, how agreements go on (Protocol, data products and terms; C2, C3)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from connector.access.validity import DATASET_RETIRED, TERMS_SUNSET, ends_at, lapsed, why_not
from connector.control_plane.agreements import SIGNING_PATIENCE
from connector.control_plane.renewal import OfferName, Renewals, newest
from connector.control_plane.sunsets import LOOK_SECONDS
from connector.dsp.catalog import CatalogDataset, Publisher, is_shown, parse_dataset
from connector.errors import GrantStopped, NotFound, NotPermitted
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset, DatasetStatus, PreviousTerms, TransferFormat
from connector.model.negotiation import AgreementRecord, NegotiationState
from connector.model.participant import Participant
from connector.model.transfer import TransferState
from tests.agreed import Agreed, detail, record
from tests.clocks import START
from tests.pair import ConnectorPair, connected, dataset, participant, terms

QUERY = TransferFormat.FEDERATED_QUERY_PULL
TOMORROW, YESTERDAY = START + timedelta(days=1), START - timedelta(days=1)
SECONDS_A_DAY = 86_400.0


def second_terms(sunset: datetime = TOMORROW, **changes: Any) -> Dataset:
    """The dataset once the second version of its terms is published."""
    previous = (PreviousTerms(terms_version="1", sunset=sunset),)
    return dataset(offers=(terms(terms_version="2", previous=previous),), **changes)


def held(pair: ConnectorPair, agreement_id: str) -> AgreementRecord:
    return pair.provider.store.state.agreements[agreement_id]


async def running() -> tuple[ConnectorPair, str]:
    """A transfer and a grant under version 1 of the terms."""
    pair = connected()
    agreement_id = await pair.negotiated()
    await pair.provider.grant(await pair.started(agreement_id))
    return pair, agreement_id


# --- terms ----------------------------------------------------------------------------------------------


async def test_an_agreement_keeps_its_terms_until_their_sunset() -> None:
    """New terms make a new offer; an agreement under the earlier ones is in force until the date."""
    pair, agreement_id = await running()
    pair.provider.datasets["benefits"] = second_terms()
    assert held(pair, agreement_id).terms == terms()
    assert await pair.provider.sunsets.step() == 0
    await pair.provider.agreements.valid(agreement_id)
    assert pair.provider.agreements.ends_at(held(pair, agreement_id)) == TOMORROW
    told = await pair.provider.signatures.shown(pair.consumer.participant, agreement_id)
    assert (told["inForce"], told["endsAt"]) == (True, "2026-11-23T09:00:00.000Z")

    await pair.clock.advance(SECONDS_A_DAY)
    with pytest.raises(NotPermitted, match="renew") as refused:
        await pair.provider.agreements.valid(agreement_id)
    assert refused.value.reasons[0].code == TERMS_SUNSET
    assert await pair.provider.sunsets.step() == 1
    await pair.settle()
    assert [g.ended_reason for g in pair.provider.stopped] == [TERMS_SUNSET]
    assert pair.consumer.only_transfer.state is TransferState.TERMINATED
    assert "Version 1 of the terms ended" in pair.consumer.only_transfer.reasons[0]
    assert AuditEvent.AGREEMENT_LAPSED in pair.provider.facts
    assert await pair.provider.sunsets.step() == 0, "once"


async def test_a_sunset_that_came_while_nothing_ran() -> None:
    """The keeper ends at its start what has ended since."""
    pair, agreement_id = await running()
    pair.provider.datasets["benefits"] = second_terms(YESTERDAY)
    assert await pair.provider.sunsets.step() == 1
    assert [g.agreement_id for g in pair.provider.stopped] == [agreement_id]


async def test_after_the_sunset_a_transfer_is_refused_with_the_reason() -> None:
    """The consumer reads why, and how to go on."""
    pair = connected()
    agreement_id = await pair.negotiated()
    pair.provider.datasets["benefits"] = second_terms(YESTERDAY)
    asked = await pair.consumer.transfers.request(agreement_id, QUERY)
    await pair.settle()
    ended = pair.consumer.transfer(asked.pid)
    assert ended.state is TransferState.TERMINATED
    assert "renew the agreement" in ended.reasons[0]


async def test_agreements_under_other_terms_go_on() -> None:
    """A sunset is that of one version of one offer."""
    pair, agreement_id = await running()
    other = (PreviousTerms(terms_version="0", sunset=YESTERDAY),)
    elsewhere = (PreviousTerms(terms_version="1", sunset=YESTERDAY),)
    pair.provider.datasets["benefits"] = dataset(
        offers=(terms(previous=other), terms(id="research", terms_version="2", previous=elsewhere))
    )
    assert await pair.provider.sunsets.step() == 0
    await pair.provider.agreements.valid(agreement_id)
    assert pair.provider.stopped == []


async def test_the_keeper_wakes_at_the_date() -> None:
    """Not at its next round, and never later than a minute if the clock was set."""
    pair, _ = await running()
    pair.provider.datasets["benefits"] = second_terms(START + timedelta(seconds=90))
    task = asyncio.create_task(pair.provider.sunsets.run())
    await asyncio.sleep(0)
    for seconds, stopped in ((LOOK_SECONDS, 0), (29.0, 0), (1.0, 1)):
        await pair.clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(pair.provider.stopped) == stopped, pair.clock.now()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- at the door of the data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"offers": second_terms(YESTERDAY).offers}, TERMS_SUNSET),
        ({"status": DatasetStatus.RETIRED}, DATASET_RETIRED),
        ({"retired_on": YESTERDAY}, DATASET_RETIRED),
    ],
)
async def test_no_grant_is_opened_or_used_after_the_date(changes: dict[str, Any], code: str) -> None:
    """Checked at use, whatever the keeper has done; the refusal is on record."""
    agreed = await Agreed().set_up()
    grant = await agreed.admission.open(agreed.consumer, detail())
    agreed.datasets["benefits"] = replace(agreed.datasets["benefits"], **changes)
    with pytest.raises(NotPermitted) as refused:
        await agreed.admission.load(grant.id)
    assert refused.value.reasons[0].code == code
    assert agreed.audit.of(AuditEvent.ACCESS_REFUSED)[-1].reasons == (code,)
    with pytest.raises(NotPermitted):
        await agreed.admission.open(agreed.consumer, detail())


async def test_a_grant_ends_with_the_terms_to_the_second() -> None:
    """Streams look at the grant's end before every write: they need no keeper."""
    agreed = await Agreed().set_up()
    benefits = agreed.datasets["benefits"]
    agreed.datasets["benefits"] = replace(benefits, offers=second_terms().offers)
    grant = await agreed.admission.open(agreed.consumer, detail())
    assert grant.expires_at == TOMORROW
    await agreed.clock.advance(SECONDS_A_DAY)
    with pytest.raises(GrantStopped):
        await agreed.admission.load(grant.id)


async def test_an_unsigned_agreement_opens_nothing() -> None:
    """At use as well: no grant, no load; with the operator's exception both."""
    agreed = await Agreed().set_up()
    grant = await agreed.admission.open(agreed.consumer, detail())
    await agreed.change_agreement(signatures=())
    for step in (agreed.admission.open(agreed.consumer, detail()), agreed.admission.load(grant.id)):
        with pytest.raises(NotPermitted) as refused:
            await step
        assert refused.value.reasons[0].code == "agreement_unsigned"
    agreed.admission._unsigned_peers = {"youth"}
    assert (await agreed.admission.open(agreed.consumer, detail())).id == grant.id


# --- statuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "shown"),
    [("draft", False), ("proposed", False), ("active", True), ("deprecated", True), ("retired", False)],
)
def test_the_status_drives_the_catalogue(status: str, shown: bool) -> None:
    """Draft and proposed hidden, deprecated shown, retired gone."""
    assert is_shown(dataset(status=DatasetStatus(status))) is shown


async def test_a_retired_dataset_gives_nothing_from_its_date() -> None:
    """Retired ends grants after its date; a deprecated one may name the date before."""
    pair, agreement_id = await running()
    pair.provider.datasets["benefits"] = dataset(status=DatasetStatus.DEPRECATED, retired_on=TOMORROW)
    await pair.provider.agreements.valid(agreement_id)
    assert await pair.provider.sunsets.step() == 0
    await pair.clock.advance(SECONDS_A_DAY)
    assert await pair.provider.sunsets.step() == 1
    await pair.settle()
    assert [g.ended_reason for g in pair.provider.stopped] == [DATASET_RETIRED]
    assert pair.consumer.only_transfer.reasons == ("The dataset is retired.",)


def test_a_dataset_retired_without_a_date_is_retired_already() -> None:
    """No date means now, not never."""
    agreement = record()
    assert lapsed(agreement, dataset(status=DatasetStatus.RETIRED), START) is not None
    later = dataset(status=DatasetStatus.RETIRED, retired_on=TOMORROW)
    assert lapsed(agreement, later, START) is None
    assert ends_at(agreement, later) == TOMORROW
    assert why_not(agreement, TOMORROW, dataset=later) is not None


def test_a_missing_signature_is_awaited_for_half_a_minute() -> None:
    """A peer that signs at all signs at once."""
    assert timedelta(seconds=10) <= SIGNING_PATIENCE <= timedelta(minutes=1)


# --- re-acceptance --------------------------------------------------------------------------------------


def renewals(pair: ConnectorPair) -> Renewals:
    async def shown(_provider: Participant, dataset_id: str) -> CatalogDataset:
        publisher = Publisher(participant_id="kela", dsp_url="http://kela.example/dsp/2025-1")
        return parse_dataset(publisher.dataset(pair.provider.datasets[dataset_id]))

    return Renewals(
        agreements=pair.consumer.agreements,
        negotiations=pair.consumer.negotiations,
        provider=participant,
        dataset=shown,
    )


async def test_re_acceptance_is_one_call() -> None:
    """The newest terms of the same offer; the new agreement names the one that it follows."""
    pair = connected()
    old = await pair.negotiated()
    pair.provider.datasets["benefits"] = second_terms()
    made = await renewals(pair).renew(old, by="operator")
    await pair.settle()
    done = pair.consumer.negotiation(made.pid)
    assert (done.state, done.renews) == (NegotiationState.FINALIZED, old)
    new = pair.consumer.store.state.agreements[done.agreement_id]
    assert (new.renews, new.offer_id, new.terms_version) == (old, "benefits:planning:2", "2")
    await pair.provider.agreements.valid(old)
    await pair.clock.advance(SECONDS_A_DAY)
    with pytest.raises(NotPermitted):
        await pair.provider.agreements.valid(old)
    await pair.provider.agreements.valid(done.agreement_id)
    assert (await pair.started(done.agreement_id)).state is TransferState.STARTED


async def test_what_cannot_be_renewed_says_so() -> None:
    """Not ours as a consumer, or no such offer any more: typed errors, nothing begun."""
    pair = connected()
    old = await pair.negotiated()
    provider_side = replace(renewals(pair), agreements=pair.provider.agreements)
    with pytest.raises(NotFound, match="as a consumer"):
        await provider_side.renew(old, by="operator")
    pair.provider.datasets["benefits"] = dataset(offers=(terms(id="research"),))
    with pytest.raises(NotFound, match="research:1"):
        await renewals(pair).renew(old, by="operator")
    with pytest.raises(NotFound):
        await renewals(pair).renew("urn:none", by="operator")
    assert len(pair.consumer.store.state.negotiations) == 1


@pytest.mark.parametrize(
    ("ids", "like", "found"),
    [
        (["d:o:1", "d:o:2", "d:p:9"], "d:o:1", "d:o:2"),
        (["d:o:1.9", "d:o:1.10"], "d:o:1.9", "d:o:1.10"),
        (["d:o:1"], "d:o:2", "d:o:1"),
        (["urn:d:1:o:3"], "urn:d:1:o:2", "urn:d:1:o:3"),
        (["other:o:9", "d:o:x", "d:o:", ":o:7"], "d:o:1", ""),
        (["d:o:1"], "MQ==", ""),
    ],
)
def test_the_newest_of_the_same_offer(ids: list[str], like: str, found: str) -> None:
    """Versions are numbers, not text; ids of another form are never guessed at."""
    if found:
        assert newest(ids, like) == found
    else:
        with pytest.raises(NotFound):
            newest(ids, like)
    assert OfferName.read("MQ==") is None
