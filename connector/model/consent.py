"""Consent records (ISO/IEC TS 27560 in the DPV profile): append-only events, the last one decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ConsentState(StrEnum):
    """DPV 2.3 consent statuses."""

    UNKNOWN = "ConsentUnknown"
    REQUESTED = "ConsentRequested"
    DEFERRED = "ConsentRequestDeferred"
    REFUSED = "ConsentRefused"
    GIVEN = "ConsentGiven"
    RENEWED = "RenewedConsentGiven"
    WITHDRAWN = "ConsentWithdrawn"
    REVOKED = "ConsentRevoked"
    EXPIRED = "ConsentExpired"
    INVALIDATED = "ConsentInvalidated"

    @property
    def permits(self) -> bool:
        return self in (ConsentState.GIVEN, ConsentState.RENEWED)


_ASKED = {ConsentState.GIVEN, ConsentState.REFUSED, ConsentState.DEFERRED}
_ENDINGS = {ConsentState.WITHDRAWN, ConsentState.REVOKED, ConsentState.EXPIRED, ConsentState.INVALIDATED}
TRANSITIONS: dict[ConsentState | None, frozenset[ConsentState]] = {
    None: frozenset(_ASKED | {ConsentState.REQUESTED, ConsentState.UNKNOWN}),
    ConsentState.UNKNOWN: frozenset(_ASKED | {ConsentState.REQUESTED}),
    ConsentState.REQUESTED: frozenset(_ASKED),
    ConsentState.DEFERRED: frozenset(_ASKED),
    ConsentState.GIVEN: frozenset(_ENDINGS | {ConsentState.RENEWED}),
    ConsentState.RENEWED: frozenset(_ENDINGS | {ConsentState.RENEWED}),
}
"""No way back from an ending: a new consent is a new record that `replaces` the old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentEvent:
    state: ConsentState
    at: datetime
    valid_until: datetime | None = None
    by: str = "subject"
    method: str = ""
    identification: str = ""
    """Strength of identification (`acr`); a weak one permits contact only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    url: str = ""
    sha256: str = ""
    language: str = "fi"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRecord:
    """`subject` is AES-SIV of the personal id under this connector's own key: no raw id is stored."""

    id: str
    subject: str
    controller: str
    purpose: str
    recipient: str
    legal_basis: str
    disclosure_basis: str
    notice: Notice
    events: tuple[ConsentEvent, ...]
    replaces: str = ""

    @property
    def state(self) -> ConsentState:
        return self.events[-1].state if self.events else ConsentState.UNKNOWN

    def valid_at(self, instant: datetime) -> bool:
        """Whether this record permits processing at `instant`. No event, no permission."""
        if not self.events:
            return False
        last = self.events[-1]
        return (
            last.state.permits
            and last.at <= instant
            and (last.valid_until is None or instant < last.valid_until)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentSet:
    """Who may be shown for one purpose and recipient, as of `version`, until `good_until`.

    `keys` are personal ids as sources hold them; `tokens` the same people as the register holds them.
    """

    version: int
    keys: frozenset[str]
    tokens: frozenset[str]
    good_until: datetime | None

    def intersect(self, other: ConsentSet) -> ConsentSet:
        ends = [e for e in (self.good_until, other.good_until) if e is not None]
        return ConsentSet(
            version=max(self.version, other.version),
            keys=self.keys & other.keys,
            tokens=self.tokens & other.tokens,
            good_until=min(ends, default=None),
        )
