"""What is still done to rows once they have been read, before they may leave. Pure, over pyarrow.

Masks, row filters and consent have shaped the rows in the source already (data_plane.render). Left are
the things that need a key, the whole group, or the latest consent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from connector.access.pseudonym import normalise_id
from connector.data_plane.columns import Pseudonymisers, arrow_schema
from connector.data_plane.render import OutputColumn, RenderedQuery
from connector.errors import NotPermitted, Reason, SourceUnavailable, Unavailable
from connector.model.decision import Limits

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """`batch` has exactly `RenderedQuery.schema()`. `subjects`: the normalised ids its rows are about,
    each once; never sent. `groups_hidden`: how many groups were too small."""

    batch: pa.RecordBatch
    subjects: tuple[str, ...] = ()
    groups_hidden: int = 0


def apply(
    rendered: RenderedQuery,
    batch: pa.RecordBatch,
    pseudonymisers: Pseudonymisers,
    *,
    still_consenting: Collection[str] | None = None,
) -> Leaving:
    """The part of a batch that may leave.

    `still_consenting`: normalised ids as of now, where the permit asks for consent; rows of others are
    dropped. Raises Unavailable without a key, SourceUnavailable for a batch of the wrong shape.
    """
    if not batch.schema.equals(arrow_schema(rendered.query.result), check_metadata=False):
        raise SourceUnavailable("The source did not answer what it was asked.")
    batch, groups_hidden = _large_enough(rendered, batch)
    batch, subjects = _consented(rendered, batch, still_consenting)
    arrays = [_released(column, batch.column(column.name), pseudonymisers) for column in rendered.columns]
    return Leaving(
        batch=_batch(arrays, rendered.schema()),
        subjects=tuple(dict.fromkeys(s for s in subjects if s is not None)),
        groups_hidden=groups_hidden,
    )


def require_within(limits: Limits, *, rows: int, size_bytes: int) -> None:
    """Of one fragment, all its batches together. Too much fails the answer; it is never cut short."""
    for most, count, code, what in (
        (limits.max_rows, rows, "too_many_rows", "rows"),
        (limits.max_bytes, size_bytes, "too_many_bytes", "bytes"),
    ):
        if most is not None and count > most:
            text = f"This agreement allows at most {most} {what} in one answer."
            raise NotPermitted([Reason(code=code, text=text)], mend="Narrow the query, or add LIMIT.")


def _large_enough(rendered: RenderedQuery, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
    """Groups come whole, one per row: the source counted their subjects."""
    import pyarrow.compute as pc

    if not rendered.group_size_column:
        return batch, 0
    sizes = batch.column(rendered.group_size_column)
    kept = batch.filter(pc.fill_null(pc.greater_equal(sizes, rendered.min_group_size), False))
    return kept, batch.num_rows - kept.num_rows


def _consented(
    rendered: RenderedQuery, batch: pa.RecordBatch, still_consenting: Collection[str] | None
) -> tuple[pa.RecordBatch, list[str | None]]:
    """The rows that may still be shown, and whom each is about."""
    import pyarrow as pa

    if not rendered.subject_column:
        return batch, []
    subjects = [
        None if raw is None else normalise_id(raw)
        for raw in batch.column(rendered.subject_column).to_pylist()
    ]
    if still_consenting is None:
        return batch, subjects
    shown = [s is not None and s in still_consenting for s in subjects]
    if all(shown):
        return batch, subjects
    return batch.filter(pa.array(shown)), [s for s, keep in zip(subjects, shown, strict=True) if keep]


def _released(column: OutputColumn, values: pa.Array, pseudonymisers: Pseudonymisers) -> pa.Array:
    import pyarrow as pa

    if column.post == "none":
        return values
    tokeniser = pseudonymisers.get(column.name)
    if tokeniser is None:
        raise Unavailable(f"The key for the column {column.name} is not at hand.")
    return pa.array(tokeniser.apply([_text(v) for v in values.to_pylist()]), pa.string())


def _text(value: Any) -> str | None:
    """One text per value, the same from every source."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case date():  # and datetime
            return value.isoformat()
        case float():
            return repr(value)
        case _:
            return str(value)


def _batch(arrays: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(list(arrays), schema=schema)
