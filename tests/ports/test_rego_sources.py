"""The Rego that is shipped, held to OPA's own tools: strict checks, the schemas, the formatter, its tests."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.decisions import ROOT
from tests.parts.opa import OpaServer, opa_binary

SOURCES = ("policies", "examples/policies")
SECONDS = 60
LEAST_COVERED_PERCENT = 90


def opa(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [opa_binary(), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_every_policy_passes_its_own_tests(opa_server: OpaServer) -> None:
    """Skeleton: policies each with `_test.rego`; `opa test` runs them, and they reach nearly every line."""
    ran = opa("test", "--coverage", "--format", "json", *SOURCES)
    report = json.loads(ran.stdout)
    assert ran.returncode == 0, ran.stdout
    assert report["coverage"] >= LEAST_COVERED_PERCENT
    failed = opa("test", *SOURCES)
    assert failed.returncode == 0, failed.stdout


def test_policies_are_strict_and_fit_the_schemas(opa_server: OpaServer) -> None:
    """Policy and consent: the JSON Schemas of decision input and output are what `opa check` uses."""
    checked = opa("check", "--strict", "--schema", "docs/schemas", *SOURCES)
    assert checked.returncode == 0, checked.stderr


def test_the_schemas_find_a_misspelt_field(opa_server: OpaServer, tmp_path: Path) -> None:
    """Policy and consent: what `opa check` with the schema is good for."""
    text = (ROOT / "examples/policies/outreach.rego").read_text(encoding="utf-8")
    bad = tmp_path / "outreach.rego"
    bad.write_text(text.replace("input.consumer.sector", "input.consumer.sektor"), encoding="utf-8")
    checked = opa("check", "--strict", "--schema", "docs/schemas", str(bad))
    assert checked.returncode != 0
    assert "input.consumer.sektor" in checked.stderr


def test_policies_are_formatted(opa_server: OpaServer) -> None:
    """One form for everybody: `opa fmt` would change nothing."""
    assert opa("fmt", "--list", *SOURCES).stdout == ""


@pytest.mark.parametrize(
    "source", sorted(f for s in SOURCES for f in (ROOT / s).glob("*.rego")), ids=lambda f: f.name
)
def test_every_policy_has_tests(source: Path) -> None:
    """Skeleton: each with its `_test.rego`."""
    name = source.name.removesuffix("_test.rego").removesuffix(".rego")
    assert (source.parent / f"{name}_test.rego").is_file()
    assert (source.parent / f"{name}.rego").is_file()
