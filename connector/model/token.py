"""What an access token states (RFC 9068, 9396, 9449): one token, one agreement, one purpose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DETAIL_TYPE = "dataspace_agreement"
"""The RFC 9396 `type` of our authorization details."""

SCOPE_DSP = "dsp"  # send DSP messages
SCOPE_DATA = "data"  # use the data API under the token's authorization detail
SCOPE_EVENTS = "events"  # push event batches to the consumer's gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationDetail:
    """Wire: {type, agreement, dataset, actions, purpose, grant}. `grant` is set by the issuer."""

    agreement_id: str
    dataset_id: str
    actions: frozenset[str]
    purpose: str
    grant_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """RFC 8693 §4.1 `act`: the person or app behind the participant, outermost first.

    `subject` is the participant's own opaque name for them, never a personal id; `kind` the role in which
    they act (`case_worker`, `analyst`).
    """

    subject: str
    kind: str = "participant"
    act: Actor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedClaims:
    """Only a verifier makes these: signature, typ, issuer, audience, times and key binding all held.

    `key_thumbprint` is `cnf.jkt` (RFC 7638): the key that must prove possession on every use.
    """

    issuer: str
    subject: str
    client_id: str
    audience: str
    token_id: str
    issued_at: datetime
    expires_at: datetime
    scope: frozenset[str]
    key_thumbprint: str
    detail: AuthorizationDetail | None = None
    actor: Actor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerClaims:
    """Only access/bearer.py makes these: the bearer is live, and so is everything that it stands on.

    No key is bound to it: whoever has it is taken for `subject`, for the one purpose of the agreement.
    """

    subject: str
    detail: AuthorizationDetail
    actor: Actor | None = None


DataClaims = VerifiedClaims | BearerClaims
"""What the data plane is told of whoever asks."""


def roles_of(actor: Actor | None) -> frozenset[str]:
    """The role in which the person acts, as their own participant vouches; the whole chain counts."""
    roles: set[str] = set()
    while actor is not None:
        roles.add(actor.kind)
        actor = actor.act
    return frozenset(roles)
