"""Step 6: what is done to rows once they have been read. Nothing internal, and nobody's raw id, leaves."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.access.pseudonym import ColumnHash, Pseudonymiser, is_pseudonym, normalise_id
from connector.data_plane.columns import arrow_schema
from connector.data_plane.obligations import Leaving, apply, require_within
from connector.data_plane.render import RenderedQuery, render
from connector.errors import NotPermitted, SourceUnavailable, Unavailable
from connector.model.catalog import Field
from connector.model.decision import Hash, Limits, Permit, Pseudonym
from connector.model.fragment import Aggregate, Fragment
from tests.unit.data_plane.registers import FIELDS, dataset, row
from tests.unit.data_plane.strategies import DATASET, MORE

ALL = frozenset(f.name for f in FIELDS)
HETU = Pseudonym(domain="c", generation=1)
KEYS = {"hetu": Pseudonymiser(b"k" * 32, "c/1", invertible=False), "age": ColumnHash(b"k" * 32, "age")}
PERMIT = Permit(columns=ALL, pseudonyms={"hetu": HETU}, column_masks={"age": Hash()})


def plan(fragment: Fragment, permit: Permit = PERMIT) -> RenderedQuery:
    return render(fragment, DATASET, permit, dialect="sqlite", relation="r")


def rows_plan(*columns: str, permit: Permit = PERMIT) -> RenderedQuery:
    return plan(Fragment(dataset_id=DATASET.id, columns=columns), permit)


def batch(rendered: RenderedQuery, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """As a source yields it."""
    return pa.RecordBatch.from_pylist(rows, schema=arrow_schema(rendered.query.result))


def persons(rendered: RenderedQuery, ids: list[str | None]) -> pa.RecordBatch:
    names = [f.name for f in rendered.query.result]
    rows = [{**row(n), "hetu": i, "__subject": i} for n, i in enumerate(ids)]
    return batch(rendered, [{name: r[name] for name in names} for r in rows])


class TestRows:
    @settings(max_examples=100 * MORE, deadline=None)
    @given(
        ids=st.lists(st.none() | st.text(st.characters(codec="utf-8"), min_size=4, max_size=20), max_size=20),
        columns=st.lists(st.sampled_from(["hetu", "age", "income", "active"]), min_size=1, unique=True),
        consent=st.booleans(),
    )
    def test_no_raw_subject_key_ever_leaves(
        self, ids: list[str | None], columns: list[str], consent: bool
    ) -> None:
        """Skeleton: the internal subject never leaves, and its column leaves as pseudonyms only."""
        rendered = rows_plan(*columns)
        consenting = {normalise_id(i) for i in ids[::2] if i is not None}
        done = apply(rendered, persons(rendered, ids), KEYS, still_consenting=consenting if consent else None)
        assert done.batch.schema == rendered.schema()
        assert "__subject" not in done.batch.schema.names
        cells = {c for column in done.batch.columns for c in column.to_pylist()}
        assert not cells & ({i for i in ids if i} | {normalise_id(i) for i in ids if i})
        if "hetu" in columns:
            found = done.batch.column("hetu").to_pylist()
            assert all(p is None or is_pseudonym(p) for p in found)

    def test_subjects_are_told_once_each_and_normalised(self) -> None:
        """The ledger's view: whom the batch is about, in the form the consent register knows."""
        rendered = rows_plan("income")
        done = apply(rendered, persons(rendered, [" 010190-901a", "010190-901A", None, "020190-902A"]), KEYS)
        assert done.subjects == ("010190-901A", "020190-902A")
        assert done.batch.num_rows == 4

    def test_rows_of_the_withdrawn_are_dropped(self) -> None:
        """Idea 3, barrier: the next batch drops the person; rows about nobody known drop too."""
        rendered = rows_plan("income")
        raw = persons(rendered, ["A", "B", None, "a "])
        done = apply(rendered, raw, KEYS, still_consenting={"A"})
        assert done.subjects == ("A",)
        assert done.batch.column("income").to_pylist() == [row(0)["income"], row(3)["income"]]
        assert apply(rendered, raw, KEYS, still_consenting=frozenset()).batch.num_rows == 0

    def test_pseudonyms_and_hashes_of_equal_values_are_equal(self) -> None:
        """Grouping at the consumer still works; a hash is of the value, whatever its type."""
        rendered = rows_plan("hetu", "age")
        done = apply(rendered, persons(rendered, ["A", "a", "B"]), KEYS)
        first, second, third = done.batch.column("hetu").to_pylist()
        assert first == second != third
        assert done.batch.column("age").to_pylist() == KEYS["age"].apply(["20", "21", "22"])

    @pytest.mark.parametrize("column", ["hetu", "age"])
    def test_without_the_key_nothing_leaves(self, column: str) -> None:
        """Fail closed: a missing key is no reason to show the value."""
        rendered = rows_plan(column)
        with pytest.raises(Unavailable):
            apply(rendered, persons(rendered, ["A"]), {})

    @pytest.mark.parametrize(
        "schema",
        [
            [Field(name="income", type="number")],  # its subjects are missing
            [Field(name="__subject", type="string"), Field(name="income", type="number")],
            [Field(name="income", type="string"), Field(name="__subject", type="string")],
            [Field(name=n, type="string") for n in ("income", "__subject", "secret")],
        ],
    )
    def test_a_batch_of_another_shape_is_refused(self, schema: list[Field]) -> None:
        """A source that answers something else must not have it passed on."""
        wrong = pa.RecordBatch.from_pylist([], schema=arrow_schema(schema))
        with pytest.raises(SourceUnavailable):
            apply(rows_plan("income"), wrong, KEYS)

    def test_an_empty_batch_keeps_its_shape(self) -> None:
        """No rows is an answer with a schema."""
        rendered = rows_plan("hetu", "income")
        done = apply(rendered, persons(rendered, []), KEYS)
        assert (done.batch.num_rows, done.batch.schema, done.subjects) == (0, rendered.schema(), ())

    def test_a_register_about_nobody_has_no_subjects(self) -> None:
        """Open data: no subject key, no subjects, same way."""
        fragment = Fragment(dataset_id=DATASET.id, columns=("area",))
        permit = Permit(columns=ALL)
        rendered = render(fragment, dataset(subject_key=""), permit, dialect="sqlite", relation="r")
        done = apply(rendered, batch(rendered, [{"area": "x"}]), {})
        assert done == Leaving(batch=done.batch, subjects=(), groups_hidden=0)


