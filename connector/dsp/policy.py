"""ODRL as DSP's messages carry it (DSP 2025-1, contract-schema): wire objects <-> connector.model.policy.

The wire object is kept beside the parsed form: an agreement echoes the offer, and both sides must hold
the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from connector.dsp.wire import Fields, canonical, sha256_hex
from connector.model.json import JsonObject, from_rfc3339, to_rfc3339
from connector.model.policy import PROFILE, Agreement, Constraint, LogicalConstraint, Offer, Policy, Rule

OPERATORS = (
    *("eq", "neq", "gt", "gteq", "lt", "lteq", "hasPart", "isA"),
    *("isAllOf", "isAnyOf", "isNoneOf", "isPartOf", "term-lteq"),
)
LOGICAL_OPERATORS = ("and", "or", "xone", "andSequence")
RULES = ("permission", "prohibition", "obligation")
POLICY_PART = ("profile", *RULES)
"""The members that say what is agreed; the rest says between whom, about what and when."""

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
"""xsd:dateTime with an offset; Python's own reader takes other ISO 8601 forms as well."""

ODRL_PREFIXES = ("odrl:", "http://www.w3.org/ns/odrl/2/")
"""What a term of ODRL may carry in front: peers that read the messages as JSON-LD write some terms out."""

_FRAME = frozenset({"@id", "@type", "target", "assigner", "assignee", "timestamp"})
_OUR_PREFIX = "dsc:"
_TERMS = frozenset({"action", "leftOperand"})


# --- wire -> model -------------------------------------------------------------------------------------


def parse_policy(fields: Fields) -> Policy:
    """The rules of an Offer or Agreement. Raises MessageInvalid naming the path."""
    if "permission" not in fields and "prohibition" not in fields:
        fields.invalid("permission", "is required where there is no prohibition")
    _check_profile(fields)
    return Policy(
        permissions=_rules(fields, "permission"),
        prohibitions=_rules(fields, "prohibition"),
        obligations=_rules(fields, "obligation"),
    )


def parse_offer(fields: Fields, *, needs_target: bool = False) -> Offer:
    """The Offer of a negotiation message (`MessageOffer`)."""
    fields.constant("@type", "Offer")
    return Offer(
        id=fields.identifier("@id"),
        target=fields.identifier("target") if needs_target or "target" in fields else None,
        policy=parse_policy(fields),
        document=fields.document,
    )


def parse_catalog_offer(fields: Fields) -> Offer:
    """The Offer of a Dataset in a catalogue: its target is the dataset around it, and must not be named."""
    if "@type" in fields:
        fields.constant("@type", "Offer")
    if "target" in fields:
        fields.invalid("target", "is not allowed in a catalogue")
    return Offer(
        id=fields.identifier("@id"), target=None, policy=parse_policy(fields), document=fields.document
    )


def parse_agreement(fields: Fields) -> Agreement:
    fields.constant("@type", "Agreement")
    return Agreement(
        id=fields.identifier("@id"),
        target=fields.identifier("target"),
        assigner=fields.identifier("assigner"),
        assignee=fields.identifier("assignee"),
        timestamp=_instant(fields, "timestamp"),
        policy=parse_policy(fields),
        document=fields.document,
    )


def _check_profile(fields: Fields) -> None:
    profile = fields.document.get("profile", "")
    names = profile if isinstance(profile, list) else [profile]
    if not all(isinstance(name, str) for name in names):
        fields.invalid("profile", "must be a string or an array of strings")


def _instant(fields: Fields, name: str) -> datetime:
    text = fields.text(name)
    if not _INSTANT.fullmatch(text):
        fields.invalid(name, "must be an xsd:dateTime with its offset from UTC")
    try:
        return from_rfc3339(text)
    except ValueError:
        fields.invalid(name, "must be a day and hour that exist")


