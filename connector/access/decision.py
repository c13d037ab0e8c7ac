"""Stage 2 of the data's way: policy and descriptor -> Permit(obligations) or Deny(reasons).

1 terms      the agreement's own, or the offer's before there is one
2 input      one document, nothing missing                          access/decision_input.py
3 policies   dataspace.odrl, dataspace.baseline, the operator's     ports.PolicyEngine
4 documents  what each answered, read without mercy                 access/decision_document.py
5 exposure   the descriptor's own permit for these terms
6 together   everything intersects; what is left is looked at once more

Consent is not looked up here: a permit names the requirement, and the data plane applies it as a set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from connector.access.decision_document import (
    DocumentInvalid,
    Fields,
    fields_of,
    imposed,
    mask_problem,
    read_document,
)
from connector.access.decision_input import Circumstances, DecisionRequest, decision_input, exposure_name
from connector.access.purposes import PurposeTree
from connector.access.vocabulary import Stage, classify
from connector.errors import PolicyUnavailable, Reason, RequestInvalid, Unavailable
from connector.model.catalog import Dataset, OfferTerms
from connector.model.decision import (
    Decision,
    Deny,
    Drop,
    Limits,
    Mask,
    Permit,
    Pseudonym,
    Revisions,
    intersect,
)
from connector.model.json import JsonObject
from connector.model.participant import Collaboration
from connector.model.policy import Enforcement
from connector.ports import Clock, PolicyEngine, TrustRegistry

__all__ = ["Decider", "DecisionRequest", "Explained", "Stage"]

_log = logging.getLogger(__name__)

ODRL = "dataspace.odrl"
BASELINE = "dataspace.baseline"
OPERATORS = "dataspace.policies"
"""The package below which a participant's own policies live, each by its name."""

UNDECIDED = frozenset({"policy_unavailable", "policy_not_approved", "trust_unavailable"})
"""Codes of denials that say nothing about who asks: a part of ours does not answer."""

APPLIED_LIMITS = frozenset({"max_rows", "max_bytes"})
"""The limits that the data plane applies. A permit with another one is a denial: it would not hold."""

IDENTIFIER = "identifier"
"""The ODCS `classification` of a column that names a person by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One line of `explain`: a part of an offer, who makes it hold, and where."""

    offer: str
    path: str
    text: str
    enforcement: Enforcement
    who: str
    where: str


