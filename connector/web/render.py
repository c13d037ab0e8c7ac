"""Models -> JSON of the client API: camelCase, instants as RFC 3339, nothing of the inside."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from connector.control_plane.discovery import Seen
from connector.dsp.catalog import CatalogDataset
from connector.model.consent import ConsentRecord
from connector.model.event import CloudEvent
from connector.model.json import to_rfc3339
from connector.model.negotiation import AgreementRecord, ContractNegotiation
from connector.model.participant import Participant
from connector.model.transfer import TransferProcess


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
    }


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


def negotiation(found: ContractNegotiation) -> dict[str, Any]:
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
        "reasons": list(found.reasons),
        "updatedAt": to_rfc3339(found.updated_at),
    }


def agreement(found: AgreementRecord) -> dict[str, Any]:
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
        "endedAt": _instant(found.ended_at),
        "endedReason": found.ended_reason,
    }


def transfer(found: TransferProcess) -> dict[str, Any]:
    address = found.data_address
    return {
        "pid": found.pid,
        "peerPid": found.peer_pid,
        "role": found.role.value,
        "state": found.state.value,
        "agreement": found.agreement_id,
        "format": found.format.value,
        "dataAddress": {
            "endpointType": address.endpoint_type,
            "endpoint": address.endpoint,
            "properties": dict(address.properties),
        }
        if address
        else None,
        "reasons": list(found.reasons),
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
