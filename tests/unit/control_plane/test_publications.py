"""The breaking-change gate (Protocol, data products and terms; C2, C3, D1)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.adapters import descriptors
from connector.adapters.policy_files import project_purposes
from connector.adapters.sqlite_store import SqliteStore
from connector.control_plane.publications import Publications, breaches, is_new_major, published_form
from connector.model.catalog import (
    Dataset,
    DatasetStatus,
    Field,
    OfferTerms,
    PreviousTerms,
    TransferFormat,
)
from connector.model.decision import Bucket, Truncate
from connector.model.json import JsonObject
from connector.model.policy import Policy, Rule
from tests.clocks import START, ManualClock
from tests.decisions import EXAMPLES
from tests.fakes import MemoryStore
from tests.pair import dataset, terms

FIELDS = (
    Field(name="hetu", type="string", required=True, unique=True, classification="identifier"),
    Field(name="amount", type="number", required=True, unit="EUR", physical_name="SUMMA"),
    Field(name="status", type="string", enum=("open", "closed")),
)


def contract(*fields: Field, version: str = "1.2.0", **changes: Any) -> Dataset:
    return dataset(fields=fields or FIELDS, version=version, subject_key="hetu", **changes)


def remembered(published: Dataset) -> JsonObject:
    """As the store gives it back."""
    form: JsonObject = json.loads(json.dumps(published_form(published)))
    return form


def altered(column: str, /, **changes: Any) -> tuple[Field, ...]:
    return tuple(replace(f, **changes) if f.name == column else f for f in FIELDS)


def without(name: str) -> tuple[Field, ...]:
    return tuple(f for f in FIELDS if f.name != name)


BREAKING: dict[str, tuple[Dataset, str]] = {
    "a column gone": (contract(*without("status")), "column 'status' is gone"),
    "a column renamed": (
        contract(*altered("amount", name="sum")),
        "column 'amount' is now called 'sum'",
    ),
    "another type": (contract(*altered("amount", type="string")), "was of type number and is string"),
    "another unit": (contract(*altered("amount", unit="cent")), "was in EUR and is in cent"),
    "no unit": (contract(*altered("amount", unit="")), "was in EUR and is in none"),
    "may be absent": (contract(*altered("amount", required=False)), "may now be absent"),
    "may repeat": (contract(*altered("hetu", unique=False)), "may now repeat"),
    "fewer values": (contract(*altered("status", enum=("open",))), "can no longer be closed"),
    "more values": (contract(*altered("status", enum=("open", "closed", "lost"))), "can now be lost"),
    "any value": (contract(*altered("status", enum=())), "no longer lists its values"),
    "listed values": (contract(*altered("amount", enum=("1",))), "now has listed values only"),
    "no identifier": (contract(*altered("hetu", classification="")), "no longer names a person"),
    "an identifier": (contract(*altered("status", classification="identifier")), "now names a person"),
    "another subject": (replace(contract(), subject_key="status"), "subjectKey was 'hetu'"),
    "another contract": (contract(contract_id="urn:other"), "id was 'urn:contract:benefits'"),
    "a way of use gone": (
        contract(formats=(TransferFormat.CLOUD_EVENTS_PUSH,)),
        "formats no longer has FederatedQuery-PULL",
    ),
}


@pytest.mark.parametrize(("changed", "text"), BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_needs_a_new_major_version(changed: Dataset, text: str) -> None:
    """Refused with the version that is published and what changed; a new major version lifts it."""
    before = remembered(contract())
    for version in ("1.2.0", "1.3.0", "1.2.1", "0.9.0"):
        (breach,) = breaches(replace(changed, version=version), before)
        assert text in breach.text
        assert f"version 1.2.0 is published, and this is {version}" in breach.text
        assert "2.0.0" in breach.mend
    assert breaches(replace(changed, version="2.0.0"), before) == []


COMPATIBLE: dict[str, Dataset] = {
    "nothing": contract(),
    "a new column": contract(*FIELDS, Field(name="more", type="string")),
    "another order": contract(*reversed(FIELDS)),
    "now always there": contract(*altered("status", required=True)),
    "now unique": contract(*altered("status", unique=True)),
    "another source": contract(*altered("amount", physical_name="EUROT")),
    "another description": contract(*altered("amount", description="What was paid.")),
    "one more way of use": contract(formats=tuple(TransferFormat)),
}


@pytest.mark.parametrize("changed", COMPATIBLE.values(), ids=COMPATIBLE)
def test_what_breaks_no_reader_needs_no_new_version(changed: Dataset) -> None:
    """New columns and stronger promises are anybody's to ignore."""
    assert breaches(changed, remembered(contract())) == []


