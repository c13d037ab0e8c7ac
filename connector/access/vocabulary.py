"""Every ODRL term we know, with who makes it hold and where. A term that is not here is refused, by name.

The tables below are the whole vocabulary: `policies/odrl.rego` evaluates what `connector.access.odrl`
compiles from them, and docs/policy-vocabulary.md is printed from them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeVar

from connector.access import operands
from connector.errors import RequestInvalid
from connector.model.policy import Constraint, Enforcement, LogicalConstraint, Policy, Rule


class Stage(StrEnum):
    """Where in the life of an exchange a decision is taken; the same policy is evaluated at each."""

    CATALOG = "catalog"
    NEGOTIATION = "negotiation"
    TRANSFER = "transfer"
    QUERY = "query"
    EVENT = "event"


BEFORE_AGREEMENT = frozenset({Stage.CATALOG, Stage.NEGOTIATION})
BEFORE_USE = BEFORE_AGREEMENT | {Stage.TRANSFER}
USE = frozenset({Stage.QUERY, Stage.EVENT})

MOST_NESTING = 2
"""How deep `and` and `or` may stand in each other: Rego has no recursion, the evaluator is written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOperand:
    """`fact` names what the constraint is held against in the input of `dataspace.odrl`, "" for one that
    is no condition but shapes the answer. At the stages in `later` an unknown fact is no denial: it
    is asked again when it is known. `alternative`: whether it may stand under `or`; what bounds or
    shapes the answer may not. `text` says the constraint in words; `{}` is its value."""

    name: str
    operators: frozenset[str]
    value: Literal["words", "number", "instant", "duration"]
    enforcement: Enforcement
    where: str
    text: str
    fact: str = ""
    later: frozenset[Stage] = frozenset()
    only: frozenset[str] = frozenset()
    alternative: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTerm:
    """A duty's or a prohibition's action. `{}` in `text` is the duty's term, "" where it has none."""

    name: str
    enforcement: Enforcement
    where: str
    text: str
    has_term: bool = False


CONSENT_GIVEN = frozenset({"dpv:ConsentGiven", "dpv:RenewedConsentGiven"})
_SOME = frozenset({"eq", "isAnyOf"})
_NOT_ABOVE = frozenset({"lteq"})

OPERANDS: Mapping[str, LeftOperand] = {
    term.name: term
    for term in (
        LeftOperand(
            name="purpose",
            operators=frozenset({"eq", "isA", "isAnyOf"}),
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The token states one purpose; the decision compares it at every query and event. What is "
            "done with the answer afterwards rests on the agreement.",
            text="the stated purpose is {} (isA: or a purpose below it)",
            fact="purpose",
            later=BEFORE_USE,
        ),
        LeftOperand(
            name="dateTime",
            operators=frozenset({"lt", "lteq", "gt", "gteq"}),
            value="instant",
            enforcement=Enforcement.PROVIDER,
            where="The decision compares the provider's clock; a running stream ends at that instant.",
            text="the time is {}",
            fact="now",
            alternative=False,
        ),
        LeftOperand(
            name="elapsedTime",
            operators=frozenset({"lt", "lteq"}),
            value="duration",
            enforcement=Enforcement.PROVIDER,
            where="The decision counts from the signing of the agreement; a running stream ends then.",
            text="the time since the agreement is {}",
            fact="elapsed",
            later=BEFORE_AGREEMENT,
            alternative=False,
        ),
        LeftOperand(
            name="count",
            operators=_NOT_ABOVE,
            value="number",
            enforcement=Enforcement.PROVIDER,
            where="Queries per agreement and day (UTC). A provider that counts none denies every use, "
            "as this version does.",
            text="at most {} queries a day",
            alternative=False,
        ),
        LeftOperand(
            name="spatial",
            operators=frozenset({"eq", "isAnyOf", "isPartOf"}),
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision reads the consumer's country from the signed trust list.",
            text="the consumer is established in {} (a country code, EU or EEA)",
            fact="country",
        ),
        LeftOperand(
            name="recipient",
            operators=frozenset({"eq", "isAnyOf", "isNoneOf"}),
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision compares the authenticated participant.",
            text="the consumer is {}",
            fact="recipient",
        ),
        LeftOperand(
            name="dsc:membership",
            operators=frozenset({"eq"}),
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision reads the consumer's status from the signed trust list.",
            text="the consumer's membership of the data space is {}",
            fact="membership",
            only=frozenset({"active"}),
        ),
        LeftOperand(
            name="dsc:role",
            operators=_SOME,
            value="words",
            enforcement=Enforcement.CONSUMER,
            where="The consumer's token names the role of the person who asks, and the decision compares it; "
            "that the person holds it is the consumer's word.",
            text="the person who asks has the role {}",
            fact="actor_role",
            later=BEFORE_USE,
        ),
        LeftOperand(
            name="dsc:legalBasis",
            operators=_SOME,
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision reads the legal basis from the dataset's descriptor.",
            text="the legal basis of the processing is {}",
            fact="legal_basis",
        ),
        LeftOperand(
            name="dsc:consentStatus",
            operators=_SOME,
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The provider's engine keeps only rows of subjects whose consent to this purpose and "
            "recipient is valid now, before anything else is computed.",
            text="only persons whose consent is {}",
            only=CONSENT_GIVEN,
            alternative=False,
        ),
        LeftOperand(
            name="dsc:minGroupSize",
            operators=frozenset({"gteq"}),
            value="number",
            enforcement=Enforcement.PROVIDER,
            where="The provider leaves out every group of fewer distinct persons before it answers.",
            text="every group in the answer has at least {} persons",
            alternative=False,
        ),
        LeftOperand(
            name="dsc:collaboration",
            operators=_SOME,
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision reads the members of the collaboration from the signed trust list.",
            text="the use is within the collaboration {}",
            fact="collaboration",
        ),
        LeftOperand(
            name="dsc:termsVersion",
            operators=frozenset({"eq"}),
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision compares the version of the terms that the agreement was made under.",
            text="the terms of use are version {}",
            fact="terms_version",
        ),
        LeftOperand(
            name="dsc:agreementRef",
            operators=frozenset({"eq"}),
            value="words",
            enforcement=Enforcement.PROVIDER,
            where="The decision reads from the signed trust list which rulebook the consumer has accepted.",
            text="the consumer has accepted the framework agreement {}",
            fact="agreement_ref",
        ),
    )
}

