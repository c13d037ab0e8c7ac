"""The decision that shapes the data: `Deny(reasons)` or `Permit(obligations)`, and how decisions combine.

Everything intersects: deny wins, columns and filters AND, the strictest mask, the largest group, the
earliest expiry. Adding a policy or removing a consent never adds a cell (tests/unit/model).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import lcm
from typing import Literal, TypeVar

from connector.errors import Reason
from connector.model.policy import Enforcement

Scalar = str | int | float | bool | None


# --- row filters: UCAST conditions, compiled by us to bound parameters ---------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldCondition:
    """`field operator value`, on a column of the dataset as its descriptor names it."""

    field: str
    operator: Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "is_null", "not_null"]
    value: Scalar | tuple[Scalar, ...] = None
    type: Literal["field"] = "field"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompoundCondition:
    """`and` of nothing is every row; `or` of nothing is none."""

    operator: Literal["and", "or", "not"]
    conditions: tuple[FieldCondition | CompoundCondition, ...]
    type: Literal["compound"] = "compound"


Condition = FieldCondition | CompoundCondition
EVERY_ROW = CompoundCondition(operator="and", conditions=())


# --- masks, from the strictest ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The column does not exist for this consumer."""

    kind: Literal["drop"] = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    kind: Literal["null"] = "null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    value: Scalar
    kind: Literal["constant"] = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Text: its first `length` characters. Dates: `unit` year or month."""

    length: int = 0
    unit: Literal["", "year", "month"] = ""
    kind: Literal["truncate"] = "truncate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Integers: the lower bound of their bucket of `size`."""

    size: int
    kind: Literal["bucket"] = "bucket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash:
    """A keyed hash under the provider's own key and this agreement: equal values stay equal."""

    kind: Literal["hash"] = "hash"


Mask = Drop | Null | Constant | Truncate | Bucket | Hash


def strictest(one: Mask, other: Mask) -> Mask:
    """The mask that shows no more than either, whatever order they come in.

    Masks of one kind meet in the coarser of that kind; of two kinds, in `Null`; `Drop` is below all.
    """
    match one, other:
        case (Drop(), _) | (_, Drop()):
            return Drop()
        case (Truncate(unit=""), Truncate(unit="")):
            return Truncate(length=min(one.length, other.length))
        case (Truncate(unit=a), Truncate(unit=b)) if a and b:
            return Truncate(unit="month" if a == b == "month" else "year")
        case (Bucket(), Bucket()):
            # the least buckets that both kinds fit into: neither size need divide the other
            return Bucket(size=lcm(one.size, other.size))
    # two constants that differ would tell which policy won
    return one if one == other else Null()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pseudonym:
    """The column leaves only as a pseudonym of this domain (a collaboration's id).

    `invertible` pseudonyms (AES, keyed per domain) can travel back as join keys; they need
    `key_exchange`. Others are HMACs and one-way.
    """

    domain: str
    generation: int
    invertible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRequirement:
    """Only rows of subjects whose consent to this purpose and recipient is valid now."""

    purpose: str
    recipient: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None is no limit from this source. Rows and bytes per fragment."""

    max_rows: int | None = None
    max_bytes: int | None = None
    max_seconds: float | None = None
    max_queries_per_day: int | None = None

    def intersect(self, other: Limits) -> Limits:
        return Limits(
            max_rows=_least(self.max_rows, other.max_rows),
            max_bytes=_least(self.max_bytes, other.max_bytes),
            max_seconds=_least(self.max_seconds, other.max_seconds),
            max_queries_per_day=_least(self.max_queries_per_day, other.max_queries_per_day),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyObligation:
    """What the consumer owes after the answer. `within_seconds` counts from the disclosure."""

    action: str
    enforcement: Enforcement
    within_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """What was decided on: each a content hash or a counter, recorded with every decision."""

    policy: str = ""
    odrl: str = ""
    contract: str = ""
    consent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    reasons: tuple[Reason, ...]
    revisions: Revisions = Revisions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What may leave. A column outside `columns` does not exist for this consumer.

    `identified`: raw identifiers leave, or the consumer could undo the pseudonyms; then it is
    called an identified disclosure everywhere. `subjects_named`: only rows of subjects that the
    request names one by one.
    """

    columns: frozenset[str]
    row_filter: Condition = EVERY_ROW
    column_masks: Mapping[str, Mask] = field(default_factory=dict)
    pseudonyms: Mapping[str, Pseudonym] = field(default_factory=dict)
    min_group_size: int = 1
    aggregate_only: bool = False
    dimensions: frozenset[str] = frozenset()
    consent: tuple[ConsentRequirement, ...] = ()
    subjects_named: bool = False
    key_exchange: bool = False
    identified: bool = False
    limits: Limits = Limits()
    duties: tuple[DutyObligation, ...] = ()
    expires_at: datetime | None = None
    revisions: Revisions = Revisions()
    enforced_by: Mapping[str, str] = field(default_factory=dict)
    """Obligation (`column:name`, `rows`, `group`, ...) -> who imposed it, for explanations."""

    @property
    def exposed(self) -> frozenset[str]:
        """The columns a consumer can name."""
        dropped = {c for c, mask in self.column_masks.items() if isinstance(mask, Drop)}
        return self.columns - dropped


