"""What is hidden stays hidden: planted markers never come out, and changing hidden cells changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.errors import ConnectorError, NotPermitted, RequestInvalid
from connector.model.decision import (
    Bucket,
    CompoundCondition,
    ConsentRequirement,
    Drop,
    FieldCondition,
    Hash,
    Null,
    Permit,
    Pseudonym,
    Truncate,
)
from connector.model.fragment import render_wire
from tests.unit.data_plane import registers
from tests.unit.data_plane.conftest import written
from tests.unit.data_plane.registers import FIELDS, Row
from tests.unit.data_plane.running import Answer, Provider
from tests.unit.data_plane.strategies import DATASET, MORE, fragments, permits

CANARY = "CANARY"
NUMBER = 77_000_000
"""Numbers from here on are canaries too."""

SETTINGS = settings(
    max_examples=80 * MORE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SEEN = tuple(f"1{n:02d}" for n in range(10))
AREAS = ("a", "b")
COLUMNS = frozenset(f.name for f in FIELDS) - {"secret"}
PERMITS = [
    Permit(
        columns=COLUMNS,
        row_filter=FieldCondition(field="area", operator="in", value=AREAS),
        column_masks={
            "note": Truncate(length=3),
            "age": Bucket(size=1_000_000_000),
            "born": Truncate(unit="year"),
            "seen": Truncate(unit="month"),
            "income": Hash(),
            "active": Drop(),
        },
        pseudonyms={"hetu": pseudonym},
        key_exchange=True,
        consent=(ConsentRequirement(purpose="p", recipient="r"),),
    )
    for pseudonym in (
        Pseudonym(domain="c", generation=1),
        Pseudonym(domain="c", generation=1, invertible=True),
    )
]
PERMITS.append(
    Permit(
        columns=COLUMNS - {"income"},
        row_filter=FieldCondition(field="area", operator="in", value=AREAS),
        column_masks={"note": Truncate(length=3), "age": Bucket(size=1_000_000_000), "hetu": Null()},
        consent=PERMITS[0].consent,
        aggregate_only=True,
        min_group_size=3,
        dimensions=frozenset({"area", "note", "age"}),
    )
)
CONSENTING = {f"{CANARY}-{n}" for n in SEEN}


def canary_rows() -> list[Row]:
    """Every cell that no permit above shows holds a marker. Visible rows: consenting, in area a or b."""
    rows: list[Row] = []
    for n, who in enumerate(SEEN):
        rows.append(_person(n, f"{CANARY}-{who}", area=AREAS[n % 2]))
    for n in range(20, 40):  # by the row filter, by consent, or by both
        hidden_area = f"{CANARY}{n}" if n % 2 else AREAS[n % 4 // 2]
        who = f"{CANARY}-{SEEN[n % 10]}" if n % 2 and n % 3 else f"{CANARY}-nobody{n}"
        rows.append(_person(n, who, area=hidden_area, note=f"{CANARY}{n}", born=date(1977, 7, 7)))
    return rows


def _person(n: int, who: str, **values: Any) -> Row:
    person = {
        "hetu": who,
        "area": "a",
        "age": NUMBER + n,  # in the bucket of 0
        "income": float(NUMBER + n),
        "active": True,
        "born": date(1990, 6, 17),
        "seen": datetime(2026, 3, 17, 17, 17, 17, 170_000, UTC),
        "note": f"abc{CANARY}{n}",
        "secret": f"{CANARY}{n}",
    }
    return {**person, **values}


@pytest.fixture(scope="module", params=registers.KINDS)
def canaries(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Provider]:
    location = written(request, request.param, tmp_path_factory.mktemp("canaries"), canary_rows())
    provider = Provider(registers.open_source(request.param, location), runner)
    yield provider
    runner.run(provider.source.close())


@st.composite
def questions(draw: st.DrawFn, permit: Permit) -> str:
    """A fragment in or out of the permit's bounds: hidden columns are named, markers are guessed."""
    if draw(st.booleans()):
        return render_wire(draw(fragments(permit)))
    names = [*(f.name for f in FIELDS), "__subject", "rowid"]
    guesses = [f"'{CANARY}-100'", f"'{CANARY}21'", str(NUMBER), f"{NUMBER}.0", "'1990-06-17'", "'a'", "NULL"]
    column, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    compare = draw(st.sampled_from(["=", "<>", "<", ">=", "IN (", "NOT IN (", "IS NOT", "LIKE", "+ 1 ="]))
    value = draw(st.sampled_from(guesses))
    condition = f"{column} {compare} {value}{')' if '(' in compare else ''}"
    if draw(st.booleans()):
        condition = f"NOT ({condition} OR {other} IS NULL)"
    selected = draw(
        st.sampled_from([other, f"COUNT(DISTINCT {other}) AS n", f"SUM({other}) AS n", "COUNT(*) AS n", "*"])
    )
    return f'SELECT {selected} FROM "{DATASET.id}" WHERE {condition}'


