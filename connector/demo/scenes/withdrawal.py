"""7: a consent is withdrawn while rows and events about the person flow; both stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from connector.demo import truth
from connector.demo.ecosystem import PURPOSE_OUTREACH
from connector.demo.listening import Heard, listening
from connector.demo.population import Person
from connector.demo.stage import Stage
from connector.model.person import PersonRole

BATCH_ROWS = 100
PAUSE_SECONDS = 0.02
"""Between two batches: a reader slower than the provider, so that the stream is held back."""

STATUS_CHANGED = "fi.dataspace.leaver.status-changed.v1"
AFTERMATH_SECONDS = 1.5


def run(stage: Stage) -> None:
    person = truth.a_consenting_leaver(stage.population)
    pseudonym = _pseudonym_of(stage, person)
    body = {
        "dataset": "school.leavers",
        "columns": ["hetu", "name", "phone", "school", "month", "status"],
        "purpose": PURPOSE_OUTREACH,
        "batchRows": BATCH_ROWS,
    }
    with listening(
        stage, "youth", "GET", "/v1/events", roles=(PersonRole.SUBSCRIBER,), start="latest"
    ) as events:
        events.wait_for(lambda line: line["type"] == "subscribed")
        _publish(stage, person)
        before = events.wait_for(lambda e: e["type"] == STATUS_CHANGED and e["subject"] == pseudonym)
        stage.narrator.check(before is not None, "before: an event about the person arrives")
        with listening(
            stage,
            "youth",
            "POST",
            "/v1/streams",
            body,
            roles=(PersonRole.ANALYST,),
            purposes=(PURPOSE_OUTREACH,),
            pause_seconds=PAUSE_SECONDS,
        ) as rows:
            seen = rows.wait_for(lambda line: _has(line, pseudonym))
            stage.narrator.check(seen is not None, "before: rows of the person arrive", rows.error)
            asked_at, answered_at = _withdraw(stage, person)
            _publish(stage, person)
            rows.ended.wait(timeout=60)
        time.sleep(AFTERMATH_SECONDS)
    _judge_rows(stage, rows, body, pseudonym, asked_at, answered_at)
    _judge_events(stage, events, pseudonym)


def _pseudonym_of(stage: Stage, person: Person) -> str:
    sql = f"SELECT DISTINCT hetu FROM school.leavers WHERE phone = '{person.phone}'"
    return str(stage.query("youth", sql, PURPOSE_OUTREACH)["rows"][0][0])


def _publish(stage: Stage, person: Person) -> None:
    with stage.ecosystem.api("school", PersonRole.PRODUCER, subject="student register") as school:
        event = {"type": STATUS_CHANGED, "person": person.hetu}
        school.post("/v1/datasets/leavers/events", {"events": [event]})


def _withdraw(stage: Stage, person: Person) -> tuple[float, float]:
    with stage.ecosystem.api("school", PersonRole.CONSENT_DESK, subject="consent portal") as portal:
        records = portal.post("/v1/consents/search", {"person": person.hetu})["consents"]
        (record,) = [r for r in records if r["state"] == "ConsentGiven"]
        asked_at = time.time()
        portal.post(f"/v1/consents/{record['id']}/withdraw")
        answered_at = time.time()
    stage.narrator.fact("the withdrawal was answered after, milliseconds", (answered_at - asked_at) * 1000)
    return asked_at, answered_at


def _has(line: Mapping[str, Any], pseudonym: str) -> bool:
    return any(row[0] == pseudonym for row in line.get("rows", ()))


def _judge_rows(
    stage: Stage, rows: Heard, body: Mapping[str, Any], pseudonym: str, asked_at: float, answered_at: float
) -> None:
    check, lines = stage.narrator.check, [line for _, line in rows.lines]
    written = [line["writtenAt"] for line in lines if _has(line, pseudonym)]
    if not written:
        return
    check(max(written) <= answered_at, "no record of the person left after the answer", written)
    if "error" in lines[-1]:
        stage.narrator.say("the reader held up a batch with the person in it: the barrier cut the stream")
        lines = _read_again(stage, body)
        check(not any(_has(line, pseudonym) for line in lines), "asked again, the person is not in it")
    check(rows.error is None and "end" in lines[-1], "the stream itself goes on to its end", lines[-1])
    others = sum(line.get("writtenAt", 0) > answered_at for line in lines)
    check(others > 0, f"{others} batches about other persons followed")
    last = (max(written) - asked_at) * 1000
    stage.narrator.fact("from withdrawal to the last delivered record of the person, milliseconds", last)
    if last < 0:
        stage.narrator.say("(before nought: it had left before the withdrawal was asked)")


def _read_again(stage: Stage, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    asker = stage.ecosystem.api("youth", PersonRole.ANALYST, purposes=(PURPOSE_OUTREACH,))
    with asker as api, api.stream("POST", "/v1/streams", body) as lines:
        return list(lines)


def _judge_events(stage: Stage, events: Heard, pseudonym: str) -> None:
    about = [e for _, e in events.lines if e.get("subject") == pseudonym]
    statuses = [e for e in about if e["type"] == STATUS_CHANGED]
    stage.narrator.check(len(statuses) == 1, "no event about the person after the withdrawal", about)
    told = [e for e in about if e["type"].startswith("fi.dataspace.consent.withdrawn")]
    stage.narrator.check(len(told) == 1, "the outreach connector was told of the withdrawal itself", about)
