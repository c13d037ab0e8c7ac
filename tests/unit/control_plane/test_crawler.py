"""The crawler: everybody's catalogue in one index, read politely; what is bad costs only itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.control_plane.peer_catalogs import Bounds
from connector.errors import PeerRefused, Unavailable
from connector.model.participant import ParticipantStatus
from connector.ports import PeerResponse
from tests.clocks import START
from tests.unit.control_plane.catalogue_sites import Asked, Site, Space, catalog, json_answer, offered

INTERVAL = 300.0
SECOND = timedelta(seconds=1)


@pytest.fixture
async def space(tmp_path: Path) -> AsyncIterator[Space]:
    space = Space(tmp_path, ["kela", "city"])
    await space.index.open()
    space.sites["kela"].datasets = [offered("benefits", "Benefits"), offered("clients", "Clients")]
    space.sites["city"].datasets = [offered("schools", "Schools")]
    yield space
    await space.index.close()


def bounded(space: Space, **bounds: Any) -> None:
    space.bounds = replace(space.bounds, **bounds)
    space.crawler = space.replica()


# --- what is found ----------------------------------------------------------------------------------------


async def test_everybodys_catalogue_is_in_one_index(space: Space) -> None:
    """Protocol, crawler: an indexed view of all participants' catalogues, searchable, and how fresh it is."""
    assert await space.crawl() == 2
    assert await space.ids() == ["schools", "benefits", "clients"]
    assert await space.ids(text="client") == ["clients"]
    (hit,) = (await space.found(text="school")).hits
    assert (hit.participant, hit.dataset.offers[0].id, hit.seen_at) == ("city", "schools:o:1", START)
    kela = await space.freshness("kela")
    assert (kela.last_success, kela.last_attempt, kela.datasets) == (START, START, 2)
    assert kela.next_attempt == START + INTERVAL * SECOND
    assert (kela.failures, kela.error_code, kela.truncated) == (0, "", "")


async def test_what_it_says_of_a_dataset(space: Space) -> None:
    """Crawler: offers summary, languages, themes, however another connector spells its DCAT terms."""
    space.sites["city"].datasets = [
        offered(
            "schools",
            **{
                "dct:title": [
                    {"@language": "fi", "@value": "Koulut"},
                    {"@language": "sv", "@value": "Skolor"},
                ],
                "dcterms:description": {"@value": "Where\x1b[31m they\ngo."},
                "http://www.w3.org/ns/dcat#theme": [{"@id": "http://x.example/theme/EDUC"}],
                "keyword": ["pupils", "", 7, "pupils"],
                "dct:accessRights": "PUBLIC",
                "dcat:version": "2.1.0",
                "hasPolicy": [
                    {
                        "@id": "o",
                        "@type": "Offer",
                        "permission": [
                            {
                                "action": "use",
                                "constraint": [
                                    {
                                        "leftOperand": "odrl:purpose",
                                        "operator": "isAnyOf",
                                        "rightOperand": ["a", "b"],
                                    }
                                ],
                            }
                        ],
                    }
                ],
            },
        )
    ]
    await space.crawl()
    (hit,) = (await space.found(participants=frozenset({"city"}))).hits
    found = hit.dataset
    assert found.titles == {"fi": "Koulut", "sv": "Skolor"}
    assert found.descriptions == {"": "Where [31m they go."}
    assert found.themes == ("http://x.example/theme/EDUC",)
    assert (found.keywords, found.access_rights, found.version) == (("pupils",), "PUBLIC", "2.1.0")
    assert [(o.id, o.actions, o.purposes) for o in found.offers] == [("o", ("use",), ("a", "b"))]


async def test_it_asks_as_the_protocol_has_it(space: Space) -> None:
    """DSP 2025-1 §5 over HTTPS: a CatalogRequestMessage by POST, with our proof."""
    await space.crawl()
    (asked,) = space.sites["kela"].asked
    assert (asked.method, asked.url) == ("POST", "https://kela.example/dsp/2025-1/catalog/request")
    assert json.loads(asked.content or b"")["@type"] == "CatalogRequestMessage"
    assert asked.headers["Authorization"] == "to kela"
    assert "If-None-Match" not in asked.headers


