"""The published JSON Schemas of DSP 2025-1, as a check on our own validation. Tests only."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft201909Validator
from referencing import Registry, Resource

FOLDER = Path(__file__).parents[2].parent / "shared" / "reference" / "dsp-schemas"

FILES = {
    "CatalogRequestMessage": "catalog/catalog-request-message",
    "DatasetRequestMessage": "catalog/dataset-request-message",
    "CatalogError": "catalog/catalog-error",
    "Catalog": "catalog/catalog",
    "Dataset": "catalog/dataset",
    "ContractRequestMessage": "negotiation/contract-request-message",
    "ContractOfferMessage": "negotiation/contract-offer-message",
    "ContractAgreementMessage": "negotiation/contract-agreement-message",
    "ContractAgreementVerificationMessage": "negotiation/contract-agreement-verification-message",
    "ContractNegotiationEventMessage": "negotiation/contract-negotiation-event-message",
    "ContractNegotiationTerminationMessage": "negotiation/contract-negotiation-termination-message",
    "ContractNegotiation": "negotiation/contract-negotiation",
    "ContractNegotiationError": "negotiation/contract-negotiation-error",
    "TransferRequestMessage": "transfer/transfer-request-message",
    "TransferStartMessage": "transfer/transfer-start-message",
    "TransferSuspensionMessage": "transfer/transfer-suspension-message",
    "TransferCompletionMessage": "transfer/transfer-completion-message",
    "TransferTerminationMessage": "transfer/transfer-termination-message",
    "TransferProcess": "transfer/transfer-process",
    "TransferError": "transfer/transfer-error",
    "VersionResponse": "common/protocol-version",
}

available = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the published DSP schemas are not here (../shared/reference/dsp-schemas)"
)


def errors(kind: str, document: object) -> list[str]:
    """What the published schema of `kind` has against `document`."""
    return [f"{e.json_path}: {e.message}" for e in _validator(kind).iter_errors(document)]


def examples() -> list[Path]:
    """The specification's own example messages, but for the DID services that its schema refuses."""
    return [p for p in sorted(FOLDER.glob("examples/*/*.json")) if "did-service" not in p.name]


@cache
def _validator(kind: str) -> Draft201909Validator:
    schema = _read(FOLDER / "schemas" / f"{FILES[kind]}-schema.json")
    return Draft201909Validator(schema, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    schemas = [_read(path) for path in FOLDER.glob("schemas/*/*.json")]
    return Registry().with_resources((s["$id"], Resource.from_contents(s)) for s in schemas)


def _read(path: Path) -> dict[str, Any]:
    # three transfer schemas point at "#definitions/..." where they mean "#/definitions/..."
    schema: dict[str, Any] = json.loads(path.read_text().replace("#definitions/", "#/definitions/"))
    return schema
