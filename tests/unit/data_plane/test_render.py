"""Step 5: the policy relation, on every engine, against the same policy in plain Python."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

import asyncpg
import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.access.pseudonym import normalise_id
from connector.data_plane.dialects import dialect_named
from connector.data_plane.render import RenderedQuery, render
from connector.errors import (
    ConfigurationError,
    DescriptorInvalid,
    NotPermitted,
    PolicyInvalid,
    RequestInvalid,
    SqlInvalid,
    Unavailable,
)
from connector.model.decision import (
    EVERY_ROW,
    Bucket,
    CompoundCondition,
    ConsentRequirement,
    FieldCondition,
    Limits,
    Permit,
    Pseudonym,
)
from connector.model.fragment import Fragment, render_wire
from tests.parts import run_apart
from tests.unit.data_plane import reference, registers
from tests.unit.data_plane.registers import FIELDS
from tests.unit.data_plane.running import Answer, Provider
from tests.unit.data_plane.strategies import (
    DATASET,
    MORE,
    PEOPLE,
    fragments,
    permits,
    pseudonymisers_for,
    rows,
)

ROWS = rows()
EVERYBODY = sorted({normalise_id(p) for p in PEOPLE})


class TestAgainstPlainPython:
    @settings(
        max_examples=60 * MORE,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_every_engine_shows_what_the_policy_says(self, provider: Provider, data: st.DataObject) -> None:
        """Query, differential: rows, masks, pseudonyms, groups and hidden groups equal the policy's own."""
        permit = data.draw(permits())
        consenting = data.draw(st.sets(st.sampled_from(EVERYBODY)))
        for fragment in data.draw(st.lists(fragments(permit), min_size=1, max_size=4)):
            sql = render_wire(fragment)
            found = provider.ask(
                sql, permit, consenting=consenting, still_consenting=consenting if permit.consent else None
            )
            expected, hidden = reference.answer(
                fragment,
                DATASET,
                permit,
                ROWS,
                consenting=consenting,
                pseudonymisers=pseudonymisers_for(permit),
            )
            if fragment.limit is None:
                assert _counted(found) == Counter(map(_comparable, expected)), sql
                assert found.groups_hidden == hidden, sql
            else:
                assert len(found.rows()) == min(fragment.limit, len(expected)), sql
                assert _counted(found) <= Counter(map(_comparable, expected)), sql


INVERTIBLE = Pseudonym(domain="c", generation=1, invertible=True)
ALL = frozenset(f.name for f in FIELDS)
FRAGMENT = Fragment(dataset_id=DATASET.id, columns=("age",))
CONSENT = (ConsentRequirement(purpose="p", recipient="r"),)


def rendered(permit: Permit, fragment: Fragment = FRAGMENT, **more: Any) -> RenderedQuery:
    arguments: dict[str, Any] = {"dialect": "sqlite", "relation": "r", **more}
    return render(fragment, arguments.pop("dataset", DATASET), permit, **arguments)


def named(*values: str) -> Fragment:
    condition = FieldCondition(field="hetu", operator="in", value=values)
    return Fragment(dataset_id=DATASET.id, columns=("age",), condition=condition)