# --- refreshing -------------------------------------------------------------------------------------------


async def test_nobody_is_asked_before_their_time(space: Space) -> None:
    """Crawler: refreshed politely, at an interval."""
    await space.crawl()
    assert await space.crawl(INTERVAL - 1) == 0
    assert await space.crawl(1) == 2
    assert [len(site.asked) for site in space.sites.values()] == [2, 2]


async def test_pages_that_have_not_changed_are_not_sent_again(space: Space) -> None:
    """Crawler: conditional requests, page by page; what is behind a 304 counts as seen."""
    kela = space.sites["kela"]
    kela.page_size = 2
    kela.datasets = [offered(f"d{n}", f"Title {n}") for n in range(6)]
    await space.crawl()
    assert kela.fetched() == ["", "from=2", "from=4"]
    kela.asked.clear()
    kela.datasets[2] = offered("d2", "Changed")
    answers: list[int] = []
    kela.answer = lambda asked: _noting(answers, kela.page(asked))
    await space.crawl(INTERVAL)
    assert kela.fetched() == ["", "from=2", "from=4"]
    assert answers == [304, 200, 304]
    assert await space.ids(text="changed") == ["d2"]
    assert await space.ids(participants=frozenset({"kela"})) == [f"d{n}" for n in range(6)]
    assert (await space.freshness("kela")).last_success == START + INTERVAL * SECOND


def _noting(answers: list[int], answer: PeerResponse) -> PeerResponse:
    answers.append(answer.status)
    return answer


async def test_a_304_without_a_link_goes_on_where_the_page_went_on(space: Space) -> None:
    """RFC 9110 §15.4.5: a 304 need not repeat what has not changed."""
    kela = space.sites["kela"]
    kela.page_size = 1
    await space.crawl()

    def bare(asked: Asked) -> PeerResponse:
        answer = kela.page(asked)
        return PeerResponse(status=304, headers={}, body=b"") if answer.status == 304 else answer

    kela.answer = bare
    await space.crawl(INTERVAL)
    assert kela.fetched() == ["", "from=1"] * 2
    assert await space.ids(participants=frozenset({"kela"})) == ["benefits", "clients"]


@pytest.mark.parametrize("refusing", [False, True], ids=["no tags", "412"])
async def test_a_peer_without_conditional_requests_is_read_whole(space: Space, refusing: bool) -> None:
    """Crawler: falls back. RFC 9110 §13.1.2 has 412 for a POST whose condition fails."""
    kela = space.sites["kela"]
    kela.tags = False
    if refusing:
        kela.answer = lambda asked: (
            json_answer(b"", 412)
            if "If-None-Match" in asked.headers
            else replace_headers(kela.page(asked), etag='"x"')
        )
    await space.crawl()
    kela.datasets = [offered("clients", "Customers")]
    await space.crawl(INTERVAL)
    assert await space.ids(participants=frozenset({"kela"}), text="customers") == ["clients"]
    assert (await space.freshness("kela")).failures == 0


def replace_headers(answer: PeerResponse, **headers: str) -> PeerResponse:
    return PeerResponse(status=answer.status, headers={**answer.headers, **headers}, body=answer.body)


async def test_a_link_that_is_served_by_get_only_is_followed(space: Space) -> None:
    """DSP leaves open by which method a page is asked for."""
    kela = space.sites["kela"]
    kela.page_size = 1
    kela.answer = lambda asked: (
        json_answer(b"", 405) if asked.method == "POST" and "from" in asked.url else kela.page(asked)
    )
    await space.crawl()
    assert await space.ids(participants=frozenset({"kela"})) == ["benefits", "clients"]
    assert [(a.method, a.content is None) for a in kela.asked][-1] == ("GET", True)


