"""Policies as files: found, kept apart from the project's own, and held to the portable subset."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.adapters.policy_files import (
    PORTABLE_BUILTINS,
    all_modules,
    deciding_packages,
    own_modules,
    package_of,
    policy_names,
    project_modules,
    project_purposes,
    relocated,
    require_portable,
    revision_of,
)
from connector.adapters.rego_engine import RegoEngine
from connector.errors import PolicyInvalid, PolicyUnavailable
from tests.decisions import ROOT

HEAD = 'package dataspace.policies.x\n\ndefault decision := {"allow": false}\n\n'


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_the_projects_policies_are_found_without_their_tests() -> None:
    """Skeleton, layout: policies/ is canonical; what decides is loaded, tests are not."""
    assert set(project_modules()) == {"connector/odrl.rego", "connector/baseline.rego"}
    assert set(deciding_packages(project_modules())) == {"dataspace.odrl", "dataspace.baseline"}
    assert policy_names(project_modules()) == frozenset()


def test_the_purposes_of_the_demo_are_in_the_tree() -> None:
    """standards.md 3: the purpose tree is data."""
    tree = project_purposes()
    for purpose in ("service-planning", "case-work", "outreach"):
        assert tree.covers("public-service-provision", purpose)
    assert tree.covers("official-statistics", "statistics")
    assert all(set(label) == {"fi", "sv", "en"} for label in tree.labels.values())


def test_a_participants_policies_are_its_own(tmp_path: Path) -> None:
    """Names come from packages; libraries have none; subfolders count."""
    write(tmp_path, "a.rego", HEAD)
    write(tmp_path, "lib/b.rego", "package dataspace.policies.lib.dates\n\nf(x) := x\n")
    write(tmp_path, "a_test.rego", "package dataspace.policies.x_test\n")
    write(tmp_path, "notes.txt", "not Rego")
    modules = own_modules(tmp_path)
    assert set(modules) == {"policies/a.rego", "policies/lib/b.rego"}
    assert policy_names(modules) == {"x"}
    assert set(all_modules(tmp_path)) == {*modules, "connector/odrl.rego", "connector/baseline.rego"}
    assert own_modules(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "package",
    ["dataspace.odrl", "dataspace.baseline", "dataspace.policies", "dataspace.policiesx", "system.authz"],
)
def test_a_participant_cannot_add_rules_to_the_projects_packages(tmp_path: Path, package: str) -> None:
    """Architecture: local Rego can only narrow. A `checks` rule in the baseline would widen it."""
    write(tmp_path, "a.rego", f'# mine\npackage {package}\n\nchecks contains "purpose"\n')
    with pytest.raises(PolicyInvalid) as raised:
        own_modules(tmp_path)
    assert raised.value.where == "policies/a.rego:2"
    assert "package dataspace.policies.a" in raised.value.mend


@pytest.mark.parametrize("content", [b"\xff\xfe", b"package x" + b" " * 1_000_001, b"", b"# package x\n"])
def test_files_that_are_no_policies_are_refused(tmp_path: Path, content: bytes) -> None:
    """Skeleton, bad input: the file is named."""
    (tmp_path / "a.rego").write_bytes(content)
    with pytest.raises(PolicyInvalid, match=r"a\.rego"):
        own_modules(tmp_path)


def test_a_revision_is_of_names_and_texts() -> None:
    """Port PolicyEngine: content hash; the order of files does not matter, moving text between them does."""
    one = revision_of({"a": "x", "b": "y"})
    assert one == revision_of({"b": "y", "a": "x"})
    assert len({one, revision_of({"a": "xy"}), revision_of({"a": "y", "b": "x"}), revision_of({})}) == 4


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        ("a if not input.x", 5, "`not`"),
        ("a if {\n\tinput.y\n\tnot input.x\n}", 7, "`not`"),
        ('a if io.jwt.decode("x")', 5, "io.jwt.decode"),
        ('a if crypto.sha256("x")', 5, "crypto.sha256"),
        ("a if rand.intn(1, 2)", 5, "rand.intn"),
        ("a if opa.runtime()", 5, "opa.runtime"),
        ("a if print(input)", 5, "print"),
        ("a if strings.count(input.x, input.y)", 5, "strings.count"),
        ("a if data.users[input.x]", 5, "`data`"),
        ('a if data["dataspace"]', 5, "`data`"),
        ("a if some x in data", 5, "`data`"),
        ('a := $"{input.x}"', 5, "interpolation"),
        ("a := $`{input.x}`", 5, "interpolation"),
    ],
)
def test_what_engines_read_differently_is_refused(body: str, line: int, said: str) -> None:
    """parts.md 1.6: rules for portable policies, by file and line."""
    with pytest.raises(PolicyInvalid) as raised:
        require_portable({"policies/x.rego": f"{HEAD}{body}\n"})
    assert raised.value.where == f"policies/x.rego:{line}"
    assert said in raised.value.message


@pytest.mark.parametrize(
    "body",
    [
        "import future.keywords.not\n\na if not input.x",
        'a := "not input.x and http.send() and data.x"',
        "# not a rule: http.send(1), data.x",
        "a := `not http.send( data.x`",
        "f(x) := x + 1\n\na if f(1) == 2",
        "a if data.dataspace.policies.lib.f(1)",
        "import data.dataspace.policies.lib as l\n\na if l.f(1)",
        "a if {\n\tsome x in (input.y | input.z)\n\tx\n}",
        "a if input.note == 1\n\nb := input.not_mine",
        'a := sprintf("%s", [input.x])',
        "a if (input.x) in (input.y)",
        "a if every x in input.y { (x > 1) }",
    ],
)
def test_what_is_portable_is_taken(body: str) -> None:
    """Words in comments and strings are no code; own functions and libraries are known."""
    require_portable({"policies/x.rego": f"package dataspace.policies.x\n\n{body}\n"})


@settings(deadline=None)
@given(st.text(alphabet='package not("`#$\\ \n.datx:=1', max_size=80))
def test_any_text_is_checked_without_another_error(text: str) -> None:
    """Hostile files: PolicyInvalid, or a text for the engine to refuse."""
    try:
        require_portable({"policies/x.rego": text})
        assert relocated(text, "r").count("\n") == text.count("\n")
    except PolicyInvalid:
        return


def test_every_portable_builtin_is_one_of_the_embedded_engine() -> None:
    """docs/policies.md: the list promises what both have; a missing one surfaces only when it is reached."""
    program = """
