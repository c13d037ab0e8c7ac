"""EDC as the consumer of our connector: catalogue, negotiation, transfer, and the bytes at the end of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.interop.listening import Listener
from tests.interop.management import Edc
from tests.interop.ours import DATASET, OURS, STATIONS, Ours, until

pytestmark = pytest.mark.slow

AUTOMATIC, BY_HAND = f"{DATASET}:planning:1.0", f"{DATASET}:by-hand:1.0"
ROWS = [{"name": name, "bikes": bikes} for name, bikes in STATIONS]


def offer_of(edc: Edc, ours: Ours, offer_id: str = AUTOMATIC) -> Mapping[str, Any]:
    """Of our catalogue, as EDC's operator sees it."""
    (dataset,) = edc.catalog(OURS, ours.dsp_url)["dataset"]
    return next(offer for offer in dataset["hasPolicy"] if offer["@id"] == offer_id)


def asked(edc: Edc, ours: Ours, offer: Mapping[str, Any]) -> tuple[str, str]:
    """EDC has asked for `offer`: the negotiation's id there and here."""
    theirs = edc.negotiate(OURS, ours.dsp_url, DATASET, offer)
    return theirs, until(lambda: known_as(ours, "negotiations", theirs), "EDC's request has not arrived")


def known_as(ours: Ours, what: str, peer_pid: str) -> str:
    """Our pid of EDC's process, "" while we know none."""
    found = ours.api.get(f"/v1/{what}", limit="1000")[what]
    return next((str(p["pid"]) for p in found if p["peerPid"] == peer_pid), "")


def agreed(edc: Edc, ours: Ours) -> str:
    """EDC's id of an agreement that both hold as final."""
    theirs, our_pid = asked(edc, ours, offer_of(edc, ours))
    ours.settled(f"/v1/negotiations/{our_pid}", "FINALIZED")
    return str(edc.negotiation(theirs, "FINALIZED")["contractAgreementId"])


def started(edc: Edc, ours: Ours, events: Listener) -> tuple[str, str]:
    """The ids, there and here, of a transfer that both hold as started."""
    theirs = edc.transfer(OURS, ours.dsp_url, agreed(edc, ours), told_at=events.url)
    edc.transfer_process(theirs, "STARTED")
    our_pid = until(lambda: known_as(ours, "transfers", theirs), "EDC's transfer has not arrived")
    ours.settled(f"/v1/transfers/{our_pid}", "STARTED")
    return theirs, our_pid