async def test_changes_of_a_catalogue_show_at_the_next_refresh(space: Space) -> None:
    """Crawler: what vanishes from a peer's catalogue, or from our sight, vanishes from the index."""
    await space.crawl()
    space.sites["kela"].datasets = [offered("benefits", "Allowances"), offered("new", "New")]
    await space.crawl(INTERVAL)
    assert await space.ids(participants=frozenset({"kela"})) == ["benefits", "new"]
    assert await space.ids(text="allowances") == ["benefits"]
    assert await space.ids(text="clients") == []
    space.sites["kela"].datasets = []
    await space.crawl(INTERVAL)
    assert await space.ids(participants=frozenset({"kela"})) == []
    assert (await space.freshness("kela")).datasets == 0


async def test_a_page_that_shifted_loses_and_doubles_nothing(space: Space) -> None:
    """A dataset seen on two pages, because one came in before it meanwhile, is one dataset."""
    kela = space.sites["kela"]
    kela.page_size = 2
    kela.datasets = [offered(f"d{n}") for n in range(4)]

    def shifting(asked: Asked) -> PeerResponse:
        answer = kela.page(asked)
        if len(kela.datasets) == 4:
            kela.datasets.insert(0, offered("a"))
        return answer

    kela.answer = shifting
    await space.crawl()
    assert await space.ids(participants=frozenset({"kela"})) == ["d0", "d1", "d2", "d3"]
    assert (await space.freshness("kela")).rejected == 0


# --- who is read ------------------------------------------------------------------------------------------


async def test_a_new_participant_is_read_at_once(space: Space) -> None:
    """Crawler: walks all active participants of the trust list, a new one at once."""
    await space.crawl()
    space.join("vantaa").datasets = [offered("buses", "Buses")]
    assert await space.crawl(1) == 1
    assert await space.ids(text="buses") == ["buses"]


async def test_an_expelled_participants_entries_vanish_at_once(space: Space) -> None:
    """Crawler: from every answer with the trust list, from the index with the next look; nobody asks it."""
    await space.crawl()
    space.registry.set_status("kela", ParticipantStatus.SUSPENDED)
    found, sources = await space.federated.search()
    assert [(h.participant, h.dataset.id) for h in found.hits] == [("city", "schools")]
    assert [s.participant.id for s in sources] == ["city"]
    assert found.facets["participant"] == {"city": 1}
    with pytest.raises(PeerRefused):
        await space.federated.search(participant="kela")
    await space.crawl(INTERVAL)
    assert await space.ids() == ["schools"]
    assert len(space.sites["kela"].asked) == 1


async def test_without_a_trust_list_nobody_is_asked_and_nothing_is_answered(space: Space) -> None:
    """Fail closed: an expired list names nobody."""
    await space.crawl()
    space.registry.expired = True
    assert await space.crawl(INTERVAL) == 0
    with pytest.raises(Unavailable):
        await space.federated.search()
    space.registry.expired = False
    assert await space.crawl() == 2


async def test_we_are_not_crawled_by_ourselves(space: Space) -> None:
    """The index is of others' catalogues."""
    space.site("youth").datasets = [offered("own")]
    await space.crawl()
    assert space.network.sites["youth.example"].asked == []
    assert "youth" not in await space.index.freshness()


# --- dead, slow and hostile peers ---------------------------------------------------------------------------


async def test_a_dead_peer_keeps_its_last_good_copy_and_its_age(space: Space) -> None:
    """Crawler: says how old it is, and since when nothing is heard; exponential back-off; then it heals."""
    await space.crawl()
    site = space.network.sites.pop("kela.example")
    waits = []
    for failures in (1, 2, 3, 4):
        before = await space.freshness("kela")
        await space.crawl((before.next_attempt - space.clock.now()).total_seconds())
        kela = await space.freshness("kela")
        assert (kela.failures, kela.error_code) == (failures, "peer_unreachable")
        assert kela.failing_since == START + INTERVAL * SECOND
        assert (kela.last_success, kela.datasets) == (START, 2)
        waits.append((kela.next_attempt - space.clock.now()).total_seconds())
    assert waits == [7.5, 15.0, 30.0, 60.0]
    (hit, _) = (await space.found(participants=frozenset({"kela"}))).hits
    assert hit.seen_at == START
    space.network.sites["kela.example"] = site
    await space.crawl(60)
    kela = await space.freshness("kela")
    assert (kela.failures, kela.error, kela.failing_since) == (0, "", None)
    assert kela.last_success == space.clock.now()


