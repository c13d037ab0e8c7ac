"""ODRL in DSP's narrow form: Offer, Agreement, their rules. Data for one evaluator, never code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from connector.model.json import JsonObject

PROFILE = "https://connector.example/odrl/1"
"""Identifies the left operands and actions of ours (prefix `dsc:`); never fetched."""

DSC_CONSENT_STATUS = "dsc:consentStatus"
DSC_COLLABORATION = "dsc:collaboration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`right_operand` is a string, an object or an array: DSP knows no bare numbers."""

    left_operand: str
    operator: str
    right_operand: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalConstraint:
    """`operator` is and, or, xone or andSequence."""

    operator: str
    constraints: tuple[Constraint | LogicalConstraint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A Permission, a Prohibition or a Duty, by the place it stands in."""

    action: str
    constraints: tuple[Constraint | LogicalConstraint, ...] = ()
    duties: tuple[Rule, ...] = ()

    def leaves(self) -> Iterator[Constraint]:
        """Every atomic constraint below this rule, its duties' included."""
        pending: list[Constraint | LogicalConstraint] = list(self.constraints)
        while pending:
            item = pending.pop()
            if isinstance(item, Constraint):
                yield item
            else:
                pending.extend(item.constraints)
        for duty in self.duties:
            yield from duty.leaves()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    permissions: tuple[Rule, ...] = ()
    prohibitions: tuple[Rule, ...] = ()
    obligations: tuple[Rule, ...] = ()

    def values_of(self, left_operand: str) -> frozenset[str]:
        """The right operands, as strings, that permissions name for this left operand."""
        found: set[str] = set()
        for rule in self.permissions:
            for leaf in rule.leaves():
                if leaf.left_operand == left_operand:
                    right = leaf.right_operand
                    items = right if isinstance(right, list | tuple) else [right]
                    values = (i.get("@value", i.get("@id", "")) if isinstance(i, dict) else i for i in items)
                    found.update(map(str, values))
        return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """`document` is the wire form, kept as it came: an agreement must echo it."""

    id: str
    target: str | None
    policy: Policy
    document: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What both sides hold, byte for byte: `document` is the wire object of ContractAgreementMessage.

    `offer_id` is ours: the offer (and so the terms version) it came from.
    """

    id: str
    target: str
    assigner: str
    assignee: str
    timestamp: datetime
    policy: Policy
    document: JsonObject


class AgreementState(StrEnum):
    PENDING = "pending"  # signed, not yet finalized: gives no access
    ACTIVE = "active"
    TERMINATED = "terminated"


class Enforcement(StrEnum):
    """Who makes a constraint or duty hold (docs/policy-vocabulary.md). One with no class is refused."""

    PROVIDER = "provider"  # holds against a hostile consumer
    CONSUMER = "consumer"  # holds only where the offer trusts the consumer
    TRACKED = "tracked"  # a signed acknowledgement is collected
    DECLARED = "declared"  # binding by the agreement, beyond what software can enforce
