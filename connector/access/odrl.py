"""ODRL as data for `policies/odrl.rego`: dates and durations become epoch seconds, values plain.

The wire's policy stays what both sides hold; what is compiled here is made anew for every decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from connector.access import operands
from connector.access.vocabulary import OPERANDS, LeftOperand, classify, duty_term, value_in_words
from connector.model.json import JsonObject
from connector.model.policy import Constraint, LogicalConstraint, Policy, Rule

Word = Literal["offer", "agreement"]

_TESTS: Mapping[str, str] = {
    "eq": "any_of",
    "isA": "any_of",
    "isAnyOf": "any_of",
    "isPartOf": "any_of",
    "isNoneOf": "none_of",
    "lt": "lt",
    "lteq": "lteq",
    "gt": "gt",
    "gteq": "gteq",
}
_TEXTS: Mapping[str, tuple[str, str]] = {
    "purpose": (
        "purpose '<fact>' is not among the purposes of the {word}: {value}",
        "no purpose is stated; the {word} asks for one of: {value}",
    ),
    "now": ("the {word} holds {value}", "the time is not known"),
    "elapsed": (
        "the agreement holds for {value} from its signing, and that time is over",
        "the {word} holds for a time from its signing, and there is no agreement",
    ),
    "country": (
        "the consumer is established in <fact>; the {word} asks for {value}",
        "the trust list names no country of the consumer; the {word} asks for {value}",
    ),
    "recipient": (
        "'<fact>' is not a recipient that the {word} allows: {value}",
        "the recipient is not known",
    ),
    "membership": (
        "the consumer's membership of the data space is '<fact>', not {value}",
        "the consumer is not in the trust list",
    ),
    "actor_role": (
        "the person who asks has the role '<fact>'; the {word} asks for {value}",
        "the token names no role of the person who asks; the {word} asks for {value}",
    ),
    "legal_basis": (
        "the legal basis of the dataset is <fact>; the {word} asks for {value}",
        "the dataset has no legal basis; the {word} asks for {value}",
    ),
    "collaboration": (
        "the use is within the collaboration '<fact>'; the {word} is for {value}",
        "the consumer is in no valid collaboration here; the {word} is for {value}",
    ),
    "terms_version": (
        "the terms of use are version <fact>; the {word} asks for {value}",
        "the version of the terms is not known; the {word} asks for {value}",
    ),
    "agreement_ref": (
        "the consumer has accepted the framework agreement <fact>; the {word} asks for {value}",
        "the consumer has accepted no framework agreement; the {word} asks for {value}",
    ),
}
"""fact -> what a person reads when it does not suit, and when it is not known. The evaluator fills in
`<fact>`."""


def compile_policy(policy: Policy, *, now: datetime, signed_at: datetime | None, word: Word) -> JsonObject:
    """What the evaluator reads as `input.policy`. Raises RequestInvalid for what is not in the vocabulary."""
    classify(policy, trusts_consumer=True)  # whom an offer trusts was settled when it was published
    compiler = _Compiler(now, signed_at, word)
    return {
        "permissions": [compiler.permission(rule) for rule in policy.permissions],
        "prohibitions": [rule.action for rule in policy.prohibitions],
        "duties": [compiler.duty(rule) for rule in policy.obligations],
        "consent": any(rule.action == "obtainConsent" for rule in policy.obligations),
    }


class _Compiler:
    def __init__(self, now: datetime, signed_at: datetime | None, word: Word) -> None:
        self._now = now
        self._start = signed_at or now
        self._word = word

    def permission(self, rule: Rule) -> JsonObject:
        leaves = list(_leaves(rule.constraints))
        consent = any(leaf.left_operand == "dsc:consentStatus" for leaf in leaves)
        return {
            "action": rule.action,
            "constraints": [c for c in map(self._condition, rule.constraints) if c is not None],
            "atoms": [self._atom(leaf) for leaf in leaves if OPERANDS[leaf.left_operand].fact],
            "consent": consent or any(duty.action == "obtainConsent" for duty in rule.duties),
            "min_group_size": max([1, *_numbers(leaves, "dsc:minGroupSize")]),
            "max_queries_per_day": min(_numbers(leaves, "count"), default=None),
            "expires_at": min(self._ends(leaves), default=None),
            "duties": [self.duty(duty) for duty in rule.duties],
        }

    def duty(self, rule: Rule) -> JsonObject:
        within = duty_term(rule)
        seconds = None if within is None else _seconds(within[0].after(self._now)) - _seconds(self._now)
        return {"action": rule.action, "within_seconds": seconds}

    def _condition(self, item: Constraint | LogicalConstraint) -> JsonObject | None:
        """None for a constraint that is no condition: it has shaped the permission already."""
        if isinstance(item, Constraint):
            return self._atom(item) if OPERANDS[item.left_operand].fact else None
        members = [c for c in map(self._condition, item.constraints) if c is not None]
        return {"kind": item.operator, "members": members} if members else None

    def _atom(self, constraint: Constraint) -> JsonObject:
        term = OPERANDS[constraint.left_operand]
        refusal, missing = _TEXTS[term.fact]
        said = {"word": self._word, "value": value_in_words(term, constraint)}
        return {
            "kind": "atom",
            "name": term.name,
            "fact": "purpose_tree" if constraint.operator == "isA" else term.fact,
            "test": _TESTS[constraint.operator],
            "value": self._value(term, constraint),
            "later": sorted(term.later),
            "refusal": refusal.format_map(said),
            "missing": missing.format_map(said),
        }

    def _value(self, term: LeftOperand, constraint: Constraint) -> Any:
        right = constraint.right_operand
        if term.value == "instant":
            return _seconds(operands.instant(right))
        if term.value == "duration":
            return _seconds(operands.duration(right).after(self._start)) - _seconds(self._start)
        return sorted(operands.words(right))

    def _ends(self, leaves: list[Constraint]) -> Iterator[int]:
        for leaf in leaves:
            if leaf.operator not in ("lt", "lteq"):
                continue
            if leaf.left_operand == "dateTime":
                yield _seconds(operands.instant(leaf.right_operand))
            elif leaf.left_operand == "elapsedTime":
                yield _seconds(operands.duration(leaf.right_operand).after(self._start))


def _leaves(items: tuple[Constraint | LogicalConstraint, ...]) -> Iterator[Constraint]:
    for item in items:
        if isinstance(item, Constraint):
            yield item
        else:
            yield from _leaves(item.constraints)


def _numbers(leaves: list[Constraint], name: str) -> list[int]:
    return [operands.number(leaf.right_operand) for leaf in leaves if leaf.left_operand == name]


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())