class TestFailsClosed:
    def test_without_the_consents_it_needs(self) -> None:
        """Fail closed: consent that cannot be looked up is no consent."""
        with pytest.raises(Unavailable):
            rendered(Permit(columns=ALL, consent=CONSENT))

    def test_nobody_consents_shows_nobody(self) -> None:
        """An empty consent set is an empty key list, not a missing condition."""
        query = rendered(Permit(columns=ALL, consent=CONSENT), consenting=[]).query
        assert query.key_lists == {"__consenting": ()}
        assert "__consenting" in query.sql

    def test_consent_to_rows_about_nobody(self) -> None:
        """Consent is asked for and the descriptor does not say of whom."""
        with pytest.raises(DescriptorInvalid):
            rendered(
                Permit(columns=ALL, consent=CONSENT), dataset=registers.dataset(subject_key=""), consenting=[]
            )

    def test_a_subject_key_that_is_no_column(self) -> None:
        """Without whom a row is about, neither consent nor group sizes hold."""
        with pytest.raises(DescriptorInvalid):
            rendered(Permit(columns=ALL), dataset=registers.dataset(subject_key="nowhere"))

    @pytest.mark.parametrize(
        "row_filter",
        [
            FieldCondition(field="nowhere", operator="eq", value=1),
            FieldCondition(field="age", operator="eq", value="1"),
            FieldCondition(field="age", operator="eq", value=None),
            FieldCondition(field="age", operator="in", value=(1, None)),
            FieldCondition(field="age", operator="in", value=1),
            FieldCondition(field="age", operator="eq", value=(1,)),
            FieldCondition(field="born", operator="lt", value="yesterday"),
            CompoundCondition(operator="not", conditions=()),
            CompoundCondition(operator="not", conditions=(EVERY_ROW, EVERY_ROW)),
        ],
    )
    def test_a_row_filter_that_makes_no_sense(self, row_filter: Any) -> None:
        """Unknown or ill-typed is never "every row"."""
        with pytest.raises(PolicyInvalid):
            rendered(Permit(columns=ALL, row_filter=row_filter))

    def test_a_fragment_that_was_not_held_to_its_permit(self) -> None:
        """`render` trusts no fragment: it holds each to the permit itself."""
        with pytest.raises(SqlInvalid):
            rendered(Permit(columns=frozenset({"area"})))
        with pytest.raises(NotPermitted):
            rendered(Permit(columns=ALL, aggregate_only=True))

    def test_an_engine_without_templates(self) -> None:
        """No generic SQL: masks mean different things on different engines."""
        with pytest.raises(ConfigurationError):
            rendered(Permit(columns=ALL), dialect="mysql")

    def test_a_pseudonym_without_its_key(self) -> None:
        """A key that is not at hand denies; it is not compared as a text."""
        permit = Permit(columns=ALL, pseudonyms={"hetu": INVERTIBLE}, key_exchange=True)
        fragment = named("x1_" + "a" * 26)
        with pytest.raises(Unavailable):
            rendered(permit, fragment)
        with pytest.raises(RequestInvalid):
            rendered(permit, fragment, pseudonymisers=pseudonymisers_for(permit))


class TestRendered:
    def test_values_are_bound_and_never_in_the_text(self) -> None:
        """fedquery 3.1.10: the SQL of two consumers differs in its parameters only."""
        permit = Permit(columns=ALL, row_filter=FieldCondition(field="area", operator="eq", value="it's"))
        query = rendered(permit, named("a'b", "?")).query
        assert query.parameters == ("it's", "a'b", "?")
        assert "it" not in query.sql.replace("COLLATE", "")

    def test_pseudonyms_become_ids_before_the_source_sees_them(self) -> None:
        """fedquery 2.5: the key never reaches the database; the id is bound, not written."""
        permit = Permit(columns=ALL, pseudonyms={"hetu": INVERTIBLE}, key_exchange=True)
        keys = pseudonymisers_for(permit)
        (pseudonym,) = keys["hetu"].apply([" 010190-901a"])
        query = rendered(permit, named(str(pseudonym)), pseudonymisers=keys).query
        assert query.parameters == ("010190-901A",)
        assert "010190" not in query.sql

    def test_conditions_on_clear_columns_sink_to_the_source(self) -> None:
        """fedquery 3.1.6: below, where indexes serve; masked ones stay above and see masked values."""
        permit = Permit(columns=ALL, column_masks={"age": Bucket(size=10)})
        condition = CompoundCondition(
            operator="and",
            conditions=(
                FieldCondition(field="area", operator="eq", value="x"),
                FieldCondition(field="age", operator="eq", value=10),
            ),
        )
        fragment = Fragment(dataset_id=DATASET.id, columns=("note",), condition=condition)
        inner, outer = rendered(permit, fragment).query.sql.rsplit(") AS t0", 1)
        assert 'b."area" COLLATE BINARY = ?' in inner
        assert 't0."age" = ?' in outer

    def test_too_many_rows_are_noticed_not_cut(self) -> None:
        """One row beyond the limit is asked for, so that obligations can refuse the answer."""
        permit = Permit(columns=ALL, limits=Limits(max_rows=10))
        for limit, asked in ((None, 11), (5, 5), (10, 10), (11, 11), (99, 11)):
            fragment = Fragment(dataset_id=DATASET.id, columns=("age",), limit=limit)
            assert rendered(permit, fragment).query.sql.endswith(f" LIMIT {asked}")

    def test_the_subject_goes_with_rows_and_never_out(self) -> None:
        """Architecture: streams carry the subject key internally."""
        plan = rendered(Permit(columns=ALL))
        assert plan.subject_column == "__subject"
        assert [f.name for f in plan.query.result] == ["age", "__subject"]
        assert plan.schema().names == ["age"]


