"""The words of a catalogue request's filter (docs/catalogue.md): what suits, what is refused, by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.dsp.catalog_filter import OPERATORS, PROPERTIES, parse_filter
from connector.errors import RequestInvalid
from connector.model.catalog import Dataset
from tests.pair import dataset

AUTHORITY = "http://publications.europa.eu/resource/authority"
TRAFFIC = dataset(
    id="traffic_counts",
    title={"fi": "Liikennemäärät", "en": "Traffic counts"},
    description="Vehicles by hour.",
    themes=("TRAN", "ENVI"),
    keywords=("roads", "Cycling"),
    access_rights="PUBLIC",
)


def criterion(left: Any, operator: Any, right: Any) -> dict[str, Any]:
    return {"operandLeft": left, "operator": operator, "operandRight": right}


def suits(*criteria: dict[str, Any], to: Dataset = TRAFFIC) -> bool:
    return parse_filter(criteria).holds(to)


@pytest.mark.parametrize(
    ("left", "operator", "right", "expected"),
    [
        ("id", "=", "traffic_counts", True),
        ("id", "=", "traffic", False),
        ("id", "in", ["benefits", "traffic_counts"], True),
        ("id", "like", "traffic%", True),
        ("id", "like", "%traffic", False),
        ("id", "like", "traffic_counts", True),
        ("id", "like", "traffic__counts", False),
        ("@id", "=", "traffic_counts", True),
        ("https://w3id.org/edc/v0.0.1/ns/id", "=", "traffic_counts", True),
        ("dcat:theme", "=", "ENVI", True),
        ("http://www.w3.org/ns/dcat#theme", "=", "ENVI", True),
        ("dcat:theme", "=", f"{AUTHORITY}/data-theme/TRAN", True),
        ("dcat:theme", "in", ["SOCI", "TRAN"], True),
        ("dcat:theme", "=", "SOCI", False),
        ("dcat:keyword", "=", "cycling", False),
        ("dcat:keyword", "contains", "cycling", True),
        ("dcat:keyword", "contains", "cycl", True),
        ("dct:accessRights", "=", {"@id": f"{AUTHORITY}/access-right/PUBLIC"}, True),
        ("dct:title", "contains", "LIIKENNE", True),
        ("dct:description", "like", "vehicles%", True),
        ("text", "contains", "hour", True),
        ("text", "contains", "counts", True),
        ("text", "contains", "school", False),
        ("dct:format", "=", "FederatedQuery-PULL", True),
        ("format", "=", "HttpData-PULL", False),
        ("dcat:version", "=", {"@value": "1.0.0"}, True),
    ],
)  # fmt: skip
def test_what_a_criterion_means(left: str, operator: str, right: Any, expected: bool) -> None:
    """One suiting value is enough; = and in are exact, like and contains ignore case."""
    assert suits(criterion(left, operator, right)) is expected


def test_all_criteria_must_hold() -> None:
    theme = criterion("dcat:theme", "=", "TRAN")
    assert suits()
    assert suits(theme, criterion("text", "contains", "hour"))
    assert not suits(theme, criterion("text", "contains", "school"))


def test_the_form_in_which_edc_asks() -> None:
    """EDC 0.18 sends its QuerySpec as the only item: with the terms of its own context, or whole IRIs."""
    asked = {
        "@type": "QuerySpec",
        "offset": 50,
        "limit": 2147483647,
        "sortOrder": "ASC",
        "filterExpression": [{"@type": "Criterion", **criterion("id", "=", "traffic_counts")}],
    }
    iri = "https://w3id.org/edc/v0.0.1/ns/"
    spelt_out = {
        "@type": f"{iri}QuerySpec",
        f"{iri}offset": 50,
        f"{iri}limit": {"@value": 2147483647},
        f"{iri}filterExpression": {
            f"{iri}{name}": value for name, value in criterion(f"{iri}id", "=", "traffic_counts").items()
        },
    }
    for query in (asked, spelt_out):
        found = parse_filter([query])
        assert (found.offset, found.limit) == (50, 2147483647)
        assert found.holds(TRAFFIC)
        assert not found.holds(dataset())
    nothing = parse_filter([{"@type": "QuerySpec", "offset": 0, "limit": 50, "filterExpression": []}])
    assert nothing.holds(TRAFFIC)


@pytest.mark.parametrize(
    ("items", "where"),
    [
        ([1], "filter[0]"),
        (["text"], "filter[0]"),
        ([{}], "filter[0].operandLeft"),
        ([criterion("price", "=", "1")], "filter[0].operandLeft"),
        ([criterion(["id"], "=", "1")], "filter[0].operandLeft"),
        ([criterion("id", "!=", "1")], "filter[0].operator"),
        ([criterion("id", ["="], "1")], "filter[0].operator"),
        ([criterion("id", "=", 1)], "filter[0].operandRight"),
        ([criterion("id", "=", "")], "filter[0].operandRight"),
        ([criterion("id", "=", ["a", "b"])], "filter[0].operandRight"),
        ([criterion("id", "in", [])], "filter[0].operandRight"),
        ([criterion("id", "in", ["a"] * 101)], "filter[0].operandRight"),
        ([{**criterion("id", "=", "1"), "or": []}], "filter[0].or"),
        ([criterion("id", "=", "1")] * 21, "filter"),
        ([criterion("id", "=", "1" * 4000)], "filter"),
        ([{"@type": "QuerySpec"}, criterion("id", "=", "1")], "filter"),
        ([{"@type": "QuerySpec", "offset": -1}], "filter[0].offset"),
        ([{"@type": "QuerySpec", "limit": 0}], "filter[0].limit"),
        ([{"@type": "QuerySpec", "limit": True}], "filter[0].limit"),
        ([{"@type": "QuerySpec", "sortOrder": "DESC"}], "filter[0].sortOrder"),
        ([{"@type": "QuerySpec", "sortField": "price"}], "filter[0].sortOrder"),
        ([{"@type": "QuerySpec", "page": 1}], "filter[0].page"),
        ([{"filterExpression": [{"operandLeft": "id"}]}], "filter[0].filterExpression[0].operator"),
    ],
)
def test_what_is_not_understood_is_refused(items: list[Any], where: str) -> None:
    """dsp.md 1.4: an unsupported filter is 400, never ignored, and the answer says what is supported."""
    with pytest.raises(RequestInvalid) as refused:
        parse_filter(items)
    assert (refused.value.where, refused.value.code) == (where, "filter_unsupported")
    assert refused.value.mend


def test_refusals_name_what_is_known() -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_filter([criterion("price", "=", "1")])
    assert all(name in str(refused.value) for name in PROPERTIES)
    with pytest.raises(RequestInvalid) as refused:
        parse_filter([criterion("id", ">", "1")])
    assert all(name in str(refused.value) for name in OPERATORS)


@given(pattern=st.text("ab%_.", max_size=8).filter(bool), text=st.text("abA.", max_size=8))
def test_like_is_sqls(pattern: str, text: str) -> None:
    """Against the obvious reading as a regular expression, which this one is not: it cannot be made slow."""
    translated = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    expected = re.fullmatch(translated, text, re.IGNORECASE | re.DOTALL) is not None
    assert suits(criterion("dct:description", "like", pattern), to=dataset(description=text)) is expected


def test_like_stays_fast() -> None:
    """A pattern of alternations over a long text: what backtracking would not survive."""
    hostile = criterion("text", "like", "%a" * 500 + "%b")
    assert not suits(hostile, to=dataset(description="a" * 20_000))