GROUPED = Fragment(
    dataset_id=DATASET.id,
    group_by=("area",),
    aggregates=(Aggregate(function="sum", column="income", alias="total"),),
)


class TestGroups:
    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_small_groups_are_dropped_and_counted(self, k: int) -> None:
        """Skeleton (b): k-anonymity by the provider; how many were hidden is told, which is not."""
        permit = Permit(columns=ALL, aggregate_only=True, min_group_size=k, dimensions=frozenset({"area"}))
        rendered = plan(GROUPED, permit)
        sizes = [0, 1, 2, 3, 4, 5, 100]
        raw = [{"area": f"a{n}", "total": 1.5, "__group_subjects": n} for n in sizes]
        done = apply(rendered, batch(rendered, raw), {})
        assert done.batch.to_pylist() == [{"area": f"a{n}", "total": 1.5} for n in sizes if n >= k]
        assert done.groups_hidden == sum(n < k for n in sizes)
        assert done.subjects == ()

    def test_a_group_of_unknown_size_is_small(self) -> None:
        """Fail closed: NULL is not at least k."""
        permit = Permit(columns=ALL, aggregate_only=True, min_group_size=2, dimensions=frozenset({"area"}))
        rendered = plan(GROUPED, permit)
        done = apply(rendered, batch(rendered, [{"area": "a", "total": 1.0, "__group_subjects": None}]), {})
        assert (done.batch.num_rows, done.groups_hidden) == (0, 1)


class TestLimits:
    def test_too_much_fails_the_answer(self) -> None:
        """fedquery 0.3: never silently cut short."""
        limits = Limits(max_rows=10, max_bytes=1000)
        require_within(limits, rows=10, size_bytes=1000)
        require_within(Limits(), rows=10**9, size_bytes=10**12)
        for rows, size, code in ((11, 0, "too_many_rows"), (0, 1001, "too_many_bytes")):
            with pytest.raises(NotPermitted) as caught:
                require_within(limits, rows=rows, size_bytes=size)
            assert caught.value.reasons[0].code == code
            assert "Narrow the query" in caught.value.mend
