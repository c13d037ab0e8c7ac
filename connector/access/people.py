"""The organisation's own people and apps at the client API: who they are, what they may, for which purposes.

A client API token is a short JWT signed with the connector's own key: whoever may read the key
folder may act as its operator, and no shared secret lies anywhere. OIDC sign-in comes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import jwt

from connector.errors import NotPermitted, Reason, TokenRejected
from connector.ports import Clock, Keys

TYP = "api+jwt"
LEEWAY_SECONDS = 5


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


def issue_api_token(
    keys: Keys,
    clock: Clock,
    *,
    audience: str,
    subject: str,
    roles: Iterable[PersonRole],
    purposes: Iterable[str],
    token_id: str,
    seconds: int = 300,
) -> str:
    now = clock.now()
    claims = {
        "iss": keys.participant_id,
        "aud": audience,
        "sub": subject,
        "jti": token_id,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=seconds)).timestamp()),
        "roles": sorted(roles),
        "purposes": sorted(purposes),
    }
    return keys.sign_jwt(claims, typ=TYP)


class ApiTokens:
    """Verifies client API tokens. Every refusal reads the same."""

    def __init__(self, keys: Keys, clock: Clock, *, audience: str, longest_seconds: int) -> None:
        self._issuer = keys.participant_id
        self._clock = clock
        self._audience = audience
        self._longest_seconds = longest_seconds
        self._keys = {k["kid"]: jwt.PyJWK(dict(k)).key for k in keys.public_jwks() if k["use"] == "sig"}

    def verify(self, authorization: str | None) -> Person:
        """`authorization`: the whole header. Raises TokenRejected."""
        scheme, _, unverified = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not unverified:
            raise _rejected()
        try:
            return self._person(self._claims(unverified))
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            raise _rejected() from None

    def _claims(self, unverified: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(unverified)
        if header.get("typ") != TYP:
            raise ValueError("typ")
        now = self._clock.now().timestamp()
        claims = jwt.decode(
            unverified,
            self._keys[header["kid"]],
            algorithms=["ES256"],
            audience=self._audience,
            issuer=self._issuer,
            options={
                "require": ["iss", "aud", "sub", "jti", "iat", "exp"],
                "verify_exp": False,  # against our own clock, below
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
        issued, expires = float(claims["iat"]), float(claims["exp"])
        if not issued - LEEWAY_SECONDS <= now < expires or expires - issued > self._longest_seconds:
            raise ValueError("time")
        return claims

    @staticmethod
    def _person(claims: Mapping[str, Any]) -> Person:
        return Person(
            subject=str(claims["sub"]),
            roles=frozenset(PersonRole(r) for r in claims["roles"]),
            purposes=frozenset(str(p) for p in claims["purposes"]),
        )


def _rejected() -> TokenRejected:
    return TokenRejected("The API token is missing or not valid.", mend="Make one with `connector token`.")
