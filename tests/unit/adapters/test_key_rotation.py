"""Keys change without an outage: at every step, and wherever one is cut off, what was signed verifies."""

from __future__ import annotations

import shutil
import stat
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from connector.access import jose
from connector.access.agreement_signature import check, signed_by_us
from connector.adapters import file_keys, key_rotation
from connector.adapters.key_rotation import VERIFIES_FOR, Step
from connector.errors import Conflict, KeysInvalid
from tests.agreed import PROVIDER, record
from tests.unit.access.world import START

PASSPHRASE = b"a passphrase of some length"


@pytest.fixture(params=[None, PASSPHRASE], ids=["plain", "encrypted"])
def passphrase(request: pytest.FixtureRequest) -> bytes | None:
    return request.param


def signed(keys: file_keys.FileKeys) -> str:
    return keys.sign_jwt({"iss": "kela"}, typ="t")


def test_a_change_of_keys_from_end_to_end(tmp_path: Path, passphrase: bytes | None) -> None:
    """Publish, wait, sign, retire: what was published before a step verifies what comes after it."""
    running = file_keys.create(tmp_path, "kela", passphrase)
    before, first = running.public_jwks(), running.thumbprint()
    old_token, sealed = signed(running), jose.encrypt_jwe(b"x", before)

    assert key_rotation.next_step(tmp_path) is Step.PUBLISH
    key_rotation.publish(tmp_path, "kela", passphrase)
    assert running.refresh()
    published = running.public_jwks()
    assert running.thumbprint() == first
    assert len([k for k in published if k["use"] == "sig"]) == 2
    jose.verify_jws(signed(running), before, typ={"t"})

    assert key_rotation.next_step(tmp_path) is Step.SIGN
    key_rotation.sign(tmp_path, "kela", passphrase, now=START)
    assert running.refresh()
    assert running.thumbprint() != first
    jose.verify_jws(signed(running), published, typ={"t"})  # a peer that has not fetched since
    jose.verify_jws(old_token, running.public_jwks(), typ={"t"})
    assert running.decrypt_jwe(sealed) == b"x"
    assert running.decrypt_jwe(jose.encrypt_jwe(b"y", running.public_jwks())) == b"y"
    derived = running.derive("anything")

    assert key_rotation.next_step(tmp_path) is Step.RETIRE
    with pytest.raises(Conflict, match="live until"):
        key_rotation.retire(tmp_path, "kela", passphrase, now=START + VERIFIES_FOR - timedelta(seconds=1))
    key_rotation.retire(tmp_path, "kela", passphrase, now=START + VERIFIES_FOR)
    assert running.refresh()
    assert first not in {k["kid"] for k in running.public_jwks()}
    with pytest.raises(KeysInvalid):
        running.decrypt_jwe(sealed)
    assert running.derive("anything") == derived  # what is at rest stays readable
    assert key_rotation.next_step(tmp_path) is Step.PUBLISH
    assert not running.refresh()


def test_an_agreement_is_signed_while_keys_are_changed(tmp_path: Path) -> None:
    """The key that signed is kept beside the signature, whichever others are published."""
    running = file_keys.create(tmp_path, PROVIDER)
    kids = []
    for step in (None, key_rotation.publish, partial(key_rotation.sign, now=START)):
        if step is not None:
            step(tmp_path, PROVIDER, None)
            running.refresh()
        unsigned = record(signatures=())
        (signature,) = signed_by_us(unsigned, running, START).signatures
        assert check(unsigned, signature, running.public_jwks()).problem == ""
        kids.append(signature.jwk["kid"])
        assert kids[-1] == running.thumbprint()
    assert kids[0] == kids[1] != kids[2]


def test_a_key_that_others_may_have_is_retired_at_once(tmp_path: Path) -> None:
    running = file_keys.create(tmp_path, "kela")
    stolen = signed(running)
    key_rotation.publish(tmp_path, "kela", None)
    key_rotation.sign(tmp_path, "kela", None, now=START)
    keys = key_rotation.retire(tmp_path, "kela", None, now=START, at_once=True)
    with pytest.raises(jose.Refusal):
        jose.verify_jws(stolen, keys.public_jwks(), typ={"t"})


