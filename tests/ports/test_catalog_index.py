"""Port CatalogIndex: one contract for the SQLite file and for the replicas' PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connector.adapters.catalog_index import SqlCatalogIndex, SqliteCatalogIndex
from connector.adapters.postgres_store import PostgresDatabase
from connector.errors import ConfigurationError, Conflict, NotFound, RequestInvalid
from connector.model.peer_catalog import (
    CatalogFound,
    CatalogQuery,
    DatasetProblem,
    DatasetSummary,
    Freshness,
    OfferSummary,
    SeenPage,
)
from tests.clocks import START
from tests.parts.postgres import PostgresServer, fresh_database

NewIndex = Callable[[], Awaitable[SqlCatalogIndex]]
PAGE = "https://kela.example/dsp/2025-1/catalog/request"
EU = "http://publications.europa.eu/resource/authority"
HOUR = timedelta(hours=1)

EMPLOYMENT = DatasetSummary(
    id="clients",
    titles={"fi": "Työllisyyspalvelujen asiakkaat", "sv": "Kunder hos arbetskraftstjänster", "en": "Clients"},
    descriptions={"fi": "Nuorten työttömyysjaksot.", "en": "Spells of unemployment of the young."},
    themes=("SOCI", f"{EU}/data-theme/EDUC"),
    keywords=("employment", "Nuoret"),
    formats=("FederatedQuery-PULL",),
    access_rights=f"{EU}/access-right/RESTRICTED",
    version="1.2.0",
    offers=(OfferSummary(id="clients:planning:1", actions=("use",), purposes=("service-planning",)),),
)
SCHOOLS = DatasetSummary(
    id="schools",
    titles={"fi": "Koulut", "en": "Schools"},
    descriptions={"en": "Where clients of youth services go to school."},
    themes=("EDUC",),
    formats=("HttpData-PULL", "FederatedQuery-PULL"),
)


class CatalogIndexContract:
    """A subclass has `new_index`: each call is another replica over one database."""

    @pytest.fixture
    async def index(self, new_index: NewIndex) -> SqlCatalogIndex:
        index = await new_index()
        await index.enrol(["kela", "city"], now=START)
        return index

    # --- whom we follow --------------------------------------------------------------------------------

    async def test_new_participants_are_due_at_once(self, index: SqlCatalogIndex) -> None:
        """Protocol, crawler: refreshed politely, a new participant at once."""
        due = await claim(index, START, lease="a", lease_seconds=60, limit=10)
        assert [f.participant for f in due] == ["city", "kela"]
        assert all(f.last_attempt is None and f.next_attempt == START for f in due)

    async def test_enrolling_again_changes_nothing_for_those_known(self, index: SqlCatalogIndex) -> None:
        """A restart must not read everybody anew."""
        await read(index, "kela", [EMPLOYMENT], next_attempt=START + HOUR)
        await index.enrol(["kela", "city"], now=START + HOUR / 2)
        assert (await index.freshness())["kela"].next_attempt == START + HOUR
        assert (await index.freshness())["kela"].last_success == START

    async def test_whoever_is_expelled_is_forgotten_whole(self, index: SqlCatalogIndex) -> None:
        """Crawler: an expelled participant's entries vanish; and nothing is left if it comes back."""
        await read(index, "kela", [EMPLOYMENT])
        await read(index, "city", [SCHOOLS])
        await index.enrol(["city"], now=START)
        assert (await index.freshness()).keys() == {"city"}
        assert ids(await search(index)) == ["schools"]
        assert ids(await search(index, text="clients")) == ["schools"]
        await index.enrol(["city", "kela"], now=START + HOUR)
        assert (await index.freshness())["kela"] == Freshness(participant="kela", next_attempt=START + HOUR)
        assert await index.pages("kela") == {}

    # --- the work is shared ------------------------------------------------------------------------------

    async def test_a_claimed_participant_is_nobody_elses(
        self, index: SqlCatalogIndex, new_index: NewIndex
    ) -> None:
        """Crawler: several replicas share the work by lease."""
        other = await new_index()
        claims = await asyncio.gather(
            *(
                claim(each, START, lease=f"{n}", lease_seconds=60, limit=1)
                for n, each in enumerate([index, other] * 3)
            )
        )
        assert sorted(f.participant for claim in claims for f in claim) == ["city", "kela"]

    async def test_the_one_due_for_the_longest_comes_first(self, index: SqlCatalogIndex) -> None:
        """A peer that is never reached must not wait behind those that are."""
        await read(index, "city", [], next_attempt=START + HOUR)
        await read(index, "kela", [], next_attempt=START + HOUR / 2)
        assert await claim(index, START + HOUR / 4, lease="b", lease_seconds=60, limit=9) == []
        (first,) = await claim(index, START + 2 * HOUR, lease="b", lease_seconds=60, limit=1)
        assert first.participant == "kela"

    async def test_whom_one_does_not_know_one_leaves_to_others(self, index: SqlCatalogIndex) -> None:
        """Replicas: one whose trust list is older must not hold up whoever is new."""
        assert await claim(index, START, lease="a", lease_seconds=60, limit=9, among=["city"]) != []
        (kela,) = await claim(index, START, lease="b", lease_seconds=60, limit=9)
        assert kela.participant == "kela"

    async def test_a_lease_that_ran_out_is_taken_up_and_its_holder_shut_out(
        self, index: SqlCatalogIndex
    ) -> None:
        """Replicas: one that hung must not write over the work of the one that took its place."""
        await claim(index, START, lease="hung", lease_seconds=0.001, limit=9)
        await asyncio.sleep(0.01)
        due = await claim(index, START, lease="next", lease_seconds=60, limit=9)
        assert len(due) == 2
        with pytest.raises(Conflict):
            await put(index, "kela", [EMPLOYMENT], lease="hung")
        with pytest.raises(Conflict):
            await index.finish(due[1], lease="hung", keep=((), ()))
        await put(index, "kela", [EMPLOYMENT], lease="next")
        assert ids(await search(index)) == ["clients"]

    async def test_writing_prolongs_a_lease(self, index: SqlCatalogIndex) -> None:
        """A long catalogue must not be lost in the middle."""
        await claim(index, START, lease="a", lease_seconds=0.2, limit=9)
        await put(index, "kela", [EMPLOYMENT], lease="a", lease_seconds=60)
        await asyncio.sleep(0.21)
        due = await claim(index, START, lease="b", lease_seconds=60, limit=9)
        assert [f.participant for f in due] == ["city"]

    async def test_a_released_lease_is_free_at_once(self, index: SqlCatalogIndex) -> None:
        """A replica that stops leaves nobody waiting."""
        await claim(index, START, lease="a", lease_seconds=60, limit=9)
        await index.release("a")
        assert len(await claim(index, START, lease="b", lease_seconds=60, limit=9)) == 2

    async def test_somebody_can_be_due_earlier_but_never_later(self, index: SqlCatalogIndex) -> None:
        """The operator's refresh."""
        await read(index, "kela", [], next_attempt=START + HOUR)
        hurried = await index.hurry("kela", due_at=START + HOUR / 2)
        assert hurried.next_attempt == START + HOUR / 2
        assert (await index.hurry("kela", due_at=START + HOUR)).next_attempt == START + HOUR / 2
        with pytest.raises(NotFound):
            await index.hurry("nobody", due_at=START)

    # --- what they offer ---------------------------------------------------------------------------------

    async def test_what_is_found_equals_what_was_put(self, index: SqlCatalogIndex) -> None:
        """Each hit says participant, dataset, offers and when it was seen."""
        await read(index, "kela", [EMPLOYMENT])
        (hit,) = (await search(index)).hits
        assert (hit.participant, hit.dataset, hit.seen_at) == ("kela", EMPLOYMENT, START)

    async def test_pages_are_remembered_with_their_tags(self, index: SqlCatalogIndex) -> None:
        """Conditional requests: what "not modified" stands for, problems included."""
        problem = DatasetProblem(dataset="x", code="dataset_invalid", text="hasPolicy: is required")
        page = SeenPage(
            url=f"{PAGE}?t={'x' * 5000}", etag='W/"1"', next_url=PAGE, rejected=1, problems=(problem,)
        )
        await claim(index, START, lease="a", lease_seconds=60, limit=9)
        await index.put("kela", page, [], lease="a", lease_seconds=60, seen_at=START)
        changed = replace(page, etag='W/"2"')
        await index.put("kela", changed, [], lease="a", lease_seconds=60, seen_at=START)
        assert await index.pages("kela") == {page.url: changed}
        assert await index.pages("city") == {}

    async def test_a_changed_dataset_is_found_by_its_new_words_only(self, index: SqlCatalogIndex) -> None:
        """Crawler: catalogue changes show at the next refresh."""
        await read(index, "kela", [EMPLOYMENT, SCHOOLS])
        changed = replace(SCHOOLS, titles={"en": "Kindergartens"}, themes=("HEAL",))
        await read(index, "kela", [EMPLOYMENT, changed], at=START + HOUR)
        assert ids(await search(index, text="kindergartens", theme="HEAL")) == ["schools"]
        assert ids(await search(index, text="koulut")) == []
        assert ids(await search(index, theme="EDUC")) == ["clients"]
        seen = {h.dataset.id: h.seen_at for h in (await search(index)).hits}
        assert seen == {"clients": START + HOUR, "schools": START + HOUR}

    async def test_what_a_catalogue_no_longer_shows_vanishes(self, index: SqlCatalogIndex) -> None:
        """Crawler: entries vanish at the next refresh; another participant's of the same id stay."""
        await read(index, "kela", [EMPLOYMENT, SCHOOLS], url=f"{PAGE}?page=1")
        await read(index, "city", [SCHOOLS])
        await read(index, "kela", [EMPLOYMENT], url=f"{PAGE}?page=2")
        found = await search(index)
        assert [(h.participant, h.dataset.id) for h in found.hits] == [
            ("city", "schools"),
            ("kela", "clients"),
        ]
        assert ids(await search(index, text="koulut")) == ["schools"]
        assert (await index.pages("kela")).keys() == {f"{PAGE}?page=2"}
        assert (await index.freshness())["kela"].datasets == 1

    async def test_a_failed_attempt_leaves_the_last_good_copy(self, index: SqlCatalogIndex) -> None:
        """Crawler: a dead peer's entries stay, and say how old they are."""
        await read(index, "kela", [EMPLOYMENT])
        before = (await index.freshness())["kela"]
        failed = replace(
            before,
            last_attempt=START + HOUR,
            failing_since=START + HOUR,
            failures=1,
            error_code="peer_unreachable",
            error="kela: no connection",
            next_attempt=START + 2 * HOUR,
            not_before=START + 2 * HOUR,
        )
        await claim(index, START + 2 * HOUR, lease="c", lease_seconds=60, limit=9)
        await index.finish(failed, lease="c")
        assert (await index.freshness())["kela"] == replace(failed, datasets=1)
        (hit,) = (await search(index)).hits
        assert hit.seen_at == START

    async def test_a_page_of_very_many_datasets(self, index: SqlCatalogIndex) -> None:
        """More than one transaction takes: all of it is there, and a second time nothing is written."""
        many = [replace(SCHOOLS, id=f"d{n:04}") for n in range(1_000)]
        await read(index, "kela", many)
        await read(index, "kela", many, at=START + HOUR)
        found = await search(index, text="school", limit=100)
        assert (found.total, len(found.hits)) == (1_000, 100)

    # --- search ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("työllisyys", ["clients"]),
            ("tyolli", ["clients"]),
            ("TYÖLLISYYSPALVELUT", []),  # an ending that the title has not
            ("työllisyyspalvelu", ["clients"]),
            ("arbetskrafts", ["clients"]),
            ("arbetskraftstjanster", ["clients"]),
            ("nuoret", ["clients"]),  # a keyword
            ("nuorten työttömyys", ["clients"]),
            ("nuorten koulut", []),  # every word must be there
            ("school", ["schools"]),
            ("1.2", []),
            ("kela clients", ["clients"]),  # the participant's id counts
            ("clients", ["clients", "schools"]),  # the title before the description
            ("", ["clients", "schools"]),
            ('"clients" OR * NOT (schools)', []),
            ("it's a 'clients':*", []),
            ("young & school | !x", []),
        ],
    )
    async def test_words_are_found_by_their_beginnings(
        self, index: SqlCatalogIndex, text: str, expected: Sequence[str]
    ) -> None:
        """Crawler: searchable by text in Finnish, Swedish and English; nothing in it is an operator."""
        await read(index, "kela", [EMPLOYMENT])
        await read(index, "city", [SCHOOLS])
        found = ids(await search(index, text=text))
        assert found == expected if text else sorted(found) == expected

    @pytest.mark.parametrize(
        ("narrowed", "expected"),
        [
            ({"theme": "EDUC"}, ["clients", "schools"]),
            ({"theme": "soci"}, ["clients"]),
            ({"theme": f"{EU}/data-theme/SOCI"}, ["clients"]),
            ({"theme": "HEAL"}, []),
            ({"keyword": "nuoret"}, ["clients"]),
            ({"keyword": "nuor"}, []),
            ({"format": "HttpData-PULL"}, ["schools"]),
            ({"access_rights": "RESTRICTED"}, ["clients"]),
            ({"theme": "EDUC", "format": "HttpData-PULL"}, ["schools"]),
            ({"theme": "EDUC", "format": "HttpData-PULL", "text": "koulut"}, ["schools"]),
            ({"participants": frozenset({"kela"})}, ["clients"]),
            ({"participants": frozenset()}, []),
        ],
        ids=str,
    )
    async def test_narrowed_by_what_it_is(
        self, index: SqlCatalogIndex, narrowed: dict[str, Any], expected: Sequence[str]
    ) -> None:
        """Crawler: by theme, keyword, participant, format, access rights."""
        await read(index, "kela", [EMPLOYMENT])
        await read(index, "city", [SCHOOLS])
        found = await search(index, **narrowed)
        assert sorted(ids(found)) == expected
        assert found.total == len(expected)

    async def test_facets_count_what_matches(self, index: SqlCatalogIndex) -> None:
        """Crawler: how many there are of each theme and participant, of all that matches, not of the page."""
        await read(index, "kela", [EMPLOYMENT, SCHOOLS])
        await read(index, "city", [SCHOOLS])
        found = await search(index, text="clients", limit=1)
        assert found.facets == {
            "participant": {"kela": 2, "city": 1},
            "theme": {"EDUC": 3, "SOCI": 1},
            "format": {"FederatedQuery-PULL": 3, "HttpData-PULL": 2},
            "access_rights": {"RESTRICTED": 1},
        }
        assert list(found.facets["theme"]) == ["EDUC", "SOCI"]

    @pytest.mark.parametrize("text", ["", "school"])
    async def test_pages_follow_each_other_without_gap_or_repetition(
        self, index: SqlCatalogIndex, text: str
    ) -> None:
        """Crawler: paging, a stable order by relevance, then id."""
        many = [replace(SCHOOLS, id=f"d{n:02}") for n in range(15)]
        titled = [replace(EMPLOYMENT, id=f"e{n:02}", titles={"en": "School"}) for n in range(8)]
        await read(index, "kela", many)
        await read(index, "city", titled + many[:3])
        whole = [(h.participant, h.dataset.id) for h in (await search(index, text=text, limit=100)).hits]
        paged, after = [], ""
        for _ in itertools.count():
            found = await search(index, text=text, limit=4, after=after)
            assert found.total == 26
            paged += [(h.participant, h.dataset.id) for h in found.hits]
            after = found.next
            if not after:
                break
        assert paged == whole
        assert len(set(paged)) == 26

    @pytest.mark.parametrize("after", ["x", "W10", "bm90IGpzb24", "WyJhIiwgImIiLCAiYyJd", "ä"])
    async def test_a_place_that_is_none_of_ours_is_refused(self, index: SqlCatalogIndex, after: str) -> None:
        """Bad input: a typed error."""
        with pytest.raises(RequestInvalid, match="after"):
            await search(index, after=after)

    @pytest.mark.parametrize("text", ["***", " - ", " ".join(f"w{n}" for n in range(17))])
    async def test_a_text_that_cannot_be_searched_for_is_refused(
        self, index: SqlCatalogIndex, text: str
    ) -> None:
        """Bad input: nothing found and nothing asked for are two things."""
        with pytest.raises(RequestInvalid, match="q"):
            await search(index, text=text)

    async def test_texts_of_strangers_do_no_harm(self, index: SqlCatalogIndex) -> None:
        """Bad input: quotes, operators and long words of a peer's are words, no syntax."""
        hostile = DatasetSummary(
            id="'); drop table index_peers; --",
            titles={"": "'a':1A \\ \" & | ! ( ) :* NEAR(x y) \N{GRINNING FACE} 1e5x"},
            descriptions={"en": "x" * 4_000},
            keywords=("%", "keyword:", "_"),
            themes=("a:b", ":"),
        )
        await read(index, "kela", [hostile])
        for text in ("near", "1e5x", "'a':1A", "drop table", "x" * 64):
            assert len(ids(await search(index, text=text))) == 1, text
        assert (await search(index, keyword="%")).total == 1


