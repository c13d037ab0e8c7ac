"""Pages of a large catalogue: nothing lost, nothing doubled, few decisions, and only what policy shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.control_plane.catalog_pages import (
    KEY_BYTES,
    START,
    EverybodysView,
    Page,
    PageTokens,
    Place,
    Shelf,
    Viewer,
)
from connector.control_plane.catalog_visibility import Sighting, Sightings
from connector.errors import RequestInvalid, Unavailable
from connector.model.catalog import Dataset, OfferTerms
from tests.clocks import ManualClock
from tests.pair import dataset, terms

TOKENS = PageTokens(bytes(range(KEY_BYTES)))


def many(count: int) -> dict[str, Dataset]:
    """In an order that is not that of ids."""
    return {f"d{n:05d}": dataset(id=f"d{n:05d}") for n in reversed(range(count))}


def ids(page: Page) -> list[str]:
    return [shown.dataset.id for shown in page.shown]


class Sees:
    """A viewer for whom every dataset is a decision."""

    def __init__(self, may: Callable[[Dataset], bool]) -> None:
        self._may = may
        self.decisions = 0

    async def offers(self, datasets: Sequence[Dataset]) -> Sequence[tuple[OfferTerms, ...]]:
        self.decisions += len(datasets)
        return [d.offers if self._may(d) else () for d in datasets]


async def walk(
    shelf: Shelf, size: int, viewer: Callable[[], Viewer] = EverybodysView, place: Place | None = START
) -> list[Page]:
    pages: list[Page] = []
    while place is not None:
        forward = place.forward
        pages.append(await shelf.page(viewer(), lambda _: True, size=size, place=place))
        place = pages[-1].next if forward else pages[-1].previous
    return pages


@pytest.mark.parametrize(("count", "size", "pages"), [(0, 3, 1), (3, 3, 1), (7, 3, 3), (9, 3, 3), (1, 1, 1)])
async def test_pages_cover_the_catalogue(count: int, size: int, pages: int) -> None:
    """DSP §5: in the order of ids, full but for the last, with no empty one at the end."""
    found = await walk(Shelf(lambda: held), size) if (held := many(count)) is not None else []
    assert len(found) == pages
    assert [i for page in found for i in ids(page)] == sorted(held)
    assert all(len(page.shown) == size for page in found[:-1])


async def test_the_way_back_leads_over_the_same_pages() -> None:
    """rel="previous" (RFC 8288): from the last page to the first."""
    held = many(8)
    shelf = Shelf(lambda: held)
    forth = await walk(shelf, 3)
    assert forth[0].previous is None
    back = await walk(shelf, 3, place=forth[-1].previous)
    assert [ids(p) for p in back] == [ids(forth[1]), ids(forth[0])]
    again = await shelf.page(EverybodysView(), lambda _: True, size=3, place=back[0].next or START)
    assert ids(again) == ids(forth[2])


Change = tuple[str, int]


@settings(max_examples=100)
@given(
    count=st.integers(0, 30),
    size=st.integers(1, 7),
    changes=st.lists(st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 60)), max_size=5)),
)
async def test_changes_between_pages_lose_and_double_nothing(
    count: int, size: int, changes: list[list[Change]]
) -> None:
    """Whatever is there all the while is seen exactly once; nothing at all is seen twice."""
    held = {f"d{2 * n:03d}": dataset(id=f"d{2 * n:03d}") for n in range(count)}
    shelf = Shelf(lambda: held)
    stayed = set(held)
    seen: list[str] = []
    place: Place | None = START
    while place is not None:
        page = await shelf.page(EverybodysView(), lambda _: True, size=size, place=place)
        seen += ids(page)
        place = page.next
        for what, number in changes.pop() if changes else []:
            name = f"d{number:03d}"
            if what == "remove":
                held.pop(name, None)
                stayed.discard(name)
            elif name not in held:
                held[name] = dataset(id=name)
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


async def test_only_as_much_is_decided_as_fills_the_page() -> None:
    """10,000 datasets: a page of 100 is no 10,000 decisions."""
    held = many(10_000)
    viewer = Sees(lambda _: True)
    page = await Shelf(lambda: held).page(viewer, lambda _: True, size=100)
    assert len(page.shown) == 100
    assert viewer.decisions < 200


async def test_a_page_that_would_need_too_many_decisions_ends_early() -> None:
    """Short or empty, with a next; the walk still finds everything."""
    held = many(3_000)
    may = {"d01500", "d02999"}
    pages = await walk(Shelf(lambda: held), 10, viewer=lambda: Sees(lambda d: d.id in may))
    assert [i for page in pages for i in ids(page)] == sorted(may)
    assert 3 <= len(pages) <= 4
    whole = await Shelf(lambda: held).page(
        Sees(lambda d: d.id in may), lambda _: True, size=10, most_decisions=None
    )
    assert ids(whole) == sorted(may)
    assert whole.next is None


async def test_what_does_not_suit_is_not_decided() -> None:
    held = many(500)
    viewer = Sees(lambda _: True)
    page = await Shelf(lambda: held).page(viewer, lambda d: d.id.endswith("7"), size=1_000)
    assert (len(page.shown), viewer.decisions) == (50, 50)


async def test_an_offset_counts_what_is_seen() -> None:
    """EDC's offset: of datasets that this reader may see."""
    held = many(100)
    viewer = Sees(lambda d: d.id.endswith(("2", "4")))
    page = await Shelf(lambda: held).page(viewer, lambda _: True, size=3, skip=2)
    assert ids(page) == ["d00012", "d00014", "d00022"]


