"""Keys are changed, encrypted, or kept in a security module, while the work goes on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from connector.access.tokens import PeerTokens
from connector.adapters import file_keys
from connector.adapters.clock import SystemClock
from connector.adapters.file_keys import FileKeys
from connector.adapters.http_peer import HttpPeer
from connector.dsp.messages import CONTEXT
from connector.errors import ConnectorError, PeerRefused
from connector.model.participant import Participant
from connector.model.token import SCOPE_DSP
from tests.ports.test_keys import MODULES, PIN
from tests.system.dataspace import CITY, KELA, DataSpace, agreed_space, connector, until

ROWS = 500
WAIT = "3"
"""Seconds that everybody may take to learn of a new key; they look every two."""

pytestmark = pytest.mark.slow


def apart(*arguments: str | Path) -> Any:
    """A command in a process of its own, beside others."""
    command = [sys.executable, "-m", "connector", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


class Queries:
    """One after the other, from the beginning of the block to its end."""

    def __init__(self, space: DataSpace) -> None:
        self._space = space
        self._over = threading.Event()
        self.answers: list[int] = []
        self.failures: list[str] = []

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(self._space.count(CITY))
            except ConnectorError as error:
                self.failures.append(f"after {len(self.answers)}: {error}")

    def __enter__(self) -> Queries:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


class Asker:
    """A client with the keys that city had: what others hold who have copied them."""

    def __init__(self, space: DataSpace, keys: FileKeys) -> None:
        jwks = file_keys.load(space.of(KELA) / "keys", KELA).public_jwks()
        self._keys = keys
        self._kela = Participant(id=KELA, name="Kela", base_url=space.url(KELA), jwks=tuple(jwks))
        self._headers: dict[str, str] = {}

    def status(self, *, new_token: bool) -> int:
        return asyncio.run(self._status(new_token))

    async def _status(self, new_token: bool) -> int:
        peer = HttpPeer(allow_private=True)
        if new_token:
            self.tokens = PeerTokens(
                keys=self._keys, peer=peer, clock=SystemClock(), new_id=lambda: uuid.uuid4().hex
            )
        self.tokens._peer = peer
        url = f"{self._kela.dsp_url}/catalog/request"
        body = json.dumps({"@context": [CONTEXT], "@type": "CatalogRequestMessage"}).encode()
        try:
            for _ in range(2):  # once more with the nonce
                headers = await self.tokens.headers(
                    self._kela, "POST", url, resource=self._kela.dsp_url, scope=SCOPE_DSP
                )
                headers["Content-Type"] = "application/json"
                answer = await peer.request("POST", url, headers=headers, content=body)
                asked = "use_dpop_nonce" in answer.headers.get("www-authenticate", "")
                if not asked:
                    break
                self.tokens.refused(self._kela, answer, resource=self._kela.dsp_url, scope=SCOPE_DSP)
            return answer.status
        except PeerRefused as refused:
            return refused.status
        finally:
            await peer.close()


def rotate(space: DataSpace, *names: str, at_once: bool = False) -> list[str]:
    """The next step of all of them, at the same time."""

    def step(name: str) -> str:
        about = ["--folder", space.of(name), "--seconds", WAIT, *(["--at-once"] if at_once else [])]
        return str(apart("keys", "rotate", *about)["step"])

    with ThreadPoolExecutor() as pool:
        return list(pool.map(step, names))


def test_both_sides_change_their_keys_and_no_query_fails(tmp_path: Path) -> None:
    """Publish, wait, sign, retire, at both sides at once, under queries; the evidence holds afterwards."""
    with agreed_space(tmp_path, ROWS) as space:
        before = {name: file_keys.load(space.of(name) / "keys", name) for name in (KELA, CITY)}
        asker = Asker(space, before[CITY])
        with Queries(space) as queries:
            assert asker.status(new_token=True) == 200
            assert rotate(space, KELA, CITY) == ["publish", "publish"]
            assert space.agree(CITY, KELA), "signed with the present keys, beside the next ones"
            assert rotate(space, KELA, CITY) == ["sign", "sign"]
            until(lambda: signs_with(space, KELA) != before[KELA].thumbprint())
            assert asker.status(new_token=False) == 200, "what was issued before is good until it retires"
            assert rotate(space, KELA, at_once=True) == ["retire"]
            until(lambda: asker.status(new_token=False) == 401)
            assert rotate(space, CITY, at_once=True) == ["retire"]
            until(lambda: asker.status(new_token=True) == 400)  # invalid_client
            enough = len(queries.answers) + 3
            until(lambda: len(queries.answers) > enough)
        assert queries.failures == []
        assert set(queries.answers) == {ROWS}
        assert space.agree(CITY, KELA), "a new contract is signed with the new keys"
        for agreement in agreements(space):
            assert_signed_by_both(space, agreement)
        for name in (KELA, CITY):
            now = file_keys.load(space.of(name) / "keys", name)
            assert now.thumbprint() != before[name].thumbprint()
            assert len(now.public_jwks()) == 2
        space.stop(KELA, CITY)
        for name in (KELA, CITY):
            found = connector("audit", "verify", "--folder", space.of(name))
            assert found["headsChecked"] > 1
            assert len(json.loads((space.of(name) / "audit.jwks.json").read_text())["keys"]) == 2


def test_a_connector_that_was_down_meanwhile_starts_with_the_new_keys(tmp_path: Path) -> None:
    """Also in the middle of it: each step leaves a folder to start from."""
    with agreed_space(tmp_path, ROWS) as space:
        space.stop(KELA)
        for step in ("publish", "sign"):
            assert rotate(space, KELA) == [step]
        space.serve(KELA)
        assert space.count(CITY) == ROWS
        space.stop(KELA)
        assert rotate(space, KELA, at_once=True) == ["retire"]
        space.serve(KELA)
        until(lambda: answers(space))


def answers(space: DataSpace) -> bool:
    try:
        return space.count(CITY) == ROWS
    except ConnectorError:
        return False


def signs_with(space: DataSpace, name: str) -> str:
    """As the running connector shows it: of its published keys, the first."""
    keys = json.loads((space.of(name) / "audit.jwks.json").read_text())["keys"]
    return str(keys[-1]["kid"])


def agreements(space: DataSpace) -> list[str]:
    with space.api(CITY) as api:
        return [str(a["id"]) for a in api.get("/v1/agreements")["agreements"]]


def assert_signed_by_both(space: DataSpace, agreement: str) -> None:
    """Each side's own copy, online and offline."""
    for name in (KELA, CITY):
        with space.api(name) as api:
            shown = api.get(f"/v1/agreements/{agreement}/signatures")
        file = space.folder / f"{name}.json"
        file.write_text(json.dumps(shown))
        jwks = [f"--jwks={p}={space.of(p) / 'audit.jwks.json'}" for p in (KELA, CITY)]
        assert connector("verify-agreement", file, *jwks)["valid"]


