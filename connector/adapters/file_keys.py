"""Keys in files: `signing.pem` and `encryption.pem` (EC P-256, PKCS#8) and `root.secret` (32 random bytes).

All of mode 0600. A file that is missing, readable by others or of another kind stops the start.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connector.access import jose
from connector.errors import KeysInvalid
from connector.model.json import JsonObject

SIGNING, ENCRYPTION, ROOT = "signing.pem", "encryption.pem", "root.secret"
ROOT_BYTES = 32
_MAX_FILE_BYTES = 16_384
_RESTORE = "Restore the key folder from its backup; a new key must be admitted to the registry first."


class FileKeys:
    """`connector.ports.Keys` over key objects read once. Made by `load` or `create`."""

    def __init__(
        self,
        participant_id: str,
        signing: ec.EllipticCurvePrivateKey,
        encryption: ec.EllipticCurvePrivateKey,
        root: bytes,
    ) -> None:
        self._participant_id = participant_id
        self._signing = signing
        self._encryption = encryption
        self._root = root
        sig = jose.public_jwk(signing.public_key(), use="sig", alg=jose.ALGORITHM)
        enc = jose.public_jwk(encryption.public_key(), use="enc", alg=jose.JWE_ALGORITHMS[0])
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
        return jwt.encode(
            dict(claims), self._signing, algorithm=jose.ALGORITHM, headers={"typ": typ, **which}
        )

    def decrypt_jwe(self, token: str) -> bytes:
        from joserfc import jwe  # rarely needed
        from joserfc.errors import JoseError
        from joserfc.jwk import ECKey

        key = ECKey.import_key(self._encryption)
        try:
            opened = jwe.decrypt_compact(token, key, algorithms=list(jose.JWE_ALGORITHMS))
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise KeysInvalid("This was not encrypted to our key.", mend=_ENCRYPTED_TO) from None
        if opened.plaintext is None:
            raise KeysInvalid("This was not encrypted to our key.", mend=_ENCRYPTED_TO)
        return opened.plaintext

    def derive(self, purpose: str, length: int = 32) -> bytes:
        return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(self._root)

    def __repr__(self) -> str:
        return f"FileKeys({self._participant_id!r}, kid={self._kid!r})"


_ENCRYPTED_TO = "The sender must use the `enc` key that the registry publishes for us."


def create(keys_dir: Path, participant_id: str) -> FileKeys:
    """Make fresh keys. Never overwrites: raises KeysInvalid where one of the files exists."""
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (SIGNING, ENCRYPTION, ROOT):
        if (keys_dir / name).exists():
            raise KeysInvalid(
                "exists already", where=str(keys_dir / name), mend="Keys are never overwritten: move it away."
            )
    _write(keys_dir / SIGNING, _pem(ec.generate_private_key(ec.SECP256R1())))
    _write(keys_dir / ENCRYPTION, _pem(ec.generate_private_key(ec.SECP256R1())))
    _write(keys_dir / ROOT, secrets.token_bytes(ROOT_BYTES))
    return load(keys_dir, participant_id)


def load(keys_dir: Path, participant_id: str) -> FileKeys:
    """Raises KeysInvalid, naming the file and what to do."""
    root = _read(keys_dir / ROOT)
    if len(root) != ROOT_BYTES:
        raise KeysInvalid(f"must hold {ROOT_BYTES} bytes", where=str(keys_dir / ROOT), mend=_RESTORE)
    return FileKeys(participant_id, _private(keys_dir / SIGNING), _private(keys_dir / ENCRYPTION), root)


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):  # the library's text is of no use, and could quote the file
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysInvalid("is not an unencrypted EC P-256 key in PEM", where=str(path), mend=_RESTORE)
    return key


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        mend = "Run `connector init` for a new participant, or restore the key folder from its backup."
        raise KeysInvalid("is missing", where=str(path), mend=mend) from None
    except OSError as error:
        raise KeysInvalid(
            f"cannot be read ({error.strerror})", where=str(path), mend="Give it to the connector's own user."
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode  # of what is open, so nobody can swap it in between
        if not stat.S_ISREG(mode):
            raise KeysInvalid("is not a file", where=str(path), mend=_RESTORE)
        if mode & 0o077:
            raise KeysInvalid(
                f"can be read by others (mode {stat.S_IMODE(mode):04o})",
                where=str(path),
                mend="Run `chmod 600` on it, and replace the keys if others had access.",
            )
        return file.read(_MAX_FILE_BYTES)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