DUTIES: Mapping[str, ActionTerm] = {
    term.name: term
    for term in (
        ActionTerm(
            name="delete",
            enforcement=Enforcement.TRACKED,
            where="Recorded with its day at the consumer, which answers for it with a signed statement.",
            text="the consumer deletes what it received {}",
            has_term=True,
        ),
        ActionTerm(
            name="inform",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold.",
            text="the consumer informs the provider {}",
            has_term=True,
        ),
        ActionTerm(
            name="anonymize",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold.",
            text="the consumer makes what it keeps anonymous {}",
            has_term=True,
        ),
        ActionTerm(
            name="attribute",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold.",
            text="the consumer names the provider as the source",
        ),
        ActionTerm(
            name="obtainConsent",
            enforcement=Enforcement.PROVIDER,
            where="As dsc:consentStatus: rows of persons without valid consent do not leave the provider.",
            text="only persons who have consented",
        ),
        ActionTerm(
            name="dsc:log",
            enforcement=Enforcement.PROVIDER,
            where="The provider's audit log holds every decision before the first byte leaves.",
            text="every use is logged",
        ),
        ActionTerm(
            name="dsc:pseudonymise",
            enforcement=Enforcement.PROVIDER,
            where="The subject key leaves the provider as a pseudonym; an offer that shows it is refused.",
            text="persons are known by pseudonyms only",
        ),
    )
}

PROHIBITIONS: Mapping[str, ActionTerm] = {
    term.name: term
    for term in (
        ActionTerm(
            name="distribute",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold.",
            text="the consumer does not pass the data on",
        ),
        ActionTerm(
            name="dsc:reidentify",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold; pseudonyms and group sizes make it hard.",
            text="the consumer does not try to find out who a person is",
        ),
        ActionTerm(
            name="dsc:combine",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold; pseudonyms of two collaborations never match.",
            text="the consumer does not combine the data with other data",
        ),
        ActionTerm(
            name="dsc:trainModel",
            enforcement=Enforcement.DECLARED,
            where="In the agreement that both sides hold.",
            text="the consumer does not train models with the data",
        ),
    )
}