def outcome(provider: Provider, sql: str, permit: Permit) -> Answer | ConnectorError:
    """What a consumer gets: rows or an error."""
    try:
        return provider.ask(sql, permit, consenting=CONSENTING, still_consenting=CONSENTING)
    except (RequestInvalid, NotPermitted) as error:
        return error


class TestCanaries:
    @SETTINGS
    @given(data=st.data())
    def test_no_marker_ever_comes_out(
        self, canaries: Provider, data: st.DataObject, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Query, attacks 4: hidden rows, columns, masked parts and ids are in no row, error or log line."""
        caplog.set_level(logging.DEBUG)
        caplog.clear()
        permit = data.draw(st.sampled_from(PERMITS))
        for sql in data.draw(st.lists(questions(permit), min_size=4, max_size=12)):
            found = outcome(canaries, sql, permit)
            shown = _shown(found)
            assert CANARY not in shown, sql
            assert not any(n in shown for n in (str(NUMBER)[:4], "1977", "06-17", ".17")), sql
        assert CANARY not in caplog.text

    @pytest.mark.parametrize("permit", PERMITS[:2])
    def test_the_markers_are_where_a_leak_would_show_them(self, canaries: Provider, permit: Permit) -> None:
        """A test that cannot fail proves nothing: without the permit every marker is there."""
        naked = Permit(columns=frozenset(f.name for f in FIELDS))
        everything = f'SELECT {", ".join(sorted(naked.columns))} FROM "{DATASET.id}"'
        assert _shown(canaries.ask(everything, naked)).count(CANARY) >= 3 * len(SEEN)
        columns = sorted(permit.exposed)
        visible = canaries.ask(
            f'SELECT {", ".join(columns)} FROM "{DATASET.id}"', permit, consenting=CONSENTING
        )
        assert len(visible.rows()) == len(SEEN)


def _shown(found: Answer | ConnectorError) -> str:
    """Everything that crosses the wire. `subjects` stays at the provider."""
    if isinstance(found, Answer):
        schemas = [str(b.schema) for b in found.batches]
        return f"{found.rows()} {found.groups_hidden} {schemas}"
    reasons = getattr(found, "reasons", ())
    return f"{found} {found.mend} {found.code} {reasons} {found.__cause__} {found.__context__}"


# --- two worlds --------------------------------------------------------------------------------------


def world(seed: int) -> list[Row]:
    """Worlds of all seeds agree in every cell that PERMITS show, and in no other."""
    rows: list[Row] = []
    for n, who in enumerate(SEEN):
        rows.append(
            {
                "hetu": f"{CANARY}-{who}",
                "area": AREAS[n % 2],
                "age": (n % 3) * 1_000_000_000 + seed * 31 % 1000 + n,
                "income": 5.5 * n,
                "active": (n + seed) % 2 == 0,
                "born": date(1990 + n % 2, 1 + (n + seed) % 12, 1 + seed % 28),
                "seen": datetime(2026, 3, 1 + (n + seed) % 28, seed % 24, n, tzinfo=UTC),
                "note": f"{'abc'[: n % 3 + 1]:_<3}{seed}",
                "secret": f"{seed}{n}",
            }
        )
    for n in range(8):  # hidden rows: any values, any number of them
        row = {**_person(seed * n % 91, f"{CANARY}-{SEEN[n]}"), "area": f"x{seed % 3}", "note": f"{seed}"}
        rows.insert((n * seed) % len(rows), row) if n < seed % 9 else None
    return rows


SHOWS_LITTLE = [
    Permit(
        columns=p.columns,
        row_filter=p.row_filter,
        column_masks={
            **p.column_masks,
            "active": Drop(),
            "born": Truncate(unit="year"),
            "seen": Truncate(unit="month"),
        },
        pseudonyms=p.pseudonyms,
        key_exchange=p.key_exchange,
        consent=p.consent,
        aggregate_only=p.aggregate_only,
        min_group_size=p.min_group_size,
        dimensions=p.dimensions,
    )
    for p in PERMITS
]


@pytest.fixture(scope="module", params=registers.KINDS)
def worlds(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Provider]]:
    folder = tmp_path_factory.mktemp("worlds")
    providers = []
    for seed in (1, 17):
        (folder / str(seed)).mkdir()
        location = written(request, request.param, folder / str(seed), world(seed))
        providers.append(Provider(registers.open_source(request.param, location), runner))
    yield providers
    for provider in providers:
        runner.run(provider.source.close())


class TestTwoWorlds:
    @settings(parent=SETTINGS, max_examples=30 * MORE)
    @given(data=st.data())
    def test_hidden_cells_change_nothing(self, worlds: list[Provider], data: st.DataObject) -> None:
        """Query, two worlds: registers that differ only in hidden cells give the same rows and errors."""
        permit = data.draw(st.sampled_from(SHOWS_LITTLE))
        for sql in data.draw(st.lists(questions(permit), min_size=2, max_size=8)):
            one, other = (_signature(outcome(w, sql, permit)) for w in worlds)
            assert one == other, sql

    def test_the_worlds_differ(self) -> None:
        """A test that cannot fail proves nothing."""
        pairs = itertools.zip_longest(world(1), world(17))
        assert all(one != other for one, other in pairs)


def _signature(found: Answer | ConnectorError) -> object:
    """Without order: groups come in the order of an engine's hash table."""
    if isinstance(found, Answer):
        return sorted(map(repr, found.rows())), found.groups_hidden, len(found.batches) > 0
    return _shown(found)


# --- small groups ------------------------------------------------------------------------------------


class TestSmallGroups:
    @settings(parent=SETTINGS, max_examples=25 * MORE)
    @given(data=st.data())
    def test_no_group_under_k_leaves(self, provider: Provider, data: st.DataObject) -> None:
        """Skeleton (b): groups of at least k persons, enforced by the provider, the others are counted."""
        permit = data.draw(permits().filter(lambda p: p.aggregate_only and not p.consent))
        for fragment in data.draw(st.lists(fragments(permit), min_size=1, max_size=3)):
            sql = render_wire(fragment)
            found = provider.ask(sql, permit)
            k1 = Permit(**{**_as_mapping(permit), "min_group_size": 1})
            everything = provider.ask(sql, k1)
            assert (
                len(found.rows()) + found.groups_hidden == len(everything.rows()) + everything.groups_hidden
            )
            assert found.groups_hidden >= everything.groups_hidden

    def test_persons_count_not_rows(self, provider: Provider) -> None:
        """A person with many rows is one person, however their id is typed."""
        permit = Permit(
            columns=frozenset({"area"}),
            row_filter=CompoundCondition(operator="or", conditions=(_is("010190-901A"), _is(" 010190-901a"))),
            aggregate_only=True,
            min_group_size=2,
        )
        sql = f'SELECT COUNT(*) AS n FROM "{DATASET.id}"'
        found = provider.ask(sql, permit)
        assert (found.rows(), found.groups_hidden) == ([], 1)
        alone = provider.ask(sql, Permit(**{**_as_mapping(permit), "min_group_size": 1}))
        assert alone.rows()[0][0] > 2


def _is(identifier: str) -> FieldCondition:
    return FieldCondition(field="hetu", operator="eq", value=identifier)


def _as_mapping(permit: Permit) -> Mapping[str, Any]:
    return {name: getattr(permit, name) for name in Permit.__slots__}