async def test_a_peer_that_was_never_reached_says_so(space: Space) -> None:
    """No success is no zero datasets."""
    del space.network.sites["kela.example"]
    await space.crawl()
    kela = await space.freshness("kela")
    assert (kela.last_success, kela.last_attempt) == (None, START)
    assert "no connection" in kela.error


async def test_a_silent_peer_stalls_nobody(space: Space) -> None:
    """Crawler: the others are read while one does not answer; then it counts as failed."""
    bounded(space, page_seconds=0.3)
    space.sites["kela"].answer = lambda _: asyncio.sleep(60)  # type: ignore[arg-type, return-value]
    crawling = asyncio.create_task(space.crawl())
    async with asyncio.timeout(0.25):
        while not await space.ids():  # noqa: ASYNC110 - it is the index that is asked
            await asyncio.sleep(0.01)
    assert not crawling.done()
    await crawling
    assert (await space.freshness("kela")).error_code == "peer_unreachable"


async def test_a_catalogue_that_never_ends_is_given_up(space: Space) -> None:
    """Slow peers: a whole pass is bounded too; what came of it stays."""
    kela = space.sites["kela"]
    kela.page_size = 1
    kela.datasets = [offered(f"d{n:03}") for n in range(1_000)]
    space.crawler = space.replica(pass_seconds=0.2)
    await space.crawl()
    kela_now = await space.freshness("kela")
    assert "takes too long" in kela_now.error
    assert 0 < kela_now.datasets < 1_000


NO_CATALOGUES: dict[str, Any] = {
    "no JSON": b"<html>",
    "no object": [],
    "null": None,
    "another message": {"@type": "Dataset"},
    "datasets no list": catalog([], dataset={"@id": "x"}),
    "deep": b'{"@type":"Catalog","catalog":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
    "deep lists": b'{"@type":"Catalog","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "twice": b'{"@type":"Catalog","@type":"Catalog"}',
    "no UTF-8": b"\xff\xfe",
    "huge number": b'{"@type":"Catalog","n":' + b"9" * 5_000 + b"}",
    "half": json.dumps(catalog([offered("x")])).encode()[:-20],
    "10 MB": b" " * 10_000_001,
}


@pytest.mark.parametrize("body", NO_CATALOGUES.values(), ids=NO_CATALOGUES)
async def test_an_answer_that_is_no_catalogue_changes_nothing(space: Space, body: Any) -> None:
    """Bad input: a peer that answers garbage; the last good copy stays, the others are read."""
    bounded(space, page_bytes=10_000_000)
    await space.crawl()
    space.sites["kela"].answer = lambda _: json_answer(body)
    assert await space.crawl(INTERVAL) == 2
    kela = await space.freshness("kela")
    assert (kela.error_code, kela.failures, kela.datasets) == ("peer_protocol", 1, 2)
    assert kela.error.startswith("kela: ")
    assert (await space.freshness("city")).last_success == space.clock.now()


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "peer_unreachable"), (404, "peer_refused"), (301, "peer_refused"), (304, "peer_protocol")],
)
async def test_an_answer_that_is_none_is_a_failure(space: Space, status: int, code: str) -> None:
    """Whatever a peer says instead of a catalogue."""
    space.sites["kela"].answer = lambda _: json_answer(b"", status, location="https://evil.example")
    await space.crawl()
    assert (await space.freshness("kela")).error_code == code


