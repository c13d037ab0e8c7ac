"""What a policy is asked: one input document in which nothing is missing (docs/schemas/decision-input.json).

Unknown is null, never absent: a Rego rule over an absent field can permit by accident.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from connector.access.odrl import compile_policy
from connector.access.purposes import PurposeTree
from connector.model.catalog import Dataset, Exposure, OfferTerms
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord
from connector.model.participant import Collaboration, CollaborationRole, Participant

_EU = frozenset(
    {
        *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"),
        *("IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"),
    }
)
_EEA = _EU | {"IS", "LI", "NO"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """Who asks for what. None and "" are "not known".

    `stage` is a Stage, `format` a TransferFormat, `action` `use` or the token's own word. Give `agreement`
    wherever there is one: its own terms then decide, and `terms` is ignored. Before, give the offer as
    `terms`. `purpose` and `actor_roles` come from a verified token only. `subjects_named` counts the
    persons that a request names one by one, `subjects_consenting` those of them whose consent to this
    purpose and recipient is valid now; not counted yet, the permit's `subjects_named` and `consent` say
    what remains to be checked. `columns`: what is to be read. `collaboration`: the trust list's entry
    for the one that the terms name; looked up where it is not given.
    """

    stage: str
    consumer: Participant
    dataset: Dataset
    terms: OfferTerms | None = None
    agreement: AgreementRecord | None = None
    purpose: str = ""
    action: str = "use"
    format: str = ""
    actor_roles: frozenset[str] = frozenset()
    columns: frozenset[str] | None = None
    subjects_named: int | None = None
    subjects_consenting: int | None = None
    collaboration: Collaboration | None = None

    @property
    def terms_in_force(self) -> OfferTerms | None:
        """An agreement keeps the terms it was made under, whatever today's offer says."""
        return self.terms if self.agreement is None else self.agreement.terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the provider itself knows: the time, itself, and the trust list's word on both sides.

    `consumer` is None when the trust list does not know who asks; `collaboration` is the one that the
    terms name, None when they name none or the list does not know it.
    """

    now: datetime
    participant_id: str
    purposes: PurposeTree
    consumer: Participant | None
    collaboration: Collaboration | None


def decision_input(request: DecisionRequest, terms: OfferTerms, known: Circumstances) -> JsonObject:
    """The document that every policy package reads as `input`.

    Raises RequestInvalid when the policy of the offer or agreement holds what is not in the vocabulary.
    """
    record = request.agreement
    policy = terms.policy if record is None else record.agreement.policy
    signed_at = None if record is None else record.agreement.timestamp
    facts = _facts(request, terms, known)
    return {
        "stage": request.stage,
        "now": _seconds(known.now),
        "participant": known.participant_id,
        "consumer": _consumer(request.consumer, known.consumer),
        "dataset": _dataset(request.dataset),
        "offer": _offer(terms),
        "agreement": None if record is None else _agreement(record),
        "collaboration": _collaboration(request, terms, known),
        "request": {
            "action": request.action,
            "purpose": request.purpose or None,
            "purpose_tree": list(known.purposes.ancestors(request.purpose)) if request.purpose else [],
            "format": request.format or None,
            "actor_roles": sorted(request.actor_roles),
            "columns": None if request.columns is None else sorted(request.columns),
            "subjects_named": request.subjects_named,
            "subjects_consenting": request.subjects_consenting,
        },
        "policy": compile_policy(
            policy, now=known.now, signed_at=signed_at, word="offer" if record is None else "agreement"
        ),
        "facts": facts,
        "shown": _shown(facts),
    }


def _consumer(asking: Participant, known: Participant | None) -> JsonObject:
    """Only what the trust list says; of somebody who is not in it, nothing but the id."""
    if known is None:
        unknown = dict.fromkeys(("sector", "country", "rulebook_version"))
        return {"id": asking.id, "name": asking.id, "status": "unknown", "roles": [], **unknown}
    return {
        "id": asking.id,
        "name": known.name,
        "status": known.status.value,
        "roles": sorted(known.roles),
        "sector": known.sector or None,
        "country": known.country or None,
        "rulebook_version": known.rulebook_version or None,
    }


def _dataset(dataset: Dataset) -> JsonObject:
    gdpr = dataset.gdpr
    return {
        "id": dataset.id,
        "version": dataset.version,
        "status": dataset.status.value,
        "access_rights": dataset.access_rights,
        "personal_data": gdpr.personal_data,
        "controller": gdpr.controller or None,
        "joint_controllers": list(gdpr.joint_controllers),
        "legal_basis": gdpr.legal_basis or None,
        "disclosure_basis": _ground(gdpr.disclosure_basis),
        "purposes": list(gdpr.purposes),
        "dpia": gdpr.dpia or None,
        "formats": [f.value for f in dataset.formats],
        "subject_key": dataset.subject_key or None,
        "columns": {f.name: f.type for f in dataset.fields},
    }


def _ground(disclosure_basis: str) -> str | None:
    """The kind of ground (`consent`, `statute`, ...); the reference behind the colon is for people."""
    return disclosure_basis.split(":", 1)[0].strip() or None


def _offer(terms: OfferTerms) -> JsonObject:
    return {
        "id": terms.id,
        "terms_version": terms.terms_version,
        "approval": terms.approval,
        "collaboration": terms.collaboration or None,
        "key_exchange": terms.key_exchange,
        "subjects_named": terms.subjects_named,
        "aggregate_only": terms.aggregate_only,
        "dimensions": list(terms.dimensions),
        "min_group_size": terms.min_group_size,
        "trusts_consumer": terms.trusts_consumer,
        "columns": {name: exposure_name(exposure) for name, exposure in terms.columns.items()},
    }


def exposure_name(exposure: Exposure) -> str:
    """`clear`, `pseudonym` or `mask:<kind>`."""
    return exposure if isinstance(exposure, str) else f"mask:{exposure.kind}"


def _agreement(record: AgreementRecord) -> JsonObject:
    return {
        "id": record.agreement.id,
        "state": record.state.value,
        "assigner": record.agreement.assigner,
        "assignee": record.agreement.assignee,
        "target": record.agreement.target,
        "signed_at": _seconds(record.agreement.timestamp),
        "terms_version": record.terms_version or None,
    }


def _collaboration(request: DecisionRequest, terms: OfferTerms, known: Circumstances) -> JsonObject | None:
    if not terms.collaboration:
        return None
    held = known.collaboration
    return {
        "id": terms.collaboration,
        "purpose": held.purpose if held else None,
        "valid": bool(held and (held.valid_until is None or known.now < held.valid_until)),
        "provider_is_member": bool(held and held.has(known.participant_id, CollaborationRole.PROVIDER)),
        "consumer_is_member": bool(held and held.has(request.consumer.id, CollaborationRole.CONSUMER)),
    }


def _facts(request: DecisionRequest, terms: OfferTerms, known: Circumstances) -> JsonObject:
    """fact -> list of words, a number, or null where it is not known (`connector.access.vocabulary`)."""
    record, consumer = request.agreement, known.consumer
    collaboration = _collaboration(request, terms, known)
    member = collaboration is not None and collaboration["valid"] and collaboration["consumer_is_member"]
    terms_version = terms.terms_version if record is None else record.terms_version
    now = _seconds(known.now)
    return {
        "purpose": _one(request.purpose),
        "purpose_tree": list(known.purposes.ancestors(request.purpose)) if request.purpose else None,
        "now": now,
        "elapsed": None if record is None else max(0, now - _seconds(record.agreement.timestamp)),
        "country": _countries(consumer.country) if consumer and consumer.country else None,
        "recipient": [request.consumer.id],
        "membership": [consumer.status.value] if consumer else None,
        "actor_role": sorted(request.actor_roles) or None,
        "legal_basis": _one(request.dataset.gdpr.legal_basis),
        "collaboration": [terms.collaboration] if member else None,
        "terms_version": _one(terms_version),
        "agreement_ref": _one(consumer.rulebook_version if consumer else ""),
    }


def _shown(facts: JsonObject) -> JsonObject:
    """The facts as people read them; of a purpose and of a country what was stated, not all above it."""
    shown = {name: ", ".join(fact) if isinstance(fact, list) else "" for name, fact in facts.items()}
    country = facts["country"]
    return {**shown, "purpose_tree": shown["purpose"], "country": country[0] if country else ""}


def _one(word: str) -> list[str] | None:
    return [word] if word else None


def _countries(country: str) -> list[str]:
    wider = [name for name, members in (("EU", _EU), ("EEA", _EEA)) if country in members]
    return [country, *wider]


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())