EDGES = [-(2**63), -(2**63) + 1, -11, -10, -1, 0, 9, 10, 2**31, 2**63 - 1, None]


@pytest.mark.parametrize("engine", ["sqlite", "duckdb", "postgres"])
class TestTemplates:
    """fedquery 0.9 and 3.1.7: masks by hand for each engine, total over every stored value."""

    @pytest.mark.parametrize("size", [1, 7, 10, 2**31, 2**62])
    def test_buckets_at_the_ends_of_the_integers(
        self, engine: str, size: int, request: pytest.FixtureRequest
    ) -> None:
        """Lower bounds, below zero too; where there is none in 64 bits, nothing is shown."""
        dialect = dialect_named(engine)
        for value, found in self._evaluated(request, engine, dialect.bucket("v", size), EDGES):
            bound = None if value is None else value // size * size
            assert found == bound or (found is None and value < -(2**63) + 1 + size)

    @pytest.mark.parametrize(
        "raw", ["", " ", "a", " ä-z\t", "\u00a0x\u2212y\u2010 ", "İıſß", "\n\x0b\x0cq\r", "-+"]
    )
    def test_ids_are_normalised_as_in_python(
        self, engine: str, raw: str, request: pytest.FixtureRequest
    ) -> None:
        """Consent, grouping and pseudonyms agree on who is the same person, on every engine."""
        ((_, found),) = self._evaluated(request, engine, dialect_named(engine).normal_id("v"), [raw])
        assert found == normalise_id(raw)

    @staticmethod
    def _evaluated(
        request: pytest.FixtureRequest, engine: str, expression: str, values: list[Any]
    ) -> list[tuple[Any, Any]]:
        type_ = dialect_named(engine).types["string" if isinstance(values[0], str) else "integer"]
        sql = f"SELECT {expression} FROM (SELECT CAST(? AS {type_}) AS v) AS t"
        if engine == "sqlite":
            with closing(sqlite3.connect(":memory:")) as connection:
                return [(v, connection.execute(sql, [v]).fetchone()[0]) for v in values]
        if engine == "duckdb":
            with duckdb.connect(":memory:") as engine_:
                return [(v, engine_.execute(sql, [v]).fetchall()[0][0]) for v in values]
        dsn = request.getfixturevalue("postgres_server").dsn

        async def ask() -> list[tuple[Any, Any]]:
            connection = await asyncpg.connect(dsn)
            try:
                return [(v, await connection.fetchval(sql.replace("?", "$1"), v)) for v in values]
            finally:
                await connection.close()

        return run_apart(ask)


def _counted(found: Answer) -> Counter[tuple[Any, ...]]:
    return Counter(map(_comparable, found.rows()))


def _comparable(cells: tuple[Any, ...]) -> tuple[Any, ...]:
    """Averages to twelve digits: engines add in different orders."""
    return tuple(float(f"{c:.12g}") if isinstance(c, float) and math.isfinite(c) else c for c in cells)
