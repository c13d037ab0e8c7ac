"""Dataset descriptors: what the examples become, and every mistake by file, line and mend."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.access.vocabulary import classify
from connector.adapters.descriptors import load_catalog, load_descriptor
from connector.adapters.policy_files import project_purposes
from connector.adapters.yaml_tree import YamlInvalid, read_yaml
from connector.errors import DescriptorInvalid
from connector.model.catalog import Dataset, DatasetStatus, SourceRef, TransferFormat
from connector.model.decision import Bucket, Constant, Drop, Hash, Null, Truncate
from connector.model.policy import LogicalConstraint
from tests.decisions import EXAMPLES, ROOT, catalogue

POLICIES = frozenset({"statutory_planning", "case_work", "outreach", "open_statistics"})
BASES = {f.name.split(".")[0]: f.read_text(encoding="utf-8") for f in EXAMPLES.glob("catalog/*/*.odcs.yaml")}
CLIENTS, BENEFITS = BASES["clients"], BASES["benefits"]


def load(folder: Path, text: str, name: str = "x.odcs.yaml") -> Dataset:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return load_descriptor(file, policies=POLICIES, purposes=project_purposes())


# --- what the examples become ---------------------------------------------------------------------------


def test_the_demos_datasets_are_those_of_the_registers() -> None:
    """Skeleton, mission: the descriptors of the demo's registers, by their owners."""
    assert {d.id: d.source for d in catalogue().values()} == {
        "clients": SourceRef(kind="sqlite", location="data/clients.sqlite", table="clients"),
        "benefits": SourceRef(kind="parquet", location="data/benefits.parquet"),
        "benefit_statistics": SourceRef(kind="parquet", location="data/benefits.parquet"),
        "leavers": SourceRef(kind="csv", location="data/leavers.csv"),
    }
    offers = {(d.id, o.id, o.approval) for d in catalogue().values() for o in d.offers}
    assert offers == {
        ("clients", "planning", "automatic"),
        ("benefits", "planning", "manual"),
        ("benefits", "case-work", "automatic"),
        ("benefit_statistics", "statistics", "automatic"),
        ("leavers", "outreach", "automatic"),
    }


def test_a_dataset_has_what_its_descriptor_says() -> None:
    """Architecture, dataset descriptors: one model for catalogue, contract test and policy input."""
    leavers = catalogue()["leavers"]
    assert leavers.status is DatasetStatus.ACTIVE
    assert leavers.title["sv"] == "De som avbrutit sin utbildning"
    assert leavers.formats == (
        TransferFormat.FEDERATED_QUERY_PULL,
        TransferFormat.HTTP_DATA_PULL,
        TransferFormat.CLOUD_EVENTS_PUSH,
    )
    assert "fi.dataspace.consent.given.v1" in leavers.event_types
    assert leavers.gdpr.disclosure_basis == "consent"
    assert leavers.subject_key == "hetu"
    assert leavers.description.startswith("Lets outreach youth work reach")
    named = leavers.field_named("hetu")
    assert named is not None
    assert named.required
    assert named.classification == "identifier"
    status = leavers.field_named("status")
    assert status is not None
    assert status.enum == ("outside", "working", "studying", "unknown")
    (offer,) = leavers.offers
    assert offer.key_exchange
    assert offer.policies == ("outreach",)
    assert offer.wire_id(leavers.id) == "leavers:outreach:1.0"


def test_every_example_offer_can_be_enforced() -> None:
    """Policy and consent: each constraint has a class, or the offer would not have been published."""
    for dataset in catalogue().values():
        for offer in dataset.offers:
            assert classify(offer.policy, offer.trusts_consumer)


def test_the_contract_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    """Skeleton, data shapes: an agreement keeps the hash of the descriptor file as it was read."""
    dataset = load(tmp_path, CLIENTS)
    assert dataset.contract_hash == hashlib.sha256(CLIENTS.encode("utf-8")).hexdigest()
    assert load(tmp_path, CLIENTS + "\n").contract_hash != dataset.contract_hash


