"""4: federated queries for a stated purpose; results equal the generator's truth."""

from __future__ import annotations

from typing import Any

from connector.demo import truth
from connector.demo.ecosystem import PURPOSE_CASE_WORK, PURPOSE_PLANNING, PURPOSE_STATISTICS
from connector.demo.population import LATEST_MONTH
from connector.demo.stage import Stage
from connector.model.person import PersonRole

MIN_GROUP = 5

PLANNING_SQL = f"""
SELECT c.postal_code AS area, c.support_need, COUNT(DISTINCT c.hetu) AS persons
FROM employment.clients AS c
JOIN kela.benefits AS b ON b.hetu = c.hetu
WHERE b.month = DATE '{LATEST_MONTH}'
  AND b.benefit IN ('sickness_allowance', 'rehabilitation_allowance')
GROUP BY c.postal_code, c.support_need
ORDER BY area, c.support_need"""

STATISTICS_SQL = f"""
SELECT benefit, postal_code, COUNT(DISTINCT hetu) AS persons, SUM(sick_days) AS sick_days
FROM kela.benefit_statistics
WHERE month = DATE '{LATEST_MONTH}'
GROUP BY benefit, postal_code"""


def planning(stage: Stage) -> None:
    answer = stage.query("city", PLANNING_SQL, PURPOSE_PLANNING)
    found = {(area, need): persons for area, need, persons in answer["rows"]}
    stage.narrator.table(
        "Clients on sickness or rehabilitation allowance (first rows)", answer["columns"], answer["rows"][:6]
    )
    stage.say_hidden(answer)
    expected = truth.support_needs_by_area(stage.population)
    stage.narrator.check(found == expected, f"{len(found)} counts equal the generator's truth", len(found))
    stage.narrator.check(not answer["identified"], "pseudonyms of one collaboration; nobody is identified")


def aggregate_only(stage: Stage) -> None:
    answer = stage.query("city", STATISTICS_SQL, PURPOSE_STATISTICS)
    found = {(benefit, area): (persons, days) for benefit, area, persons, days in answer["rows"]}
    expected, hidden = truth.benefit_statistics(stage.population, MIN_GROUP)
    stage.say_hidden(answer)
    stage.narrator.check(found == expected, f"{len(found)} groups equal the generator's truth", len(found))
    smallest = min(persons for persons, _ in found.values())
    stage.narrator.check(smallest >= MIN_GROUP, f"no group is smaller than {MIN_GROUP} persons", smallest)
    said = sum(p["groupsHidden"] for p in answer["provenance"])
    stage.narrator.check(
        said == hidden > 0, f"{hidden} smaller groups were hidden, and the answer says so", said
    )
    rows = "SELECT benefit, sick_days FROM kela.benefit_statistics"
    stage.refused("rows instead of groups", lambda: stage.query("city", rows, PURPOSE_STATISTICS))


def case_worker(stage: Stage) -> None:
    client = truth.a_consenting_client_with_benefits(stage.population)
    answer = ask_about(stage, client.hetu)
    found = sorted(tuple(row) for row in answer["rows"])
    expected = sorted(
        (benefit, month.isoformat(), days)
        for benefit, month, days in truth.benefit_rows_of(stage.population, client.hetu)
    )
    stage.say_hidden(answer)
    stage.narrator.check(
        found == expected, f"{len(found)} months of one client, as the register has them", found
    )
    stage.narrator.check(answer["identified"], "the answer calls itself an identified disclosure", answer)


def ask_about(stage: Stage, hetu: str) -> dict[str, Any]:
    sql = f"SELECT benefit, month, sick_days FROM kela.benefits WHERE hetu = '{hetu}'"
    return stage.query("employment", sql, PURPOSE_CASE_WORK, PersonRole.CASE_WORKER)