class Decider:
    """Decides for one provider. Holds no state: every decision looks at the world as it is now."""

    def __init__(
        self,
        engine: PolicyEngine,
        trust: TrustRegistry,
        clock: Clock,
        participant_id: str,
        purposes: PurposeTree,
    ) -> None:
        self._engine = engine
        self._trust = trust
        self._clock = clock
        self._participant_id = participant_id
        self._purposes = purposes

    async def decide(self, request: DecisionRequest) -> Decision:
        """Never raises what can be said as a denial; anything unknown, missing or failing is one."""
        terms = request.terms_in_force
        try:
            stage = Stage(request.stage)
        except ValueError:
            return _deny("stage_unknown", "this is no stage at which data may be had")
        if terms is None:
            return _deny("terms_missing", "there are no terms under which this could be permitted")
        try:
            known = self._circumstances(request, terms)
            document = decision_input(replace(request, stage=stage), terms, known)
            answers, revision = await self._ask(document, request.dataset, terms)
        except PolicyUnavailable:
            if not self._engine.revision:
                return _deny("policy_not_approved", "nobody has approved the provider's policies yet")
            return _deny("policy_unavailable", "the provider's policies cannot be evaluated now")
        except Unavailable:
            return _deny("trust_unavailable", "the provider does not know now who takes part")
        except RequestInvalid as error:
            return _deny("policy_not_enforceable", f"the agreement's policy cannot be enforced: {error}")
        decision = intersect([*answers, self._exposure(request, terms, known)])
        return self._settled(decision, request, terms, known, _revisions(request, revision))

    def explain(self, dataset: Dataset) -> list[Explained]:
        """Per offer every constraint, duty, prohibition and exposure: its class, who, and where."""
        return [line for terms in dataset.offers for line in self._explain_offer(dataset, terms)]

    # --- 2, 3 and 4 ----------------------------------------------------------------------------------

    def _circumstances(self, request: DecisionRequest, terms: OfferTerms) -> Circumstances:
        trust_list = self._trust.current()
        held = request.collaboration or trust_list.collaborations.get(terms.collaboration)
        return Circumstances(
            now=self._clock.now(),
            participant_id=self._participant_id,
            purposes=self._purposes,
            consumer=trust_list.participants.get(request.consumer.id),
            collaboration=held if held is not None and held.id == terms.collaboration else None,
        )

    async def _ask(
        self, document: JsonObject, dataset: Dataset, terms: OfferTerms
    ) -> tuple[Sequence[Decision], str]:
        """What each policy answers, all at one revision."""
        packages = (ODRL, BASELINE, *policy_packages(dataset, terms))
        while True:
            revision = self._engine.revision
            documents = await self._engine.evaluate(packages, document)
            if revision == self._engine.revision:
                break
        fields = fields_of(dataset.fields)
        return [
            _read(documents.get(name), name, fields, _source(name, document)) for name in packages
        ], revision

    # --- 5 -------------------------------------------------------------------------------------------

    def _exposure(self, request: DecisionRequest, terms: OfferTerms, known: Circumstances) -> Permit:
        """What the descriptor itself opens under these terms. Columns that it does not name do not exist."""
        fields = fields_of(request.dataset.fields)
        shown = {name: exposure for name, exposure in terms.columns.items() if name in fields}
        pseudonym = self._pseudonym(request, terms, known.collaboration)
        pseudonyms = {name: pseudonym for name, exposure in shown.items() if exposure == "pseudonym"}
        owner = known.collaboration is not None and known.collaboration.owns_a_register(request.consumer.id)
        permit = Permit(
            columns=frozenset(shown),
            column_masks=_masks(terms, fields),
            pseudonyms=pseudonyms,
            min_group_size=terms.min_group_size,
            aggregate_only=terms.aggregate_only,
            dimensions=frozenset(d for d in terms.dimensions if d in shown),
            subjects_named=terms.subjects_named,
            key_exchange=terms.key_exchange,
            identified=owner and bool(pseudonyms) and not terms.aggregate_only,
            limits=Limits(max_rows=terms.max_rows),
        )
        return replace(permit, enforced_by=imposed(permit, f"offer {terms.id}", fields))

    def _pseudonym(
        self, request: DecisionRequest, terms: OfferTerms, collaboration: Collaboration | None
    ) -> Pseudonym:
        """Outside a collaboration every agreement is a domain of its own."""
        if terms.collaboration:
            generation = collaboration.generation if collaboration else 0
            return Pseudonym(domain=terms.collaboration, generation=generation, invertible=terms.key_exchange)
        agreement = request.agreement.agreement.id if request.agreement else ""
        return Pseudonym(domain=f"agreement:{agreement}", generation=1, invertible=terms.key_exchange)

    # --- 6 -------------------------------------------------------------------------------------------

    def _settled(
        self,
        decision: Decision,
        request: DecisionRequest,
        terms: OfferTerms,
        known: Circumstances,
        revisions: Revisions,
    ) -> Decision:
        if isinstance(decision, Deny):
            return replace(decision, revisions=revisions)
        if reasons := tuple(_left_to_refuse(decision, request, terms, known)):
            return Deny(reasons=reasons, revisions=revisions)
        identified = decision.identified or _shows_identifiers(decision, request.dataset)
        return replace(decision, identified=identified, revisions=revisions)

    # --- explanations --------------------------------------------------------------------------------

    def _explain_offer(self, dataset: Dataset, terms: OfferTerms) -> list[Explained]:
        who = {
            Enforcement.PROVIDER: self._participant_id,
            Enforcement.CONSUMER: "the consumer",
            Enforcement.TRACKED: "the consumer, who signs for it",
            Enforcement.DECLARED: "nobody: it binds by the agreement",
        }
        lines = [
            Explained(
                offer=terms.id,
                path=item.path,
                text=item.text,
                enforcement=item.enforcement,
                who=who[item.enforcement],
                where=item.where,
            )
            for item in classify(terms.policy, terms.trusts_consumer)
        ]
        own = [*_explain_exposure(dataset, terms), *_explain_policies(dataset, terms)]
        lines += [
            Explained(
                offer=terms.id,
                path=path,
                text=text,
                enforcement=Enforcement.PROVIDER,
                who=self._participant_id,
                where=where,
            )
            for path, text, where in own
        ]
        return lines


def policy_packages(dataset: Dataset, terms: OfferTerms) -> tuple[str, ...]:
    """The operator's own packages for this use: today's of the dataset, and those of the terms."""
    names = dict.fromkeys([*dataset.policies, *terms.policies])
    return tuple(f"{OPERATORS}.{name}" for name in names)


def _read(document: JsonObject | None, package: str, fields: Fields, source: str) -> Decision:
    try:
        return read_document(document, source, fields)
    except DocumentInvalid as error:
        _log.warning("%s answered in a form that is not understood: %s", package, error)
        return _deny("policy_result_invalid", "the policy answered in a form that is not understood", source)


