"""JOSE in the one profile we speak: ES256 over P-256, and ECDH-ES+A256KW with A256GCM.

Stricter than the libraries underneath: one algorithm, an exact `typ`, canonical base64url (no second
spelling of one token), no repeated JSON names, and no header that brings or points to a key. What is
wrong is said by a `Refusal`'s code: for our log and tests, never for the caller. RFC 7515, 7516, 7638, 8725.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from connector.model.json import JsonObject

ALGORITHM = "ES256"
JWE_ALGORITHMS = ("ECDH-ES+A256KW", "A256GCM")
LEEWAY_SECONDS = 30
"""How far two honest clocks may differ, in either direction."""

MAX_TOKEN_CHARS = 8_192
MAX_ID_CHARS = 128
_COORDINATE_BYTES = 32
_SIGNATURE_BYTES = 64
_LATEST = 253_402_214_400.0  # the last day of the year 9999: later there is no datetime
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

# Each of these lets the sender choose a key, or changes what the signature covers.
_FORBIDDEN_HEADERS = frozenset({"jku", "x5u", "x5c", "jwk", "crit", "b64", "zip", "enc"})
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_ES256 = ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1)


class Refusal(Exception):
    """Why something signed was not accepted: a short `code` for our log, never for the caller."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# --- keys ----------------------------------------------------------------------------------------------


def public_jwk(key: ec.EllipticCurvePublicKey, *, use: str, alg: str) -> dict[str, str]:
    """The key as a JWK whose `kid` is its RFC 7638 thumbprint."""
    numbers = key.public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": encode(numbers.x.to_bytes(_COORDINATE_BYTES, "big")),
        "y": encode(numbers.y.to_bytes(_COORDINATE_BYTES, "big")),
    }
    return {**jwk, "kid": thumbprint(jwk), "use": use, "alg": alg}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """RFC 7638 §3, for EC keys."""
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    return encode(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def public_key(jwk: Any) -> ec.EllipticCurvePublicKey:
    """A public P-256 key and nothing else. Raises Refusal."""
    if not isinstance(jwk, Mapping) or _PRIVATE_MEMBERS.intersection(jwk):
        raise Refusal("key")
    x, y = jwk.get("x"), jwk.get("y")
    if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or not (isinstance(x, str) and isinstance(y, str)):
        raise Refusal("key")
    return _point(x, y)


@lru_cache(maxsize=1_024)
def _point(x: str, y: str) -> ec.EllipticCurvePublicKey:
    """Remembered because checking that a point lies on the curve costs as much as parsing a token."""
    first, second = decode(x), decode(y)
    if len(first) != _COORDINATE_BYTES or len(second) != _COORDINATE_BYTES:
        raise Refusal("key")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(first, "big"), int.from_bytes(second, "big"), ec.SECP256R1()
    )
    try:
        return numbers.public_key()
    except ValueError:
        raise Refusal("key") from None


def signing_key(jwks: Iterable[Mapping[str, Any]], kid: Any) -> ec.EllipticCurvePublicKey:
    """The `use: sig` key named `kid`; without a kid, the only one there is. Raises Refusal."""
    candidates = [jwk for jwk in jwks if jwk.get("use") == "sig" and (kid is None or jwk.get("kid") == kid)]
    if len(candidates) != 1:
        raise Refusal("key_unknown")
    return public_key(candidates[0])


