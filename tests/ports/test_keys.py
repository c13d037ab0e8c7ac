"""Port Keys: the same contract over files, over encrypted files and over a hardware security module."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest

from connector.access import jose
from connector.adapters import file_keys, pkcs11_keys
from connector.errors import KeysInvalid
from connector.ports import Keys

PIN = "1234"
MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = next((Path(m) for m in MODULES if Path(m).exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        if os.environ.get("CI"):
            pytest.fail("SoftHSM is missing: install softhsm2")
        pytest.skip("SoftHSM is not installed (Debian: softhsm2)")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "kela", "--so-pin", PIN, "--pin", PIN],
        check=True,
        capture_output=True,
    )
    pkcs11_keys.create("kela", found, "kela", PIN).close()
    return found


class KeysContract:
    """What every keeper of keys must hold."""

    def test_what_it_signs_verifies_with_what_it_publishes(self, keys: Keys) -> None:
        """RFC 7515, ES256: by the strict profile of access.jose."""
        signed = keys.sign_jwt({"iss": "kela", "ä": [1, None]}, typ="at+jwt")
        assert jose.verify_jws(signed, keys.public_jwks(), typ={"at+jwt"}) == {"iss": "kela", "ä": [1, None]}
        payload = b'{"exact": "bytes"}'
        jws = jose.parse_jws(keys.sign_jws(payload, typ="x+jws"), typ={"x+jws"})
        assert jws.payload == payload
        jws.verified(jose.signing_key(keys.public_jwks(), jws.header["kid"]))

    def test_a_proof_brings_the_public_key(self, keys: Keys) -> None:
        """RFC 9449 §4.2."""
        jws = jose.parse_jws(
            keys.sign_jwt({"jti": "1"}, typ="dpop+jwt", embed_jwk=True), typ={"dpop+jwt"}, embedded_jwk=True
        )
        assert jws.verified(jose.public_key(jws.header["jwk"])) == {"jti": "1"}
        assert jose.thumbprint(jws.header["jwk"]) == keys.thumbprint()

    def test_only_public_members_are_published(self, keys: Keys) -> None:
        """RFC 7517 §4: one key to verify with, one to encrypt to."""
        assert {k["use"] for k in keys.public_jwks()} == {"sig", "enc"}
        assert all(set(k) == {"kty", "crv", "x", "y", "kid", "use", "alg"} for k in keys.public_jwks())

    def test_it_opens_what_is_encrypted_to_it(self, keys: Keys, tmp_path: Path) -> None:
        """RFC 7516, 7518 §4.6: as joserfc encrypts it; nothing else, and no hint why."""
        assert keys.decrypt_jwe(jose.encrypt_jwe(b"secret", keys.public_jwks())) == b"secret"
        other = file_keys.create(tmp_path / "other", "city")
        foreign = jose.encrypt_jwe(b"secret", other.public_jwks())
        broken = foreign[:-4] + "AAAA"
        for token in (foreign, broken, "", "a.b.c.d.e", "é", ".".join(["e30"] * 5)):
            with pytest.raises(KeysInvalid, match="not encrypted to our key"):
                keys.decrypt_jwe(token)

    def test_derived_secrets_are_stable_and_differ_by_purpose(self, keys: Keys) -> None:
        """RFC 5869: any length, each a prefix of the longer."""
        assert keys.derive("a") == keys.derive("a") != keys.derive("b")
        assert len(keys.derive("a", 80)) == 80
        assert keys.derive("a", 80)[:32] == keys.derive("a")

    def test_nothing_private_shows(self, keys: Keys) -> None:
        assert "PRIVATE" not in repr(keys)
        assert repr(keys).count("'") == 4  # the participant and the kid


class TestFiles(KeysContract):
    @pytest.fixture
    def keys(self, tmp_path: Path) -> Keys:
        return file_keys.create(tmp_path / "keys", "kela")


class TestEncryptedFiles(KeysContract):
    @pytest.fixture
    def keys(self, tmp_path: Path) -> Keys:
        return file_keys.create(tmp_path / "keys", "kela", b"a long passphrase")


class TestHardwareSecurityModule(KeysContract):
    """SoftHSM, a module in software with the same interface."""

    @pytest.fixture
    def keys(self, module: Path) -> Iterator[Keys]:
        opened = pkcs11_keys.open_token("kela", module, "kela", PIN)
        yield opened
        opened.close()

    def test_keys_are_never_overwritten(self, module: Path) -> None:
        with pytest.raises(KeysInvalid, match="already"):
            pkcs11_keys.create("kela", module, "kela", PIN)

    @pytest.mark.parametrize(("token", "pin"), [("kela", "9999"), ("nobody", PIN)])
    def test_a_token_that_does_not_open_stops_the_start(self, module: Path, token: str, pin: str) -> None:
        with pytest.raises(KeysInvalid, match="does not open") as caught:
            pkcs11_keys.open_token("kela", module, token, pin)
        assert pin not in str(caught.value)

    def test_private_keys_do_not_leave(self, keys: pkcs11_keys.Pkcs11Keys) -> None:
        """Not extractable: the module refuses to hand them out."""
        for key in (keys._signing, keys._encryption, keys._root):
            with pytest.raises(pkcs11.PKCS11Error):
                _ = key[pkcs11.Attribute.VALUE]