def _source(package: str, asked: JsonObject) -> str:
    """Who said so, in reasons and explanations."""
    if package == ODRL:
        return "agreement" if asked["agreement"] else f"offer {asked['offer']['id']}"
    return "baseline" if package == BASELINE else f"policy {package.removeprefix(f'{OPERATORS}.')}"


def _masks(terms: OfferTerms, fields: Fields) -> Mapping[str, Mask]:
    """The offer's masks; one that does not fit the column (its type has changed since) drops it."""
    masks = {n: e for n, e in terms.columns.items() if n in fields and not isinstance(e, str)}
    return {name: Drop() if mask_problem(mask, fields[name]) else mask for name, mask in masks.items()}


def _left_to_refuse(
    permit: Permit, request: DecisionRequest, terms: OfferTerms, known: Circumstances
) -> list[Reason]:
    """What no single policy sees: it shows only when all of them are taken together."""
    source = f"offer {terms.id}"
    reasons = []
    if terms.collaboration and known.collaboration is None:
        reasons.append(Reason(code="collaboration", text="there is no such collaboration", source=source))
    if permit.expires_at is not None and permit.expires_at <= known.now:
        reasons.append(Reason(code="expired", text="the time for which it was agreed is over", source=source))
    if not permit.exposed:
        reasons.append(Reason(code="nothing_exposed", text="no column may be seen", source=source))
    asked = {name for name, limit in asdict(permit.limits).items() if limit is not None}
    for name in sorted(asked - APPLIED_LIMITS):
        text = f"a limit is asked for that this provider cannot apply: {name}"
        reasons.append(Reason(code="limit_not_applied", text=text, source=source))
    for column in sorted((request.columns or frozenset()) - permit.exposed):
        text = f"the agreement opens no column '{column}'"
        reasons.append(Reason(code="column_not_open", text=text, source=source))
    return reasons


def _shows_identifiers(permit: Permit, dataset: Dataset) -> bool:
    """Whether raw identifiers leave: the subject key or a column classified as one, neither masked."""
    if permit.aggregate_only:
        return False
    hidden = permit.column_masks.keys() | permit.pseudonyms.keys()
    clear = permit.columns - hidden
    return any(
        field.name in clear and (field.name == dataset.subject_key or field.classification == IDENTIFIER)
        for field in dataset.fields
    )


def _revisions(request: DecisionRequest, policy: str) -> Revisions:
    record = request.agreement
    contract = record.contract_hash if record else ""
    return Revisions(
        policy=policy,
        odrl=record.policy_hash if record else "",
        contract=contract or request.dataset.contract_hash,
    )


def _deny(code: str, text: str, source: str = "") -> Deny:
    return Deny(reasons=(Reason(code=code, text=text, source=source),))


def _explain_exposure(dataset: Dataset, terms: OfferTerms) -> list[tuple[str, str, str]]:
    before = "The provider's engine, before anything else is computed."
    shown = ", ".join(f"{name} ({exposure_name(e)})" for name, e in terms.columns.items())
    hidden = ", ".join(f.name for f in dataset.fields if f.name not in terms.columns)
    lines = [("columns", f"open: {shown}", "Every query is rewritten over these columns only.")]
    if hidden:
        lines.append(("columns", f"do not exist for the consumer: {hidden}", lines[0][2]))
    if dataset.gdpr.personal_data and dataset.gdpr.disclosure_basis.startswith("consent"):
        lines.append(("gdpr.disclosureBasis", "only persons who have consented", before))
    if terms.subjects_named:
        lines.append(("subjectsNamed", "only persons whom the request names one by one", before))
    if terms.aggregate_only:
        groups = f"only groups by {', '.join(terms.dimensions)}, of at least {terms.min_group_size} persons"
        lines.append(("aggregateOnly", groups, "The provider aggregates, and leaves small groups out."))
    if terms.max_rows is not None:
        lines.append(
            ("maxRows", f"at most {terms.max_rows} rows an answer", "The provider's stream ends there.")
        )
    if terms.approval == "manual":
        lines.append(
            ("approval", f"a person approves: {terms.approver}", "The provider's negotiation waits.")
        )
    return lines


def _explain_policies(dataset: Dataset, terms: OfferTerms) -> list[tuple[str, str, str]]:
    where = "The provider's policy engine, at every stage; it can only narrow."
    return [
        ("policies", f"policy {name}", where) for name in dict.fromkeys([*dataset.policies, *terms.policies])
    ]