def _rules(fields: Fields, name: str) -> tuple[Rule, ...]:
    return tuple(_rule(item) for item in fields.objects(name))


def _rule(fields: Fields) -> Rule:
    return Rule(
        action=short_term(fields.text("action")),
        constraints=tuple(_constraint(c) for c in fields.objects("constraint", at_least=0)),
        duties=_rules(fields, "duty"),
    )


def _constraint(fields: Fields) -> Constraint | LogicalConstraint:
    logical = [name for name in LOGICAL_OPERATORS if name in fields]
    if not logical:
        return _atomic_constraint(fields)
    if len(logical) > 1 or "leftOperand" in fields:
        fields.invalid(logical[0], "must be the only operator of its constraint")
    (name,) = logical
    return LogicalConstraint(operator=name, constraints=tuple(_constraint(c) for c in fields.objects(name)))


def _atomic_constraint(fields: Fields) -> Constraint:
    right = fields.document.get("rightOperand")
    if not isinstance(right, str | dict | list):
        fields.invalid("rightOperand", "must be a string, an object or an array")
    return Constraint(
        left_operand=short_term(fields.text("leftOperand")),
        operator=fields.one_of("operator", OPERATORS),
        right_operand=right,
    )


def short_term(name: str) -> str:
    """`purpose` for `odrl:purpose`: one and the same term. The wire object keeps what was written."""
    return next((name.removeprefix(p) for p in ODRL_PREFIXES if name.startswith(p)), name)


# --- model -> wire -------------------------------------------------------------------------------------


def render_policy(policy: Policy) -> dict[str, Any]:
    """The policy part. Our profile is named where a term of ours is used, and only there."""
    rules = {
        "permission": policy.permissions,
        "prohibition": policy.prohibitions,
        "obligation": policy.obligations,
    }
    part: dict[str, Any] = {"profile": PROFILE} if uses_our_terms(policy) else {}
    part.update({name: [_render_rule(r) for r in held] for name, held in rules.items() if held})
    return part


def render_offer(offer_id: str, policy: Policy, *, target: str | None = None) -> JsonObject:
    frame = {"@id": offer_id, "@type": "Offer"}
    return {**frame, **({"target": target} if target is not None else {}), **render_policy(policy)}


def offer_for(document: JsonObject, target: str) -> JsonObject:
    """A catalogue's Offer as a negotiation message carries it."""
    return {**document, "@type": "Offer", "target": target}


def with_rules(offer: JsonObject, rules: JsonObject) -> JsonObject:
    """`offer` with the lists of rules that `rules` has in place of its own; an empty one is left out. Our
    profile is named where a term of ours comes in. Raises MessageInvalid."""
    changed = {k: v for k, v in {**offer, **rules}.items() if k not in RULES or v}
    if uses_our_terms(parse_policy(Fields(changed, "offer"))):
        changed["profile"] = sorted(_profiles(changed) | {PROFILE})
    return changed


def render_agreement(
    offer: JsonObject, *, agreement_id: str, target: str, assigner: str, assignee: str, timestamp: datetime
) -> JsonObject:
    """The Agreement that echoes `offer`: its rules stay exactly as they came."""
    return {
        **offer,
        "@id": agreement_id,
        "@type": "Agreement",
        "target": target,
        "assigner": assigner,
        "assignee": assignee,
        "timestamp": to_rfc3339(timestamp),
    }


def uses_our_terms(policy: Policy) -> bool:
    """Whether it holds an action or a left operand of our profile."""
    pending = [*policy.permissions, *policy.prohibitions, *policy.obligations]
    while pending:
        rule = pending.pop()
        pending.extend(rule.duties)
        terms = [rule.action, *(leaf.left_operand for leaf in rule.leaves())]
        if any(term.startswith(_OUR_PREFIX) for term in terms):
            return True
    return False


