"""Models as the client API shows them: camelCase, instants with an offset, nothing of the inside."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.control_plane.discovery import Seen
from connector.dsp.catalog import Publisher, parse_catalog
from connector.model.consent import ConsentState
from connector.model.event import CloudEvent
from connector.web import render
from connector.web.events import parse_event
from tests.agreed import Agreed, answer, record, transfer
from tests.clocks import START, ManualClock
from tests.pair import Side, dataset
from tests.ports.examples import event, negotiation


def test_an_event_is_cloudevents_json() -> None:
    """CloudEvents 1.0.2, JSON format §3: core attributes, extensions beside them, data with its type."""
    assert render.event(event("e1", extensions={"purpose": "outreach"})) == {
        "specversion": "1.0",
        "id": "e1",
        "source": "urn:participant:kela",
        "type": "fi.kela.benefit.granted.v1",
        "time": "2026-11-22T09:00:00.123Z",
        "subject": "s1",
        "purpose": "outreach",
        "datacontenttype": "application/json",
        "data": {"n": "e1"},
    }
    bare = render.event(event("e1", subject="", data={}))
    assert {"subject", "data", "datacontenttype", "dataschema"}.isdisjoint(bare)


def test_no_extension_takes_the_place_of_an_attribute() -> None:
    """Whatever an event of ours carries, who it is from and what it is stay what they are."""
    names = ("specversion", "id", "source", "type", "time", "subject")
    wire = render.event(event("e1", extensions=dict.fromkeys(names, "forged")))
    assert "forged" not in wire.values()


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20).map(lambda n: f"x{n}"[:20])
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=50)


@given(
    st.builds(
        CloudEvent,
        id=texts.filter(bool),
        source=texts.filter(bool),
        type=texts.filter(bool),
        time=st.integers(-(10**12), 10**13).map(lambda ms: START + timedelta(milliseconds=ms)),
        subject=texts,
        dataschema=texts,
        data=st.dictionaries(texts, st.integers() | texts | st.none(), max_size=3),
        extensions=st.dictionaries(names, texts, max_size=3),
    )
)
def test_what_is_rendered_is_read_back(sent: CloudEvent) -> None:
    """What one connector pushes, another takes for the same event."""
    assert parse_event(json.loads(json.dumps(render.event(sent))), "[0]") == sent


async def test_a_consent_shows_no_person() -> None:
    """The desk knows whom it asked for; the token is the register's own."""
    agreed = Agreed()
    made = await agreed.consents.record(answer("010190-123A", valid_until=START + timedelta(days=1)))
    shown = render.consent(made)
    assert shown == {
        "id": made.id,
        "controller": "kela",
        "purpose": "outreach",
        "recipient": "youth",
        "state": ConsentState.GIVEN.value,
        "at": "2026-11-22T09:00:00.000Z",
        "validUntil": "2026-11-23T09:00:00.000Z",
        "legalBasis": "",
        "disclosureBasis": "consent",
        "replaces": "",
    }
    assert made.subject not in repr(shown)


def test_processes_and_agreements() -> None:
    """What an operator works with: both pids, the states, the hashes that were agreed."""
    shown = render.transfer(transfer("t1"))
    assert (shown["pid"], shown["peerPid"], shown["state"]) == ("t1", "peer-t1", "STARTED")
    assert shown["dataAddress"]["endpoint"] == "https://youth.example/events/v1"
    assert render.transfer(transfer("t1", data_address=None))["dataAddress"] is None
    assert render.negotiation(negotiation("n1"))["offer"] == "clients:planning:1"
    agreements = Side("kela", ManualClock()).agreements
    agreement = render.agreement(record(contract_hash="c", policy_hash="p", ended_at=START), agreements)
    assert agreement["hashes"] == {"contract": "c", "policy": "p"}
    assert (agreement["counterParty"], agreement["endedAt"]) == ("youth", "2026-11-22T09:00:00.000Z")


def test_a_catalogue_that_was_seen_and_one_that_was_not() -> None:
    """Offers with their rules only; an error instead of an empty list that looks like "nothing"."""
    kela = Agreed().registry.participants["kela"]
    publisher = Publisher(participant_id="kela", dsp_url=kela.dsp_url)
    catalog = parse_catalog(publisher.catalog([dataset()], lambda _: True))
    shown = render.seen(Seen(participant=kela, datasets=catalog.datasets))
    (found,) = shown["datasets"]
    assert (found["id"], found["title"], shown["error"]) == ("benefits", "Benefits", None)
    (offer,) = found["offers"]
    assert offer["id"] == "benefits:planning:1"
    assert set(offer) <= {"id", "permission", "prohibition", "obligation"}
    dead = render.seen(Seen(participant=kela, error="did not answer in time"))
    assert (dead["datasets"], dead["error"]) == ([], "did not answer in time")


@pytest.mark.parametrize("title", [{}, {"fi": "Etuudet"}, {"": "Etuudet"}])
def test_a_title_in_any_language(title: dict[str, Any]) -> None:
    """English where there is one, else what there is, else the id."""
    kela = Agreed().registry.participants["kela"]
    wire = Publisher(participant_id="kela", dsp_url=kela.dsp_url).catalog([dataset()], lambda _: True)
    wire = json.loads(json.dumps(wire))
    wire["dataset"][0]["dct:title"] = [{"@language": k, "@value": v} for k, v in title.items()]
    (found,) = render.seen(Seen(participant=kela, datasets=parse_catalog(wire).datasets))["datasets"]
    assert found["title"] == (next(iter(title.values()), "benefits"))


def test_a_participant() -> None:
    """What the trust list says; no keys."""
    shown = render.participant(Agreed().registry.participants["kela"])
    assert (shown["id"], shown["status"], shown["baseUrl"]) == ("kela", "active", "https://kela.example")
    assert "jwks" not in shown
