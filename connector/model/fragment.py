"""The part of a query that one provider runs: a closed grammar, small enough to be total.

On the wire a fragment is SQL text of exactly this grammar; the provider parses it, rebuilds these
values from it and trusts nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from connector.model.decision import EVERY_ROW, Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """`count` of no column is COUNT(*)."""

    function: Literal["count", "count_distinct", "sum", "avg"]
    column: str | None
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """`SELECT columns FROM dataset WHERE condition LIMIT limit`, or, with aggregates,
    `SELECT group_by, aggregates FROM dataset WHERE condition GROUP BY group_by`.

    `columns` and `group_by` are exposed names. The condition sees masked values only.
    """

    dataset_id: str
    columns: tuple[str, ...] = ()
    condition: Condition = EVERY_ROW
    aggregates: tuple[Aggregate, ...] = ()
    group_by: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def aggregated(self) -> bool:
        return bool(self.aggregates)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenPart:
    """One line of "what was hidden": the obligation, why, and who enforced it where."""

    what: str
    why: str
    enforced_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRecord:
    """The provider's signed last word on a fragment. Missing or wrong: the consumer discards the rows.

    `digest` is the SHA-256 over every byte of the Arrow stream before the end record, hex.
    """

    rows: int
    digest: str
    audit_id: str
    grant_id: str
    policy_revision: str
    identified: bool
    groups_hidden: int = 0
    hidden: tuple[HiddenPart, ...] = ()
    error: str = ""
    """Code of what stopped the stream (`consent_changed`, `agreement_terminated`, ...), "" when complete."""
