"""DPoP: whoever uses a token proves, on every request, that they hold its key (RFC 9449).

A proof is good for 60 s from its `iat` (and may lie 30 s ahead of our clock), for one method, one URL and
one access token, once; and with a nonce of the server's where it asks for one (dpop_nonce.py).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from connector.access import jose
from connector.access.dpop_nonce import Nonces
from connector.access.jose import LEEWAY_SECONDS, Refusal
from connector.ports import Keys, ReplayGuard

TYP = "dpop+jwt"
PROOF_SECONDS = 60
REPLAY_KIND = "dpop-proof"
_MAX_PROOF_CHARS = 4_096
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Every check but the single use held. `thumbprint` is the key's (RFC 7638)."""

    thumbprint: str
    proof_id: str
    expires_at: datetime
    nonce: object = None


def make_proof(
    keys: Keys,
    *,
    method: str,
    url: str,
    at: datetime,
    proof_id: str,
    access_token: str | None = None,
    nonce: str = "",
) -> str:
    """A proof for one request. `access_token` whenever one is sent along (§4.2)."""
    claims: dict[str, Any] = {
        "jti": proof_id,
        "htm": method.upper(),
        "htu": target_uri(url),
        "iat": int(at.timestamp()),
    }
    if access_token is not None:
        claims["ath"] = token_hash(access_token)
    if nonce:
        claims["nonce"] = nonce
    return keys.sign_jwt(claims, typ=TYP, embed_jwk=True)


async def verify_proof(
    unverified: str | None,
    *,
    method: str,
    url: str,
    now: datetime,
    replay: ReplayGuard,
    access_token: str | None = None,
    thumbprint: str | None = None,
    nonces: Nonces | None = None,
) -> str:
    """The proof key's thumbprint. Raises NonceWanted, Refusal, or Unavailable where the replay guard does not
    answer."""
    proof = check_proof(
        unverified, method=method, url=url, now=now, access_token=access_token, thumbprint=thumbprint
    )
    if nonces is not None:
        nonces.require(proof.nonce)
    # Last, so that only holders of a key can fill the guard.
    claimed = await replay.claim(
        REPLAY_KIND, f"{proof.thumbprint}:{proof.proof_id}", expires_at=proof.expires_at
    )
    if not claimed:
        raise Refusal("proof_replayed")
    return proof.thumbprint


def check_proof(
    unverified: str | None,
    *,
    method: str,
    url: str,
    now: datetime,
    access_token: str | None = None,
    thumbprint: str | None = None,
) -> Proof:
    """§4.3, all but the single use. `url` is our configured public URL and the request's path."""
    if not unverified:
        raise Refusal("proof_missing")
    jws = jose.parse_jws(unverified, typ={TYP}, max_chars=_MAX_PROOF_CHARS, embedded_jwk=True)
    jwk = jws.header["jwk"]
    claims = jws.verified(jose.public_key(jwk))
    if claims.get("htm") != method:
        raise Refusal("proof_method")
    if target_uri(jose.text(claims, "htu", max_chars=2_048)) != target_uri(url):
        raise Refusal("proof_url")
    issued = jose.instant(claims, "iat")
    if not -LEEWAY_SECONDS <= now.timestamp() - issued <= PROOF_SECONDS:
        raise Refusal("proof_time")
    if access_token is not None and claims.get("ath") != token_hash(access_token):
        raise Refusal("proof_token")
    held = jose.thumbprint(jwk)
    if thumbprint is not None and held != thumbprint:
        raise Refusal("proof_key")
    expires = datetime.fromtimestamp(issued + PROOF_SECONDS + LEEWAY_SECONDS, UTC)
    return Proof(
        thumbprint=held,
        proof_id=jose.text(claims, "jti"),
        expires_at=expires,
        nonce=claims.get("nonce"),
    )


def token_hash(access_token: str) -> str:
    """`ath` (§4.2)."""
    return jose.encode(hashlib.sha256(access_token.encode()).digest())


def target_uri(url: str) -> str:
    """Scheme, host, port and path in RFC 3986's normal form; query and fragment fall away (§4.3 step 9)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refusal("proof_url") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        raise Refusal("proof_url")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    return f"{parts.scheme}://{authority}{_ESCAPE.sub(_normal_escape, parts.path) or '/'}"


def _normal_escape(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return char if char in _UNRESERVED else match[0].upper()