async def test_one_bad_dataset_costs_only_itself(space: Space) -> None:
    """Crawler: kept out, counted and named; also while its page has not changed."""
    kela = space.sites["kela"]
    no_policy = {k: v for k, v in offered("no-policy").items() if k != "hasPolicy"}
    kela.datasets = [
        offered("first"),
        no_policy,
        "no object",
        offered("odd", hasPolicy=[{"@id": "o", "permission": [{"action": 7}]}]),
        offered("white space"),
        offered("esc\x9b"),
        offered("first", "Again"),
        offered("last"),
    ]
    for _ in range(2):
        await space.crawl(INTERVAL)
        assert await space.ids(participants=frozenset({"kela"})) == ["first", "last"]
        found = await space.freshness("kela")
        assert found.rejected == 6
        assert [(p.dataset, p.code) for p in found.problems] == [
            ("no-policy", "dataset_invalid"),
            ("dataset[2]", "dataset_invalid"),
            ("odd", "dataset_invalid"),
            ("white space", "dataset_invalid"),
            ("esc", "dataset_invalid"),
            ("first", "dataset_duplicate"),
        ]
        assert found.problems[0].text == "hasPolicy: is required"
    assert (await space.found(text="again")).total == 0


async def test_nested_catalogues_are_read_too(space: Space) -> None:
    """DSP 2025-1 §5: a catalogue may hold catalogues."""
    nested = catalog([offered("inner")], catalog=[catalog([offered("innermost")])])
    space.sites["city"].answer = lambda _: json_answer(catalog([offered("outer")], catalog=[nested]))
    await space.crawl()
    assert await space.ids(participants=frozenset({"city"})) == ["inner", "innermost", "outer"]


FOREIGN = {
    "another host": "https://evil.example/dsp/2025-1/catalog/request?from=1",
    "a host that begins alike": "https://kela.example.evil.example/dsp/2025-1/catalog/request",
    "another scheme": "http://kela.example/dsp/2025-1/catalog/request?from=1",
    "another port": "https://kela.example:8443/dsp/2025-1/catalog/request",
    "no port": "https://kela.example:x/dsp/2025-1/catalog/request",
    "another API of the same host": "https://kela.example/v1/agreements",
    "steps upwards": "https://kela.example/dsp/2025-1/../../v1/agreements",
    "hidden steps": "https://kela.example/dsp/2025-1/%2e%2e/v1/agreements",
    "steps by backslash": "https://kela.example/dsp/2025-1/..\\..\\v1",
    "a user": "https://kela.example@evil.example/dsp/2025-1/catalog/request",
    "loopback": "http://127.0.0.1/dsp/2025-1/catalog/request",
    "a file": "file:///etc/passwd",
    "protocol-relative": "//evil.example/dsp/2025-1/catalog/request",
    "too long": "https://kela.example/dsp/2025-1/catalog/request?from=" + "1" * 9_000,
    "no ASCII": "https://kela.example/dsp/2025-1/catalog/request?from=ä",
}


@pytest.mark.parametrize("target", FOREIGN.values(), ids=FOREIGN)
async def test_a_link_that_leads_elsewhere_is_not_followed(space: Space, target: str) -> None:
    """SSRF: only below the same peer's DSP base; the cut is noted, the page counts."""
    evil = space.network.sites["evil.example"] = Site("https://evil.example/dsp/2025-1")
    kela = space.sites["kela"]
    kela.answer = lambda _: json_answer(catalog([offered("first")]), link=f'<{target}>; rel="next"')
    await space.crawl()
    assert (len(kela.asked), evil.asked) == (1, [])
    found = await space.freshness("kela")
    assert (found.datasets, found.truncated) == (1, "link_refused")