import json, regorus, sys
lacking = []
for name in json.load(sys.stdin):
    engine = regorus.Engine()
    engine.add_policy("x.rego", f"package x\\n\\na := {name}(null)\\n")
    engine.set_input_json("{}")
    try:
        engine.eval_rule_as_json("data.x.a")
    except RuntimeError as error:
        if "could not find function" in str(error):
            lacking.append(name)
json.dump(lacking, sys.stdout)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(sorted(PORTABLE_BUILTINS)),
        env={**os.environ, "RUST_BACKTRACE": "0"},  # a backtrace for each error takes far longer
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(ran.stdout) == []


def test_the_page_lists_the_portable_builtins() -> None:
    """docs/policies.md and the list in the code are the same."""
    page = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    listed = page[page.index("Only these builtins:") : page.index("No network, no clock")]
    names = listed.removeprefix("Only these builtins:").strip().rstrip(".")
    assert set(re.split(r",\s+", names)) == PORTABLE_BUILTINS


async def test_the_policy_of_the_page_can_be_loaded(tmp_path: Path) -> None:
    """docs/policies.md: its example decides as it says."""
    page = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    (text, *_) = re.findall(r"^```rego\n(package.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert package_of("x", text) == ("dataspace.policies.office_hours", 1)
    engine = RegoEngine()
    await engine.load({"policies/office_hours.rego": text})
    package = "dataspace.policies.office_hours"
    for seconds, allowed in (
        (330 * 60 - 1, False),
        (330 * 60, True),
        (870 * 60 - 1, True),
        (870 * 60, False),
    ):
        answer = await engine.evaluate([package], {"stage": "query", "now": seconds})
        assert answer[package]["allow"] is allowed
    await engine.close()
    with pytest.raises(PolicyUnavailable):
        await engine.evaluate([package], {"stage": "query", "now": 0})
