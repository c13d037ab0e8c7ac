"""The offers of a descriptor: ODRL exactly as DSP has it, and the exposure that the provider enforces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

from connector.access import vocabulary
from connector.access.decision import IDENTIFIER
from connector.access.decision_document import DocumentInvalid, mask_problem, read_mask
from connector.access.purposes import PurposeTree
from connector.adapters.descriptor_members import Members, Problems
from connector.adapters.yaml_tree import Node
from connector.dsp.policy import parse_policy
from connector.dsp.wire import Fields
from connector.errors import MessageInvalid
from connector.model.catalog import Exposure, Field, Gdpr, OfferTerms, PreviousTerms
from connector.model.policy import DSC_COLLABORATION, DSC_CONSENT_STATUS, Policy

SMALLEST_GROUP = 3
DEFAULT_GROUP = 5

OFFER_MEMBERS = (
    *("id", "termsVersion", "previousTerms", "approval", "approver", "collaboration", "keyExchange"),
    *("subjectsNamed", "aggregateOnly", "dimensions", "minGroupSize", "maxRows", "trustsConsumer"),
    *("policies", "columns"),
    *("permission", "prohibition", "obligation"),
)
_RULE = frozenset({"action", "constraint", "duty"})
_CONSTRAINT = frozenset({"leftOperand", "operator", "rightOperand", "and", "or", "xone", "andSequence"})
_SLUG = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VERSION = re.compile(r"\d+(\.\d+){0,2}", re.ASCII)


class OfferReader:
    """The offers of one dataset, each against its columns, its data protection and the vocabulary."""

    def __init__(
        self,
        fields: Sequence[Field],
        gdpr: Gdpr,
        subject_key: str,
        problems: Problems,
        policies: frozenset[str],
        purposes: PurposeTree,
    ) -> None:
        self._fields = {f.name: f for f in fields}
        self._gdpr = gdpr
        self._subject_key = subject_key
        self._problems = problems
        self._policies = policies
        self._purposes = purposes

    def read(self, offer: Members) -> OfferTerms:
        aggregate_only = offer.flag("aggregateOnly", False)
        approval = offer.choice("approval", ("manual", "automatic"), "manual")
        terms = OfferTerms(
            id=offer.text("id", pattern=_SLUG),
            terms_version=offer.text("termsVersion", pattern=_VERSION),
            policy=self._policy(offer),
            columns=self._columns(offer),
            approval=cast("Literal['automatic', 'manual']", approval),
            approver=offer.text("approver", None if approval == "manual" else ""),
            collaboration=offer.text("collaboration", "", pattern=_SLUG),
            key_exchange=offer.flag("keyExchange", False),
            subjects_named=offer.flag("subjectsNamed", False),
            aggregate_only=aggregate_only,
            dimensions=offer.texts("dimensions"),
            min_group_size=offer.whole("minGroupSize", least=1) or (DEFAULT_GROUP if aggregate_only else 1),
            trusts_consumer=offer.flag("trustsConsumer", False),
            max_rows=offer.whole("maxRows", least=1),
            policies=offer.texts("policies", allowed=self._policies),
            previous=tuple(_previous(offer)),
        )
        self._check_exposure(offer, terms)
        self._check_policy(offer, terms)
        return terms

    # columns

    def _columns(self, offer: Members) -> Mapping[str, Exposure]:
        columns = offer.object("columns", tuple(self._fields))
        found: dict[str, Exposure] = {}
        for name, node in columns.members.items():
            if name in self._fields:
                exposure = self._exposure(node, self._fields[name])
                if exposure is not None:
                    found[name] = exposure
        if "columns" in offer and not columns.members:
            offer.wrong("columns", "there is none", "An offer shows at least one column.")
        return found

    def _exposure(self, node: Node, field: Field) -> Exposure | None:
        at = f"columns: {field.name}"
        if node.value == "clear" or (node.value == "pseudonym" and field.type == "string"):
            return cast("Exposure", node.value)
        if node.value == "pseudonym":
            self._problems.add(node.line, f"{at}: a pseudonym is text, the column is not", "Mask or drop it.")
            return None
        if not isinstance(node.value, dict) or "mask" not in node.value or "kind" in node.value:
            mend = "Write clear, pseudonym, or {mask: truncate, length: 3}."
            self._problems.add(node.line, f"{at}: no exposure that is known here", mend)
            return None
        plain = node.plain
        try:
            mask = read_mask({"kind": plain.pop("mask"), **plain})
        except DocumentInvalid as error:
            problem = str(error).removeprefix("column_masks: ")
        else:
            problem = mask_problem(mask, field.type)
            if not problem:
                return mask
        self._problems.add(node.line, f"{at}: {problem}", "docs/descriptors.md lists the masks.")
        return None

    def _check_exposure(self, offer: Members, terms: OfferTerms) -> None:
        columns = Members(
            offer.members.get("columns", offer.node), Problems(""), tuple(self._fields), "columns"
        )
        for name, text, mend in self._exposure_problems(terms):
            line = columns.line(name) if name in columns else offer.line(name)
            self._problems.add(line, f"{offer.what}: {name}: {text}", mend)

    def _exposure_problems(self, terms: OfferTerms) -> Iterator[tuple[str, str, str]]:
        """(column or member, what is wrong, the mend)."""
        key = self._subject_key
        shown = terms.columns.get(key)
        if key and shown == "clear" and self._gdpr.personal_data and not terms.subjects_named:
            yield key, "the subject key is shown in the clear", "Write pseudonym, or subjectsNamed: true."
        if key and getattr(shown, "kind", "") in ("truncate", "bucket") and self._gdpr.personal_data:
            yield key, "a part of a personal id is shown", "Write pseudonym, or {mask: hash}."
        if terms.subjects_named and (not key or shown not in ("clear", "pseudonym")):
            yield "subjectsNamed", "requests name persons by the subject key", "Open that column."
        if terms.key_exchange and shown != "pseudonym":
            yield "keyExchange", "there is no pseudonym to exchange", "Write pseudonym for the subject key."
        yield from self._aggregate_problems(terms)

    def _aggregate_problems(self, terms: OfferTerms) -> Iterator[tuple[str, str, str]]:
        for name in terms.dimensions:
            if terms.columns.get(name) in (None, "pseudonym"):
                yield "dimensions", f"{name!r} is no column to group by", "Name columns that the offer opens."
        if not terms.aggregate_only:
            if terms.dimensions:
                yield "dimensions", "only offers that aggregate have them", "Write aggregateOnly: true."
            return
        if not terms.dimensions:
            yield "aggregateOnly", "there are no dimensions", "Name the columns to group by."
        if self._gdpr.personal_data and terms.min_group_size < SMALLEST_GROUP:
            yield "minGroupSize", "too small to hide a person", f"Give at least {SMALLEST_GROUP}."
        for name, exposure in terms.columns.items():
            names_persons = name == self._subject_key or self._fields[name].classification == IDENTIFIER
            if names_persons and exposure != "pseudonym":
                mend = "Leave it out, or write pseudonym: then persons can be counted, and are not shown."
                yield name, "groups do not show who is in them", mend

    # ODRL

    def _policy(self, offer: Members) -> Policy:
        rules = {n: offer.members[n] for n in ("permission", "prohibition", "obligation") if n in offer}
        for name, node in rules.items():
            self._refuse_unknown_members(node, f"{offer.what}.{name}")
        if "permission" not in offer:
            offer.wrong("permission", "is missing", "Say what the offer permits.")
            return Policy()
        try:
            return parse_policy(Fields({name: node.plain for name, node in rules.items()}))
        except MessageInvalid as error:
            line = offer.node.line_at(_path(error.where))
            mend = "Write it exactly as DSP does; docs/descriptors.md has examples."
            self._problems.add(line, f"{offer.what}.{error.message}", mend)
            return Policy()

    def _refuse_unknown_members(self, node: Node, what: str) -> None:
        """A misspelt `constraint` would be a permission without one."""
        for item in node.value if isinstance(node.value, list) else ():
            members = item.value if isinstance(item.value, dict) else {}
            known = _RULE if "action" in members or not members.keys() & _CONSTRAINT else _CONSTRAINT
            for key in members.keys() - known:
                mend = f"Known are: {', '.join(sorted(known))}."
                self._problems.add(item.keys[key], f"{what}: no {key!r} in a rule", mend)
            for key in members.keys() & ({"constraint", "duty", "and", "or", "xone", "andSequence"}):
                self._refuse_unknown_members(members[key], f"{what}.{key}")

    def _check_policy(self, offer: Members, terms: OfferTerms) -> None:
        if not terms.policy.permissions:
            return
        found = vocabulary.problems(terms.policy, terms.trusts_consumer)
        for problem in found:
            line = offer.node.line_at(_path(problem.path))
            self._problems.add(line, f"{offer.what}.{problem.path}: {problem.text}", problem.mend)
        for name, text, mend in () if found else self._policy_problems(terms):
            self._problems.add(offer.line(name), f"{offer.what}.{name}: {text}", mend)

    def _policy_problems(self, terms: OfferTerms) -> Iterator[tuple[str, str, str]]:
        policy = terms.policy
        if self._gdpr.personal_data:
            yield from self._purpose_problems(policy)
        if self._needs_consent(policy) and not self._subject_key:
            yield "permission", "consent is asked for, and no column says whose", "Name the subjectKey."
        if "dsc:pseudonymise" in _duties(policy) and terms.columns.get(self._subject_key) == "clear":
            yield (
                "obligation",
                "dsc:pseudonymise, and the subject key in the clear",
                "Write pseudonym for it.",
            )
        named = policy.values_of(DSC_COLLABORATION)
        if named and named != {terms.collaboration}:
            yield "permission", f"{DSC_COLLABORATION} is not the offer's collaboration", "Name the same one."

    def _purpose_problems(self, policy: Policy) -> Iterator[tuple[str, str, str]]:
        for rule in policy.permissions:
            if not any(leaf.left_operand == "purpose" for leaf in rule.leaves()):
                yield "permission", "personal data is permitted for any purpose", "Add a purpose constraint."
        for purpose in sorted(policy.values_of("purpose")):
            if purpose not in self._purposes:
                known = ", ".join(sorted(self._purposes.parents))
                yield "permission", f"there is no purpose {purpose!r}", f"Known are: {known}."
            elif not any(self._purposes.covers(wider, purpose) for wider in self._gdpr.purposes):
                mend = "Name it there, or take it out of the offer."
                yield "permission", f"the purpose {purpose!r} is not among gdpr.purposes", mend

    def _needs_consent(self, policy: Policy) -> bool:
        asked = policy.values_of(DSC_CONSENT_STATUS) or "obtainConsent" in _duties(policy)
        return bool(asked) or self._gdpr.disclosure_basis.startswith("consent")


def _previous(offer: Members) -> Iterator[PreviousTerms]:
    seen = {offer.text("termsVersion", "")}
    for item in offer.objects("previousTerms", ("termsVersion", "sunset")):
        version, sunset = item.text("termsVersion", pattern=_VERSION), item.instant("sunset")
        if "sunset" not in item:
            item.wrong("sunset", "is missing", "Say from which day on agreements under it give nothing.")
        if version in seen:
            item.wrong("termsVersion", f"{version!r} stands here already", "Name each earlier one once.")
        seen.add(version)
        if sunset is not None:
            yield PreviousTerms(terms_version=version, sunset=sunset)


def _duties(policy: Policy) -> frozenset[str]:
    inner = (duty.action for rule in policy.permissions for duty in rule.duties)
    return frozenset([*inner, *(rule.action for rule in policy.obligations)])


def _path(dotted: str) -> list[str | int]:
    """`permission[0].constraint[1]` as steps."""
    return [int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", dotted)]
