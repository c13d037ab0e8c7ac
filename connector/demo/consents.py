"""Consents of the demo: the registers' answers so far, and who was never asked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from connector.demo.ecosystem import PURPOSE_OUTREACH, Ecosystem
from connector.demo.population import Consent, Person, Population
from connector.model.person import PersonRole

BATCH = 1_000


def import_all(ecosystem: Ecosystem, population: Population) -> int:
    """What people answered before today goes into the two registers. Returns how many answers."""
    return sum(
        _import(ecosystem, name, answers)
        for name, answers in (("kela", population.kela_consents), ("school", population.school_consents))
    )


def _import(ecosystem: Ecosystem, name: str, answers: Iterable[Consent]) -> int:
    count, pending = 0, iter(answers)
    with ecosystem.api(name, PersonRole.CONSENT_DESK, subject="import") as desk:
        while batch := [_answer(c) for c in islice(pending, BATCH)]:
            count += desk.post("/v1/consents/import", {"answers": batch})["imported"]
    return count


def given(hetu: str, purpose: str, recipient: str) -> dict[str, Any]:
    """A person's yes, as the portal sends it."""
    return {"person": hetu, "purpose": purpose, "recipient": recipient, "state": "given", "method": "portal"}


def _answer(consent: Consent) -> dict[str, Any]:
    return {
        "person": consent.hetu,
        "purpose": consent.purpose,
        "recipient": consent.recipient,
        "state": consent.state,
        "at": consent.given_at,
        "validUntil": consent.valid_until,
        "method": "import",
    }


def never_asked(population: Population) -> Person:
    """A school leaver whom nobody has asked yet."""
    asked = {c.hetu for c in population.school_consents if c.purpose == PURPOSE_OUTREACH}
    leavers = {row.hetu for row in population.leavers} - asked
    return next(p for p in population.persons if p.hetu in leavers)