@pytest.mark.parametrize(
    "link",
    [
        '</dsp/2025-1/catalog/request?from=1>; rel="next"',
        "<?from=1>; rel=next",
        '<https://kela.example/x>; rel="previous", <request?from=1>;title="a"; rel="last next"',
        '<https://kela.example/dsp/2025-1/catalog/request?from=1#there>;REL="NEXT"',
    ],
)
async def test_links_in_all_their_forms(space: Space, link: str) -> None:
    """RFC 8288: relative targets, several links in one field, relations in any case."""
    kela = space.sites["kela"]
    kela.answer = lambda asked: (
        json_answer(catalog([offered("second")]))
        if "from=1" in asked.url
        else json_answer(catalog([offered("first")]), link=link)
    )
    await space.crawl()
    assert await space.ids(participants=frozenset({"kela"})) == ["first", "second"]
    assert (await space.freshness("kela")).truncated == ""


@pytest.mark.parametrize("back_to", ["", "?from=1"], ids=["the first page", "itself"])
async def test_links_in_a_circle_are_left(space: Space, back_to: str) -> None:
    """Hostile peers: a paging loop ends where it begins."""
    kela = space.sites["kela"]
    following = '<{}/catalog/request{}>; rel="next"'
    kela.answer = lambda asked: json_answer(
        catalog([offered("first" if "from" not in asked.url else "second")]),
        link=following.format(kela.dsp_url, back_to if "from" in asked.url else "?from=1"),
    )
    await space.crawl()
    assert len(kela.asked) == 2
    assert (await space.freshness("kela")).truncated == "link_loop"
    assert await space.ids(participants=frozenset({"kela"})) == ["first", "second"]


BOUNDS: dict[str, dict[str, int]] = {
    "pages": {"pages": 3},
    "bytes": {"bytes": 2_000},
    "datasets": {"datasets": 5},
}


@pytest.mark.parametrize("why", BOUNDS)
async def test_a_catalogue_without_end_is_cut_off(space: Space, why: str) -> None:
    """Crawler: bounded pages, bytes and datasets per peer, with a note; also of what has not changed."""
    kela = space.sites["kela"]
    kela.page_size = 2
    kela.datasets = [offered(f"d{n:02}") for n in range(40)]
    bounded(space, **BOUNDS[why])
    await space.crawl()
    first = await space.freshness("kela")
    assert (first.truncated, first.failures) == (why, 0)
    assert 4 <= first.datasets <= 6
    if why != "bytes":  # pages that are not sent again weigh nothing
        await space.crawl(INTERVAL)
        assert (await space.freshness("kela")).datasets == first.datasets
    bounded(space, **{why: 1_000_000})
    await space.crawl(INTERVAL * 2)
    assert ((await space.freshness("kela")).datasets, (await space.freshness("kela")).truncated) == (40, "")


# --- politeness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
async def test_a_peer_that_asks_for_a_pause_gets_it(space: Space, status: int, as_date: bool) -> None:
    """RFC 9110 §10.2.3: Retry-After is honoured, also when the operator asks for a refresh."""
    pause = format_datetime(START + 1_000 * SECOND, usegmt=True) if as_date else "1000"
    space.sites["kela"].answer = lambda _: json_answer(b"", status, retry_after=pause)
    await space.crawl()
    kela = await space.freshness("kela")
    assert (kela.error_code, kela.next_attempt) == ("peer_busy", START + 1_000 * SECOND)
    assert (await space.federated.refresh("kela")).next_attempt == START + 1_000 * SECOND
    assert await space.crawl(999) == 1  # the city
    assert len(space.sites["kela"].asked) == 1
    space.sites["kela"].answer = None
    await space.crawl(1)
    assert (await space.freshness("kela")).failures == 0


