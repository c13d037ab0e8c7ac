"""Keys in files: how they are kept, refused and used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from connector.access import jose
from connector.adapters import file_keys
from connector.errors import KeysInvalid


def test_created_keys_are_ours_alone_and_load_again(tmp_path: Path) -> None:
    """Identity issue: private keys in files of mode 0600."""
    folder = tmp_path / "kela" / "keys"
    made = file_keys.create(folder, "kela")
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {
        "signing.pem": 0o600,
        "encryption.pem": 0o600,
        "root.secret": 0o600,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    loaded = file_keys.load(folder, "kela")
    assert loaded.public_jwks() == made.public_jwks()
    assert loaded.derive("x") == made.derive("x")


def test_public_keys(tmp_path: Path) -> None:
    """RFC 7517 §4, RFC 7638: public members only; kid is the thumbprint, as PyJWT and joserfc read it."""
    from joserfc.jwk import ECKey

    keys = file_keys.create(tmp_path, "kela")
    sig, enc = keys.public_jwks()
    assert set(sig) == set(enc) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (sig["use"], sig["alg"], enc["use"], enc["alg"]) == ("sig", "ES256", "enc", "ECDH-ES+A256KW")
    assert sig["kid"] == keys.thumbprint() == ECKey.import_key(dict(sig)).thumbprint()
    token = keys.sign_jwt({"iss": "kela"}, typ="at+jwt")
    assert jwt.decode(token, jwt.PyJWK(dict(sig)).key, algorithms=["ES256"]) == {"iss": "kela"}
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": sig["kid"]}


def test_a_proof_carries_the_public_key_instead(tmp_path: Path) -> None:
    """RFC 9449 §4.2."""
    keys = file_keys.create(tmp_path, "kela")
    header = jwt.get_unverified_header(keys.sign_jwt({}, typ="dpop+jwt", embed_jwk=True))
    assert set(header) == {"alg", "typ", "jwk"}
    assert set(header["jwk"]) == {"kty", "crv", "x", "y"}
    assert jose.thumbprint(header["jwk"]) == keys.thumbprint()


def test_only_its_owner_opens_what_is_encrypted_to_a_key(tmp_path: Path) -> None:
    """RFC 7516, ECDH-ES+A256KW with A256GCM."""
    kela, city = file_keys.create(tmp_path / "k", "kela"), file_keys.create(tmp_path / "c", "city")
    sealed = jose.encrypt_jwe(b"secret", kela.public_jwks())
    assert kela.decrypt_jwe(sealed) == b"secret"
    parts = sealed.split(".")
    tampered = ".".join([*parts[:4], "A" * len(parts[4])])
    header = jose.encode(b'{"alg":"dir","enc":"A256GCM"}')
    for keys, token in (
        (city, sealed),
        (kela, tampered),
        (kela, "a.b.c.d.e"),
        (kela, ""),
        (kela, "\u20ac"),
        (kela, ".".join([header, *parts[1:]])),
        (kela, ".".join([jose.encode(b"[" * 500), *parts[1:]])),
        (kela, sealed + "x" * 100_000),
    ):
        with pytest.raises(KeysInvalid):
            keys.decrypt_jwe(token)


def test_derived_secrets_differ_by_purpose_and_by_folder(tmp_path: Path) -> None:
    kela, city = file_keys.create(tmp_path / "k", "kela"), file_keys.create(tmp_path / "c", "city")
    derived = {kela.derive("a"), kela.derive("b"), city.derive("a")}
    assert len(derived) == 3
    assert {len(d) for d in derived} == {32}
    assert len(kela.derive("a", 64)) == 64


def test_nothing_private_is_shown(tmp_path: Path) -> None:
    keys = file_keys.create(tmp_path, "kela")
    private = keys._held.signing.private_numbers().private_value
    assert str(private) not in repr(keys)
    assert keys._root.hex() not in repr(keys)


@pytest.mark.parametrize("name", [file_keys.SIGNING, file_keys.ENCRYPTION, file_keys.ROOT])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_stops_the_start(tmp_path: Path, name: str, mode: int) -> None:
    file_keys.create(tmp_path, "kela")
    (tmp_path / name).chmod(mode)
    with pytest.raises(KeysInvalid, match=f"{name}.*{mode:o}.*chmod 600"):
        file_keys.load(tmp_path, "kela")


@pytest.mark.parametrize("name", [file_keys.SIGNING, file_keys.ENCRYPTION, file_keys.ROOT])
def test_a_missing_key_stops_the_start(tmp_path: Path, name: str) -> None:
    file_keys.create(tmp_path, "kela")
    (tmp_path / name).unlink()
    with pytest.raises(KeysInvalid, match=f"{name}: is missing.*connector init"):
        file_keys.load(tmp_path, "kela")


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(ec.generate_private_key(ec.SECP256R1()), b"password"),
        _pem(rsa.generate_private_key(65537, 2048)),
    ],
    ids=["empty", "text", "P-384", "encrypted", "RSA"],
)
def test_another_kind_of_key_stops_the_start(tmp_path: Path, content: bytes) -> None:
    file_keys.create(tmp_path, "kela")
    (tmp_path / file_keys.SIGNING).write_bytes(content)
    with pytest.raises(KeysInvalid, match=r"signing\.pem: is (not an EC P-256 key|encrypted)"):
        file_keys.load(tmp_path, "kela")


def test_a_root_secret_of_another_length_stops_the_start(tmp_path: Path) -> None:
    file_keys.create(tmp_path, "kela")
    (tmp_path / file_keys.ROOT).write_bytes(b"short")
    with pytest.raises(KeysInvalid, match="32 bytes"):
        file_keys.load(tmp_path, "kela")


def test_what_is_no_file_stops_the_start(tmp_path: Path) -> None:
    """And does not hang it: a pipe would wait for a writer."""
    file_keys.create(tmp_path, "kela")
    (tmp_path / file_keys.ROOT).unlink()
    os.mkfifo(tmp_path / file_keys.ROOT, 0o600)
    with pytest.raises(KeysInvalid, match="is not a file"):
        file_keys.load(tmp_path, "kela")


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    made = file_keys.create(tmp_path, "kela")
    with pytest.raises(KeysInvalid, match="never overwritten"):
        file_keys.create(tmp_path, "kela")
    assert file_keys.load(tmp_path, "kela").thumbprint() == made.thumbprint()