@pytest.mark.parametrize(
    ("old", "new", "newer"),
    [
        ("1.9.9", "2.0.0", True),
        ("9.0", "10.0", True),
        ("v1", "v2", True),
        ("1.0.0", "1.9.0", False),
        ("2.0.0", "1.0.0", False),
        ("draft", "2.0.0", False),
        ("1.0.0", "next", False),
    ],
)
def test_what_a_new_major_version_is(old: str, new: str, newer: bool) -> None:
    """Numbers; what is none is never known to be newer."""
    assert is_new_major(old, new) is newer


# --- properties -----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d"])
A_FIELD = st.builds(
    Field,
    name=NAMES,
    type=st.sampled_from(["string", "integer", "number"]),
    required=st.booleans(),
    unique=st.booleans(),
    classification=st.sampled_from(["", "identifier"]),
    enum=st.sampled_from([(), ("x",), ("x", "y")]),
    unit=st.sampled_from(["", "EUR"]),
)
CONTRACTS = st.lists(A_FIELD, min_size=1, max_size=4, unique_by=lambda f: f.name).map(
    lambda fields: dataset(fields=tuple(fields), version="1.0.0")
)


@given(CONTRACTS)
def test_what_is_published_again_breaks_nothing(published: Dataset) -> None:
    """A restart with the same files is never refused."""
    assert breaches(published, remembered(published)) == []


@given(CONTRACTS, CONTRACTS)
def test_a_new_major_version_may_change_everything(old: Dataset, new: Dataset) -> None:
    """And nothing else lifts the gate: a minor version is refused exactly where the same version is."""
    before = remembered(old)
    assert breaches(replace(new, version="2.0.0"), before) == []
    same, minor = (len(breaches(replace(new, version=v), before)) for v in ("1.0.0", "1.7.0"))
    assert same == minor


@given(CONTRACTS, CONTRACTS)
def test_a_change_that_is_let_through_can_be_read_as_before(old: Dataset, new: Dataset) -> None:
    """Soundness: every column of the old contract is there, of its type and unit, and no weaker."""
    if breaches(new, remembered(old)):
        return
    for column in old.fields:
        now = new.field_named(column.name)
        assert now is not None
        assert (now.type, now.unit, set(now.enum)) == (column.type, column.unit, set(column.enum))
        assert now.required >= column.required
        assert now.unique >= column.unique


@given(CONTRACTS, A_FIELD)
def test_adding_a_column_never_breaks_and_losing_it_always_does(published: Dataset, column: Field) -> None:
    """The two directions of one change."""
    column = replace(column, name="new")
    larger = replace(published, fields=(*published.fields, column))
    assert breaches(larger, remembered(published)) == []
    assert len(breaches(published, remembered(larger))) == 1


# --- terms ----------------------------------------------------------------------------------------------

OTHER_TERMS: dict[str, tuple[OfferTerms, str]] = {
    "a column": (terms(columns={"area": "clear", "hetu": "pseudonym"}), "columns"),
    "a mask": (terms(columns={"area": Truncate(length=3)}), "columns"),
    "permission": (terms(policy=Policy(permissions=(Rule(action="use"),))), "obligation"),
    "exposure": (terms(min_group_size=3, aggregate_only=True), "aggregateOnly, minGroupSize"),
    "a policy": (terms(policies=("more",)), "policies"),
}


