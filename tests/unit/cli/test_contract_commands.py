"""check and verify-agreement: what can be known of contracts with nothing running (C2, C3, C4)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connector.access.agreement_signature import problem_offline
from connector.adapters import participant_folder
from connector.bootstrap.parts import open_parts
from connector.cli import app
from connector.errors import DescriptorInvalid
from connector.settings import load_settings
from connector.web import render
from tests.pair import connected, keys_of


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A participant as `connector init` makes it."""
    made = tmp_path / "kela"
    new = participant_folder.NewParticipant(
        id="kela",
        public_url="http://127.0.0.1:1",
        port=1,  # nothing listens
        registry_url="http://127.0.0.1:2",
        registry_jwks=[],
        mode="development",
        peer_private_addresses=True,
    )
    participant_folder.create(made, new)
    participant_folder.write_examples(made)
    replace_in(descriptor(made), "status: draft", "status: active")
    return made


def descriptor(folder: Path) -> Path:
    (file,) = (folder / "catalog").glob("*.odcs.yaml")
    return file


def rename_column(folder: Path) -> None:
    """A breaking change."""
    replace_in(descriptor(folder), "postal_code", "zip_code")


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_check_shows_what_would_be_served(folder: Path) -> None:
    """What `serve` would refuse, without starting anything."""
    done = run("check", "--folder", folder, "--json")
    assert done.exit_code == 0, done.output
    (dataset,) = json.loads(done.output)["datasets"]
    assert (dataset["dataset"], dataset["offers"]) == ("people", "people:planning:1.0")
    assert "people:planning:1.0" in run("check", "--folder", folder).output


def test_check_against_what_was_published_before(folder: Path, tmp_path: Path) -> None:
    """For a pipeline: a catalogue folder as it is on the main branch."""
    before = tmp_path / "before"
    shutil.copytree(folder / "catalog", before)
    assert run("check", "--folder", folder, "--against", before).exit_code == 0
    rename_column(folder)
    assert run("check", "--folder", folder).exit_code == 0
    done = run("check", "--folder", folder, "--against", before)
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "column 'postal_code' is gone" in said
    assert "the terms of offer 'planning' have changed (columns)" in said
    assert run("check", "--folder", folder, "--against", tmp_path / "none").exit_code == 1


async def test_a_connector_does_not_start_with_a_breaking_change(folder: Path) -> None:
    """Fail closed at start, with file:line; a new major version and new terms lift it."""
    settings = load_settings(folder)
    for _ in range(2):
        async with open_parts(settings) as parts:
            assert list(parts.catalogue) == ["people"]
    rename_column(folder)
    with pytest.raises(DescriptorInvalid) as refused:
        async with open_parts(settings):
            pass
    said = str(refused.value)
    assert f"{descriptor(folder)}:" in said
    assert "column 'postal_code' is gone; version 0.1.0 is published, and this is 0.1.0" in said
    replace_in(descriptor(folder), "\nversion: 0.1.0", "\nversion: 1.0.0")
    replace_in(descriptor(folder), 'termsVersion: "1.0"', 'termsVersion: "2.0"')
    async with open_parts(settings) as parts:
        assert parts.catalogue["people"].version == "1.0.0"


async def test_an_agreement_proves_itself_offline(tmp_path: Path) -> None:
    """Agreements: signed by both, checked from a file and the parties' published keys."""
    pair = connected()
    agreement_id = await pair.negotiated()
    record = pair.consumer.store.state.agreements[agreement_id]
    shown = render.signatures(record, pair.consumer.signatures.check(record))
    file = tmp_path / "agreement.json"
    file.write_text(json.dumps(shown), encoding="utf-8")
    keys = []
    for name in ("kela", "city"):
        jwks = tmp_path / f"{name}.json"
        jwks.write_text(json.dumps({"keys": [dict(k) for k in keys_of(name).public_jwks()]}))
        keys += ["--jwks", f"{name}={jwks}"]
    done = run("verify-agreement", file, *keys)
    assert (done.exit_code, "keys of your own" in done.output) == (0, True)
    assert "give --jwks" in run("verify-agreement", file).output
    file.write_text(json.dumps({**shown, "signatures": []}), encoding="utf-8")
    done = run("verify-agreement", file, *keys, "--json")
    assert (done.exit_code, json.loads(done.output)["valid"]) == (1, False)
    for text in ("", "{}", "[]", '{"document": 1, "statement": {}, "signatures": []}'):
        file.write_text(text, encoding="utf-8")
        assert run("verify-agreement", file).exit_code == 1
    assert run("verify-agreement", tmp_path / "none").exit_code == 1
    assert run("verify-agreement", file, "--jwks", "kela").exit_code == 1
    assert problem_offline(shown, {}) == []
