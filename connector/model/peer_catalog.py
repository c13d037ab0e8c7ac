"""What others offer, as our index of their catalogues holds it: summaries, and how fresh they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferSummary:
    """What an offer permits, and for which purposes; its constraints are in the provider's own catalogue."""

    id: str
    actions: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """One dataset of a participant. Titles and descriptions by language, "" where none is stated.

    Every text is a stranger's: of bounded length and printable, never more than that.
    """

    id: str
    titles: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    themes: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    access_rights: str = ""
    version: str = ""
    offers: tuple[OfferSummary, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetProblem:
    """Why a dataset of a peer's catalogue was left out. `dataset`: its id, or its place if it has none."""

    dataset: str
    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPage:
    """A page of a peer's catalogue as last read: what an answer "not modified" stands for, or one with the
    same body (`digest`), as peers without entity tags give it."""

    url: str
    etag: str = ""
    digest: str = ""
    next_url: str = ""
    datasets: tuple[str, ...] = ()
    rejected: int = 0
    problems: tuple[DatasetProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How current our view of one participant's catalogue is.

    `failures`: attempts in a row that failed, the first at `failing_since`; meanwhile the last good copy
    stays. `not_before`: the peer asked for a pause until then. `truncated` says why reading stopped before
    the catalogue's end: pages, bytes, datasets, link_refused, link_loop; "" where it did not.
    """

    participant: str
    next_attempt: datetime
    last_attempt: datetime | None = None
    last_success: datetime | None = None
    failing_since: datetime | None = None
    failures: int = 0
    error_code: str = ""
    error: str = ""
    not_before: datetime | None = None
    datasets: int = 0
    rejected: int = 0
    problems: tuple[DatasetProblem, ...] = ()
    truncated: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogQuery:
    """`participants`: whose catalogues count at all. The other fields narrow where they are not empty;
    every word of `text` must begin a word of the dataset's. `after`: where the last answer ended."""

    participants: frozenset[str]
    text: str = ""
    theme: str = ""
    keyword: str = ""
    format: str = ""
    access_rights: str = ""
    limit: int = 20
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    participant: str
    dataset: DatasetSummary
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFound:
    """`facets`: kind (participant, theme, format, access_rights) -> value -> how many of `total` have it, the
    most frequent first. `next`: pass it as `after`; "" at the end."""

    hits: Sequence[Hit]
    total: int
    facets: Mapping[str, Mapping[str, int]]
    next: str
