"""A participant's folder: settings, keys, catalogue, policies, state. Made by `connector init`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from connector.adapters import file_keys
from connector.errors import ConfigurationError

SETTINGS_FILE = "connector.toml"
REGISTRY_JWKS_FILE = "registry.jwks.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewParticipant:
    """`registry_jwks`: the registry's public keys, pinned from the day of onboarding."""

    id: str
    public_url: str
    port: int
    registry_url: str
    registry_jwks: Sequence[Mapping[str, Any]]
    mode: str = "production"
    peer_private_addresses: bool = False


def create(folder: Path, new: NewParticipant) -> file_keys.FileKeys:
    """Make the folder. Raises ConfigurationError where one is there already: keys are never overwritten."""
    if (folder / SETTINGS_FILE).exists():
        raise ConfigurationError(
            "there is a participant already", where=str(folder), mend="Choose an empty folder, or remove it."
        )
    for name in ("catalog", "policies", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir(mode=0o700, exist_ok=True)
    keys = file_keys.create(folder / "keys", new.id)
    (folder / REGISTRY_JWKS_FILE).write_text(json.dumps({"keys": list(new.registry_jwks)}, indent=2) + "\n")
    (folder / SETTINGS_FILE).write_text(_settings(new), encoding="utf-8")
    return keys


def _settings(new: NewParticipant) -> str:
    lines = [
        "# Every setting: docs/settings.md. The environment (CONNECTOR_...) wins over this file.",
        f"participant_id = {_toml(new.id)}",
        f"public_url = {_toml(new.public_url)}",
        f"port = {new.port}",
        f"registry_url = {_toml(new.registry_url)}",
        f"registry_jwks = {_toml(REGISTRY_JWKS_FILE)}",
        f"mode = {_toml(new.mode)}",
    ]
    if new.peer_private_addresses:
        lines.append("peer_private_addresses = true")
    return "\n".join(lines) + "\n"


def _toml(value: str) -> str:
    """A TOML string. JSON's escapes are TOML's, but for pairs of surrogates and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def write_examples(folder: Path) -> None:
    """A descriptor and a policy to start from; in status `draft` it is hidden from everybody."""
    (folder / "catalog" / "people.odcs.yaml").write_text(_text("people.odcs.yaml"), encoding="utf-8")
    (folder / "policies" / "planning.rego").write_text(_text("planning.rego"), encoding="utf-8")


def _text(name: str) -> str:
    return resources.files("connector.adapters").joinpath("starters", name).read_text(encoding="utf-8")
