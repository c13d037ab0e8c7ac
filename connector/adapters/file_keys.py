"""Keys in files: `signing.pem` and `encryption.pem` (EC P-256, PKCS#8) and `root.secret` (32 random bytes).

While keys are changed (key_rotation.py) there are more: `signing.next.pem`, published and not yet signed
with; `signing.retired.json`, public keys that go on verifying; `encryption.old.pem`, for what is still on its
way.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connector.access import jose
from connector.adapters import key_files
from connector.errors import KeysInvalid
from connector.model.json import JsonObject

SIGNING, ENCRYPTION, ROOT = "signing.pem", "encryption.pem", "root.secret"
NEXT_SIGNING, RETIRED, OLD_ENCRYPTION = "signing.next.pem", "signing.retired.json", "encryption.old.pem"
ROOT_BYTES = 32

Private = ec.EllipticCurvePrivateKey


class _Held:
    """The keys of one moment: replaced as a whole, so that no signature is made of two."""

    def __init__(
        self,
        signing: Private,
        encryption: Private,
        next_signing: Private | None,
        retired: Sequence[Mapping[str, Any]],
        old_encryption: Private | None,
    ) -> None:
        self.signing = signing
        self.opening = [encryption, *([old_encryption] if old_encryption else [])]
        sig = _signing_jwk(signing)
        enc = jose.public_jwk(encryption.public_key(), use="enc", alg=jose.JWE_ALGORITHMS[0])
        others: list[Mapping[str, Any]] = [_signing_jwk(next_signing)] if next_signing else []
        others += [jwk for jwk in retired if jwk["kid"] != sig["kid"]]
        self.jwks: tuple[Mapping[str, Any], ...] = (sig, enc, *others)
        self.kid = sig["kid"]
        self.proof_jwk = {name: sig[name] for name in ("kty", "crv", "x", "y")}


class FileKeys:
    """`connector.ports.Keys` over keys read once, and again by `refresh`, which may run in another thread.
    Made by `load` or `create`."""

    def __init__(
        self,
        participant_id: str,
        signing: Private,
        encryption: Private,
        root: bytes,
        *,
        next_signing: Private | None = None,
        retired: Sequence[Mapping[str, Any]] = (),
        old_encryption: Private | None = None,
    ) -> None:
        self._participant_id = participant_id
        self._root = root
        self._held = _Held(signing, encryption, next_signing, retired, old_encryption)
        self._folder: Path | None = None
        self._passphrase: bytes | None = None
        self._stamp: object = None

    @property
    def participant_id(self) -> str:
        return self._participant_id

    def public_jwks(self) -> tuple[Mapping[str, Any], ...]:
        return self._held.jwks

    def thumbprint(self) -> str:
        return self._held.kid

    def sign_jwt(self, claims: JsonObject, *, typ: str, embed_jwk: bool = False) -> str:
        held = self._held
        which: dict[str, Any] = {"jwk": held.proof_jwk} if embed_jwk else {"kid": held.kid}
        return jwt.encode(dict(claims), held.signing, algorithm=jose.ALGORITHM, headers={"typ": typ, **which})

    def sign_jws(self, payload: bytes, *, typ: str) -> str:
        held = self._held
        headers = {"typ": typ, "kid": held.kid}
        return jwt.PyJWS().encode(payload, held.signing, algorithm=jose.ALGORITHM, headers=headers)

    def decrypt_jwe(self, token: str) -> bytes:
        from joserfc import jwe  # rarely needed
        from joserfc.errors import JoseError
        from joserfc.jwk import ECKey

        for private in self._held.opening:
            try:
                key = ECKey.import_key(private)
                opened = jwe.decrypt_compact(token, key, algorithms=list(jose.JWE_ALGORITHMS))
            except (JoseError, ValueError, TypeError, KeyError, RecursionError):
                continue
            if opened.plaintext is not None:
                return opened.plaintext
        raise KeysInvalid("This was not encrypted to our key.", mend=_ENCRYPTED_TO)

    def derive(self, purpose: str, length: int = 32) -> bytes:
        return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(self._root)

    def refresh(self) -> bool:
        """Take up what `connector keys rotate` changed in the folder; whether anything did. Raises
        KeysInvalid; then the keys in use stay."""
        if self._folder is None or (stamp := _stamp(self._folder)) == self._stamp:
            return False
        found = load(self._folder, self._participant_id, self._passphrase)
        changed = (found._held.kid, found._held.jwks) != (self._held.kid, self._held.jwks)
        self._held, self._stamp = found._held, stamp
        return changed

    def __repr__(self) -> str:
        return f"FileKeys({self._participant_id!r}, kid={self._held.kid!r})"


_ENCRYPTED_TO = "The sender must use the `enc` key that the registry publishes for us."


def create(keys_dir: Path, participant_id: str, passphrase: bytes | None = None) -> FileKeys:
    """Make fresh keys. Never overwrites: raises KeysInvalid where one of the files exists."""
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (SIGNING, ENCRYPTION, ROOT):
        if (keys_dir / name).exists():
            raise KeysInvalid(
                "exists already", where=str(keys_dir / name), mend="Keys are never overwritten: move it away."
            )
    for name in (SIGNING, ENCRYPTION):
        key_files.write_new(keys_dir / name, key_files.pem(new_private(), passphrase))
    key_files.write_new(keys_dir / ROOT, key_files.sealed(secrets.token_bytes(ROOT_BYTES), passphrase))
    return load(keys_dir, participant_id, passphrase)


def load(keys_dir: Path, participant_id: str, passphrase: bytes | None = None) -> FileKeys:
    """Raises KeysInvalid, naming the file and what to do."""
    stamp = _stamp(keys_dir)
    keys = FileKeys(
        participant_id,
        key_files.private_key(keys_dir / SIGNING, passphrase),
        key_files.private_key(keys_dir / ENCRYPTION, passphrase),
        key_files.secret(keys_dir / ROOT, passphrase, ROOT_BYTES),
        next_signing=_if_there(keys_dir / NEXT_SIGNING, passphrase),
        retired=[entry["jwk"] for entry in retired(keys_dir)],
        old_encryption=_if_there(keys_dir / OLD_ENCRYPTION, passphrase),
    )
    keys._folder, keys._passphrase, keys._stamp = keys_dir, passphrase, stamp
    return keys


def new_private() -> Private:
    return ec.generate_private_key(ec.SECP256R1())


def retired(keys_dir: Path) -> list[dict[str, Any]]:
    """Public signing keys no longer signed with: `{"jwk": ..., "until": <RFC 3339>}`. Raises KeysInvalid."""
    path = keys_dir / RETIRED
    if not path.exists():
        return []
    try:
        found = json.loads(key_files.read(path))
        for entry in found:
            jose.public_key(entry["jwk"])
            str(entry["until"])
    except (ValueError, KeyError, TypeError, jose.Refusal):
        raise KeysInvalid("cannot be read", where=str(path), mend=key_files.RESTORE) from None
    return list(found)


def _if_there(path: Path, passphrase: bytes | None) -> Private | None:
    return key_files.private_key(path, passphrase) if path.exists() else None


def _signing_jwk(key: Private) -> dict[str, str]:
    return jose.public_jwk(key.public_key(), use="sig", alg=jose.ALGORITHM)


def _stamp(folder: Path) -> object:
    """Changes whenever a file of the folder is replaced, made or removed."""
    names = (SIGNING, ENCRYPTION, NEXT_SIGNING, RETIRED, OLD_ENCRYPTION)
    found = [folder / name for name in names]
    return [(s.st_ino, s.st_mtime_ns) if p.exists() and (s := p.stat()) else None for p in found]