@pytest.mark.parametrize("said", ["99999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_no_peer_silences_us_for_good(space: Space, said: str) -> None:
    """Hostile peers: a pause is honoured up to an hour."""
    space.sites["kela"].answer = lambda _: json_answer(b"", 429, retry_after=said)
    await space.crawl()
    assert (await space.freshness("kela")).next_attempt == START + 3_600 * SECOND


@pytest.mark.parametrize("said", ["", "-5", "soon", "1e9", "٣", "Sun, 22 Nov 2026 09:00:00"])
async def test_a_pause_that_says_nothing_is_our_own(space: Space, said: str) -> None:
    """Bad input: the back-off's pause then."""
    space.sites["kela"].answer = lambda _: json_answer(b"", 429, retry_after=said)
    await space.crawl()
    kela = await space.freshness("kela")
    assert (kela.error_code, kela.next_attempt) == ("peer_busy", START + 7.5 * SECOND)


async def test_a_short_pause_in_the_middle_is_waited_for(space: Space) -> None:
    """A peer that limits its rate is read to the end all the same."""
    kela = space.sites["kela"]
    kela.page_size = 1
    busy = [True]

    def limited(asked: Asked) -> PeerResponse:
        if "from=1" in asked.url and busy:
            busy.clear()
            return json_answer(b"", 429, retry_after="5")
        return kela.page(asked)

    kela.answer = limited
    crawling = asyncio.create_task(space.crawl())
    while not space.clock.sleepers:  # noqa: ASYNC110 - a clock has no event to wait for
        await asyncio.sleep(0.005)
    assert len(kela.asked) == 2
    await space.clock.advance(5)
    await crawling
    assert await space.ids(participants=frozenset({"kela"})) == ["benefits", "clients"]


async def test_one_request_at_a_time_to_a_peer_and_few_in_all(space: Space) -> None:
    """Crawler: polite to each, bounded over all."""
    for n in range(12):
        space.join(f"p{n:02}").datasets = [offered(f"d{n}") for n in range(3)]
    for site in space.sites.values():
        site.page_size = 1
    space.crawler = space.replica(at_once=3)
    while await space.crawl():
        pass
    assert {site.most_at_once for site in space.sites.values()} == {1}
    assert space.network.most_at_once <= 3
    assert len(await space.ids()) == 12 * 3 + 3


async def test_an_operator_has_a_catalogue_read_anew_but_not_all_the_time(space: Space) -> None:
    """Crawler: one participant's refresh now, politely."""
    await space.crawl()
    space.wake.clear()
    asked = await space.federated.refresh("kela")
    assert asked.next_attempt == START + 10 * SECOND
    assert space.wake.is_set()
    assert await space.crawl(9) == 0
    assert await space.crawl(1) == 1
    assert len(space.sites["kela"].asked) == 2
    await space.clock.advance(60)
    assert (await space.federated.refresh("kela")).next_attempt == space.clock.now()
    with pytest.raises(PeerRefused):
        await space.federated.refresh("nobody")
    with pytest.raises(PeerRefused):
        await space.federated.refresh("youth")


# --- replicas, restarts, stopping ---------------------------------------------------------------------------


async def test_replicas_share_the_work(space: Space) -> None:
    """Crawler: several replicas over one index; nobody is read twice."""
    for n in range(8):
        space.join(f"p{n}").datasets = [offered(f"d{n}")]
    one, other = space.replica(at_once=2), space.replica(at_once=2)
    while sum(await asyncio.gather(one.step(), other.step())):
        pass
    assert {len(site.asked) for site in space.sites.values()} == {1}
    assert len(await space.ids()) == 8 + 3


async def test_a_restart_asks_nobody_before_their_time(space: Space, tmp_path: Path) -> None:
    """Crawler: survives restarts; tags are remembered too."""
    await space.crawl()
    again = Space(tmp_path, ["kela", "city"])
    again.network = space.network
    again.crawler = again.replica()
    await again.index.open()
    assert await again.ids(text="clients") == ["clients"]
    assert await again.crawl(INTERVAL - 1) == 0
    await again.crawl(1)
    assert space.sites["kela"].asked[-1].headers["If-None-Match"]
    await again.index.close()


async def test_it_stops_cleanly_in_the_middle(space: Space) -> None:
    """Crawler: what was under way is given up, and free for another replica at once."""
    reached = asyncio.Event()

    async def silent(_: Asked) -> PeerResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    space.sites["kela"].answer = silent
    running = asyncio.create_task(space.crawler.run())
    async with asyncio.timeout(5):
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    space.sites["kela"].answer = None
    space.crawler = space.replica()
    await space.crawl()
    assert "benefits" in await space.ids()


async def test_it_runs_by_itself(space: Space) -> None:
    """Crawler: background work; it is woken by a refresh, and by whoever joins."""

    async def asked(count: int) -> None:
        async with asyncio.timeout(5):
            while len(space.sites["kela"].asked) < count:  # noqa: ASYNC110 - a site has no event
                await asyncio.sleep(0.005)

    running = asyncio.create_task(space.crawler.run())
    await asked(1)
    while (await space.freshness("kela")).last_success is None:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await space.clock.advance(60)
    await space.federated.refresh("kela")
    await asked(2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_fault_of_our_own_ends_one_visit_only(
    space: Space, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever breaks, the others are read; the log tells the place and no text."""
    put, text = space.index.put, "a secret value"

    async def failing(participant: str, *about: Any, **more: Any) -> None:
        if participant == "kela":
            raise RuntimeError(text)
        await put(participant, *about, **more)

    monkeypatch.setattr(space.index, "put", failing)
    await space.crawl()
    assert await space.ids() == ["schools"]
    assert "crawling kela failed: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "put": st.dictionaries(st.integers(0, 12), st.integers(0, 3), max_size=5),
            "drop": st.sets(st.integers(0, 12), max_size=3),
            "page_size": st.integers(1, 5),
            "tags": st.booleans(),
            "breaks_at": st.one_of(st.none(), st.integers(1, 4)),
        }
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
async def test_after_each_whole_pass_the_index_is_the_catalogue(steps: list[dict[str, Any]]) -> None:
    """Crawler: whatever changed, however it was paged and tagged, and wherever a pass broke off before."""
    with tempfile.TemporaryDirectory() as folder:
        space = Space(Path(folder), ["kela"])
        await space.index.open()
        kela, shown = space.sites["kela"], dict[int, int]()
        for step in steps:
            shown = {k: v for k, v in {**shown, **step["put"]}.items() if k not in step["drop"]}
            kela.datasets = [offered(f"d{k:02}", f"Title{v}") for k, v in sorted(shown.items())]
            kela.page_size, kela.tags = step["page_size"], step["tags"]
            kela.answer = _breaking(kela, step["breaks_at"])
            await space.crawl(10_000)
            now = await space.freshness("kela")
            if now.failures == 0:
                found = {h.dataset.id: h.dataset.titles["en"] for h in (await space.found()).hits}
                assert found == {f"d{k:02}": f"Title{v}" for k, v in shown.items()}
                assert now.datasets == len(shown)
                for version in range(4):
                    wanted = {f"d{k:02}" for k, v in shown.items() if v == version}
                    assert set(await space.ids(text=f"title{version}")) == wanted
        await space.index.close()


def _breaking(site: Site, at: int | None) -> Any:
    """The answer that breaks off the pass, if any."""
    count = itertools.count(1)
    return lambda asked: json_answer(b"", 500) if next(count) == at else site.page(asked)


def test_the_bounds_hold_a_large_honest_catalogue() -> None:
    """Protocol: 10,000 datasets."""
    assert Bounds().datasets >= 10_000
    assert Bounds().pages * 100 >= 10_000


async def test_ten_thousand_datasets_of_one_peer(space: Space) -> None:
    """Protocol: 10,000 datasets; the event loop is never held for long while they are read and written."""
    kela = space.sites["kela"]
    kela.datasets = [offered(f"d{n:05}", f"Register {n} of the municipality") for n in range(10_000)]
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - begun)

    ticking = asyncio.create_task(tick())
    await space.crawl()
    ticking.cancel()
    assert (await space.freshness("kela")).datasets == 10_000
    assert sorted(gaps)[len(gaps) // 2] < 0.05
    found = await space.found(text="regist munic 777", limit=20)
    assert found.hits[0].dataset.id == "d00777"
    assert found.total == 11  # 777 and 7770 to 7779
