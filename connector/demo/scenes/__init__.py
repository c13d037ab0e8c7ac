"""The scenes of the demo, in order: each a function over the stage that narrates and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from connector.demo.scenes import (
    catalogue,
    contracts,
    events,
    evidence,
    queries,
    refusals,
    tokens,
    withdrawal,
)
from connector.demo.stage import Stage

SCENES: Sequence[tuple[str, Callable[[Stage], None]]] = (
    ("1  Catalogue: what do the others offer?", catalogue.run),
    ("2  Contract: negotiated over DSP, one approved by a person", contracts.run),
    ("2b Search: everybody's catalogue in one index", catalogue.search),
    ("3  Token: short, for one agreement and one purpose, bound to our key", tokens.run),
    ("4a Planning: a joint picture by pseudonymous key", queries.planning),
    ("4b Aggregate only: groups of at least five, enforced by the provider", queries.aggregate_only),
    ("4c Case worker: one consenting client, an identified disclosure", queries.case_worker),
    ("5  Refusals: with reasons a person understands, and nothing leaked", refusals.run),
    ("6  Event: a young person says yes, outreach hears of it", events.run),
    ("7  Withdrawal: rows and events stop", withdrawal.run),
    ("8  Evidence: each connector's log proves itself, offline", evidence.run),
)
