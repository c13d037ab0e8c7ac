"""A wrong configuration stops the start, with its place and the mend; nothing half-starts."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from connector.adapters import file_keys, participant_folder, registry_files
from connector.demo.processes import free_ports

EXAMPLES = Path(__file__).parents[2] / "examples"
START_SECONDS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A participant that would start: kela's catalogue and policies, with a register of a few bytes."""
    registry = tmp_path / "registry"
    registry_files.create(registry, issuer="http://127.0.0.1:1")
    keys = file_keys.create(registry / "keys", "registry")
    made = tmp_path / "employment"
    participant_folder.create(
        made,
        participant_folder.NewParticipant(
            id="employment",
            public_url="http://127.0.0.1:1",
            port=free_ports(1)[0],
            registry_url="http://127.0.0.1:1",
            registry_jwks=keys.public_jwks(),
            mode="development",
            peer_private_addresses=True,
        ),
    )
    shutil.copy(EXAMPLES / "catalog/employment/clients.odcs.yaml", made / "catalog")
    shutil.copy(EXAMPLES / "policies/statutory_planning.rego", made / "policies")
    (made / "data" / "clients.sqlite").write_bytes(b"")
    return made


def start(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "connector", "serve", "--folder", str(folder), "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)


def refused(folder: Path) -> dict[str, str]:
    done = start(folder)
    assert done.returncode == 1, done.stderr
    found: dict[str, str] = json.loads(done.stderr.strip().splitlines()[-1])
    assert found["mend"], "every error says what to do"
    return found


def edit(folder: Path, file: str, change: Callable[[str], str]) -> None:
    path = folder / file
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


DESCRIPTOR = "catalog/clients.odcs.yaml"
POLICY = "policies/statutory_planning.rego"


@pytest.mark.parametrize(
    ("file", "change", "code", "said"),
    [
        (
            DESCRIPTOR,
            lambda t: t.replace("name: clients", "name: [", 1),
            "descriptor_invalid",
            "clients.odcs.yaml:",
        ),
        (
            DESCRIPTOR,
            lambda t: t.replace("postal_code: clear", "no_such: clear"),
            "descriptor_invalid",
            "no_such",
        ),
        (
            DESCRIPTOR,
            lambda t: t.replace("dsc:membership", "dsc:moonPhase"),
            "descriptor_invalid",
            "dsc:moonPhase",
        ),
        (DESCRIPTOR, lambda t: t.replace("[statutory_planning]", "[nobody]"), "descriptor_invalid", "nobody"),
        (
            DESCRIPTOR,
            lambda t: t.replace("clients.sqlite", "gone.sqlite"),
            "descriptor_invalid",
            "gone.sqlite",
        ),
        (POLICY, lambda t: t + "\nallow if {\n", "policy_invalid", "statutory_planning.rego:"),
        (POLICY, lambda t: t.replace("dataspace.policies.", "dataspace."), "policy_invalid", ".rego:"),
        ("connector.toml", lambda t: t + "colour = 1\n", "settings_invalid", "colour"),
        ("connector.toml", lambda t: t + "port_ = \n", "settings_invalid", "connector.toml"),
        (
            "connector.toml",
            lambda t: t.replace('"development"', '"production"'),
            "settings_invalid",
            "embedded",
        ),
        ("registry.jwks.json", lambda _: "{}", "settings_invalid", "registry_jwks"),
    ],
)
def test_a_wrong_file_stops_the_start(
    folder: Path, file: str, change: Callable[[str], str], code: str, said: str
) -> None:
    """Malformed descriptor, unknown column, constraint with no class, unknown policy, missing source, policy
    with a syntax error or of another package, unknown or malformed setting, wrong registry key file."""
    edit(folder, file, change)
    found = refused(folder)
    assert found["error"] == code
    assert said in found["message"]


def test_two_datasets_of_one_name_stop_the_start(folder: Path) -> None:
    """Duplicate ids: both places are named."""
    shutil.copy(folder / DESCRIPTOR, folder / "catalog/again.odcs.yaml")
    found = refused(folder)
    assert found["error"] == "descriptor_invalid"
    assert "clients.odcs.yaml" in found["message"]
    assert "again.odcs.yaml" in found["message"]


def test_a_key_that_others_can_read_stops_the_start(folder: Path) -> None:
    """Mission L6: keys are for the connector's user only."""
    (folder / "keys/signing.pem").chmod(0o644)
    found = refused(folder)
    assert found["error"] == "keys_invalid"
    assert "signing.pem" in found["message"]
    assert "chmod 600" in found["mend"]


def test_a_port_in_use_stops_the_start(folder: Path) -> None:
    """And says so before anything is opened."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        edit(
            folder,
            "connector.toml",
            lambda t: "\n".join(f"port = {port}" if "port =" in line else line for line in t.splitlines()),
        )
        found = refused(folder)
    assert found["error"] == "port_in_use"
    assert not (folder / "state/connector.sqlite").exists(), "nothing half-starts"


def test_a_command_to_a_connector_that_is_down_says_so(folder: Path) -> None:
    """Errors of the command line: exit code 1, a sentence, the mend."""
    command = [sys.executable, "-m", "connector", "catalog", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "connector serve" in done.stderr