def test_every_mask_and_nested_odrl_can_be_written(tmp_path: Path) -> None:
    """docs/descriptors.md: all exposures, and `or` as DSP writes it."""
    text = _changed(
        CLIENTS,
        ("            service: clear\n            birth_year: {mask: bucket, size: 10}\n", MASKS),
        ("                - {leftOperand: elapsedTime, operator: lteq, rightOperand: P12M}\n", OR),
    )
    (offer,) = load(tmp_path, text).offers
    assert offer.columns == {
        "hetu": "pseudonym",
        "postal_code": "clear",
        "support_need": "clear",
        "service": Constant(value="?"),
        "birth_year": Bucket(size=10),
        "name": Null(),
        "registered_on": Truncate(unit="month"),
        "occupation_code": Hash(),
        "unemployed_months": Drop(),
    }
    last = offer.policy.permissions[0].constraints[-1]
    assert isinstance(last, LogicalConstraint)
    assert last.operator == "or"


MASKS = """\
            service: {mask: constant, value: "?"}
            birth_year: {mask: bucket, size: 10}
            name: {mask: "null"}
            registered_on: {mask: truncate, unit: month}
            occupation_code: {mask: hash}
            unemployed_months: {mask: drop}
"""
OR = """\
                - or:
                    - {leftOperand: recipient, operator: eq, rightOperand: city}
                    - {leftOperand: spatial, operator: isPartOf, rightOperand: EU}
"""


def test_no_folder_is_no_datasets(tmp_path: Path) -> None:
    """A consumer holds no register."""
    assert load_catalog(tmp_path / "nowhere", policies=(), purposes=project_purposes()) == {}
    assert load_catalog(tmp_path, policies=(), purposes=project_purposes()) == {}


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    """Skeleton, README: how to write a dataset descriptor. What the page shows whole can be loaded."""
    page = (ROOT / "docs/descriptors.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(apiVersion.*?)^```", page, re.MULTILINE | re.DOTALL)
    dataset = load(tmp_path, example)
    assert dataset.offers


# --- every mistake ----------------------------------------------------------------------------------------


def _changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    return text


