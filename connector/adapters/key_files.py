"""Files that hold secrets: mode 0600, written whole, encrypted where a passphrase is given.

PEM keys are encrypted as PKCS#8 (PBES2), other secrets as a JWE (RFC 7518 §4.8). A file that is missing,
readable by others or of another kind stops the start.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connector.errors import KeysInvalid

_MAX_FILE_BYTES = 65_536
RESTORE = "Restore the key folder from its backup; a new key must be admitted to the registry first."
_PASSPHRASE = "Check the file that `keys_passphrase_file` names."


def private_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """An EC P-256 key in PEM. Raises KeysInvalid, which never quotes the file."""
    data = read(path)
    _require_sealed(path, data, passphrase)
    try:
        key = serialization.load_pem_private_key(data, password=passphrase if is_sealed(data) else None)
    except (ValueError, TypeError):  # the library's text is of no use, and could quote the file
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        sealed = is_sealed(data)
        raise KeysInvalid(
            "cannot be decrypted" if sealed else "is not an EC P-256 key in PEM",
            where=str(path),
            mend=_PASSPHRASE if sealed else RESTORE,
        )
    return key


def pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else None
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )


def secret(path: Path, passphrase: bytes | None, length: int) -> bytes:
    """`length` random bytes. Raises KeysInvalid."""
    data = read(path)
    _require_sealed(path, data, passphrase)
    if is_sealed(data):
        data = _unsealed(path, data, passphrase or b"")
    if len(data) != length:
        raise KeysInvalid(f"must hold {length} bytes", where=str(path), mend=RESTORE)
    return data


def sealed(data: bytes, passphrase: bytes | None) -> bytes:
    if not passphrase:
        return data
    from joserfc import jwe
    from joserfc.jwk import OctKey

    header = {"alg": "PBES2-HS256+A128KW", "enc": "A256GCM", "p2c": 250_000}
    key = OctKey.import_key(passphrase)
    return jwe.encrypt_compact(header, data, key, algorithms=[header["alg"], header["enc"]]).encode("ascii")  # type: ignore[list-item]


def read(path: Path) -> bytes:
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
            raise KeysInvalid("is not a file", where=str(path), mend=RESTORE)
        if mode & 0o077:
            raise KeysInvalid(
                f"can be read by others (mode {stat.S_IMODE(mode):04o})",
                where=str(path),
                mend="Run `chmod 600` on it, and replace the keys if others had access.",
            )
        return file.read(_MAX_FILE_BYTES)


def write_new(path: Path, data: bytes) -> None:
    """Never over another file: raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Whole or not at all, also across a power cut."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A rename is durable once the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_sealed(data: bytes) -> bool:
    return data.startswith((b"-----BEGIN ENCRYPTED", b"eyJ"))


def _require_sealed(path: Path, data: bytes, passphrase: bytes | None) -> None:
    """Whoever configured a passphrase believes that the files are encrypted: so they must be."""
    if passphrase and not is_sealed(data):
        raise KeysInvalid(
            "is not encrypted, and a passphrase is set",
            where=str(path),
            mend="Run `connector keys encrypt`.",
        )
    if not passphrase and is_sealed(data):
        raise KeysInvalid("is encrypted", where=str(path), mend="Set `keys_passphrase_file`.")


def _unsealed(path: Path, data: bytes, passphrase: bytes) -> bytes:
    from joserfc import jwe
    from joserfc.errors import JoseError
    from joserfc.jwk import OctKey

    try:
        opened = jwe.decrypt_compact(
            data.decode("ascii"),
            OctKey.import_key(passphrase),
            algorithms=["PBES2-HS256+A128KW", "A256GCM"],
        )
    except (JoseError, ValueError, TypeError, KeyError):
        raise KeysInvalid("cannot be decrypted", where=str(path), mend=_PASSPHRASE) from None
    return opened.plaintext or b""