Decision = Deny | Permit


def intersect(decisions: Iterable[Decision]) -> Decision:
    """All of them together. No decision at all is a denial: an empty policy set permits nothing."""
    merged: Permit | None = None
    denials: list[Reason] = []
    revisions = Revisions()
    for decision in decisions:
        revisions = _merge_revisions(revisions, decision.revisions)
        if isinstance(decision, Deny):
            denials.extend(r for r in decision.reasons if r not in denials)
            if not decision.reasons:
                denials.append(Reason(code="denied", text="a policy denied without a reason"))
        else:
            merged = _settled(decision) if merged is None else _both(merged, _settled(decision))
    if denials or merged is None:
        reasons = tuple(denials) or (Reason(code="no_policy", text="no policy permits this"),)
        return Deny(reasons=reasons, revisions=revisions)
    return replace(merged, revisions=revisions)


def _settled(permit: Permit) -> Permit:
    """One way to say each thing: no pseudonym beside a mask, none invertible without key exchange."""
    masks: dict[str, Mask] = dict(permit.column_masks)
    pseudonyms: dict[str, Pseudonym] = {}
    for column, pseudonym in permit.pseudonyms.items():
        if column in masks:
            masks[column] = Drop()  # part of a pseudonym is no pseudonym
        else:
            pseudonyms[column] = pseudonym if permit.key_exchange else replace(pseudonym, invertible=False)
    return replace(permit, column_masks=masks, pseudonyms=pseudonyms)


def _both(a: Permit, b: Permit) -> Permit:
    masks: dict[str, Mask] = dict(a.column_masks)
    for column, mask in b.column_masks.items():
        masks[column] = strictest(masks[column], mask) if column in masks else mask
    pseudonyms = dict(a.pseudonyms)
    for column, pseudonym in b.pseudonyms.items():
        held = pseudonyms.get(column, pseudonym)
        if (held.domain, held.generation) == (pseudonym.domain, pseudonym.generation):
            both_ways = held.invertible and pseudonym.invertible
            pseudonyms[column] = replace(held, invertible=both_ways)
        else:
            masks[column] = Drop()  # two domains at once would link them
    return _settled(_merged(a, b, masks, pseudonyms))


def _merged(a: Permit, b: Permit, masks: Mapping[str, Mask], pseudonyms: Mapping[str, Pseudonym]) -> Permit:
    return Permit(
        columns=a.columns & b.columns,
        row_filter=_and(a.row_filter, b.row_filter),
        column_masks=masks,
        pseudonyms=pseudonyms,
        min_group_size=max(a.min_group_size, b.min_group_size),
        aggregate_only=a.aggregate_only or b.aggregate_only,
        dimensions=_dimensions(a, b),
        consent=tuple(dict.fromkeys(a.consent + b.consent)),
        subjects_named=a.subjects_named or b.subjects_named,
        key_exchange=a.key_exchange and b.key_exchange,
        identified=a.identified or b.identified,
        limits=a.limits.intersect(b.limits),
        duties=tuple(dict.fromkeys(a.duties + b.duties)),
        expires_at=_least(a.expires_at, b.expires_at),
        enforced_by=_named(a.enforced_by, b.enforced_by),
    )


def _dimensions(a: Permit, b: Permit) -> frozenset[str]:
    """A permit that is not aggregate-only says nothing of dimensions, so it narrows none."""
    said = [permit.dimensions for permit in (a, b) if permit.aggregate_only]
    return frozenset.intersection(*said) if said else frozenset()


def _and(a: Condition, b: Condition) -> Condition:
    if a in (EVERY_ROW, b):
        return b
    return a if b == EVERY_ROW else CompoundCondition(operator="and", conditions=(a, b))


def _named(a: Mapping[str, str], b: Mapping[str, str]) -> Mapping[str, str]:
    """An obligation that both impose names both."""
    shared = {k: ", ".join(dict.fromkeys(f"{a[k]}, {b[k]}".split(", "))) for k in a.keys() & b.keys()}
    return {**a, **b, **shared}


_Ordered = TypeVar("_Ordered", int, float, datetime)


def _least(a: _Ordered | None, b: _Ordered | None) -> _Ordered | None:
    if a is None or b is None:
        return a if b is None else b
    return min(a, b)


def _merge_revisions(a: Revisions, b: Revisions) -> Revisions:
    return Revisions(
        policy=b.policy or a.policy,
        odrl=b.odrl or a.odrl,
        contract=b.contract or a.contract,
        consent=max(a.consent, b.consent),
    )
