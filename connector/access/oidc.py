"""Sign-in of people with any OpenID provider: authorization code with PKCE (OIDC Core §3.1, RFC 7636).

1. away   to the provider, with state, nonce and a code challenge; what we must know again goes into a
          sealed cookie
2. back   the state is the cookie's; the code is exchanged at the provider, with the verifier
3. who    the ID token: its signature, issuer, audience, times and nonce; claims become roles and purposes

Whoever the provider knows but nobody gave a role is turned away: unknown means deny.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connector.access import jose, rfc7523
from connector.access.jose import LEEWAY_SECONDS, Refusal
from connector.access.secrets_at_rest import RandomBytes, new_secret
from connector.errors import NotAuthenticated, NotPermitted, PeerError, Reason, Unavailable
from connector.model.person import Person, PersonRole
from connector.ports import Clock, Keys, PeerClient

ALGORITHMS = ("RS256", "PS256", "ES256")
SIGN_IN_SECONDS = 600
KEYS_FRESH = timedelta(minutes=5)
KEYS_PAUSE = timedelta(seconds=30)
"""Between two looks for a key that we do not know."""

_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 262_144
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """`issuer` exactly as the provider states it. `claim`: dotted path of the claim whose values `roles` and
    `purposes` map, each to names separated by commas. `client_auth`: `none` (PKCE alone), `private_key_jwt`
    (our own signing key) or `client_secret_basic`."""

    issuer: str
    client_id: str
    redirect_uri: str
    claim: str
    roles: Mapping[str, str]
    purposes: Mapping[str, str] = field(default_factory=dict)
    subject_claim: str = "sub"
    scope: str = "openid"
    client_auth: str = "none"
    client_secret: str = ""


@dataclass(frozen=True, slots=True)
class _Provider:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class OidcSignIn:
    def __init__(
        self, settings: OidcSettings, *, keys: Keys, peer: PeerClient, clock: Clock, random_bytes: RandomBytes
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._peer = peer
        self._clock = clock
        self._random_bytes = random_bytes
        self._provider: _Provider | None = None
        self._jwks: list[Mapping[str, Any]] = []
        self._jwks_at: datetime | None = None

    async def start(self, return_to: str) -> tuple[str, str]:
        """Where to send the browser, and the cookie it brings back. `return_to`: a path of ours.
        Raises Unavailable."""
        provider = await self._found()
        state, nonce, verifier = (new_secret(self._random_bytes) for _ in range(3))
        held = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "return_to": _own_path(return_to),
            "until": self._clock.now().timestamp() + SIGN_IN_SECONDS,
        }
        challenge = jose.encode(hashlib.sha256(verifier.encode("ascii")).digest())
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_uri,
            "scope": self._settings.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in provider.authorization_endpoint else "?"
        return f"{provider.authorization_endpoint}{joint}{urlencode(query)}", self._sealed(held)

    async def finish(self, *, code: str, state: str, issuer: str, cookie: str) -> tuple[Person, str]:
        """Who signed in, and where they wanted to go. `issuer`: the answer's `iss` (RFC 9207), "" for none.

        Raises NotAuthenticated (the same for every fault), NotPermitted for somebody with no role here, or
        Unavailable."""
        try:
            held = self._opened(cookie)
            if not hmac.compare_digest(held["state"].encode(), state.encode("utf-8", "surrogatepass")):
                raise Refusal("state")
            if issuer not in ("", self._settings.issuer):
                raise Refusal("iss")
            claims = await self._claims(await self._exchange(code, held["verifier"]), held["nonce"])
            return self._person(claims), held["return_to"]
        except Refusal as refusal:
            raise NotAuthenticated("The sign-in was not accepted.", mend="Sign in again.") from refusal

    # --- the provider ------------------------------------------------------------------------------------

    async def _found(self) -> _Provider:
        """OpenID Connect Discovery §4. Endpoints elsewhere than at the issuer's own host are not taken."""
        if self._provider is None:
            url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            document = await self._json("GET", url)
            if document.get("issuer") != self._settings.issuer:
                raise _unusable("its configuration names another issuer")
            host = urlsplit(self._settings.issuer).netloc
            found = [document.get(n) for n in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
            if not all(isinstance(e, str) and urlsplit(e).netloc == host for e in found):
                raise _unusable("its endpoints are not at its own host")
            self._provider = _Provider(*map(str, found))
        return self._provider

    async def _exchange(self, code: str, verifier: str) -> str:
        provider, settings = await self._found(), self._settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.redirect_uri,
            "code_verifier": verifier,
            "client_id": settings.client_id,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if settings.client_auth == "private_key_jwt":
            form |= {
                "client_assertion_type": rfc7523.ASSERTION_TYPE,
                "client_assertion": self._assertion(provider.token_endpoint),
            }
        elif settings.client_auth == "client_secret_basic":
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(settings.client_secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
        answer = await self._json(
            "POST", provider.token_endpoint, headers=headers, content=urlencode(form).encode("utf-8")
        )
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Refusal("id_token")
        return token

    def _assertion(self, audience: str) -> str:
        issued = int(self._clock.now().timestamp())
        client = self._settings.client_id
        claims = {
            "iss": client,
            "sub": client,
            "aud": audience,
            "iat": issued,
            "exp": issued + rfc7523.LIFE_SECONDS,
            "jti": new_secret(self._random_bytes),
        }
        return self._keys.sign_jwt(claims, typ="JWT")

    async def _json(self, method: str, url: str, **about: Any) -> Mapping[str, Any]:
        try:
            answer = await self._peer.request(
                method, url, timeout_seconds=_TIMEOUT_SECONDS, max_bytes=_MAX_BYTES, **about
            )
        except PeerError:
            raise _unusable("it does not answer") from None
        if 400 <= answer.status < 500 and method == "POST":
            raise Refusal("code")
        if answer.status != 200:
            raise _unusable(f"it answered {answer.status}")
        return jose.parse_object(answer.body)

    # --- the ID token -------------------------------------------------------------------------------------

    async def _claims(self, token: str, nonce: str) -> Mapping[str, Any]:
        """OpenID Connect Core §3.1.3.7. Raises Refusal."""
        claims = await self._signed(token)
        now, settings = self._clock.now().timestamp(), self._settings
        if claims.get("iss") != settings.issuer:
            raise Refusal("iss")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if settings.client_id not in audiences:
            raise Refusal("aud")
        if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != settings.client_id:
            raise Refusal("azp")
        jose.require_current(claims, now)
        if now - jose.instant(claims, "iat") > SIGN_IN_SECONDS + LEEWAY_SECONDS:
            raise Refusal("iat")
        given = claims.get("nonce")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
            raise Refusal("nonce")
        return claims

    async def _signed(self, token: str) -> Mapping[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        await self._refresh_keys(KEYS_FRESH)
        for last in (False, True):
            try:
                keys = KeySet.import_key_set({"keys": [dict(k) for k in self._jwks]})
                return jwt.decode(token, keys, algorithms=list(ALGORITHMS)).claims
            except (JoseError, ValueError, TypeError, KeyError, RecursionError):
                if last or not await self._refresh_keys(KEYS_PAUSE):  # perhaps the provider changed its keys
                    raise Refusal("id_token") from None
        raise Refusal("id_token")

    async def _refresh_keys(self, older_than: timedelta) -> bool:
        now = self._clock.now()
        if self._jwks_at is not None and now - self._jwks_at < older_than:
            return False
        provider = await self._found()
        found = (await self._json("GET", provider.jwks_uri)).get("keys")
        # symmetric keys never: their holder could sign for the provider
        entries = found if isinstance(found, list) else []
        self._jwks = [k for k in entries if isinstance(k, dict) and k.get("kty") in ("RSA", "EC")]
        self._jwks_at = now
        return True

    # --- claims -> a person -------------------------------------------------------------------------------

    def _person(self, claims: Mapping[str, Any]) -> Person:
        values = _values(claims, self._settings.claim)
        roles = {PersonRole(r) for r in _mapped(values, self._settings.roles)}
        if not roles:
            text = "You have signed in, but nobody has given you a role here."
            raise NotPermitted([Reason(code="no_role", text=text)], mend="Ask your administrator.")
        subject = claims.get(self._settings.subject_claim)
        if not isinstance(subject, str) or not 0 < len(subject) <= jose.MAX_ID_CHARS:
            raise Refusal("subject")
        return Person(
            subject=subject,
            roles=frozenset(roles),
            purposes=frozenset(_mapped(values, self._settings.purposes)),
        )

    # --- the cookie ---------------------------------------------------------------------------------------

    def _sealed(self, held: Mapping[str, Any]) -> str:
        nonce = self._random_bytes(_NONCE_BYTES)
        return jose.encode(nonce + self._cipher().encrypt(nonce, json.dumps(held).encode(), b"sign-in"))

    def _opened(self, cookie: str) -> Mapping[str, Any]:
        try:
            sealed = jose.decode(cookie)
            plain = self._cipher().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], b"sign-in")
        except (InvalidTag, ValueError):
            raise Refusal("cookie") from None
        held = jose.parse_object(plain)
        if self._clock.now().timestamp() >= held["until"]:
            raise Refusal("cookie_expired")
        return held

    def _cipher(self) -> AESGCM:
        return AESGCM(self._keys.derive("sign-in"))


def _values(claims: Mapping[str, Any], path: str) -> list[str]:
    """The texts at a dotted path; none where there is something else."""
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return [found]
    return [v for v in found if isinstance(v, str)] if isinstance(found, list) else []


def _mapped(values: list[str], mapping: Mapping[str, str]) -> set[str]:
    return {name.strip() for v in values for name in mapping.get(v, "").split(",") if name.strip()}


def _own_path(path: str) -> str:
    """Never to another site: `//host` and `/\\host` would be one."""
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if safe else "/"


def _unusable(why: str) -> Unavailable:
    return Unavailable(
        f"The sign-in provider cannot be used: {why}.", mend="Check oidc_issuer, and that it is reachable."
    )
