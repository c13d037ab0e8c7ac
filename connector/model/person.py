"""The organisation's own people and apps: their roles, and the purposes they may state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from connector.errors import NotPermitted, Reason


class PersonRole(StrEnum):
    VIEWER = "viewer"  # sees catalogues, negotiations, agreements
    OPERATOR = "operator"  # negotiates, starts and stops
    APPROVER = "approver"  # decides for the register's owner
    ADMIN = "admin"
    DPO = "dpo"  # data protection officer: audit, ledger
    ANALYST = "analyst"  # issues queries for the purposes of the token
    CASE_WORKER = "case_worker"  # the same, about persons who agreed
    CONSENT_DESK = "consent_desk"  # records what people answered; the portal's role
    PRODUCER = "producer"  # publishes events of a dataset
    SUBSCRIBER = "subscriber"  # reads what other participants pushed


_IMPLIED: dict[PersonRole, frozenset[PersonRole]] = {
    PersonRole.ADMIN: frozenset({PersonRole.OPERATOR, PersonRole.VIEWER}),
    PersonRole.OPERATOR: frozenset({PersonRole.VIEWER}),
    PersonRole.APPROVER: frozenset({PersonRole.VIEWER}),
    PersonRole.DPO: frozenset({PersonRole.VIEWER}),
}
"""What a role brings along. Approving is nobody's by implication: the register's owner decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """`subject` is the organisation's own name for the person or app; it stays inside."""

    subject: str
    roles: frozenset[PersonRole]
    purposes: frozenset[str]

    def require(self, *roles: PersonRole) -> None:
        """Raises NotPermitted unless one of `roles` is held."""
        held = self.roles.union(*(_IMPLIED.get(r, frozenset()) for r in self.roles))
        if not held.intersection(roles):
            needed = " or ".join(roles)
            raise NotPermitted([Reason(code="role_missing", text=f"This needs the role {needed}.")])

    def require_purpose(self, purpose: str) -> None:
        if purpose not in self.purposes:
            stated = ", ".join(sorted(self.purposes)) or "none"
            text = f"You may not act for the purpose '{purpose}'. Purposes of your token: {stated}."
            raise NotPermitted([Reason(code="purpose_not_yours", text=text)])