PERMITTED_ACTIONS = frozenset({"use"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """One constraint, duty or prohibition of a policy: its words, its class and where it is enforced."""

    path: str
    term: str
    text: str
    enforcement: Enforcement
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What keeps a policy from being published or accepted. `path` as in `permission[0].constraint[1]`."""

    path: str
    text: str
    mend: str


Finding = Classified | Problem


def classify(policy: Policy, trusts_consumer: bool) -> list[Classified]:
    """Who makes each part of `policy` hold. Raises RequestInvalid at the first part that nobody can."""
    found: list[Classified] = []
    for finding in examine(policy, trusts_consumer):
        if isinstance(finding, Problem):
            raise RequestInvalid(
                finding.text, where=finding.path, mend=finding.mend, code="policy_not_enforceable"
            )
        found.append(finding)
    return found


def problems(policy: Policy, trusts_consumer: bool) -> list[Problem]:
    """All that keeps `policy` from being published, for a message that names everything at once."""
    return [f for f in examine(policy, trusts_consumer) if isinstance(f, Problem)]


def examine(policy: Policy, trusts_consumer: bool) -> Iterator[Finding]:
    if not policy.permissions:
        yield Problem(path="permission", text="nothing is permitted", mend="Write at least one permission.")
    for at, rule in _numbered("permission", policy.permissions):
        yield from _permission(at, rule, trusts_consumer)
    for at, rule in _numbered("prohibition", policy.prohibitions):
        yield from _prohibition(at, rule)
    for at, rule in _numbered("obligation", policy.obligations):
        yield from _duty(at, rule)


def _permission(at: str, rule: Rule, trusts_consumer: bool) -> Iterator[Finding]:
    if rule.action not in PERMITTED_ACTIONS:
        yield _unknown(f"{at}.action", "permission's action", rule.action, PERMITTED_ACTIONS)
    for place, constraint in _numbered(f"{at}.constraint", rule.constraints):
        yield from _condition(place, constraint, trusts_consumer, depth=0, alternative=False)
    for place, duty in _numbered(f"{at}.duty", rule.duties):
        yield from _duty(place, duty)


def _condition(
    at: str, item: Constraint | LogicalConstraint, trusts_consumer: bool, *, depth: int, alternative: bool
) -> Iterator[Finding]:
    if isinstance(item, Constraint):
        yield _constraint(at, item, trusts_consumer, alternative)
        return
    if item.operator not in ("and", "or"):
        yield _unknown(at, "logical constraint", item.operator, ("and", "or"))
    elif not item.constraints:
        yield Problem(path=f"{at}.{item.operator}", text="nothing in it", mend="Name what it combines.")
    elif depth == MOST_NESTING:
        yield Problem(
            path=at,
            text=f"`{item.operator}` stands more than {MOST_NESTING} levels deep",
            mend="Write it flatter, or as several permissions.",
        )
    else:
        inner = alternative or item.operator == "or"
        for place, member in _numbered(f"{at}.{item.operator}", item.constraints):
            yield from _condition(place, member, trusts_consumer, depth=depth + 1, alternative=inner)


def _constraint(at: str, constraint: Constraint, trusts_consumer: bool, alternative: bool) -> Finding:
    term = OPERANDS.get(constraint.left_operand)
    if term is None:
        return _unknown(f"{at}.leftOperand", "constraint", constraint.left_operand, OPERANDS)
    if constraint.operator not in term.operators:
        return _unknown(f"{at}.operator", f"operator of {term.name}", constraint.operator, term.operators)
    try:
        shown = value_in_words(term, constraint)
    except ValueError as error:
        return Problem(
            path=f"{at}.rightOperand",
            text=f"{term.name}: {error}",
            mend=f"Give {term.value} as docs/policy-vocabulary.md shows.",
        )
    if alternative and not term.alternative:
        return Problem(
            path=at,
            text=f"{term.name} stands under `or`, but it bounds the whole answer and is no alternative",
            mend="Write two permissions instead.",
        )
    if term.enforcement is Enforcement.CONSUMER and not trusts_consumer:
        return Problem(
            path=at,
            text=f"{term.name} rests on the consumer's word, and this offer does not trust the consumer",
            mend="Set trustsConsumer: true, or take the constraint out.",
        )
    return Classified(
        path=at,
        term=term.name,
        text=term.text.format(shown),
        enforcement=term.enforcement,
        where=term.where,
    )


def value_in_words(term: LeftOperand, constraint: Constraint) -> str:
    """The right operand as people read it. Raises ValueError where it does not suit the left one."""
    read = getattr(operands, term.value)(constraint.right_operand)
    if term.value == "words":
        if term.only and not set(read) <= term.only:
            raise ValueError(f"only {' or '.join(sorted(term.only))} can be enforced")
        return f"{'none of ' if constraint.operator == 'isNoneOf' else ''}{', '.join(read)}"
    if term.value == "number":
        return str(read)
    return f"{_SIGNS[term.value][constraint.operator]} {as_written(constraint.right_operand)}"


def as_written(right_operand: object) -> str:
    """A single value without its type."""
    return str(right_operand["@value"] if isinstance(right_operand, dict) else right_operand)


_SIGNS: Mapping[str, Mapping[str, str]] = {
    "instant": {"lt": "before", "lteq": "until", "gt": "after", "gteq": "from"},
    "duration": {"lt": "less than", "lteq": "at most"},
}


def _prohibition(at: str, rule: Rule) -> Iterator[Finding]:
    term = PROHIBITIONS.get(rule.action)
    if term is None:
        yield _unknown(f"{at}.action", "prohibition", rule.action, PROHIBITIONS)
        return
    if rule.constraints or rule.duties:
        yield Problem(
            path=at,
            text=f"the prohibition of {term.name} has constraints or duties, which nobody could check",
            mend="Prohibit it wholly, or not at all.",
        )
        return
    yield Classified(path=at, term=term.name, text=term.text, enforcement=term.enforcement, where=term.where)


def _duty(at: str, rule: Rule) -> Iterator[Finding]:
    term = DUTIES.get(rule.action)
    if term is None:
        yield _unknown(f"{at}.action", "duty", rule.action, DUTIES)
        return
    try:
        within = duty_term(rule)
    except ValueError as error:
        yield Problem(path=at, text=f"{term.name}: {error}", mend="Give one elapsedTime, or no constraint.")
        return
    text = term.text.format(f"within {within[1]}" if within else "when the agreement ends")
    yield Classified(path=at, term=term.name, text=text, enforcement=term.enforcement, where=term.where)


def duty_term(rule: Rule) -> tuple[operands.Duration, str] | None:
    """The time a duty leaves, counted from the disclosure, as a value and as it was written.

    Raises ValueError where the duty is constrained in any other way.
    """
    if rule.duties:
        raise ValueError("a duty with duties of its own")
    if not rule.constraints:
        return None
    only = rule.constraints[0]
    if not DUTIES[rule.action].has_term or len(rule.constraints) > 1 or not isinstance(only, Constraint):
        raise ValueError("its constraint cannot be checked")
    if only.left_operand != "elapsedTime" or only.operator not in ("lteq", "lt"):
        raise ValueError(f"a duty's term is `elapsedTime lteq`, not `{only.left_operand} {only.operator}`")
    return operands.duration(only.right_operand), as_written(only.right_operand)


_Item = TypeVar("_Item")


def _numbered(at: str, items: tuple[_Item, ...]) -> Iterator[tuple[str, _Item]]:
    for index, item in enumerate(items):
        yield f"{at}[{index}]", item


def _unknown(
    at: str, what: str, name: str, known: Mapping[str, object] | frozenset[str] | tuple[str, ...]
) -> Problem:
    return Problem(
        path=at,
        text=f"no {what} {name!r} has an enforcement class here",
        mend=f"Use one of: {', '.join(sorted(known))}.",
    )


# --- docs/policy-vocabulary.md -----------------------------------------------------------------------

_INTRODUCTION = """# Policy vocabulary

What an offer may say in ODRL, who makes it hold, and where. A term, operator or value that is not here is
refused when the offer is published or accepted, by its name.

| class | what it means |
|---|---|
| provider | holds against a hostile consumer: the data does not leave the provider otherwise |
| consumer | rests on the consumer's connector or word; only in offers with `trustsConsumer: true` |
| tracked | a signed acknowledgement is collected |
| declared | binding by the agreement, beyond what software can enforce |

A permission's action is `use`. Constraints combine with `and` and `or`, at most two levels deep; `xone` and
`andSequence` are refused. Values are strings, `{"@value": "5", "@type": "xsd:integer"}` or lists of strings:
DSP knows no bare numbers. Prohibitions take no constraints; a duty takes one `elapsedTime lteq` where the
table says so, counted from the disclosure.

*Printed from `connector/access/vocabulary.py` by `python -m connector.access.vocabulary`; a test compares.*
"""


def as_markdown() -> str:
    """docs/policy-vocabulary.md as it has to be."""
    lines = [_INTRODUCTION, "## Constraints of a permission", ""]
    lines += ["| left operand | operators | value | says that | class | where |", "|---|---|---|---|---|---|"]
    for term in OPERANDS.values():
        operators = ", ".join(sorted(term.operators))
        value = " or ".join(f"`{v}`" for v in sorted(term.only)) or term.value
        says = term.text.format("*value*")
        lines.append(
            f"| `{term.name}` | {operators} | {value} | {says} | {term.enforcement} | {term.where} |"
        )
    for title, terms in (("Duties and obligations", DUTIES), ("Prohibitions", PROHIBITIONS)):
        lines += ["", f"## {title}", "", "| action | says that | class | where |", "|---|---|---|---|"]
        for action in terms.values():
            says = action.text.format("within its term").strip()
            lines.append(f"| `{action.name}` | {says} | {action.enforcement} | {action.where} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
