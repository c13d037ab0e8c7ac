"""Data products: what a dataset descriptor (`catalog/*.odcs.yaml`) says, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from connector.model.decision import Mask
from connector.model.policy import Policy

LogicalType = Literal["string", "integer", "number", "boolean", "date", "timestamp"]


class DatasetStatus(StrEnum):
    """ODCS `status`; draft and proposed are hidden, deprecated takes no new agreements, retired gives none
    of its data any more, at the latest from `Dataset.retired_on`."""

    PROPOSED = "proposed"
    DRAFT = "draft"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    RETIRED = "retired"


class TransferFormat(StrEnum):
    FEDERATED_QUERY_PULL = "FederatedQuery-PULL"
    HTTP_DATA_PULL = "HttpData-PULL"
    CLOUD_EVENTS_PUSH = "CloudEvents-PUSH"
    KAFKA_PULL = "Kafka-PULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column of the dataset. `physical_name` is the source's; consumers see `name` only. `unit`: what its
    numbers count, "" where they have none."""

    name: str
    type: LogicalType
    physical_name: str = ""
    required: bool = False
    unique: bool = False
    classification: str = ""
    enum: tuple[str, ...] = ()
    description: str = ""
    unit: str = ""


SourceKind = Literal["sqlite", "duckdb", "parquet", "csv", "json", "postgresql"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRef:
    """Where the live source is; never shown outside. `kind` picks the adapter.

    `location`: a file or folder relative to the participant's folder, or the name of a setting that
    holds a DSN. `table`: the relation in it, empty for a plain file.
    """

    kind: SourceKind
    location: str
    table: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gdpr:
    """GDPR legal basis and the ground for disclosure (secrecy law) are two things, kept apart."""

    personal_data: bool
    controller: str = ""
    joint_controllers: tuple[str, ...] = ()
    legal_basis: str = ""
    disclosure_basis: str = ""
    purposes: tuple[str, ...] = ()
    dpia: str = ""


Exposure = Literal["clear", "pseudonym"] | Mask
"""How an offer shows a column. A column the offer does not name does not exist for its consumer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousTerms:
    """A terms version that is no longer offered; agreements made under it are in force until `sunset`."""

    terms_version: str
    sunset: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTerms:
    """One offer of a dataset: ODRL for the wire, and the exposure that this provider enforces for it.

    `wire_id` carries the terms version; agreements keep the terms they were made under. `approver` is the
    subject of the person who decides on it for the register's owner.
    """

    id: str
    terms_version: str
    policy: Policy
    columns: Mapping[str, Exposure]
    approval: Literal["automatic", "manual"] = "manual"
    approver: str = ""
    collaboration: str = ""
    key_exchange: bool = False
    subjects_named: bool = False
    aggregate_only: bool = False
    dimensions: tuple[str, ...] = ()
    min_group_size: int = 1
    trusts_consumer: bool = False
    max_rows: int | None = None
    policies: tuple[str, ...] = ()
    """Rego packages below `dataspace.policies` that must permit as well, for this offer only."""
    previous: tuple[PreviousTerms, ...] = ()

    @property
    def lists_rows(self) -> bool:
        """Whether rows are had without asking for groups or naming persons."""
        return not self.aggregate_only and self.min_group_size == 1 and not self.subjects_named

    def wire_id(self, dataset_id: str) -> str:
        return f"{dataset_id}:{self.id}:{self.terms_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """`policies` are Rego packages below `dataspace.policies`; all must permit, beside the baseline.

    `contract_hash` is the SHA-256 of the descriptor file as it was read. `places`: file:line of its parts
    (`version`, `column:<name>`, `offer:<id>:<terms version>`, ...), for what is found out later.
    """

    id: str
    contract_id: str
    version: str
    status: DatasetStatus
    title: Mapping[str, str]
    description: str
    fields: tuple[Field, ...]
    source: SourceRef
    gdpr: Gdpr
    offers: tuple[OfferTerms, ...]
    policies: tuple[str, ...] = ()
    subject_key: str = ""
    formats: tuple[TransferFormat, ...] = (TransferFormat.FEDERATED_QUERY_PULL,)
    event_types: tuple[str, ...] = ()
    access_rights: str = "RESTRICTED"
    themes: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    contract_hash: str = ""
    where: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    retired_on: datetime | None = None
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def field_named(self, name: str) -> Field | None:
        return next((f for f in self.fields if f.name == name), None)

    def offer_with_wire_id(self, wire_id: str) -> OfferTerms | None:
        return next((o for o in self.offers if o.wire_id(self.id) == wire_id), None)

    def sunset_of(self, offer_id: str, terms_version: str) -> datetime | None:
        """When agreements under this version end, where a newer version of the offer says so."""
        named = (p for o in self.offers if o.id == offer_id for p in o.previous)
        return min((p.sunset for p in named if p.terms_version == terms_version), default=None)

    @property
    def retires_at(self) -> datetime | None:
        """From when on none of its data is given; None while that is not said. A retired dataset without a
        date is retired already."""
        if self.status is DatasetStatus.RETIRED and self.retired_on is None:
            return datetime.min.replace(tzinfo=UTC)
        return self.retired_on
