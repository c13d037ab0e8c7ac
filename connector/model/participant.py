"""Who takes part: participants and collaborations, as the orchestrator's signed trust list states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class ParticipantStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """`id` is a slug (`[a-z][a-z0-9_]*`): it names the participant in DSP, in SQL and in tokens.

    `base_url` has no trailing slash; DSP is at `{base_url}/dsp/2025-1`, the authorization server's
    issuer identifier is `base_url` itself. `jwks` holds public keys only: `use: sig` and `use: enc`.
    """

    id: str
    name: str
    base_url: str
    jwks: tuple[Mapping[str, Any], ...]
    status: ParticipantStatus = ParticipantStatus.ACTIVE
    business_id: str = ""
    sector: str = ""
    roles: frozenset[str] = frozenset()
    country: str = "FI"
    rulebook_version: str = ""

    @property
    def dsp_url(self) -> str:
        return f"{self.base_url}/dsp/2025-1"

    @property
    def data_url(self) -> str:
        return f"{self.base_url}/data/v1"


class CollaborationRole(StrEnum):
    PROVIDER = "provider"  # receives the pseudonym secret
    CONSUMER = "consumer"  # never does


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaboration:
    """A pseudonym domain: one purpose, its members, and the provider who makes the secret.

    `generation` selects the key: HKDF(secret, id, generation). It moves only when the members want
    new pseudonyms; a grant's epoch never touches it, so follow-up over time stays possible.
    """

    id: str
    purpose: str
    lead: str
    members: Mapping[str, frozenset[CollaborationRole]]
    generation: int = 1
    valid_until: datetime | None = None

    def has(self, participant_id: str, role: CollaborationRole) -> bool:
        return role in self.members.get(participant_id, frozenset())

    def owns_a_register(self, consumer_id: str) -> bool:
        """Such a consumer could undo the pseudonyms: its use is an identified disclosure."""
        return self.has(consumer_id, CollaborationRole.PROVIDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustList:
    """The verified registry. Older versions than the one held are refused; after `expires_at`, deny."""

    issuer: str
    version: int
    issued_at: datetime
    expires_at: datetime
    participants: Mapping[str, Participant]
    collaborations: Mapping[str, Collaboration] = field(default_factory=dict)
