"""Our messages against the schemas that the specification publishes (Protocol: every message validated)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.dsp import messages as m
from connector.dsp.catalog import Publisher, parse_catalog, parse_dataset
from connector.dsp.wire import read_json
from connector.errors import MessageInvalid
from tests.pair import dataset
from tests.spec import schemas
from tests.spec.samples import MESSAGES

PUBLISHER = Publisher(participant_id="kela", dsp_url="http://kela.example/dsp/2025-1")


def test_every_message_type_has_a_sample() -> None:
    """Nothing of dsp.md 1.4, 1.8 and 1.11 is left out; VersionsError has no schema."""
    assert {type(message).TYPE for message in MESSAGES} == set(m.MESSAGES) - {"VersionsError"}


@schemas.available
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_each_message_renders_schema_valid(message: m.Message) -> None:
    """DSP 2025-1, JSON Schemas."""
    document = message.document()
    assert schemas.errors(message.TYPE, document) == []
    assert m.parse_any(json.loads(json.dumps(document))) == message


@schemas.available
def test_catalog_and_dataset_render_schema_valid() -> None:
    """DSP 2025-1 §5: offers without target, distributions with format and service, no empty arrays."""
    some, none = (
        PUBLISHER.catalog([dataset()], lambda _: True),
        PUBLISHER.catalog([dataset()], lambda _: False),
    )
    assert schemas.errors("Catalog", some) == []
    assert schemas.errors("Catalog", none) == []
    assert "dataset" not in none
    assert schemas.errors("Dataset", PUBLISHER.dataset(dataset())) == []


@schemas.available
def test_version_document_is_schema_valid() -> None:
    """DSP 2025-1 §4.3; TCK MET:01-01."""
    assert schemas.errors("VersionResponse", m.version_document("kela")) == []


@schemas.available
@pytest.mark.parametrize("path", schemas.examples(), ids=lambda path: path.stem)
def test_the_specifications_examples_are_read_and_kept(path: Path) -> None:
    """Every example message parses; what we render from it says the same."""
    document = json.loads(path.read_text())
    match document.get("@type"):
        case "Catalog":
            assert parse_catalog(document).document == document
        case "Dataset":
            assert parse_dataset(document).offers
        case None:
            assert "protocolVersions" in document
        case _:
            assert m.parse_any(document).document() == {k: v for k, v in document.items() if v != []}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path, *(p for key, child in children for p in _places(child, (*path, key)))]


_BROKEN: tuple[Any, ...] = (None, 1, True, [], {}, "", [1], {"@type": "x"}, "REQUESTED")


@schemas.available
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_nothing_passes_that_the_schema_refuses(data: st.DataObject) -> None:
    """Delete or replace any part of any message: where the schema objects, so do we, naming the path."""
    message = data.draw(st.sampled_from(MESSAGES))
    document: Any = copy.deepcopy(dict(message.document()))
    place = data.draw(st.sampled_from([p for p in _places(document) if p]))
    holder = document
    for step in place[:-1]:
        holder = holder[step]
    broken = data.draw(st.sampled_from(("delete", *_BROKEN)))
    if broken == "delete":
        del holder[place[-1]]
    else:
        holder[place[-1]] = copy.deepcopy(broken)
    objections = schemas.errors(message.TYPE, document)
    if objections:
        with pytest.raises(MessageInvalid) as refusal:
            m.parse(type(message), read_json(json.dumps(document).encode()))
        assert refusal.value.where
