"""Port CatalogIndex in SQL: a SQLite file of its own (full text by FTS5), or tables beside the store's in the
replicas' PostgreSQL (tsvector)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from connector.adapters.catalog_words import words
from connector.adapters.sql.connection import Connection, Database, Dialect, Parameter, Row
from connector.adapters.sql.documents import decode, encode, from_micros, to_micros
from connector.adapters.sql.migrate import migrate
from connector.adapters.sqlite_store import SqliteDatabase
from connector.errors import ConfigurationError, Conflict, NotFound, RequestInvalid
from connector.model.peer_catalog import (
    CatalogFound,
    CatalogQuery,
    DatasetSummary,
    Freshness,
    Hit,
    SeenPage,
)

_log = logging.getLogger(__name__)

MAX_WORDS = 16
_FORM = "1"  # part of every fingerprint: raised when words or facets are made in another way
_CHUNK = 250  # datasets in one transaction: no writer waits long for another
_MAX_FACET_VALUES = 50
_EU_CODES = "http://publications.europa.eu/resource/authority/"


class SqlCatalogIndex:
    """Over a database that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> None:
        """Raises ConfigurationError or Unavailable."""
        await migrate(self._database, "catalog_index")

    async def close(self) -> None:
        pass

    # --- whom we follow, and who works on it ---------------------------------------------------------------

    async def enrol(self, participants: Collection[str], *, now: datetime) -> None:
        wanted = sorted(participants)
        async with self._database.connect() as connection:
            gone = [row[0] for row in await connection.fetch("index_peers_beside", json.dumps(wanted))]
            if gone:
                for table in ("words", "datasets", "pages", "peers"):
                    await connection.execute(f"forget_index_{table}", json.dumps(gone))
            fresh = [(p, to_micros(now), encode(Freshness(participant=p, next_attempt=now))) for p in wanted]
            await connection.execute_many("enrol_index_peer", fresh)

    async def claim(
        self, now: datetime, *, among: Collection[str], lease: str, lease_seconds: float, limit: int
    ) -> Sequence[Freshness]:
        whom = json.dumps(sorted(among))
        async with self._database.connect() as connection:
            rows = await connection.fetch(
                "lease_index_peers", to_micros(now), lease, _micros(lease_seconds), limit, whom
            )
        return [_freshness(row) for row in sorted(rows, key=lambda row: int(row[0]))]

    async def release(self, lease: str) -> None:
        async with self._database.connect() as connection:
            await connection.execute("release_index_lease", lease)

    async def hurry(self, participant: str, *, due_at: datetime) -> Freshness:
        async with self._database.connect() as connection:
            row = await connection.fetchone("hurry_index_peer", participant, to_micros(due_at))
        if row is None:
            raise NotFound("This participant's catalogue is not followed.")
        return _freshness(row)

    async def freshness(self) -> Mapping[str, Freshness]:
        async with self._database.connect(read_only=True) as connection:
            rows = await connection.fetch("index_peers")
        return {found.participant: found for found in map(_freshness, rows)}

    # --- what they offer -----------------------------------------------------------------------------------

    async def pages(self, participant: str) -> Mapping[str, SeenPage]:
        async with self._database.connect(read_only=True) as connection:
            rows = await connection.fetch("index_pages", participant)
        return {page.url: page for page in (decode(SeenPage, row[0]) for row in rows)}

    async def put(
        self,
        participant: str,
        page: SeenPage,
        datasets: Sequence[DatasetSummary],
        *,
        lease: str,
        lease_seconds: float,
        seen_at: datetime,
    ) -> None:
        """The page counts as seen only when all its datasets are in: its row is written with the last."""
        for start in range(0, max(len(datasets), 1), _CHUNK):
            new = await self._new_among(participant, datasets[start : start + _CHUNK])
            async with self._database.connect() as connection:
                if (
                    await connection.execute("hold_index_lease", participant, lease, _micros(lease_seconds))
                    != 1
                ):
                    raise _lost()
                await _write(connection, participant, new, to_micros(seen_at))
                if start + _CHUNK >= len(datasets):
                    await connection.execute("put_index_page", participant, _key(page.url), encode(page))

    async def _new_among(self, participant: str, datasets: Sequence[DatasetSummary]) -> Sequence[_Entry]:
        """What is not known as it is: most of a catalogue is the same each time. Nobody else changes it
        meanwhile, as long as we hold the lease."""
        async with self._database.connect(read_only=True) as connection:
            known = await _known(connection, participant, [d.id for d in datasets])
        return await asyncio.to_thread(_entries, participant, datasets, known, self._database.dialect)

    async def finish(
        self,
        freshness: Freshness,
        *,
        lease: str,
        keep: tuple[Collection[str], Collection[str]] | None = None,
    ) -> None:
        participant = freshness.participant
        async with self._database.connect() as connection:
            if keep is not None:
                pages = json.dumps(sorted(map(_key, keep[0])))
                datasets = json.dumps(sorted(keep[1]))
                await connection.execute("drop_words_beside", participant, datasets)
                await connection.execute("drop_datasets_beside", participant, datasets)
                await connection.execute("drop_pages_beside", participant, pages)
            count = await connection.fetchone("count_index_datasets", participant)
            counted = replace(freshness, datasets=int(count[0]) if count else 0)
            due_at = to_micros(freshness.next_attempt)
            touched = await connection.execute(
                "finish_index_peer", participant, lease, due_at, encode(counted)
            )
            if touched != 1:
                raise _lost()

    # --- search --------------------------------------------------------------------------------------------

    async def search(self, query: CatalogQuery) -> CatalogFound:
        matching: tuple[Parameter, ...] = (
            _match(query.text, self._database.dialect),
            json.dumps(sorted(query.participants)),
            json.dumps(sorted(_wanted_facets(query))),
        )
        place = _place(query.after)
        async with self._database.connect(read_only=True) as connection:
            rows = await connection.fetch("search_index", *matching, *place, query.limit + 1)
            counts = await connection.fetch("count_index_facets", *matching)
            seen = {f.participant: f for f in map(_freshness, await connection.fetch("index_peers"))}
        hits = [_hit(row, seen) for row in rows[: query.limit]]
        more = len(rows) > query.limit
        return CatalogFound(
            hits=hits,
            total=sum(int(row[2]) for row in counts),
            facets=_facets(counts),
            next=_cursor(int(rows[query.limit - 1][0]), hits[-1]) if more else "",
        )


