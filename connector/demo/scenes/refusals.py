"""5: what must be refused, through the consumer's own connector and past it."""

from __future__ import annotations

from connector.demo import hostile, truth
from connector.demo.ecosystem import PURPOSE_PLANNING, PURPOSE_STATISTICS
from connector.demo.scenes.queries import PLANNING_SQL, STATISTICS_SQL, ask_about
from connector.demo.stage import EMPLOYMENT_PLANNING, KELA_STATISTICS, Contract, Stage
from connector.model.person import PersonRole

OTHER_PURPOSE = "marketing"
UNKNOWN_PERSON = "010199-9995"


def run(stage: Stage) -> None:
    _other_purpose(stage)
    _without_consent(stage)
    _hidden_columns(stage)
    _raw_identifier(stage)
    _ended_agreement(stage)


def _other_purpose(stage: Stage) -> None:
    stage.refused("another purpose", lambda: stage.query("city", PLANNING_SQL, OTHER_PURPOSE))
    _by_force(stage, "another purpose", EMPLOYMENT_PLANNING, OTHER_PURPOSE, "SELECT service FROM clients")


def _without_consent(stage: Stage) -> None:
    refused = truth.a_client_without_consent(stage.population)
    told = {
        stage.refused("a client who refused", lambda: ask_about(stage, refused.hetu), refused.hetu),
        stage.refused("somebody unknown", lambda: ask_about(stage, UNKNOWN_PERSON), UNKNOWN_PERSON),
    }
    stage.narrator.check(len(told) == 1, "both read the same: nobody learns who is in the register", told)


def _hidden_columns(stage: Stage) -> None:
    told = {_refused_column(stage, column) for column in ("name", "nonsense")}
    stage.narrator.check(len(told) == 1, "a hidden column and one that does not exist read the same", told)


def _refused_column(stage: Stage, column: str) -> str:
    sql = f"SELECT {column} FROM employment.clients"
    text = stage.refused(f"the column {column}", lambda: stage.query("city", sql, PURPOSE_PLANNING))
    return text.replace(column, "…")


def _raw_identifier(stage: Stage) -> None:
    person = truth.a_client_without_consent(stage.population)
    where = f"WHERE hetu = '{person.hetu}'"
    stage.refused(
        "a person by raw identifier",
        lambda: stage.query("city", f"SELECT support_need FROM employment.clients {where}", PURPOSE_PLANNING),
        person.name,
    )
    sql = f"SELECT support_need FROM clients {where}"
    _by_force(stage, "a person by raw identifier", EMPLOYMENT_PLANNING, PURPOSE_PLANNING, sql)


def _ended_agreement(stage: Stage) -> None:
    contract = KELA_STATISTICS
    agreement = stage.agreement(contract)
    with stage.ecosystem.api(contract.provider, PersonRole.OPERATOR) as provider:
        provider.post(f"/v1/agreements/{agreement}/terminate", {"reason": "the demo ends it"})
    sql = "SELECT benefit, COUNT(*) AS n FROM benefit_statistics GROUP BY benefit"
    _by_force(stage, "an ended agreement", contract, PURPOSE_STATISTICS, sql)
    with stage.ecosystem.api(contract.consumer, PersonRole.VIEWER) as consumer:
        record = stage.until(
            lambda: consumer.get(f"/v1/agreements/{agreement}"), lambda a: a["state"] == "terminated"
        )
    stage.narrator.check(record["state"] == "terminated", "the consumer was told that it ended", record)
    stage.refused("an ended agreement", lambda: stage.query("city", STATISTICS_SQL, PURPOSE_STATISTICS))


def _by_force(stage: Stage, what: str, contract: Contract, purpose: str, sql: str) -> None:
    """A consumer whose connector skips its own checks: the provider refuses."""
    refusal = hostile.ask(stage.ecosystem, contract, stage.agreement(contract), purpose, sql)
    told = refusal and ("; ".join(r.text for r in refusal.reasons) or refusal.message)
    stage.narrator.check(
        bool(told), f"{what}, past the city's own checks: refused: [italic]{told}[/]", refusal
    )