def test_steps_out_of_order_change_nothing(tmp_path: Path) -> None:
    file_keys.create(tmp_path, "kela")
    with pytest.raises(Conflict):
        key_rotation.sign(tmp_path, "kela", None, now=START)
    with pytest.raises(Conflict):
        key_rotation.retire(tmp_path, "kela", None, now=START, at_once=True)
    key_rotation.publish(tmp_path, "kela", None)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(Conflict, match="under way"):
        key_rotation.publish(tmp_path, "kela", None)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == files


@pytest.mark.parametrize("cut_after", [1, 2, 3])
def test_signing_that_was_cut_off_is_taken_up_again(
    tmp_path: Path, cut_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between any two writes: the folder loads, and the same step completes."""
    running = file_keys.create(tmp_path, "kela")
    sealed = jose.encrypt_jwe(b"x", running.public_jwks())
    key_rotation.publish(tmp_path, "kela", None)
    writes = 0
    real = key_rotation.key_files.replace

    def cut(path: Path, data: bytes) -> None:
        nonlocal writes
        real(path, data)
        writes += 1
        if writes == cut_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(key_rotation.key_files, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        key_rotation.sign(tmp_path, "kela", None, now=START)
    monkeypatch.undo()
    assert file_keys.load(tmp_path, "kela").thumbprint() == running.thumbprint()
    keys = key_rotation.sign(tmp_path, "kela", None, now=START)
    assert keys.thumbprint() != running.thumbprint()
    jose.verify_jws(signed(running), keys.public_jwks(), typ={"t"})
    assert keys.decrypt_jwe(sealed) == b"x"


def test_files_are_encrypted_in_place(tmp_path: Path) -> None:
    """The same keys afterwards; nothing readable is left; half-way states complete."""
    keys = file_keys.create(tmp_path / "keys", "kela")
    key_rotation.publish(tmp_path / "keys", "kela", None)
    published = file_keys.load(tmp_path / "keys", "kela").public_jwks()
    shutil.copytree(tmp_path / "keys", tmp_path / "copy")
    sealed = key_rotation.encrypt(tmp_path / "keys", "kela", PASSPHRASE)
    assert sealed.public_jwks() == published
    assert sealed.derive("x") == keys.derive("x")
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"BEGIN PRIVATE" not in path.read_bytes()
    (tmp_path / "keys" / "root.secret").write_bytes((tmp_path / "copy" / "root.secret").read_bytes())
    assert key_rotation.encrypt(tmp_path / "keys", "kela", PASSPHRASE).derive("x") == keys.derive("x")


@pytest.mark.parametrize("given", [None, b"another passphrase"])
def test_encrypted_files_open_with_their_passphrase_only(tmp_path: Path, given: bytes | None) -> None:
    file_keys.create(tmp_path, "kela", PASSPHRASE)
    with pytest.raises(KeysInvalid, match="keys_passphrase_file") as caught:
        file_keys.load(tmp_path, "kela", given)
    assert "passphrase" not in str(caught.value).replace("keys_passphrase_file", "")


def test_a_passphrase_wants_encrypted_files(tmp_path: Path) -> None:
    """Whoever sets one believes that the files are sealed: a plain one stops the start."""
    file_keys.create(tmp_path, "kela")
    with pytest.raises(KeysInvalid, match="connector keys encrypt"):
        file_keys.load(tmp_path, "kela", PASSPHRASE)


def test_a_broken_folder_leaves_the_keys_in_use(tmp_path: Path) -> None:
    running = file_keys.create(tmp_path, "kela")
    kid = running.thumbprint()
    (tmp_path / "signing.retired.json").write_bytes(b"[{}]")
    (tmp_path / "signing.retired.json").chmod(0o600)
    with pytest.raises(KeysInvalid, match="retired"):
        running.refresh()
    assert running.thumbprint() == kid
