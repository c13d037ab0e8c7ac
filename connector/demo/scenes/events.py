"""6: a young person's consent is recorded; the outreach connector has the event on its own bus."""

from __future__ import annotations

import time

from connector.demo import consents
from connector.demo.ecosystem import PURPOSE_OUTREACH
from connector.demo.listening import listening
from connector.demo.stage import WAIT_SECONDS, Stage
from connector.model.person import PersonRole

GIVEN = "fi.dataspace.consent.given.v1"


def run(stage: Stage) -> None:
    person = consents.never_asked(stage.population)
    with listening(
        stage, "youth", "GET", "/v1/events", roles=(PersonRole.SUBSCRIBER,), start="latest"
    ) as heard:
        heard.wait_for(lambda line: line["type"] == "subscribed")
        with stage.ecosystem.api("school", PersonRole.CONSENT_DESK, subject="consent portal") as portal:
            asked_at = time.monotonic()
            given = portal.post("/v1/consents", consents.given(person.hetu, PURPOSE_OUTREACH, "youth"))
        # earlier answers may still be on their way to a subscriber that is new
        found = heard.wait_for(lambda line: line["type"] == GIVEN and line["time"] >= given["at"])
    stage.narrator.check(found is not None, "the event is on the outreach connector's own bus")
    if found is None:
        return
    arrived_at, event = found
    stage.narrator.fact("from consent to event, seconds", arrived_at - asked_at)
    stage.narrator.check(arrived_at - asked_at <= WAIT_SECONDS, f"within {WAIT_SECONDS:.0f} seconds")
    stage.narrator.check(person.hetu not in str(event), "it goes by reference: a pseudonym, no data", event)
    sql = f"SELECT DISTINCT name, phone FROM school.leavers WHERE hetu = '{event['subject']}'"
    answer = stage.query("youth", sql, PURPOSE_OUTREACH)
    found_names = [row[0] for row in answer["rows"]]
    claim = "the outreach worker follows the reference: name and phone, under a live decision"
    stage.narrator.check(found_names == [person.name], claim, found_names)