def test_encrypted_keys_start_a_connector(tmp_path: Path) -> None:
    """`keys encrypt`: without the passphrase nothing starts, and no key lies open in the folder."""
    with agreed_space(tmp_path, ROWS) as space:
        space.stop(KELA)
        phrase = tmp_path / "passphrase"
        phrase.write_text("correct horse battery staple\n")
        phrase.chmod(0o600)
        connector("keys", "encrypt", phrase, "--folder", space.of(KELA))
        for file in (space.of(KELA) / "keys").iterdir():
            assert b"BEGIN PRIVATE KEY" not in file.read_bytes()
        with pytest.raises(ConnectorError, match="stopped at start"):
            space.serve(KELA)
        space.set(KELA, f'keys_passphrase_file = "{phrase}"')
        space.serve(KELA)
        until(lambda: answers(space))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SoftHSM with a token for kela. Used by processes only: a library is set up once in each."""
    found = next((Path(m) for m in MODULES if Path(m).exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("SoftHSM is missing: install softhsm2")
        pytest.skip("SoftHSM is not installed (Debian: softhsm2)")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    command = ["softhsm2-util", "--init-token", "--free", "--label", KELA, "--so-pin", PIN, "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    return found


def test_keys_in_a_security_module_serve_tokens_and_queries(tmp_path: Path, module: Path) -> None:
    """PKCS#11 with SoftHSM: made in the module, admitted with them, and everything signed there."""
    space = DataSpace(tmp_path / "space")
    space.folder.mkdir()
    space.make_registry()
    try:
        space.serve("registry")
        space.init(KELA)
        pin = space.of(KELA) / "pin"
        pin.write_text(PIN)
        pin.chmod(0o600)
        shutil.rmtree(space.of(KELA) / "keys")
        space.set(KELA, f'pkcs11_module = "{module}"', f'pkcs11_token = "{KELA}"', 'pkcs11_pin_file = "pin"')
        made = apart("keys", "create", "--folder", space.of(KELA))
        applied = apart("apply", "--folder", space.of(KELA), "--name", "Kela")
        assert applied["key"] == made["signsWith"]
        space.approve(applied["id"])
        space.init(CITY)
        space.approve(space.apply(CITY))
        space.offer_stations(KELA, ROWS)
        space.serve(KELA, CITY)
        agreement = space.agree(CITY, KELA)
        assert space.count(CITY) == ROWS
        with space.api(CITY) as api:
            shown = api.get(f"/v1/agreements/{agreement}/signatures")
        assert made["signsWith"] in [s["jwk"]["kid"] for s in shown["signatures"]]
        status = apart("status", "--folder", space.of(KELA))
        assert status["parts"]["keys"] == "real: security module (PKCS#11)"
        space.stop(KELA)
        assert connector("audit", "verify", "--folder", space.of(KELA))["headsChecked"] >= 1
    finally:
        space.stop()