class SqliteCatalogIndex(SqlCatalogIndex):
    """In a file of its own: a crawl is not in the way of the store's writer."""

    def __init__(self, path: Path) -> None:
        super().__init__(SqliteDatabase(path))
        self._path = path

    async def open(self) -> None:
        """A file that is damaged or of a newer connector is made anew: the next crawl fills it."""
        _check_full_text()
        try:
            await self._open()
        except ConfigurationError as error:
            if not self._path.is_file():
                raise
            _log.warning("the catalogue index is made anew: %s", error.message)
            await asyncio.to_thread(_remove, self._path)
            self._database = SqliteDatabase(self._path)
            await self._open()

    async def _open(self) -> None:
        await self._database.open()
        try:
            await super().open()
        except BaseException:
            await self._database.close()
            raise

    async def close(self) -> None:
        await self._database.close()


def _check_full_text() -> None:
    with closing(sqlite3.connect(":memory:")) as raw:
        if not raw.execute("select sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0]:
            raise ConfigurationError(
                "This Python's SQLite has no full-text search (FTS5).",
                mend="Use one that has, as python.org's and Debian's do, or the PostgreSQL store.",
            )


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


# --- writing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A dataset to be written. `number`: 0 where it is seen for the first time; `words`: of title, keywords
    and description, as the dialect takes them."""

    number: int
    id: str
    document: str
    fingerprint: str
    words: tuple[str, str, str]
    facets: Collection[str]


def _entries(
    participant: str,
    datasets: Iterable[DatasetSummary],
    known: Mapping[str, tuple[int, str]],
    dialect: Dialect,
) -> Sequence[_Entry]:
    """In a thread: a large catalogue takes seconds."""
    found = []
    for dataset in datasets:
        document = encode(dataset)
        fingerprint = hashlib.sha256(f"{_FORM}{document}".encode()).hexdigest()[:32]
        number, before = known.get(dataset.id, (0, ""))
        if fingerprint != before:
            found.append(
                _Entry(
                    number=number,
                    id=dataset.id,
                    document=document,
                    fingerprint=fingerprint,
                    words=_words_of(participant, dataset, dialect),
                    facets=_facets_of(dataset),
                )
            )
    return found


def _words_of(participant: str, dataset: DatasetSummary, dialect: Dialect) -> tuple[str, str, str]:
    return (
        _weighed(words(dataset.titles.values()), "A", dialect),
        _weighed(words((*dataset.keywords, *dataset.themes, dataset.id, participant)), "B", dialect),
        _weighed(words(dataset.descriptions.values()), "C", dialect),
    )


def _weighed(found: Sequence[str], weight: str, dialect: Dialect) -> str:
    if dialect == "sqlite":
        return " ".join(found)
    return " ".join(f"'{word}':{position}{weight}" for position, word in enumerate(found, start=1))


async def _write(connection: Connection, participant: str, entries: Sequence[_Entry], seen_at: int) -> None:
    if not entries:
        return
    changed = [e for e in entries if e.number]
    outdated = [(e.number,) for e in changed]
    for what in ("words", "facets", "document"):
        await connection.execute_many(f"drop_index_{what}", outdated)
    await connection.execute_many(
        "update_index_dataset", [(e.number, seen_at, e.fingerprint, _counted(e.facets)) for e in changed]
    )
    await connection.execute_many(
        "insert_index_dataset",
        [(participant, e.id, seen_at, e.fingerprint, _counted(e.facets)) for e in entries if not e.number],
    )
    known = await _known(connection, participant, [e.id for e in entries])
    numbered = [(known[e.id][0], e) for e in entries]
    await connection.execute_many("insert_index_document", [(n, e.document) for n, e in numbered])
    await connection.execute_many("insert_index_words", [(n, *e.words) for n, e in numbered])
    await connection.execute_many(
        "insert_index_facet", [(n, facet) for n, e in numbered for facet in sorted(e.facets)]
    )


async def _known(
    connection: Connection, participant: str, ids: Sequence[str]
) -> Mapping[str, tuple[int, str]]:
    """Dataset id -> its number and fingerprint."""
    rows = await connection.fetch("index_datasets_among", participant, json.dumps(ids))
    return {row[0]: (int(row[1]), row[2]) for row in rows}


def _lost() -> Conflict:
    return Conflict("Somebody else reads this catalogue by now.", code="lease_lost")


def _key(url: str) -> str:
    """URLs may be longer than what an index of the database takes."""
    return hashlib.sha256(url.encode()).hexdigest()


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


# --- reading ----------------------------------------------------------------------------------------------


def _freshness(row: Row) -> Freshness:
    due_at, document = row
    return replace(decode(Freshness, document), next_attempt=from_micros(int(due_at)))


def _hit(row: Row, freshness: Mapping[str, Freshness]) -> Hit:
    """An unchanged dataset is not written anew: it was last seen when its catalogue was last read whole."""
    _, participant, seen_at, document = row
    written = from_micros(int(seen_at))
    confirmed = freshness[participant].last_success if participant in freshness else None
    return Hit(
        participant=participant,
        dataset=decode(DatasetSummary, document),
        seen_at=max(written, confirmed) if confirmed else written,
    )


def _match(text: str, dialect: Dialect) -> str:
    """Every word of `text` as a beginning; words hold letters and digits only, so nothing needs escaping."""
    found = list(dict.fromkeys(words([text])))
    if len(found) > MAX_WORDS:
        raise RequestInvalid(f"must have at most {MAX_WORDS} words", where="q")
    if text.strip() and not found:
        raise RequestInvalid("must hold a letter or a digit", where="q")
    if dialect == "sqlite":
        return " ".join(f'"{word}"*' for word in found)
    return " & ".join(f"'{word}':*" for word in found)


def _facets_of(dataset: DatasetSummary) -> Collection[str]:
    return {
        *(f"theme:{code(theme)}" for theme in dataset.themes),
        *(f"keyword:{keyword.casefold()}" for keyword in dataset.keywords),
        *(f"format:{format_}" for format_ in dataset.formats),
        *((f"access_rights:{code(dataset.access_rights)}",) if dataset.access_rights else ()),
    }


def _wanted_facets(query: CatalogQuery) -> Collection[str]:
    return _facets_of(
        DatasetSummary(
            id="",
            themes=(query.theme,) if query.theme else (),
            keywords=(query.keyword,) if query.keyword else (),
            formats=(query.format,) if query.format else (),
            access_rights=query.access_rights,
        )
    )


def code(term: str) -> str:
    """A term of the EU's authority tables by its code, `EDUC`, however it was written; others as they are."""
    if term.startswith(_EU_CODES):
        return term.rpartition("/")[2].upper()
    return term if ":" in term else term.upper()


def _counted(facets: Collection[str]) -> str:
    """All but the keywords: there are too many of them to be shown."""
    return json.dumps(sorted(f for f in facets if not f.startswith("keyword:")), ensure_ascii=False)


def _facets(rows: Sequence[Row]) -> Mapping[str, Mapping[str, int]]:
    """Of (participant, counted facets, how many)."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for participant, counted, hits in rows:
        found["participant"][participant] += int(hits)
        for facet in json.loads(counted):
            kind, _, value = facet.partition(":")
            found[kind][value] += int(hits)
    ordered = {kind: sorted(counts.items(), key=lambda c: (-c[1], c[0])) for kind, counts in found.items()}
    return {kind: dict(values[:_MAX_FACET_VALUES]) for kind, values in ordered.items()}


def _cursor(score: int, last: Hit) -> str:
    place = json.dumps([score, last.participant, last.dataset.id]).encode()
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _place(after: str) -> tuple[Parameter, ...]:
    """Parameters of search_index: whether there is one, and score, participant, dataset."""
    if not after:
        return (0, 0, "", "")
    try:
        place: Any = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        score, participant, dataset = place
        if type(score) is int and isinstance(participant, str) and isinstance(dataset, str):
            return (1, score, participant, dataset)
    except (ValueError, TypeError):
        pass
    raise RequestInvalid("is not from an answer of ours", where="after")