def ids(found: CatalogFound) -> list[str]:
    return [hit.dataset.id for hit in found.hits]


async def search(index: SqlCatalogIndex, **wanted: Any) -> CatalogFound:
    return await index.search(CatalogQuery(**{"participants": frozenset({"kela", "city"}), **wanted}))


async def claim(
    index: SqlCatalogIndex,
    now: datetime,
    *,
    lease: str,
    lease_seconds: float,
    limit: int,
    among: Sequence[str] = ("kela", "city"),
) -> Sequence[Freshness]:
    return await index.claim(now, among=among, lease=lease, lease_seconds=lease_seconds, limit=limit)


async def put(
    index: SqlCatalogIndex,
    participant: str,
    datasets: Sequence[DatasetSummary],
    *,
    lease: str,
    lease_seconds: float = 60,
    at: datetime = START,
    url: str = PAGE,
) -> None:
    page = SeenPage(url=url, datasets=tuple(d.id for d in datasets))
    await index.put(participant, page, datasets, lease=lease, lease_seconds=lease_seconds, seen_at=at)


async def read(
    index: SqlCatalogIndex,
    participant: str,
    datasets: Sequence[DatasetSummary],
    *,
    at: datetime = START,
    url: str = PAGE,
    next_attempt: datetime | None = None,
) -> None:
    """A whole pass over a catalogue of one page."""
    lease = f"read {participant} {at}"
    await index.hurry(participant, due_at=START - HOUR)
    due = await claim(index, at, lease=lease, lease_seconds=60, limit=9)
    assert participant in {f.participant for f in due}
    await put(index, participant, datasets, lease=lease, at=at, url=url)
    freshness = Freshness(
        participant=participant, next_attempt=next_attempt or at + HOUR, last_attempt=at, last_success=at
    )
    await index.finish(freshness, lease=lease, keep=([url], [d.id for d in datasets]))
    await index.release(lease)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestSqliteCatalogIndex(CatalogIndexContract):
    """The twin: a file of its own."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "catalog-index.sqlite"

    @pytest.fixture
    async def new_index(self, path: Path) -> AsyncIterator[NewIndex]:
        opened: list[SqliteCatalogIndex] = []

        async def new() -> SqliteCatalogIndex:
            opened.append(SqliteCatalogIndex(path))
            await opened[-1].open()
            return opened[-1]

        yield new
        for index in opened:
            await index.close()

    async def test_it_survives_a_restart(self, index: SqlCatalogIndex, new_index: NewIndex) -> None:
        """Crawler: what was read is there again, and nobody is asked before their time."""
        await read(index, "kela", [EMPLOYMENT], next_attempt=START + HOUR)
        await index.close()
        again = await new_index()
        assert ids(await search(again, text="tyolli")) == ["clients"]
        assert (await again.freshness())["kela"].next_attempt == START + HOUR

    async def test_its_file_is_for_its_owner_only(self, index: SqlCatalogIndex, path: Path) -> None:
        """What a peer lets us see is ours to keep."""
        assert mode_of(path) == 0o600

    @pytest.fixture(params=[b"this is no database", b"SQLite format 3\0" + b"\xff" * 4096])
    def damaged(self, path: Path, request: pytest.FixtureRequest) -> None:
        path.write_bytes(request.param)

    async def test_a_damaged_file_is_made_anew(
        self, damaged: None, new_index: NewIndex, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Derived data: the connector starts, and the next crawl fills it."""
        index = await new_index()
        assert await index.freshness() == {}
        assert "made anew" in caplog.text

    async def test_a_folder_that_is_missing_is_the_operators_mistake(self, tmp_path: Path) -> None:
        """Skeleton: bad settings fail at the start, with the path."""
        with pytest.raises(ConfigurationError, match="nowhere"):
            await SqliteCatalogIndex(tmp_path / "nowhere" / "index.db").open()


class TestPostgresCatalogIndex(CatalogIndexContract):
    """The real one: beside the store, one view for all replicas."""

    @pytest.fixture
    async def new_index(self, postgres_server: PostgresServer) -> AsyncIterator[NewIndex]:
        dsn = fresh_database(postgres_server)
        opened: list[PostgresDatabase] = []

        async def new() -> SqlCatalogIndex:
            opened.append(PostgresDatabase(dsn, connections=4))
            await opened[-1].open()
            index = SqlCatalogIndex(opened[-1])
            await index.open()
            return index

        yield new
        for database in opened:
            await database.close()