# --- tokens -----------------------------------------------------------------------------------------------


@given(key=st.text(max_size=70), forward=st.booleans(), reader=st.text(max_size=20))
def test_a_token_brings_back_its_place(key: str, forward: bool, reader: str) -> None:
    place = Place(key=key, forward=forward)
    token = TOKENS.seal(reader, place, [{"a": 1}])
    assert TOKENS.open(reader, token) == (place, [{"a": 1}])
    assert TOKENS.seal(reader, place, [{"a": 1}]) == token, "so that entity tags stay"


def test_a_token_is_the_readers_and_ours() -> None:
    """Opaque, tamper-evident, bound to the peer: it may name what the peer must not know of."""
    token = TOKENS.seal("city", Place(key="secret_register"), [])
    assert "secret" not in token
    other_connector = PageTokens(bytes(KEY_BYTES))
    for reader, unsure, tokens in (
        ("kela", token, TOKENS),
        ("city", token, other_connector),
        ("city", token[:-2], TOKENS),
        ("city", token[:10] + ("A" if token[10] != "A" else "B") + token[11:], TOKENS),
        ("city", "", TOKENS),
        ("city", "ä", TOKENS),
        ("city", "A" * 10_000, TOKENS),
        ("city", "====", TOKENS),
    ):
        with pytest.raises(RequestInvalid) as refused:
            tokens.open(reader, unsure)
        assert refused.value.code == "continuation_token_invalid"


# --- what policy shows, remembered -------------------------------------------------------------------------


class World:
    """Decisions as they are taken: counted, and with an end where there is one."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.revision: Hashable | None = ("policy", 1)
        self.shown: Mapping[str, bool] = {}
        self.ends_after: timedelta | None = None
        self.decided: list[tuple[str, str]] = []
        self.while_deciding: Callable[[], None] = lambda: None
        self.sightings = Sightings(
            self._sight, revision=self._revision, clock=self.clock, seconds=30.0, most=150
        )

    async def sees(self, peer: str, *datasets: Dataset) -> list[bool]:
        return [bool(o) for o in await self.sightings.viewer(peer).offers(datasets)]

    async def _sight(self, peer: str, seen: Dataset) -> Sighting:
        self.decided.append((peer, seen.id))
        self.while_deciding()
        until = None if self.ends_after is None else self.clock.now() + self.ends_after
        return Sighting(offers=seen.offers if self.shown.get(seen.id, True) else (), until=until)

    def _revision(self) -> Hashable:
        if self.revision is None:
            raise Unavailable("There is no trust list.")
        return self.revision


ONE, TWO = dataset(id="one"), dataset(id="two")


async def test_a_decision_holds_for_a_while() -> None:
    world = World()
    world.shown = {"two": False}
    assert await world.sees("city", ONE, TWO) == [True, False]
    assert await world.sees("city", ONE, TWO) == [True, False]
    assert len(world.decided) == 2
    assert await world.sees("kela", ONE) == [True]
    assert world.decided[2:] == [("kela", "one")], "another participant is another decision"


@pytest.mark.parametrize("how", ["time", "end", "revision", "dataset"])
async def test_a_decision_ends(how: str) -> None:
    """After 30 s at the latest, with the permit's own end, with any change of policy, trust list, dataset."""
    world = World()
    world.ends_after = timedelta(seconds=5) if how == "end" else None
    assert await world.sees("city", ONE) == [True]
    world.shown = {"one": False}
    again = ONE
    match how:
        case "time":
            await world.clock.advance(29.9)
            assert await world.sees("city", ONE) == [True]
            await world.clock.advance(0.1)
        case "end":
            await world.clock.advance(5)
        case "revision":
            world.revision = ("policy", 2)
        case "dataset":
            again = dataset(id="one", offers=(terms(), terms(id="more")))
    assert await world.sees("city", again) == [False]


async def test_without_a_trust_list_nothing_is_seen() -> None:
    """Fail closed, and said so: what was decided before is no help."""
    world = World()
    await world.sees("city", ONE)
    world.revision = None
    with pytest.raises(Unavailable):
        await world.sees("city", ONE)


async def test_a_decision_over_a_change_is_not_kept() -> None:
    """It may be of the revision before, or of the one after."""
    world = World()

    def change() -> None:
        world.revision = ("changed", len(world.decided))

    world.while_deciding = change
    await world.sees("city", ONE)
    await world.sees("city", ONE)
    assert len(world.decided) == 2


async def test_memory_is_bounded() -> None:
    """Who has not asked for longest is forgotten first."""
    world = World()
    held = list(many(60).values())
    for peer in ("a", "b", "a", "c", "a", "c"):
        await world.sees(peer, *held)
    assert len(world.decided) == 180, "there is room for two"
    await world.sees("b", *held)
    assert len(world.decided) == 240