def _render_rule(rule: Rule) -> dict[str, Any]:
    wire: dict[str, Any] = {"action": rule.action}
    if rule.constraints:
        wire["constraint"] = [_render_constraint(c) for c in rule.constraints]
    if rule.duties:
        wire["duty"] = [_render_rule(d) for d in rule.duties]
    return wire


def _render_constraint(constraint: Constraint | LogicalConstraint) -> dict[str, Any]:
    if isinstance(constraint, LogicalConstraint):
        return {constraint.operator: [_render_constraint(c) for c in constraint.constraints]}
    return {
        "leftOperand": constraint.left_operand,
        "operator": constraint.operator,
        "rightOperand": constraint.right_operand,
    }


# --- comparing -----------------------------------------------------------------------------------------


def same_rules(one: JsonObject, other: JsonObject) -> bool:
    """Whether two policy objects say the same: equal rules in any order, equal profiles, nothing beside them.

    Members that neither DSP nor the other object has could mean anything: they are a difference.
    """
    return _comparable(_in_short(one)) == _comparable(_in_short(other))


def narrows(ours: JsonObject, theirs: JsonObject) -> bool:
    """Whether `theirs` permits nothing beyond `ours`, as far as that shows without weighing operands: every
    permission is one of ours with, at most, more constraints and duties; every prohibition and obligation of
    ours is there. What DSP does not know must be as in ours.
    """
    ours, theirs = _in_short(ours), _in_short(theirs)
    beside = [{k: v for k, v in d.items() if k not in _FRAME | {*POLICY_PART}} for d in (ours, theirs)]
    profiles = [_profiles(d) for d in (ours, theirs)]
    return (
        beside[0] == beside[1]
        and profiles[0] <= profiles[1] <= profiles[0] | {PROFILE}
        and bool(theirs.get("permission"))
        and all(
            any(_narrows_rule(our, their) for our in ours.get("permission", ()))
            for their in theirs["permission"]
        )
        and all(_holds_all(ours, theirs, name) for name in ("prohibition", "obligation"))
    )


def rules_of(document: JsonObject) -> JsonObject:
    """Its lists of rules, and nothing beside them."""
    return {name: document[name] for name in RULES if name in document}


def policy_hash(document: JsonObject) -> str:
    """SHA-256 over the RFC 8785 form of the policy part, hex: equal on both sides of an agreement."""
    return sha256_hex({name: document[name] for name in POLICY_PART if name in document})


def _comparable(document: JsonObject) -> Mapping[str, object]:
    parts: dict[str, object] = {k: canonical(v) for k, v in document.items() if k not in _FRAME}
    profile = document.get("profile", [])
    parts["profile"] = sorted(profile) if isinstance(profile, list) else [profile]
    for name in RULES:
        parts[name] = sorted(canonical(rule) for rule in document.get(name, ()))
    return parts


def _in_short(value: Any, name: str = "") -> Any:
    """Its terms of ODRL without prefixes. Right operands are values, not terms: they stay."""
    if isinstance(value, Mapping) and name != "rightOperand":
        return {k: _in_short(v, k) for k, v in value.items()}
    if isinstance(value, list) and name != "rightOperand":
        return [_in_short(item, name) for item in value]
    return short_term(value) if name in _TERMS and isinstance(value, str) else value


def _profiles(document: JsonObject) -> frozenset[str]:
    profile = document.get("profile", [])
    return frozenset(profile if isinstance(profile, list) else [profile])


def _narrows_rule(ours: JsonObject, theirs: JsonObject) -> bool:
    more = ("constraint", "duty")
    rest = [{k: v for k, v in rule.items() if k not in more} for rule in (ours, theirs)]
    return rest[0] == rest[1] and all(_holds_all(ours, theirs, name) for name in more)


def _holds_all(ours: JsonObject, theirs: JsonObject, name: str) -> bool:
    held = {canonical(item) for item in theirs.get(name, ())}
    return all(canonical(item) in held for item in ours.get(name, ()))
