"""A connector that is told to stop closes what it opened (mission L6: the record covers everything)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from connector.adapters import file_keys, participant_folder, registry_files
from connector.adapters.audit_log import verify_audit
from connector.demo.processes import free_ports

SECONDS = 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signs_the_last_head_and_is_no_failure(tmp_path: Path, number: signal.Signals) -> None:
    """uvicorn raises the signal again when it has stopped; everything is closed all the same."""
    port = free_ports(1)[0]
    registry_files.create(tmp_path / "registry", issuer="http://127.0.0.1:1")
    registry = file_keys.create(tmp_path / "registry" / "keys", "registry")
    folder = tmp_path / "city"
    keys = participant_folder.create(
        folder,
        participant_folder.NewParticipant(
            id="city",
            public_url=f"http://127.0.0.1:{port}",
            port=port,
            registry_url="http://127.0.0.1:1",
            registry_jwks=registry.public_jwks(),
            mode="development",
            peer_private_addresses=True,
        ),
    )
    command = [sys.executable, "-m", "connector", "serve", "--folder", str(folder)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            until_alive(f"http://127.0.0.1:{port}/health/live", running)
            running.send_signal(number)
            assert running.wait(timeout=SECONDS) == 0, (tmp_path / "log").read_text()
        finally:
            running.kill()
    (log_file,) = (folder / "state").glob("audit*.sqlite")
    verified = verify_audit(log_file, list(keys.public_jwks()))
    assert verified.signed_size == verified.size > 0


def until_alive(url: str, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert running.poll() is None
        try:
            if httpx.get(url, timeout=1, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError("it did not start")
