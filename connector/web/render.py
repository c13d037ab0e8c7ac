"""Models -> JSON of the client API: camelCase, instants as RFC 3339, nothing of the inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel

from connector.access.agreement_signature import Checked, statement
from connector.control_plane.agreements import Agreements
from connector.control_plane.discovery import Seen
from connector.control_plane.federated_catalog import Source
from connector.dsp.catalog import CatalogDataset
from connector.model.consent import ConsentRecord
from connector.model.event import CloudEvent
from connector.model.json import to_rfc3339
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.participant import Participant
from connector.model.peer_catalog import CatalogFound, DatasetProblem, Freshness, Hit
from connector.model.transfer import DataAddress, TransferProcess


def participant(found: Participant) -> dict[str, Any]:
    return {
        "id": found.id,
        "name": found.name,
        "businessId": found.business_id,
        "sector": found.sector,
        "roles": sorted(found.roles),
        "baseUrl": found.base_url,
        "status": found.status.value,
    }


def seen(found: Seen) -> dict[str, Any]:
    return {
        "id": found.participant.id,
        "name": found.participant.name,
        "error": found.error or None,
        "datasets": [_dataset(d) for d in found.datasets],
        "problems": [_problem(p) for p in found.problems],
        "truncated": found.truncated or None,
    }


def catalog_found(found: CatalogFound, sources: Sequence[Source]) -> dict[str, Any]:
    return {
        "datasets": [_hit(hit) for hit in found.hits],
        "total": found.total,
        "next": found.next or None,
        "facets": {
            to_camel(kind): [{"value": value, "count": count} for value, count in values.items()]
            for kind, values in found.facets.items()
        },
        "participants": [_source(s) for s in sources],
    }


def _source(source: Source) -> dict[str, Any]:
    """Of one that is not followed yet only the names."""
    named = {"id": source.participant.id, "name": source.participant.name}
    return {**named, **(freshness(source.freshness) if source.freshness else {})}


def freshness(found: Freshness) -> dict[str, Any]:
    error = {"code": found.error_code, "message": found.error} if found.failures else None
    return {
        "id": found.participant,
        "datasets": found.datasets,
        "lastSuccess": _instant(found.last_success),
        "lastAttempt": _instant(found.last_attempt),
        "nextAttempt": to_rfc3339(found.next_attempt),
        "failingSince": _instant(found.failing_since),
        "failures": found.failures,
        "error": error,
        "rejected": found.rejected,
        "problems": [_problem(p) for p in found.problems],
        "truncated": found.truncated or None,
    }


def _hit(hit: Hit) -> dict[str, Any]:
    dataset = hit.dataset
    return {
        "participant": hit.participant,
        "id": dataset.id,
        "title": _in_english(dataset.titles) or dataset.id,
        "titles": dict(dataset.titles),
        "description": _in_english(dataset.descriptions),
        "themes": list(dataset.themes),
        "keywords": list(dataset.keywords),
        "formats": list(dataset.formats),
        "accessRights": dataset.access_rights or None,
        "version": dataset.version or None,
        "offers": [
            {"id": o.id, "actions": list(o.actions), "purposes": list(o.purposes)} for o in dataset.offers
        ],
        "seenAt": to_rfc3339(hit.seen_at),
    }


def _problem(found: DatasetProblem) -> dict[str, Any]:
    return {"dataset": found.dataset, "code": found.code, "message": found.text}


def _in_english(texts: Mapping[str, str]) -> str:
    return texts.get("en") or next(iter(texts.values()), "")


def _dataset(found: CatalogDataset) -> dict[str, Any]:
    return {
        "id": found.id,
        "title": found.title.get("en") or next(iter(found.title.values()), found.id),
        "titles": dict(found.title),
        "description": found.description,
        "offers": [
            {"id": o.id, **{k: o.document[k] for k in _RULES if k in o.document}} for o in found.offers
        ],
        "formats": sorted(found.formats),
    }


_RULES = ("permission", "prohibition", "obligation")


def negotiation(found: ContractNegotiation, approver: str = "") -> dict[str, Any]:
    """`approver`: the only person who may decide on it."""
    return {
        "pid": found.pid,
        "peerPid": found.peer_pid,
        "role": found.role.value,
        "state": found.state.value,
        "counterParty": found.counter_party,
        "dataset": found.dataset_id,
        "offer": found.offer.get("@id"),
        "agreement": found.agreement_id,
        "waitingFor": found.waiting_for,
        "approver": approver or None,
        "renews": found.renews or None,
        "reasons": list(found.reasons),
        "updatedAt": to_rfc3339(found.updated_at),
    }


def offers(found: ContractNegotiation) -> dict[str, Any]:
    """The last offer, and the one that it answers."""
    return {"document": dict(found.offer), "answers": dict(found.answered_offer) or None}


def agreement(found: AgreementRecord, agreements: Agreements) -> dict[str, Any]:
    reason = agreements.why_not(found)
    return {
        "id": found.agreement.id,
        "role": found.role.value,
        "state": found.state.value,
        "counterParty": found.counter_party,
        "dataset": found.agreement.target,
        "offer": found.offer_id,
        "termsVersion": found.terms_version,
        "timestamp": to_rfc3339(found.agreement.timestamp),
        "hashes": {"contract": found.contract_hash, "policy": found.policy_hash},
        "inForce": reason is None,
        "notInForce": {"code": reason.code, "text": reason.text} if reason else None,
        "signatures": "both" if found.signed_by_both else "waived" if agreements.waived(found) else "missing",
        "endsAt": _instant(agreements.ends_at(found)),
        "renews": found.renews or None,
        "endedAt": _instant(found.ended_at),
        "endedReason": found.ended_reason,
    }


def signatures(found: AgreementRecord, checked: Sequence[Checked]) -> dict[str, Any]:
    keys = {s.participant: dict(s.jwk) for s in found.signatures}
    return {
        "agreement": found.agreement.id,
        "statement": dict(statement(found)),
        "document": dict(found.agreement.document),
        "signatures": [
            {
                "participant": c.participant,
                "jws": c.jws,
                "jwk": keys[c.participant],
                "at": to_rfc3339(c.at),
                "valid": not c.problem,
                "problem": c.problem or None,
                "keyListed": c.listed,
            }
            for c in checked
        ],
        "missing": sorted(
            {found.agreement.assigner, found.agreement.assignee} - {c.participant for c in checked}
        ),
        "problem": found.signature_problem[1] if found.signature_problem else None,
    }


def transfer(found: TransferProcess) -> dict[str, Any]:
    """Whatever the address holds of secrets is left out: `data_address` tells them to whom they are due."""
    address = found.data_address
    return {
        "pid": found.pid,
        "peerPid": found.peer_pid,
        "role": found.role.value,
        "state": found.state.value,
        "agreement": found.agreement_id,
        "format": found.format.value,
        "counterParty": found.counter_party,
        "suspendedBy": found.suspended_by.value if found.suspended_by else None,
        "dataAddress": data_address(address.without_secrets()) if address else None,
        "reasons": list(found.reasons),
        "updatedAt": to_rfc3339(found.updated_at),
    }


def data_address(found: DataAddress) -> dict[str, Any]:
    return {
        "endpointType": found.endpoint_type,
        "endpoint": found.endpoint,
        "properties": dict(found.properties),
    }


def consent(found: ConsentRecord) -> dict[str, Any]:
    last = found.events[-1]
    return {
        "id": found.id,
        "controller": found.controller,
        "purpose": found.purpose,
        "recipient": found.recipient,
        "state": found.state.value,
        "at": to_rfc3339(last.at),
        "validUntil": _instant(last.valid_until),
        "legalBasis": found.legal_basis,
        "disclosureBasis": found.disclosure_basis,
        "replaces": found.replaces,
    }


def event(found: CloudEvent) -> dict[str, Any]:
    """CloudEvents 1.0.2, JSON format §3."""
    wire: dict[str, Any] = {
        **found.extensions,  # first: none of them takes the place of an attribute
        "specversion": "1.0",
        "id": found.id,
        "source": found.source,
        "type": found.type,
        "time": to_rfc3339(found.time),
    }
    if found.subject:
        wire["subject"] = found.subject
    if found.dataschema:
        wire["dataschema"] = found.dataschema
    if found.data:
        wire |= {"datacontenttype": "application/json", "data": dict(found.data)}
    return wire


def _instant(value: datetime | None) -> str | None:
    return to_rfc3339(value) if value else None
