"""Keys in a hardware security module, by PKCS#11: private keys never leave it, not even into our memory.

The module does ES256 (CKM_ECDSA), the agreement of ECDH-ES (CKM_ECDH1_DERIVE) and HMAC-SHA-256 for derived
secrets (RFC 5869 §2.3, with the root key as PRK). What is left of RFC 7518 §4.6 is done here. Calls block for
as long as the module takes; one session, one caller at a time.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from connector.access import jose
from connector.errors import KeysInvalid
from connector.model.json import JsonObject

SIGNING, ENCRYPTION, ROOT = "connector-signing", "connector-encryption", "connector-root"
_FAILED = "Check `pkcs11_module`, `pkcs11_token` and the PIN, and that the module answers."


class Pkcs11Keys:
    """`connector.ports.Keys` over one token. Made by `open_token` or `create`."""

    def __init__(self, participant_id: str, session: Any) -> None:
        self._participant_id = participant_id
        self._lock = threading.Lock()
        self._session = session
        self._signing = _key(session, SIGNING, pkcs11.ObjectClass.PRIVATE_KEY)
        self._encryption = _key(session, ENCRYPTION, pkcs11.ObjectClass.PRIVATE_KEY)
        self._root = _key(session, ROOT, pkcs11.ObjectClass.SECRET_KEY)
        sig = jose.public_jwk(_public(session, SIGNING), use="sig", alg=jose.ALGORITHM)
        enc = jose.public_jwk(_public(session, ENCRYPTION), use="enc", alg=jose.JWE_ALGORITHMS[0])
        self._jwks = (sig, enc)
        self._kid = sig["kid"]
        self._proof_jwk = {name: sig[name] for name in ("kty", "crv", "x", "y")}

    @property
    def participant_id(self) -> str:
        return self._participant_id

    def public_jwks(self) -> tuple[Mapping[str, Any], ...]:
        return self._jwks

    def thumbprint(self) -> str:
        return self._kid

    def sign_jwt(self, claims: JsonObject, *, typ: str, embed_jwk: bool = False) -> str:
        which: dict[str, Any] = {"jwk": self._proof_jwk} if embed_jwk else {"kid": self._kid}
        return self._compact(which, json.dumps(claims, separators=(",", ":")).encode(), typ)

    def sign_jws(self, payload: bytes, *, typ: str) -> str:
        return self._compact({"kid": self._kid}, payload, typ)

    def decrypt_jwe(self, token: str) -> bytes:
        """Compact, ECDH-ES+A256KW with A256GCM (RFC 7516 §5.2, RFC 7518 §4.6)."""
        try:
            header, wrapped, iv, ciphertext, tag = token.split(".")
            protected = jose.parse_object(jose.decode(header))
            if (protected.get("alg"), protected.get("enc")) != jose.JWE_ALGORITHMS:
                raise jose.Refusal("algorithm")
            agreed = self._agreed(jose.public_key(protected.get("epk")))
            parties = [jose.decode(protected.get(name, "")) for name in ("apu", "apv")]
            content_key = aes_key_unwrap(_concat_kdf(agreed, *parties), jose.decode(wrapped))
            sealed = jose.decode(ciphertext) + jose.decode(tag)
            return AESGCM(content_key).decrypt(jose.decode(iv), sealed, header.encode("ascii"))
        except (jose.Refusal, InvalidUnwrap, InvalidTag, ValueError, TypeError, AttributeError):
            raise KeysInvalid(
                "This was not encrypted to our key.",
                mend="The sender must use the `enc` key that the registry publishes for us.",
            ) from None

    def derive(self, purpose: str, length: int = 32) -> bytes:
        made, block = b"", b""
        for counter in range(1, -(-length // 32) + 1):
            message = block + purpose.encode() + bytes([counter])
            block = self._ask(lambda m=message: self._root.sign(m, mechanism=pkcs11.Mechanism.SHA256_HMAC))
            made += block
        return made[:length]

    def refresh(self) -> bool:
        """Keys of a token change by a restart with other labels, not under way."""
        return False

    def close(self) -> None:
        self._session.close()

    def __repr__(self) -> str:
        return f"Pkcs11Keys({self._participant_id!r}, kid={self._kid!r})"

    def _compact(self, which: Mapping[str, Any], payload: bytes, typ: str) -> str:
        header = json.dumps({"alg": jose.ALGORITHM, "typ": typ, **which}, separators=(",", ":")).encode()
        signing_input = f"{jose.encode(header)}.{jose.encode(payload)}"
        digest = hashlib.sha256(signing_input.encode("ascii")).digest()
        signature = self._ask(lambda: self._signing.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
        return f"{signing_input}.{jose.encode(signature)}"

    def _agreed(self, ephemeral: ec.EllipticCurvePublicKey) -> bytes:
        numbers = ephemeral.public_numbers()
        point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")

        def derive() -> bytes:
            key = self._encryption.derive_key(
                pkcs11.KeyType.GENERIC_SECRET,
                256,
                mechanism_param=(pkcs11.KDF.NULL, None, point),
                template={pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True},
            )
            return bytes(key[pkcs11.Attribute.VALUE])

        return self._ask(derive)

    def _ask(self, call: Any) -> bytes:
        try:
            with self._lock:
                return bytes(call())
        except pkcs11.PKCS11Error as error:
            raise KeysInvalid(f"the security module refused ({type(error).__name__})", mend=_FAILED) from None


def open_token(participant_id: str, module: Path, token: str, pin: str) -> Pkcs11Keys:
    """Raises KeysInvalid, without the PIN."""
    session = _session(module, token, pin, rw=False)
    try:
        return Pkcs11Keys(participant_id, session)
    except BaseException:
        session.close()
        raise


def create(participant_id: str, module: Path, token: str, pin: str) -> Pkcs11Keys:
    """Make fresh keys in the token, none of them extractable. Raises KeysInvalid where there are some."""
    session = _session(module, token, pin, rw=True)
    try:
        if any(True for _ in session.get_objects({pkcs11.Attribute.LABEL: SIGNING})):
            raise KeysInvalid(
                "has the connector's keys already", where=token, mend="Keys are never overwritten."
            )
        curve = encode_named_curve_parameters("secp256r1")
        flags = pkcs11.MechanismFlag
        for label, use in ((SIGNING, flags.SIGN | flags.VERIFY), (ENCRYPTION, flags.DERIVE)):
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
            )
            parameters.generate_keypair(
                label=label,
                store=True,
                capabilities=use,
                private_template={pkcs11.Attribute.EXTRACTABLE: False, pkcs11.Attribute.SENSITIVE: True},
            )
        session.generate_key(
            pkcs11.KeyType.GENERIC_SECRET,
            256,
            label=ROOT,
            store=True,
            capabilities=pkcs11.MechanismFlag.SIGN,
            template={pkcs11.Attribute.EXTRACTABLE: False, pkcs11.Attribute.SENSITIVE: True},
        )
        return Pkcs11Keys(participant_id, session)
    except pkcs11.PKCS11Error as error:
        session.close()
        raise KeysInvalid(
            f"no keys could be made ({type(error).__name__})", where=token, mend=_FAILED
        ) from None
    except BaseException:
        session.close()
        raise


def _session(module: Path, token: str, pin: str, *, rw: bool) -> Any:
    try:
        return pkcs11.lib(str(module)).get_token(token_label=token).open(user_pin=pin, rw=rw)
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        raise KeysInvalid(
            f"the security module does not open ({type(error).__name__})", where=token, mend=_FAILED
        ) from None


def _key(session: Any, label: str, kind: pkcs11.ObjectClass) -> Any:
    try:
        return session.get_key(object_class=kind, label=label)
    except pkcs11.PKCS11Error as error:
        raise KeysInvalid(
            f"has no single key {label!r} ({type(error).__name__})",
            where="pkcs11_token",
            mend="Make them with `connector keys create`.",
        ) from None


def _public(session: Any, label: str) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(encode_ec_public_key(_key(session, label, pkcs11.ObjectClass.PUBLIC_KEY)))
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysInvalid(f"the key {label!r} is not on P-256", where="pkcs11_token")
    return key


def _concat_kdf(agreed: bytes, apu: bytes, apv: bytes) -> bytes:
    """RFC 7518 §4.6.2 for A256KW: one round."""

    def sized(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    info = sized(b"ECDH-ES+A256KW") + sized(apu) + sized(apv) + (256).to_bytes(4, "big")
    return hashlib.sha256((1).to_bytes(4, "big") + agreed + info).digest()
