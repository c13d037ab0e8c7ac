"""The catalogue at scale over HTTP (DSP 2025-1 §5, §8): pages by `Link`, filter, entity tags, gzip."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from connector.dsp import messages as m
from connector.dsp.catalog import parse_catalog
from connector.errors import Unavailable
from connector.model.audit import AuditEvent
from connector.model.catalog import DatasetStatus
from connector.web.representations import accepts_gzip, matches
from tests.clocks import ManualClock
from tests.pair import Side, dataset
from tests.spec import schemas
from tests.spec.test_dsp_http import assert_typed, client_of

URL = "/dsp/2025-1/catalog/request"
COUNT = 230


@pytest.fixture
def side() -> Side:
    """230 datasets; every tenth has the theme TRAN."""
    names = [f"d{n:03d}" for n in range(COUNT)]
    held = {n: dataset(id=n, themes=("TRAN",) if n.endswith("0") else ("SOCI",)) for n in names}
    return Side("kela", ManualClock(), datasets=held)


@pytest.fixture
async def http(side: Side) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(side) as client:
        yield client


def asked(*criteria: Any) -> dict[str, Any]:
    return {**m.CatalogRequestMessage().document(), **({"filter": list(criteria)} if criteria else {})}


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [d.id for d in parse_catalog(answer.json()).datasets]


async def crawl(http: httpx.AsyncClient, body: dict[str, Any], follow: dict[str, Any]) -> list[list[str]]:
    """As a peer does: the same path by POST, with the query that `Link` names."""
    pages = []
    url = URL
    while url:
        answer = await http.post(url, json=body if not pages else follow)
        pages.append(ids(answer))
        url = answer.links.get("next", {}).get("url", "")
        assert not url or url.startswith("http://kela.example/dsp/2025-1/catalog/request?continuationToken=")
    return pages


TRANSPORT = {"operandLeft": "dcat:theme", "operator": "=", "operandRight": "TRAN"}


async def test_pages_lead_through_the_catalogue(http: httpx.AsyncClient, side: Side) -> None:
    """CAT:01-01 and beyond: the first page by itself is a whole, schema-valid Catalog; absolute links; on
    record per request, with the count."""
    pages = await crawl(http, asked(), asked())
    assert [len(page) for page in pages] == [100, 100, 30]
    assert [i for page in pages for i in page] == sorted(side.datasets)
    assert [about["outcome"] for event, about in side.audited if event is AuditEvent.CATALOG_SERVED] == [
        "100 datasets",
        "100 datasets",
        "30 datasets",
    ]
    if schemas.FOLDER.is_dir():
        assert schemas.errors("Catalog", (await http.post(URL, json=asked())).json()) == []


async def test_previous_leads_back(http: httpx.AsyncClient) -> None:
    """RFC 8288, rel="previous": absent on the first page."""
    first = await http.post(URL, json=asked())
    assert "previous" not in first.links
    second = await http.post(first.links["next"]["url"], json=asked())
    back = await http.post(second.links["previous"]["url"], json=asked())
    assert ids(back) == ids(first)


async def test_a_page_keeps_its_filter(http: httpx.AsyncClient, side: Side) -> None:
    """The link's URL carries it: following with the same filter or none is the same; with another, 400."""
    side.datasets |= {f"t{n:03d}": dataset(id=f"t{n:03d}", themes=("TRAN",)) for n in range(200)}
    with_it = await crawl(http, asked(TRANSPORT), asked(TRANSPORT))
    without = await crawl(http, asked(TRANSPORT), asked())
    assert with_it == without
    assert [len(page) for page in with_it] == [100, 100, 23]
    first = await http.post(URL, json=asked(TRANSPORT))
    other = {**TRANSPORT, "operandRight": "SOCI"}
    wrong = await http.post(first.links["next"]["url"], json=asked(other))
    assert assert_typed(wrong, 400, "CatalogError")["code"] == "continuation_token_invalid"


async def test_a_wrong_token_is_a_typed_error(http: httpx.AsyncClient, side: Side) -> None:
    """Garbage, and another peer's: 400, not 500."""
    first = await http.post(URL, json=asked())
    url = first.links["next"]["url"]
    for wrong in (
        f"{URL}?continuationToken=abc",
        f"{URL}?continuationToken=%00",
        f"{url}x",
        url.upper()[-40:],
    ):
        target = wrong if "?" in wrong else f"{URL}?continuationToken={wrong}"
        answer = await http.post(target, json=asked())
        assert assert_typed(answer, 400, "CatalogError")["code"] == "continuation_token_invalid"
    async with client_of(side, caller="school") as other:
        assert_typed(await other.post(url, json=asked()), 400, "CatalogError")


async def test_edc_fetches_by_offset(http: httpx.AsyncClient, side: Side) -> None:
    """EDC's crawler asks for ranges and stops at the first that is not full: none may be short."""
    found: list[str] = []
    while True:
        query = {
            "@type": "QuerySpec",
            "offset": len(found),
            "limit": 60,
            "sortOrder": "ASC",
            "filterExpression": [],
        }
        page = ids(await http.post(URL, json=asked(query)))
        found += page
        if len(page) < 60:
            break
    assert found == sorted(side.datasets)
    everything = {"@type": "QuerySpec", "offset": 0, "limit": 2147483647}
    assert ids(await http.post(URL, json=asked(everything))) == found


