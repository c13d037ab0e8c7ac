"""What every scene has at hand: the ecosystem, the truth, the narrator, and a few ways to ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from connector.demo.ecosystem import Ecosystem
from connector.demo.narrator import Narrator
from connector.demo.population import Population
from connector.local_api import ApiProblem
from connector.model.person import PersonRole

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.05
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one consumer wants of one provider."""

    consumer: str
    provider: str
    dataset: str
    offer: str
    formats: tuple[str, ...] = ("FederatedQuery-PULL",)
    needs_approval: bool = False

    @property
    def name(self) -> str:
        return f"{self.consumer} ← {self.provider}.{self.dataset}"


EMPLOYMENT_PLANNING = Contract(consumer="city", provider="employment", dataset="clients", offer="planning")
KELA_PLANNING = Contract(
    consumer="city", provider="kela", dataset="benefits", offer="planning", needs_approval=True
)
KELA_STATISTICS = Contract(consumer="city", provider="kela", dataset="benefit_statistics", offer="statistics")
KELA_CASE_WORK = Contract(consumer="employment", provider="kela", dataset="benefits", offer="case-work")
SCHOOL_OUTREACH = Contract(
    consumer="youth",
    provider="school",
    dataset="leavers",
    offer="outreach",
    formats=("FederatedQuery-PULL", "CloudEvents-PUSH"),
)
CONTRACTS = (EMPLOYMENT_PLANNING, KELA_PLANNING, KELA_STATISTICS, KELA_CASE_WORK, SCHOOL_OUTREACH)


@dataclass(slots=True)
class Stage:
    """Scenes keep nothing here: each starts from what the connectors hold, so that any of them may be
    killed and started again in between."""

    ecosystem: Ecosystem
    population: Population
    narrator: Narrator

    def query(
        self, name: str, sql: str, purpose: str, role: PersonRole = PersonRole.ANALYST
    ) -> dict[str, Any]:
        with self.ecosystem.api(name, role, purposes=(purpose,)) as api:
            answer: dict[str, Any] = api.post("/v1/queries", {"sql": sql, "purpose": purpose})
        return answer

    def agreement(self, contract: Contract) -> str:
        """The newest agreement that the consumer holds under this contract."""
        with self.ecosystem.api(contract.consumer, PersonRole.VIEWER) as api:
            held = api.get("/v1/agreements")["agreements"]
        offer = f"{contract.dataset}:{contract.offer}:"
        mine = [a for a in held if a["counterParty"] == contract.provider and a["offer"].startswith(offer)]
        return str(max(mine, key=lambda a: a["timestamp"])["id"])

    def until(self, ask: Callable[[], Answer], done: Callable[[Answer], object]) -> Answer:
        """Ask until it is done, or for ten seconds; the last answer either way."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not done(answer := ask()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return answer

    def refused(self, what: str, ask: Callable[[], object], *never_said: str) -> str:
        """The request must be refused with reasons; `never_said` must not be in them. Returns the reasons."""
        try:
            ask()
        except ApiProblem as problem:
            reasons = "; ".join(r.text for r in problem.reasons) or problem.message
            whole = str(problem.problem)
        else:
            self.narrator.check(False, f"{what}: refused", "an answer")
            return ""
        leaked = [secret for secret in never_said if secret in whole]
        self.narrator.check(bool(reasons) and not leaked, f"{what}: refused: [italic]{reasons}[/]", leaked)
        return reasons

    def say_hidden(self, answer: Mapping[str, Any]) -> None:
        """What was hidden, why, and which obligation was enforced by whom; one line per ground."""
        grounds: dict[tuple[str, str, str], list[str]] = {}
        for part in answer["hidden"]:
            ground = (part["dataset"], part["why"], part["enforcedBy"])
            grounds.setdefault(ground, []).append(part["what"].removeprefix("column "))
        for (dataset, why, by), what in grounds.items():
            self.narrator.say(f"[dim]{dataset}: {', '.join(what)}: {why}; enforced by {by}[/]")