def read(endpoint: str, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    return httpx.get(endpoint, headers=headers, trust_env=False)


def test_edc_reads_our_catalogue(edc: Edc, ours: Ours) -> None:
    """DSP §5; issue: interoperability. Our offers arrive with their ids, rules and formats as published."""
    catalog = edc.catalog(OURS, ours.dsp_url)
    (dataset,) = catalog["dataset"]
    assert catalog["participantId"] == OURS
    assert dataset["@id"] == DATASET
    assert {offer["@id"] for offer in dataset["hasPolicy"]} == {AUTOMATIC, BY_HAND}
    (distribution,) = dataset["distribution"]
    assert distribution["format"] == "HttpData-PULL"
    assert distribution["accessService"]["endpointURL"] == ours.dsp_url


def test_edc_and_we_hold_one_agreement(edc: Edc, ours: Ours) -> None:
    """DSP §6, §7: the agreement has one id, the parties and the rules that EDC's offer had, to the letter."""
    theirs, our_pid = asked(edc, ours, offer_of(edc, ours))
    edc.negotiation(theirs, "FINALIZED")
    ours_now = ours.settled(f"/v1/negotiations/{our_pid}", "FINALIZED")
    held = edc.agreement_of(theirs)
    document = ours.api.get(f"/v1/agreements/{ours_now['agreement']}")["document"]
    assert (document["assigner"], document["assignee"], document["target"]) == (OURS, edc.id, DATASET)
    assert (held["providerId"], held["consumerId"], held["assetId"]) == (OURS, edc.id, DATASET)
    (permission,) = document["permission"]
    assert permission["constraint"][0]["leftOperand"] == "odrl:purpose"  # EDC's own spelling, echoed


def test_edc_reads_bytes_with_the_bearer_of_our_start(edc: Edc, ours: Ours, events: Listener) -> None:
    """DSP §8, HttpData-PULL: what EDC is told opens our data API, and nothing else does."""
    theirs, _ = started(edc, ours, events)
    told = events.address(theirs)
    answer = read(told.endpoint, told.authorization)
    assert answer.status_code == 200
    assert answer.json() == ROWS
    for wrong in ("none", told.authorization[:-1] + ("A" if told.authorization[-1] != "A" else "B")):
        assert read(told.endpoint, wrong).status_code == 401


def test_our_suspension_stops_the_bytes_and_resuming_brings_a_new_bearer(
    edc: Edc, ours: Ours, events: Listener
) -> None:
    """DSP §8: SUSPENDED there and here; the old bearer is dead for good."""
    theirs, our_pid = started(edc, ours, events)
    first = events.address(theirs)
    ours.api.post(f"/v1/transfers/{our_pid}/suspend", {"reason": "The register is being mended."})
    assert read(first.endpoint, first.authorization).status_code == 401
    edc.transfer_process(theirs, "SUSPENDED")
    ours.settled(f"/v1/transfers/{our_pid}", "SUSPENDED")

    ours.api.post(f"/v1/transfers/{our_pid}/resume")
    edc.transfer_process(theirs, "STARTED")
    second = events.address(theirs, other_than=first.authorization)
    assert read(second.endpoint, second.authorization).json() == ROWS
    assert read(first.endpoint, first.authorization).status_code == 401


def test_edc_suspends_and_resumes(edc: Edc, ours: Ours, events: Listener) -> None:
    """DSP §8: the consumer's own suspension; when it resumes it is told a bearer that opens."""
    theirs, our_pid = started(edc, ours, events)
    first = events.address(theirs)
    edc.suspend(theirs)
    ours.settled(f"/v1/transfers/{our_pid}", "SUSPENDED")
    assert read(first.endpoint, first.authorization).status_code == 401
    edc.transfer_process(theirs, "SUSPENDED")

    edc.resume(theirs)
    ours.settled(f"/v1/transfers/{our_pid}", "STARTED")
    second = events.address(theirs, other_than=first.authorization)
    assert read(second.endpoint, second.authorization).json() == ROWS
    edc.transfer_process(theirs, "STARTED")


def test_edc_terminates(edc: Edc, ours: Ours, events: Listener) -> None:
    theirs, our_pid = started(edc, ours, events)
    told = events.address(theirs)
    edc.terminate(theirs)
    ours.settled(f"/v1/transfers/{our_pid}", "TERMINATED")
    assert read(told.endpoint, told.authorization).status_code == 401
    edc.ended(theirs)


def test_ending_the_agreement_ends_edcs_transfer(edc: Edc, ours: Ours, events: Listener) -> None:
    """DSP §8: at our word at once. (EDC keeps no reasons of terminations; ours are on record here.)"""
    theirs, our_pid = started(edc, ours, events)
    told = events.address(theirs)
    agreement = ours.api.get(f"/v1/transfers/{our_pid}")["agreement"]
    ours.api.post(f"/v1/agreements/{agreement}/terminate", {"reason": "The register has moved."})
    assert read(told.endpoint, told.authorization).status_code == 401
    edc.ended(theirs)
    assert "The register has moved." in ours.api.get(f"/v1/transfers/{our_pid}")["reasons"]


def test_we_refuse_what_we_did_not_offer(edc: Edc, ours: Ours) -> None:
    """DSP §6: EDC asks for more than the offer permits; both sides end it, and ours says why."""
    wider = {**offer_of(edc, ours), "permission": [{"action": "use"}]}
    theirs, our_pid = asked(edc, ours, wider)
    edc.negotiation(theirs, "TERMINATED")
    ended = ours.settled(f"/v1/negotiations/{our_pid}", "TERMINATED")
    assert ended["reasons"] == ["The offer is not the one we publish."]


def test_a_person_refuses(edc: Edc, ours: Ours) -> None:
    """DSP §6: a negotiation that waits for approval ends on both sides at a person's word."""
    theirs, our_pid = asked(edc, ours, offer_of(edc, ours, BY_HAND))
    until(lambda: ours.api.get(f"/v1/negotiations/{our_pid}")["waitingFor"] == "approval", "nobody is asked")
    ours.api.post(f"/v1/negotiations/{our_pid}/refuse", {"reason": "Not for this purpose."})
    edc.negotiation(theirs, "TERMINATED")
    ended = ours.settled(f"/v1/negotiations/{our_pid}", "TERMINATED")
    assert ended["reasons"] == ["Not for this purpose."]


def test_a_person_approves(edc: Edc, ours: Ours) -> None:
    """DSP §6: the same, approved: FINALIZED on both sides."""
    theirs, our_pid = asked(edc, ours, offer_of(edc, ours, BY_HAND))
    until(lambda: ours.api.get(f"/v1/negotiations/{our_pid}")["waitingFor"] == "approval", "nobody is asked")
    ours.api.post(f"/v1/negotiations/{our_pid}/approve")
    ours.settled(f"/v1/negotiations/{our_pid}", "FINALIZED")
    edc.negotiation(theirs, "FINALIZED")


def test_who_is_not_in_the_trust_list_sees_nothing(ours: Ours) -> None:
    """DSP §4: the mock header names somebody whom the registry does not know."""
    headers = {"Authorization": '{"clientId": "stranger", "region": "eu"}'}
    context = ["https://w3id.org/dspace/2025/1/context.jsonld"]
    body = {"@context": context, "@type": "CatalogRequestMessage"}
    answer = httpx.post(f"{ours.dsp_url}/catalog/request", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 401