def _line(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


def _mistakes() -> list[Any]:
    table = yaml.safe_load((Path(__file__).parent / "descriptor_mistakes.yaml").read_text(encoding="utf-8"))
    return [pytest.param(mistake, id=mistake["name"]) for mistake in table]


def _made(mistake: dict[str, Any]) -> str:
    text = BASES[mistake["in"]]
    if "from" not in mistake:
        return _changed(text, (mistake["old"], mistake["new"]))
    start = text.index(mistake["from"])
    return text[:start] + (text[text.index(mistake["to"]) :] if mistake["to"] else "")


@pytest.mark.parametrize("mistake", _mistakes())
def test_a_mistake_is_named_by_line_and_mend(tmp_path: Path, mistake: dict[str, Any]) -> None:
    """Skeleton, bad input: a malformed descriptor is refused naming file:line, what is wrong and the mend."""
    text = _made(mistake)
    with pytest.raises(DescriptorInvalid) as raised:
        load(tmp_path, text)
    message = str(raised.value)
    assert f"x.odcs.yaml:{_line(text, mistake['line'])}: " in message, message
    for piece in mistake["says"]:
        assert piece in message
    assert raised.value.mend


def test_pseudonymise_and_the_key_in_the_clear_contradict_each_other(tmp_path: Path) -> None:
    """docs/policy-vocabulary.md: dsc:pseudonymise is the provider's to keep."""
    delete = BENEFITS[
        BENEFITS.rindex("            - action: delete") : BENEFITS.rindex('            - {action: "dsc:log')
    ]
    text = _changed(BENEFITS, (delete, '            - {action: "dsc:pseudonymise"}\n'))
    with pytest.raises(DescriptorInvalid, match="dsc:pseudonymise, and the subject key in the clear"):
        load(tmp_path, text)


PREVIOUS = 'previousTerms: [{termsVersion: "0.9", sunset: 2026-12-31T12:00:00+02:00}]'


def test_dates_that_end_terms_and_datasets(tmp_path: Path) -> None:
    """docs/descriptors.md: a day begins at midnight UTC, an instant is one; units belong to columns."""
    text = _changed(
        CLIENTS,
        ("      accessRights: RESTRICTED\n", "      accessRights: RESTRICTED\n      retiredOn: 2027-06-30\n"),
        ('          termsVersion: "1.0"\n', f'          termsVersion: "1.0"\n          {PREVIOUS}\n'),
        ("status: active", "status: deprecated"),
    )
    dataset = load(tmp_path, text)
    assert dataset.retires_at == datetime(2027, 6, 30, tzinfo=UTC)
    assert dataset.sunset_of("planning", "0.9") == datetime(2026, 12, 31, 10, tzinfo=UTC)
    assert (dataset.sunset_of("planning", "1.0"), dataset.sunset_of("other", "0.9")) == (None, None)
    days = catalogue()["benefits"].field_named("sick_days")
    assert days is not None
    assert days.unit == "days"


def test_a_place_for_whatever_breaks_later(tmp_path: Path) -> None:
    """The gate at start names file:line of what breaks with what was published before."""
    dataset = load(tmp_path, CLIENTS)
    for place, mark in (
        ("version", "version: 1.0.0"),
        ("column:service", "- name: service"),
        ("offer:planning:1.0", 'termsVersion: "1.0"'),
        ("subjectKey", "subjectKey: hetu"),
    ):
        assert dataset.places[place] == f"{tmp_path / 'x.odcs.yaml'}:{_line(CLIENTS, mark)}"


def test_dates_that_make_no_sense(tmp_path: Path) -> None:
    """An end of what never began; an offer that ends and is offered."""
    draft = _changed(
        CLIENTS,
        ("status: active", "status: draft"),
        ("      keywords:", "      retiredOn: 2027-01-01\n      keywords:"),
    )
    with pytest.raises(DescriptorInvalid, match="it is not even published"):
        load(tmp_path, draft)
    planning, case_work = BENEFITS.split("        - id: case-work\n")
    second = case_work.replace("          termsVersion", f"          {PREVIOUS}\n          termsVersion", 1)
    first = planning.replace('termsVersion: "1.0"', 'termsVersion: "0.9"')
    offered = f"{first}        - id: planning\n{second}"
    with pytest.raises(DescriptorInvalid, match="is offered still"):
        load(tmp_path, offered)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Whoever mends a descriptor mends it in one go."""
    text = _changed(
        CLIENTS,
        ("themes: [SOCI, ECON]", "themes: [NOPE]"),
        ("            service: clear", "            service: x"),
    )
    with pytest.raises(DescriptorInvalid) as raised:
        load(tmp_path, text)
    assert len(re.findall(r"x\.odcs\.yaml:\d+: ", str(raised.value))) == 2
    assert raised.value.where.endswith(f":{_line(text, 'NOPE')}")


def test_data_that_is_not_personal_needs_less(tmp_path: Path) -> None:
    """A timetable has no subjects, no legal basis and no purpose."""
    text = _changed(
        CLIENTS,
        ("personalData: true", "personalData: false"),
        ("        legalBasis: eu-gdpr:A6-1-e\n", ""),
        ("        purposes: [service-planning]\n", ""),
        ("        dpia: https://employment.example/dpia/clients\n", ""),
        ("                - {leftOperand: purpose, operator: isA, rightOperand: service-planning}\n", ""),
        ('            - {action: "dsc:pseudonymise"}\n', ""),
        ("            hetu: pseudonym\n", "            hetu: clear\n"),
        ("accessRights: RESTRICTED", "accessRights: PUBLIC"),
    )
    assert not load(tmp_path, text).gdpr.personal_data


@pytest.mark.parametrize("same", ["name", "id"])
def test_ids_are_unique_across_files(tmp_path: Path, same: str) -> None:
    """Skeleton, bad input: duplicate ids name both files."""
    (tmp_path / "a.odcs.yaml").write_text(CLIENTS, encoding="utf-8")
    other = {
        "name": ("id: 0b7c5c1e", "id: 1b7c5c1e"),
        "id": ("name: clients\nversion", "name: others\nversion"),
    }[same]
    (tmp_path / "b.odcs.yaml").write_text(_changed(CLIENTS, other), encoding="utf-8")
    with pytest.raises(DescriptorInvalid) as raised:
        load_catalog(tmp_path, policies=POLICIES, purposes=project_purposes())
    assert raised.value.where.startswith(str(tmp_path / "b.odcs.yaml"))
    assert "a.odcs.yaml too" in raised.value.message


def test_all_files_of_a_catalogue_are_told_at_once(tmp_path: Path) -> None:
    """Two bad files are two lines of one message; nothing is half loaded."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.odcs.yaml").write_text("apiVersion: [", encoding="utf-8")
    shutil.copyfile(EXAMPLES / "catalog/school/leavers.odcs.yaml", tmp_path / "c.odcs.yaml")
    with pytest.raises(DescriptorInvalid) as raised:
        load_catalog(tmp_path, policies=POLICIES, purposes=project_purposes())
    assert "a.odcs.yaml:" in str(raised.value)
    assert "b.odcs.yaml:" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"- a\n- b\n", "not of type 'object'"),
        (b"just text", "not of type 'object'"),
        (b"---\na: 1\n---\nb: 2\n", "another document"),
        (b"- " * 2_000, "deep"),
        (b"x: " + b"[" * 2_000, "deep"),
        (b"a" * 1_000_001, "larger than"),
        (b"a: \x00", "not YAML"),
        (b"a: &x [1]\nb: [*x, *x]\n", "alias"),
        (b"<<: {a: 1}\n", "merge key"),
        (b"1: 2\n", "not text"),
        (b"a: .nan\n", "reads as a number"),
        (b"a: 0x1F\n", "reads as a number"),
        (b"a: 12:30:45\n", "reads as a number"),
        (b"a: " + b"9" * 5_000, "reads as a number"),
    ],
    ids=range(16),
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """Skeleton, bad input: the process neither hangs nor half-starts."""
    file = tmp_path / "x.odcs.yaml"
    file.write_bytes(content)
    with pytest.raises(DescriptorInvalid, match=re.escape(said)) as raised:
        load_descriptor(file, policies=POLICIES, purposes=project_purposes())
    assert re.match(r".*x\.odcs\.yaml:\d+$", raised.value.where)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_descriptor_with_anything_changed_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """No change to a file makes another error than DescriptorInvalid: what starts, starts whole."""
    lines = BENEFITS.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    change = data.draw(st.sampled_from(["drop", "text", "list", "map", "number", "null", "swap", "indent"]))
    key = lines[at].split(":")[0]
    lines[at] = {
        "drop": "",
        "text": f"{key}: words\n",
        "list": f"{key}: [1, a]\n",
        "map": f"{key}: {{a: 1}}\n",
        "number": f"{key}: 7\n",
        "null": f"{key}:\n",
        "swap": lines[(at + 1) % len(lines)],
        "indent": f"  {lines[at]}",
    }[change]
    file = tmp_path_factory.getbasetemp() / "fuzz.odcs.yaml"
    file.write_text("".join(lines), encoding="utf-8")
    with suppress(DescriptorInvalid):
        load_descriptor(file, policies=POLICIES, purposes=project_purposes())


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    """yaml_tree: YamlInvalid, and no other error."""
    with suppress(YamlInvalid):
        read_yaml(text)