@pytest.mark.parametrize(("changed", "named"), OTHER_TERMS.values(), ids=OTHER_TERMS)
def test_other_terms_need_a_new_terms_version(changed: OfferTerms, named: str) -> None:
    """An agreement under version 1 must find in version 1 what it was made on."""
    before = remembered(dataset())
    (breach,) = breaches(dataset(offers=(changed,)), before)
    assert named in breach.text
    assert "termsVersion is '1' still" in breach.text
    assert breaches(dataset(offers=(replace(changed, terms_version="2"),)), before) == []


def test_who_approves_and_what_came_before_is_not_terms() -> None:
    """An owner may change, a sunset may be named, without new terms."""
    changed = terms(
        "manual", approver="new-owner", previous=(PreviousTerms(terms_version="0", sunset=START),)
    )
    assert breaches(dataset(offers=(changed,)), remembered(dataset())) == []


async def test_a_version_of_terms_is_never_used_twice() -> None:
    """Agreements may outlive their offer: its version stays taken."""
    publications = Publications(MemoryStore(ManualClock()))
    bucketed = terms(columns={"area": Bucket(size=10)})
    for offers in ((terms(),), (terms(terms_version="2"),)):
        assert await publications.take([dataset(offers=offers)]) == []
    (breach,) = await publications.take([dataset(offers=(bucketed,))])
    assert "columns" in breach.text
    assert await publications.take([dataset(offers=(terms(),))]) == []


async def test_nothing_is_remembered_where_something_is_refused() -> None:
    """All or none; and a draft promises nothing yet."""
    store = MemoryStore(ManualClock())
    publications = Publications(store)
    draft = contract(status=DatasetStatus.DRAFT)
    assert await publications.take([draft]) == []
    assert store.state.values == {}
    assert await publications.take([contract()]) == []
    held = store.state.values
    other = replace(contract(), id="other")
    assert len(await publications.take([contract(*without("status")), other])) == 1
    assert store.state.values == held
    assert await publications.take([contract(*without("status"), status=DatasetStatus.DRAFT), other]) == []


# --- with files and a store -----------------------------------------------------------------------------


def catalogue(folder: Path, text: str) -> list[Dataset]:
    (folder / "clients.odcs.yaml").write_text(text, encoding="utf-8")
    loaded = descriptors.load_catalog(
        folder, policies=frozenset({"statutory_planning"}), purposes=project_purposes()
    )
    return list(loaded.values())


async def test_the_refusal_names_file_and_line(tmp_path: Path) -> None:
    """At start: file:line, the version that is published, what changed and the mend; also after a restart."""
    text = (EXAMPLES / "catalog/employment/clients.odcs.yaml").read_text(encoding="utf-8")
    for restart in range(2):
        store = SqliteStore(tmp_path / "store.sqlite")
        await store.open()
        assert await Publications(store).take(catalogue(tmp_path, text)) == []
        await store.close()
        assert restart in (0, 1)
    broken = text.replace("name: birth_year, logicalType: integer", "name: birth_year, logicalType: number")
    broken = broken.replace("birth_year: {mask: bucket, size: 10}", "birth_year: clear")
    store = SqliteStore(tmp_path / "store.sqlite")
    await store.open()
    found = await Publications(store).take(catalogue(tmp_path, broken))
    await store.close()
    error = descriptors.refused((b.where, b.text, b.mend) for b in found)
    column, offer = (
        next(i for i, line in enumerate(broken.splitlines(), 1) if mark in line)
        for mark in ("name: birth_year", 'termsVersion: "1.0"')
    )
    assert error.where == f"{tmp_path / 'clients.odcs.yaml'}:{column}"
    assert "column 'birth_year' was of type integer and is number" in error.message
    assert f"clients.odcs.yaml:{offer}: the terms of offer 'planning' have changed (columns)" in error.mend
