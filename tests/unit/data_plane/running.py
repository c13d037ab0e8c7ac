"""A fragment's whole way at a provider, from its text to what leaves, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from connector.data_plane import obligations
from connector.data_plane.fragment import parse_fragment
from connector.data_plane.render import render
from connector.model.catalog import Dataset
from connector.model.decision import Permit
from connector.ports import Source
from tests.unit.data_plane.strategies import DATASET, pseudonymisers_for


@dataclass(frozen=True)
class Answer:
    """`batches` is what leaves."""

    batches: Sequence[pa.RecordBatch]
    groups_hidden: int
    subjects: frozenset[str]

    def rows(self) -> list[tuple[Any, ...]]:
        return [tuple(r.values()) for b in self.batches for r in b.to_pylist()]


@dataclass
class Provider:
    """One source and the event loop it lives in: tests of many examples stay synchronous."""

    source: Source = field(repr=False)
    runner: asyncio.Runner = field(repr=False)
    dataset: Dataset = field(default=DATASET, repr=False)
    batch_rows: int = 16

    def ask(
        self,
        sql: str,
        permit: Permit,
        *,
        consenting: Collection[str] = (),
        still_consenting: Collection[str] | None = None,
    ) -> Answer:
        """Raises what a consumer would be told."""
        pseudonymisers = pseudonymisers_for(permit)
        rendered = render(
            parse_fragment(sql, self.dataset, permit),
            self.dataset,
            permit,
            dialect=self.source.dialect,
            relation=self.source.relation,
            consenting=consenting,
            pseudonymisers=pseudonymisers,
        )
        raw = self.runner.run(self._read(rendered.query))
        done = [
            obligations.apply(rendered, b, pseudonymisers, still_consenting=still_consenting) for b in raw
        ]
        return Answer(
            batches=[d.batch for d in done],
            groups_hidden=sum(d.groups_hidden for d in done),
            subjects=frozenset(s for d in done for s in d.subjects),
        )

    async def _read(self, query: Any) -> list[pa.RecordBatch]:
        async with aclosing(self.source.execute(query, batch_rows=self.batch_rows)) as batches:  # type: ignore[type-var]
            return [b async for b in batches]