# --- JWS -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """Taken apart, not yet believed. `header` may choose among keys we already hold."""

    header: JsonObject
    signing_input: bytes
    payload: bytes
    signature: bytes

    def verified(self, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
        """The claims. Raises Refusal when the signature is not by `key`."""
        if not _ES256.verify(self.signing_input, key, self.signature):
            raise Refusal("signature")
        return parse_object(self.payload)

    def unverified_claims(self) -> dict[str, Any]:
        """Only to find out whose key should verify them."""
        return parse_object(self.payload)


def parse_jws(
    unverified: str,
    *,
    typ: Container[str | None],
    max_chars: int = MAX_TOKEN_CHARS,
    embedded_jwk: bool = False,
) -> UnverifiedJws:
    """Take a compact JWS apart. `embedded_jwk`: the header must hold `jwk` (DPoP), else it must not."""
    if not isinstance(unverified, str) or len(unverified) > max_chars:
        raise Refusal("oversize")
    parts = unverified.split(".")
    if len(parts) != 3:
        raise Refusal("malformed")
    header = parse_object(decode(parts[0]))
    if header.get("alg") != ALGORITHM:
        raise Refusal("algorithm")
    named = header.get("typ")
    if not (named is None or isinstance(named, str)) or named not in typ:
        raise Refusal("typ")
    brought = _FORBIDDEN_HEADERS.intersection(header)
    if brought != ({"jwk"} if embedded_jwk else set()):
        raise Refusal("header")
    signature = decode(parts[2])
    if len(signature) != _SIGNATURE_BYTES:
        raise Refusal("signature")
    signing_input = f"{parts[0]}.{parts[1]}".encode("ascii")
    return UnverifiedJws(header, signing_input, decode(parts[1]), signature)


def verify_jws(
    unverified: str,
    jwks: Iterable[Mapping[str, Any]],
    *,
    typ: Container[str | None],
    max_chars: int = MAX_TOKEN_CHARS,
) -> dict[str, Any]:
    """The claims of a JWS signed by one of `jwks`. Raises Refusal."""
    jws = parse_jws(unverified, typ=typ, max_chars=max_chars)
    return jws.verified(signing_key(jwks, jws.header.get("kid")))


# --- JWE -----------------------------------------------------------------------------------------------


def encrypt_jwe(plaintext: bytes, jwks: Iterable[Mapping[str, Any]]) -> str:
    """To the only `use: enc` key of `jwks`. Raises Refusal where there is none, or more than one."""
    from joserfc import jwe
    from joserfc.jwk import ECKey

    candidates = [jwk for jwk in jwks if jwk.get("use") == "enc"]
    if len(candidates) != 1:
        raise Refusal("key_unknown")
    alg, enc = JWE_ALGORITHMS
    header = {"alg": alg, "enc": enc, "kid": candidates[0].get("kid")}
    key = ECKey.import_key(public_key(candidates[0]))
    return jwe.encrypt_compact(header, plaintext, key, algorithms=list(JWE_ALGORITHMS))


# --- pieces --------------------------------------------------------------------------------------------


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes of the one canonical spelling: stray bits, padding and foreign signs are refused."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Refusal("malformed") from None
    if encode(data) != text:
        raise Refusal("malformed")
    return data


def parse_json(document: str) -> Any:
    """JSON with no name twice in one object and no NaN. Raises Refusal."""
    try:
        return _DECODER.decode(document)
    except (ValueError, RecursionError):
        raise Refusal("malformed") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """`parse_json` of UTF-8, an object. Raises Refusal."""
    try:
        value = parse_json(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise Refusal("malformed") from None
    if not isinstance(value, dict):
        raise Refusal("malformed")
    return value


def text(claims: Mapping[str, Any], name: str, *, max_chars: int = MAX_ID_CHARS) -> str:
    """A claim that is a short string of printable ASCII without spaces, as ids and URLs are."""
    value = claims.get(name)
    if not isinstance(value, str) or len(value) > max_chars or not _PRINTABLE.fullmatch(value):
        raise Refusal(name)
    return value


def instant(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate in seconds (RFC 7519 §2)."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise Refusal(name)
    return float(value)


def require_current(claims: Mapping[str, Any], now: float) -> None:
    """`iat` and `nbf` have come and `exp` has not, give or take LEEWAY_SECONDS. Raises Refusal."""
    if instant(claims, "iat") > now + LEEWAY_SECONDS:
        raise Refusal("iat")
    if "nbf" in claims and instant(claims, "nbf") > now + LEEWAY_SECONDS:
        raise Refusal("nbf")
    if now >= instant(claims, "exp") + LEEWAY_SECONDS:
        raise Refusal("exp")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("repeated name")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_unrepeated, parse_constant=_no_constant)
