"""What the connectors must answer, worked out from the population with loops and dictionaries alone.

No SQL here: an answer that agrees with these was reached by another way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date

from connector.demo.population import (
    AS_OF,
    LATEST_MONTH,
    MONTHS,
    Benefit,
    Consent,
    ConsentState,
    LeaverMonth,
    Person,
    Population,
    SupportNeed,
)

INCAPACITY_BENEFITS: tuple[Benefit, ...] = ("sickness_allowance", "rehabilitation_allowance")


def support_needs_by_area(population: Population) -> dict[tuple[str, SupportNeed], int]:
    """(first 3 digits of the client's postal code, support need) → distinct persons.

    Counts clients who received one of INCAPACITY_BENEFITS in LATEST_MONTH. Small groups are not hidden here.
    """
    unwell = {
        row.hetu
        for row in population.benefits
        if row.month == LATEST_MONTH and row.benefit in INCAPACITY_BENEFITS
    }
    counts: Counter[tuple[str, SupportNeed]] = Counter()
    for client in population.clients:
        if client.hetu in unwell:
            counts[client.postal_code[:3], client.support_need] += 1
    return dict(counts)


def benefit_statistics(
    population: Population, k: int
) -> tuple[dict[tuple[Benefit, str], tuple[int, int]], int]:
    """Groups of at least `k` distinct persons in LATEST_MONTH, and how many smaller groups were hidden.

    (benefit, first 3 digits of the postal code) → (distinct persons, sum of sick days).
    """
    persons: defaultdict[tuple[Benefit, str], set[str]] = defaultdict(set)
    sick_days: Counter[tuple[Benefit, str]] = Counter()
    for row in population.benefits:
        if row.month == LATEST_MONTH:
            group = row.benefit, row.postal_code[:3]
            persons[group].add(row.hetu)
            sick_days[group] += row.sick_days
    shown = {group: (len(hetus), sick_days[group]) for group, hetus in persons.items() if len(hetus) >= k}
    return shown, len(persons) - len(shown)


def benefit_rows_of(population: Population, hetu: str) -> list[tuple[Benefit, date, int]]:
    """(benefit, month, sick days) of one person, oldest month first."""
    return [(row.benefit, row.month, row.sick_days) for row in population.benefits if row.hetu == hetu]


def outreach_rows(population: Population, as_of: str = AS_OF) -> list[LeaverMonth]:
    """Rows of school.leavers whose person consents to outreach at `as_of`, in order of month, then hetu."""
    consenting = _consenting(population.school_consents, as_of)
    return [row for row in population.leavers if row.hetu in consenting]


def a_consenting_client_with_benefits(population: Population, as_of: str = AS_OF) -> Person:
    """Of the clients whose consent to case-work is valid, the one with most kinds of benefit, then most rows.

    Raises LookupError when the population is too small to have one; so do the others below.
    """
    consenting = _consenting(population.kela_consents, as_of)
    clients = {client.hetu for client in population.clients}
    kinds: defaultdict[str, list[Benefit]] = defaultdict(list)
    for row in population.benefits:
        if row.hetu in clients and row.hetu in consenting:
            kinds[row.hetu].append(row.benefit)
    if not kinds:
        raise LookupError("no consenting client receives a benefit")
    return _person(population, min(kinds, key=lambda hetu: (-len(set(kinds[hetu])), -len(kinds[hetu]), hetu)))


def a_client_without_consent(population: Population, state: ConsentState | None = "refused") -> Person:
    """The first person by hetu who is in both registers and answered `state`; None is one never asked.

    A `state` of "given" finds a consent that has run out by AS_OF.
    """
    recipients = {row.hetu for row in population.benefits}
    consents = {consent.hetu: consent for consent in population.kela_consents}
    for client in population.clients:
        consent = consents.get(client.hetu)
        if client.hetu not in recipients or (consent is not None and consent.valid_at(AS_OF)):
            continue
        if (None if consent is None else consent.state) == state:
            return _person(population, client.hetu)
    raise LookupError(f"no client with benefits and consent {state!r}")


def a_consenting_leaver(population: Population, as_of: str = AS_OF) -> Person:
    """The first person by hetu who consents to outreach and was outside in each of the twelve months."""
    outside = Counter(row.hetu for row in outreach_rows(population, as_of) if row.status == "outside")
    steady = [hetu for hetu, months in outside.items() if months == len(MONTHS)]
    if not steady:
        raise LookupError("no consenting leaver was outside through all months")
    return _person(population, min(steady))


def _consenting(consents: Iterable[Consent], as_of: str) -> set[str]:
    return {consent.hetu for consent in consents if consent.valid_at(as_of)}


def _person(population: Population, hetu: str) -> Person:
    return next(person for person in population.persons if person.hetu == hetu)
