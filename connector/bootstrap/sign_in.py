"""Sign-in of our own people at the organisation's OpenID provider, as the settings say."""

from __future__ import annotations

import secrets

from connector.access.oidc import OidcSettings, OidcSignIn
from connector.bootstrap.keys import secret_file
from connector.bootstrap.parts import Parts
from connector.errors import SettingsInvalid
from connector.model.person import PersonRole
from connector.settings import Settings


def sign_in(settings: Settings, parts: Parts) -> OidcSignIn | None:
    """None where no provider is set. Raises SettingsInvalid."""
    if not settings.oidc_issuer:
        return None
    _require_known(settings)
    described = OidcSettings(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        redirect_uri=f"{settings.public_url}/v1/sign-in/callback",
        claim=settings.oidc_claim,
        roles=settings.oidc_roles,
        purposes=settings.oidc_purposes,
        subject_claim=settings.oidc_subject_claim,
        scope=settings.oidc_scope,
        client_auth=settings.oidc_client_auth,
        client_secret=secret_file(settings, "oidc_client_secret_file") or "",
    )
    return OidcSignIn(
        described,
        keys=parts.keys,
        peer=parts.sign_in_peer,
        clock=parts.clock,
        random_bytes=secrets.token_bytes,
    )


def _require_known(settings: Settings) -> None:
    """A role that does not exist would be found out by the first who signs in."""
    known = {role.value for role in PersonRole}
    named = {n.strip() for names in settings.oidc_roles.values() for n in names.split(",")}
    if not settings.oidc_client_id:
        raise SettingsInvalid("is missing", where="oidc_client_id", mend="Register us at the provider.")
    if not named or not named <= known:
        raise SettingsInvalid(
            f"names no role of ours in {sorted(named - known) or 'any entry'}",
            where="oidc_roles",
            mend=f"Roles: {', '.join(sorted(known))}.",
        )
    if (settings.oidc_client_auth == "client_secret_basic") != bool(settings.oidc_client_secret_file):
        raise SettingsInvalid(
            "a client secret goes with oidc_client_auth = client_secret_basic",
            where="oidc_client_secret_file",
            mend="Set both or neither.",
        )