async def test_an_unsupported_filter_says_what_is_supported(http: httpx.AsyncClient) -> None:
    """dsp.md 1.4: 400 and a CatalogError."""
    answer = await http.post(URL, json=asked({**TRANSPORT, "operator": "matches"}))
    body = assert_typed(answer, 400, "CatalogError")
    assert body["code"] == "filter_unsupported"
    assert "contains" in body["reason"][0]


async def test_nobody_home_is_an_empty_catalogue(http: httpx.AsyncClient, side: Side) -> None:
    """Empty arrays are left out: the schema has none."""
    side.datasets = {"draft": dataset(id="draft", status=DatasetStatus.DRAFT)}
    answer = await http.post(URL, json=asked())
    assert ids(answer) == []
    if schemas.FOLDER.is_dir():
        assert schemas.errors("Catalog", answer.json()) == []
    assert "dataset" not in answer.json()
    assert "link" not in answer.headers


# --- entity tags and gzip ---------------------------------------------------------------------------------


async def test_what_is_known_is_not_sent_again(http: httpx.AsyncClient, side: Side) -> None:
    """A crawler's second round: 304 for every page that is the same, 200 for the one that is not."""
    urls = [URL, (await http.post(URL, json=asked())).links["next"]["url"]]
    tags = [(await http.post(url, json=asked())).headers["etag"] for url in urls]
    assert tags[0] != tags[1]
    for url, tag in zip(urls, tags, strict=True):
        again = await http.post(url, json=asked(), headers={"if-none-match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    side.datasets["d150"] = dataset(id="d150", version="2.0.0")
    answers = [
        (await http.post(url, json=asked(), headers={"if-none-match": tag})).status_code
        for url, tag in zip(urls, tags, strict=True)
    ]
    assert answers == [304, 200]


async def test_a_change_of_what_one_may_see_changes_the_tag(http: httpx.AsyncClient, side: Side) -> None:
    """The tag is over what was seen, not over revisions: policy that hangs on time moves none."""
    tag = (await http.post(URL, json=asked())).headers["etag"]
    side.visible = False
    answer = await http.post(URL, json=asked(), headers={"if-none-match": tag})
    assert ids(answer) == []


async def test_one_dataset_has_a_tag_too(http: httpx.AsyncClient) -> None:
    first = await http.get("/dsp/2025-1/catalog/datasets/d001")
    assert first.headers["cache-control"] == "private, no-cache"
    again = await http.get(
        "/dsp/2025-1/catalog/datasets/d001", headers={"if-none-match": first.headers["etag"]}
    )
    assert again.status_code == 304
    gone = await http.get(
        "/dsp/2025-1/catalog/datasets/d999", headers={"if-none-match": first.headers["etag"]}
    )
    assert_typed(gone, 404, "CatalogError")


async def test_gzip_where_it_is_accepted(http: httpx.AsyncClient) -> None:
    """dsp.md 1.4; RFC 9110 §12.5.3: `Vary`, and one tag for both codings, as it is weak."""
    plain = await http.post(URL, json=asked(), headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    async with http.stream(
        "POST", URL, json=asked(), headers={"accept-encoding": "br, gzip;q=0.5"}
    ) as packed:
        raw = b"".join([chunk async for chunk in packed.aiter_raw()])
    assert packed.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(raw)) == plain.json()
    assert len(raw) < len(plain.content) / 5
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert packed.headers["etag"] == plain.headers["etag"]
    small = await http.get("/dsp/2025-1/catalog/datasets/d001", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers, "below what it is worth"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("GZIP ; q=1.0", True),
        ("deflate, gzip;q=0.001", True),
        ("*", True),
        ("x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=abc", False),
        ("gzipped", False),
    ],
)
def test_who_accepts_gzip(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [('W/"a"', True), ('"a"', True), ('"b", W/"a"', True), ("*", True), ("", False), ('"b"', False)],
)
def test_tags_compare_weakly(header: str, expected: bool) -> None:
    """RFC 9110 §8.8.3.2."""
    assert matches(header, 'W/"a"') is expected


# --- only what policy lets this peer see ------------------------------------------------------------------


async def test_nothing_that_can_be_decided_is_no_empty_catalogue(http: httpx.AsyncClient, side: Side) -> None:
    """Fail closed, and honestly: a crawler must not take an outage of ours for the end of all datasets."""

    async def unavailable(_peer: str, _dataset: Any) -> Any:
        raise Unavailable("The policies cannot be evaluated.")

    side.catalogs._sightings._sight = unavailable
    answer = await http.post(URL, json=asked())
    assert_typed(answer, 503, "CatalogError")
    assert answer.headers["retry-after"] == "1"
    assert_typed(await http.get("/dsp/2025-1/catalog/datasets/d001"), 503, "CatalogError")
