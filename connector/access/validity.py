"""Whether an agreement is in force at this moment: asked at every use, by whoever opens something under it.

state       finalized, and not terminated
signatures  both sides', or the operator's exception for this participant (`unsigned_peers`)
dates       those of its permissions
terms       the provider's: not past the sunset of its terms version, its dataset not retired
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import datetime

from connector.errors import NotPermitted, Reason
from connector.model.catalog import Dataset
from connector.model.json import from_rfc3339, to_rfc3339
from connector.model.negotiation import AgreementRecord, Role
from connector.model.policy import AgreementState, Constraint, LogicalConstraint, Policy, Rule

ENDED = "agreement_terminated"
NOT_FINAL = "agreement_not_final"
UNSIGNED = "agreement_unsigned"
OUT_OF_TIME = "agreement_out_of_time"
TERMS_SUNSET = "terms_sunset"
DATASET_RETIRED = "dataset_retired"

NOBODY: frozenset[str] = frozenset()


def require_in_force(
    record: AgreementRecord,
    now: datetime,
    *,
    unsigned_peers: Container[str] = NOBODY,
    dataset: Dataset | None = None,
) -> None:
    """Raises NotPermitted with the reason. `dataset`: the provider's own, as it describes it today."""
    reason = why_not(record, now, unsigned_peers=unsigned_peers, dataset=dataset)
    if reason is not None:
        raise NotPermitted([reason], mend=_MENDS.get(reason.code, ""))


def why_not(
    record: AgreementRecord,
    now: datetime,
    *,
    unsigned_peers: Container[str] = NOBODY,
    dataset: Dataset | None = None,
) -> Reason | None:
    """None where it is in force. Dates that an `or` makes optional are the evaluator's business."""
    if record.state is AgreementState.TERMINATED:
        return _reason(ENDED, "The agreement has ended.")
    if record.state is not AgreementState.ACTIVE:
        return _reason(NOT_FINAL, "The agreement is not in force yet.")
    if text := _unsigned(record, unsigned_peers):
        return _reason(UNSIGNED, text)
    if not _within_dates(record.agreement.policy, now):
        return _reason(OUT_OF_TIME, "The agreement's time has run out or not come yet.")
    return lapsed(record, dataset, now)


def lapsed(record: AgreementRecord, dataset: Dataset | None, now: datetime) -> Reason | None:
    """Why a provider's date has ended what the agreement gives, though nobody has terminated it."""
    if dataset is None or record.role is not Role.PROVIDER:
        return None
    if dataset.retires_at is not None and now >= dataset.retires_at:
        return _reason(DATASET_RETIRED, "The dataset is retired.")
    sunset = sunset_of(record, dataset)
    if sunset is not None and now >= sunset:
        text = f"Version {record.terms_version} of the terms ended {to_rfc3339(sunset)}; renew the agreement."
        return _reason(TERMS_SUNSET, text)
    return None


def sunset_of(record: AgreementRecord, dataset: Dataset) -> datetime | None:
    return dataset.sunset_of(record.terms.id, record.terms_version) if record.terms else None


def ends_at(record: AgreementRecord, dataset: Dataset) -> datetime | None:
    """The first date, passed or to come, at which `lapsed` says so."""
    dates = (dataset.retires_at, sunset_of(record, dataset))
    return min((d for d in dates if d is not None), default=None)


def excepted(record: AgreementRecord, unsigned_peers: Container[str]) -> bool:
    """A signature that is wrong is worse than none: no exception covers it."""
    wrong = record.signature_problem is not None and record.signature_problem[0] == WRONG
    return record.counter_party in unsigned_peers and not wrong


ABSENT, WRONG = "absent", "wrong"
"""Codes of `signature_problem`."""


def _unsigned(record: AgreementRecord, unsigned_peers: Container[str]) -> str:
    if record.signed_by_both or excepted(record, unsigned_peers):
        return ""
    detail = record.signature_problem[1] if record.signature_problem else "Not all signatures are there."
    return f"The agreement is not signed by both sides. {detail}"


_MENDS = {
    UNSIGNED: "Exchange the signatures again, or list the participant in the setting unsigned_peers.",
    TERMS_SUNSET: "The consumer accepts the new terms with one call: POST /v1/agreements/{id}/renew.",
}


def _reason(code: str, text: str) -> Reason:
    return Reason(code=code, text=text, source="agreement")


# --- dates ---------------------------------------------------------------------------------------------

_HOLDS: Mapping[str, frozenset[int]] = {
    "lt": frozenset({-1}),
    "lteq": frozenset({-1, 0}),
    "eq": frozenset({0}),
    "gteq": frozenset({0, 1}),
    "gt": frozenset({1}),
}
"""ODRL operator -> which of -1, 0, 1 (now before, at, after the date) it allows."""


def _within_dates(policy: Policy, now: datetime) -> bool:
    """Whether some permission is open by its dates. Prohibitions alone are always in time."""
    return not policy.permissions or any(_open(rule, now) for rule in policy.permissions)


def _open(rule: Rule, now: datetime) -> bool:
    return all(_date_holds(c, now) for c in _required(rule.constraints) if c.left_operand == "dateTime")


def _required(constraints: Sequence[Constraint | LogicalConstraint]) -> Iterator[Constraint]:
    for constraint in constraints:
        if isinstance(constraint, Constraint):
            yield constraint
        elif constraint.operator in ("and", "andSequence"):
            yield from _required(constraint.constraints)


def _date_holds(constraint: Constraint, now: datetime) -> bool:
    right = constraint.right_operand
    text = right.get("@value") if isinstance(right, Mapping) else right
    try:
        date = from_rfc3339(text) if isinstance(text, str) else None
    except ValueError:
        date = None
    if date is None:
        return False  # a date that cannot be read opens nothing
    return ((now > date) - (now < date)) in _HOLDS.get(constraint.operator, frozenset())
