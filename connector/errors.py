"""Every exception of the core, with a stable `code`; no HTTP here (the web layer maps them).

ConnectorError
├── ConfigurationError     our operator's mistake: settings, descriptor, policy, keys
├── RequestInvalid         the caller's mistake: malformed message, SQL, parameters
├── NotAuthenticated       who asks could not be proved
├── NotPermitted           who asks is known and may not; carries reasons a person understands
├── NotFound               unknown, or not for this caller: the two are never told apart
├── Conflict               the request does not fit the present state; nothing was changed
├── PeerError              the other participant is unreachable, refused or answered nonsense
└── Unavailable            a part of ours does not answer; the safe outcome is deny
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One ground of a refusal: `code` for machines, `text` for people, `source` names who said so."""

    code: str
    text: str
    source: str = ""


class ConnectorError(Exception):
    """`message` says what failed, `mend` what to do about it. Both may be shown to the caller."""

    code = "internal"

    def __init__(self, message: str, *, mend: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.mend}" if self.mend else self.message


class ConfigurationError(ConnectorError):
    """`where` is file:line, or the setting's name."""

    code = "configuration"

    def __init__(self, message: str, *, where: str = "", mend: str = "", code: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message, mend=mend, code=code)
        self.where = where


class SettingsInvalid(ConfigurationError):
    code = "settings_invalid"


class DescriptorInvalid(ConfigurationError):
    code = "descriptor_invalid"


class PolicyInvalid(ConfigurationError):
    code = "policy_invalid"


class KeysInvalid(ConfigurationError):
    code = "keys_invalid"


class RequestInvalid(ConnectorError):
    """`where` names the field that is wrong, as a path (`offer.permission[0].action`)."""

    code = "request_invalid"

    def __init__(self, message: str, *, where: str = "", mend: str = "", code: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message, mend=mend, code=code)
        self.where = where


class MessageInvalid(RequestInvalid):
    """A DSP message that breaks its schema."""

    code = "message_invalid"


class SqlInvalid(RequestInvalid):
    code = "sql_invalid"


class NotAuthenticated(ConnectorError):
    """The texts stay general on purpose: nothing is learned from a refusal."""

    code = "not_authenticated"


class TokenRejected(NotAuthenticated):
    code = "invalid_token"


class DpopNonceWanted(NotAuthenticated):
    """RFC 9449 §9: the same request again, its proof with `nonce`."""

    code = "use_dpop_nonce"

    def __init__(self, nonce: str) -> None:
        super().__init__("The DPoP proof must hold the nonce of the DPoP-Nonce header.")
        self.nonce = nonce


class NotPermitted(ConnectorError):
    code = "not_permitted"

    def __init__(self, reasons: Sequence[Reason], *, mend: str = "", audit_id: str = "") -> None:
        super().__init__("; ".join(r.text for r in reasons) or "not permitted", mend=mend)
        self.reasons = tuple(reasons)
        self.audit_id = audit_id


class NotFound(ConnectorError):
    code = "not_found"


class Conflict(ConnectorError):
    code = "conflict"


class IllegalTransition(Conflict):
    code = "illegal_transition"


class GrantStopped(ConnectorError):
    """The grant's epoch moved while data was flowing. Retryable where `retryable`: ask again."""

    code = "grant_stopped"

    def __init__(self, message: str, *, code: str = "grant_stopped", retryable: bool = False) -> None:
        super().__init__(message, code=code)
        self.retryable = retryable


class PeerError(ConnectorError):
    """`participant` is always named: an answer is never silently short."""

    code = "peer_error"

    def __init__(
        self, message: str, *, participant: str = "", mend: str = "", code: str | None = None
    ) -> None:
        super().__init__(f"{participant}: {message}" if participant else message, mend=mend, code=code)
        self.participant = participant


class PeerUnreachable(PeerError):
    """No answer, a 5xx, or a broken stream: worth a retry."""

    code = "peer_unreachable"


class PeerBusy(PeerUnreachable):
    """It asked for a pause (429, or 503 with Retry-After): `retry_after_seconds`, 0 where it named none."""

    code = "peer_busy"

    def __init__(
        self,
        message: str,
        *,
        participant: str = "",
        mend: str = "",
        code: str | None = None,
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(message, participant=participant, mend=mend, code=code)
        self.retry_after_seconds = retry_after_seconds


class PeerRefused(PeerError):
    """A 4xx: a retry would say the same."""

    code = "peer_refused"

    def __init__(
        self,
        message: str,
        *,
        participant: str = "",
        status: int = 0,
        reasons: Sequence[Reason] = (),
        mend: str = "",
        code: str | None = None,
    ) -> None:
        super().__init__(message, participant=participant, mend=mend, code=code)
        self.status = status
        self.reasons = tuple(reasons)


class PeerProtocolError(PeerError):
    """The peer answered, and the answer breaks the protocol (schema, signature, end record)."""

    code = "peer_protocol"


class Unavailable(ConnectorError):
    code = "unavailable"


class PolicyUnavailable(Unavailable):
    code = "policy_unavailable"


class SourceUnavailable(Unavailable):
    """Engine texts never leave: they can hold values."""

    code = "source_unavailable"


class AuditBroken(ConnectorError):
    """The log does not prove what it claims; `message` names the first leaf that fails."""

    code = "audit_broken"
