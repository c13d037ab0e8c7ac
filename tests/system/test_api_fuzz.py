"""A fuzz over every route of a running connector and registry: no error of ours, and no log that says so.

Bodies are made from the connector's own OpenAPI description and then broken; the DSP routes have a fuzz of
their own (tests/spec/test_dsp_fuzz.py).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.access.people import issue_api_token
from connector.adapters import file_keys
from connector.adapters.clock import SystemClock
from connector.model.person import PersonRole
from tests.crash.estate import Estate
from tests.spec.mutations import MARKER, bodies

OURS = "kela"
PLACES = ("urn:x", "people", "city", "..", "%00", "a b", "ä", "a" * 2_000, "'--", MARKER)
NOT_OURS = {502, 503, 504}
"""Another participant's fault, or a part that is not there: said by a typed error of its own."""


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    made = Estate(tmp_path_factory.mktemp("fuzz") / "estate")
    made.create()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def operations(estate: Estate) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and a plausible body of every operation, the registry's and the hidden ones' added."""
    described = httpx.get(f"{estate.url(OURS)}/v1/openapi.json", trust_env=False).json()
    found = [
        (method.upper(), estate.url(OURS) + path, _sample(described, _body_schema(about)))
        for path, about_path in described["paths"].items()
        for method, about in about_path.items()
        if not path.startswith("/dsp/")
    ]
    assert len(found) > 40
    registry = estate.url("registry")
    return [*found, ("GET", f"{registry}/trust-list", {}), ("GET", f"{registry}/jwks", {})]


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_route_fails_whatever_it_is_sent(
    estate: Estate, operations: list[tuple[str, str, dict[str, Any]]], data: st.DataObject
) -> None:
    """Protocol, bad input; mission L6. Client API, data API, token endpoint, events, catalogue, registry: by
    somebody of ours, by nobody, by a stranger."""
    token = _token(estate)
    with httpx.Client(trust_env=False, timeout=5, follow_redirects=False) as client:
        for method, path, sample in data.draw(st.lists(st.sampled_from(operations), min_size=5, max_size=15)):
            url = _filled(path, data.draw(st.sampled_from(PLACES)))
            headers = {
                "Content-Type": data.draw(st.sampled_from(("application/json",) * 4 + ("text/plain", "x"))),
                "Authorization": data.draw(
                    st.sampled_from((f"Bearer {token}",) * 4 + ("", f"DPoP {MARKER}"))
                ),
            }
            content = data.draw(bodies(sample)) if method != "GET" else b""
            query = data.draw(
                st.sampled_from(("", "?limit=x", "?after=%00", "?waiting=2&limit=-1", "?x=%ff"))
            )
            status, said = _answer(client, method, url + query, content, headers)
            assert status < 500 or status in NOT_OURS, (method, url, status, said)
            assert MARKER.encode() not in said or MARKER in url, (method, url, said)
            assert b"Traceback" not in said
    log = estate.log(OURS) + estate.log("registry")
    assert "unforeseen" not in log
    assert "Traceback" not in log
    assert MARKER not in log


def _answer(
    client: httpx.Client, method: str, url: str, content: bytes, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """Of a stream only what has come when its head has."""
    with client.stream(method, url, content=content, headers=dict(headers)) as answer:
        endless = "ndjson" in answer.headers.get("content-type", "")
        return answer.status_code, b"" if endless else answer.read()


def _token(estate: Estate) -> str:
    return issue_api_token(
        file_keys.load(estate.participant_folder(OURS) / "keys", OURS),
        SystemClock(),
        audience=f"{estate.url(OURS)}/v1",
        subject="fuzz",
        roles=tuple(PersonRole),
        purposes=("service-planning",),
        token_id=uuid.uuid4().hex,
    )


def _filled(path: str, place: str) -> str:
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + quote(place, safe="%") + rest.partition("}")[2]
    return path


def _body_schema(about: Mapping[str, Any]) -> Mapping[str, Any]:
    content = about.get("requestBody", {}).get("content", {})
    return next(iter(content.values()), {}).get("schema", {})  # type: ignore[no-any-return]


def _sample(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """Something of the schema's shape."""
    if "$ref" in schema:
        return _sample(described, described["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for either in ("anyOf", "oneOf", "allOf"):
        if either in schema:
            return _sample(described, schema[either][0])
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "array":
            return [_sample(described, schema.get("items", {}))]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "string":
            return "2026-11-22T10:00:00Z" if schema.get("format") == "date-time" else "people"
    return {name: _sample(described, inner) for name, inner in schema.get("properties", {}).items()}


def test_samples_are_bodies_that_the_description_allows(
    operations: list[tuple[str, str, dict[str, Any]]],
) -> None:
    """What is broken must have been whole: else the fuzz would stop at the first check."""
    bodies_made = [sample for method, _, sample in operations if method == "POST" and sample]
    assert len(bodies_made) > 10
    assert all(json.dumps(sample) for sample in bodies_made)
