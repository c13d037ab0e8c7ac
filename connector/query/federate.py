"""One statement over several participants: agreements, descriptions, plan, fragments, join, provenance.

Nothing of an answer exists until every fragment has arrived with its provider's signed last word. The
HTTP side (tokens, addresses) is injected; the SQL parser and Arrow are loaded with the first query.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from connector.errors import (
    NotFound,
    NotPermitted,
    PeerProtocolError,
    PeerUnreachable,
    Reason,
    RequestInvalid,
)
from connector.model.fragment import EndRecord, Fragment, HiddenPart
from connector.model.json import JsonObject
from connector.model.token import Actor
from connector.ports import JoinEngine, JoinSession
from connector.query.description import Description, read_description
from connector.query.fetch import IncomingFragment, decode
from connector.query.fragment_sql import fragment_sql
from connector.query.ipc import StreamLimits
from connector.query.running import RunningQuery, SourceProgress, SourceState

if TYPE_CHECKING:
    import pyarrow as pa

    from connector.query.parse import Parameters, Statement, TableName
    from connector.query.plan import Plan, PlannedFragment

T = TypeVar("T")

BATCH_ROWS = 8_192
MAX_BATCH_ROWS = 65_536
FETCH_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An agreement in force: what a dataset is asked under. `actor`: on whose behalf."""

    participant: str
    dataset: str
    agreement_id: str
    purpose: str
    actor: Actor | None = None


Resolve = Callable[[str, str, str, Actor | None], Awaitable[Access | None]]
"""(participant, dataset, purpose, actor) -> the agreement in force for it, or None."""

Describe = Callable[[Access], Awaitable[JsonObject]]
"""The provider's description of the dataset, as its data API gives it."""

OpenStream = Callable[[Access, str, int], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""(access, SQL of the closed grammar, rows per batch) -> the bytes of the provider's answer."""

JwksOf = Callable[[str], Sequence[Mapping[str, Any]]]
"""A participant's public keys, from the registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentProvenance:
    """Where one part of an answer came from; `end` is the provider's verified word on it."""

    participant: str
    dataset: str
    agreement_id: str
    sql: str
    end: EndRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenFrom:
    """What one participant held back, and who enforced it."""

    participant: str
    dataset: str
    part: HiddenPart


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryAnswer:
    """The answer and where it came from. Handing `table` to the user is the disclosure: it is not kept."""

    table: pa.Table
    purpose: str
    fragments: tuple[FragmentProvenance, ...]

    @property
    def participants(self) -> tuple[str, ...]:
        return _distinct(f.participant for f in self.fragments)

    @property
    def agreements(self) -> tuple[str, ...]:
        return _distinct(f.agreement_id for f in self.fragments)

    @property
    def policy_revisions(self) -> Mapping[str, tuple[str, ...]]:
        """By participant; more than one when a policy changed while the parts were fetched."""
        return {
            p: _distinct(f.end.policy_revision for f in self.fragments if f.participant == p)
            for p in self.participants
        }

    @property
    def audit_ids(self) -> Mapping[str, tuple[str, ...]]:
        """By participant: its own records of what it decided for this query."""
        return {
            p: _distinct(f.end.audit_id for f in self.fragments if f.participant == p)
            for p in self.participants
        }

    @property
    def hidden(self) -> tuple[HiddenFrom, ...]:
        return _distinct(
            HiddenFrom(participant=f.participant, dataset=f.dataset, part=part)
            for f in self.fragments
            for part in f.end.hidden
        )

    @property
    def groups_hidden(self) -> int:
        return sum(f.end.groups_hidden for f in self.fragments)

    def without_rows(self) -> QueryAnswer:
        """What may be told of it later on."""
        return replace(self, table=self.table.schema.empty_table())

    @property
    def identified(self) -> bool:
        """Raw identifiers were in it, or pseudonyms that we could undo: an identified disclosure."""
        return any(f.end.identified for f in self.fragments)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedFragment:
    """What one participant would run, and what it holds back; `exposures` of the columns that travel."""

    participant: str
    dataset: str
    agreement_id: str
    sql: str
    columns: tuple[str, ...]
    exposures: Mapping[str, str]
    identified: bool
    key_exchange: bool
    policy_revision: str
    hidden: tuple[HiddenPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`sql` runs at our side over what the fragments bring. No join keys travel between participants."""

    purpose: str
    fragments: tuple[ExplainedFragment, ...]
    sql: str


class Federation:
    """Runs statements for the consumer's own people. Who may ask for which purpose is settled before."""

    def __init__(
        self,
        *,
        resolve: Resolve,
        describe: Describe,
        open_stream: OpenStream,
        jwks_of: JwksOf,
        join_engine: JoinEngine,
        batch_rows: int = BATCH_ROWS,
        fetch_seconds: float = FETCH_SECONDS,
        stream_limits: StreamLimits = StreamLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._resolve = resolve
        self._describe = describe
        self._open_stream = open_stream
        self._jwks_of = jwks_of
        self._join_engine = join_engine
        self._batch_rows = batch_rows
        self._fetch_seconds = fetch_seconds
        self._stream_limits = stream_limits

    async def run(
        self,
        sql: str,
        purpose: str,
        parameters: Parameters = (),
        actor: Actor | None = None,
        query: RunningQuery | None = None,
    ) -> QueryAnswer:
        """`query`: told how far it is.

        Raises SqlInvalid or RequestInvalid (the statement), NotFound (no agreement), NotPermitted (with
        reasons), PeerError (naming the participant): then nothing of the answer was kept.
        """
        prepared = await self._prepare(sql, purpose, parameters, actor)
        async with self._join_engine.session() as session:
            sources = [prepared.progress(part) for part in prepared.plan.fragments]
            if query is not None:
                query.sources = sources
            parts = zip(prepared.plan.fragments, sources, strict=True)
            ends = await _all(self._fetch(part, prepared, session, source) for part, source in parts)
            table = await session.run(prepared.plan.sql, prepared.plan.parameters)
        provenance = zip(prepared.plan.fragments, ends, strict=True)
        return QueryAnswer(
            table=table,
            purpose=purpose,
            fragments=tuple(prepared.provenance(part, end) for part, end in provenance),
        )

    async def explain(
        self, sql: str, purpose: str, parameters: Parameters = (), actor: Actor | None = None
    ) -> Explanation:
        """What `run` would ask of whom. Providers are asked what they show, and for no rows."""
        prepared = await self._prepare(sql, purpose, parameters, actor)
        parts = tuple(prepared.explained(part) for part in prepared.plan.fragments)
        return Explanation(purpose=purpose, fragments=parts, sql=prepared.plan.sql)

    @asynccontextmanager
    async def stream(
        self,
        dataset: str,
        columns: Sequence[str],
        purpose: str,
        batch_rows: int = BATCH_ROWS,
        actor: Actor | None = None,
    ) -> AsyncIterator[IncomingFragment]:
        """Rows of `participant.dataset` as they come, with backpressure to the source; no join.

        No `columns` means every column shown. What is read counts only when the iteration ends without
        an exception.
        """
        if not 1 <= batch_rows <= MAX_BATCH_ROWS:
            raise RequestInvalid(f"between 1 and {MAX_BATCH_ROWS}", where="batchRows")
        participant, _, name = dataset.partition(".")
        access = await self._access(participant, name, purpose, actor)
        description = await self._description(access)
        fragment = _projection(description, columns)
        async with self._open_stream(access, fragment_sql(fragment), batch_rows) as chunks:
            incoming = self._incoming(chunks, participant)
            _require_columns(await incoming.schema(), fragment.columns, participant)
            yield incoming

    async def _prepare(
        self, sql: str, purpose: str, parameters: Parameters, actor: Actor | None
    ) -> _Prepared:
        # in a thread: loading the parser, and a long statement, would hold up everybody else's requests
        statement = await asyncio.to_thread(_parsed, sql, parameters)
        accesses = await self._accesses(statement, purpose, actor)
        found = await _all(self._description(access) for access in accesses.values())
        descriptions = dict(zip(accesses, found, strict=True))
        return _Prepared(accesses, descriptions, await asyncio.to_thread(_planned, statement, descriptions))

    async def _accesses(
        self, statement: Statement, purpose: str, actor: Actor | None
    ) -> dict[TableName, Access]:
        tables = statement.tables
        found = await _all(self._access(t.participant, t.dataset, purpose, actor) for t in tables)
        return dict(zip(tables, found, strict=True))

    async def _access(self, participant: str, dataset: str, purpose: str, actor: Actor | None) -> Access:
        access = await self._resolve(participant, dataset, purpose, actor)
        if access is None:
            raise NotFound(
                f"There is no agreement in force on {participant}.{dataset} for {purpose}.",
                mend=f"Ask for access: `connector request {participant}.{dataset} --purpose {purpose}`.",
            )
        return access

    async def _description(self, access: Access) -> Description:
        wire = await self._describe(access)
        return read_description(
            wire, participant=access.participant, dataset=access.dataset, agreement=access.agreement_id
        )

    async def _fetch(
        self, part: PlannedFragment, prepared: _Prepared, session: JoinSession, source: SourceProgress
    ) -> EndRecord:
        """One fragment into its table. Chunks are pulled as the session takes them: that is the bound."""
        participant = part.table.participant
        opened = self._open_stream(prepared.accesses[part.table], part.sql, self._batch_rows)
        try:
            async with asyncio.timeout(self._fetch_seconds), opened as chunks:
                incoming = self._incoming(chunks, participant)
                schema = await incoming.schema()
                _require_columns(schema, part.outputs, participant)
                await session.land(participant, part.landing, schema, _counted(incoming, source))
        except TimeoutError:
            text = f"it had not answered in full after {self._fetch_seconds:g} seconds"
            raise PeerUnreachable(text, participant=participant) from None
        source.state = SourceState.DONE
        return incoming.end

    def _incoming(self, chunks: AsyncIterator[bytes], participant: str) -> IncomingFragment:
        return decode(chunks, participant, self._jwks_of(participant), self._stream_limits)


@dataclass(frozen=True, slots=True)
class _Prepared:
    accesses: Mapping[TableName, Access]
    descriptions: Mapping[TableName, Description]
    plan: Plan

    def provenance(self, part: PlannedFragment, end: EndRecord) -> FragmentProvenance:
        access = self.accesses[part.table]
        return FragmentProvenance(
            participant=access.participant,
            dataset=access.dataset,
            agreement_id=access.agreement_id,
            sql=part.sql,
            end=end,
        )

    def progress(self, part: PlannedFragment) -> SourceProgress:
        access = self.accesses[part.table]
        return SourceProgress(
            participant=access.participant, dataset=access.dataset, agreement_id=access.agreement_id
        )

    def explained(self, part: PlannedFragment) -> ExplainedFragment:
        access, description = self.accesses[part.table], self.descriptions[part.table]
        shown = {name: c.exposure for name, c in description.columns.items() if name in part.outputs}
        return ExplainedFragment(
            participant=access.participant,
            dataset=access.dataset,
            agreement_id=access.agreement_id,
            sql=part.sql,
            columns=part.outputs,
            exposures=shown,
            identified=description.identified,
            key_exchange=description.key_exchange,
            policy_revision=description.policy_revision,
            hidden=description.hidden,
        )


def _projection(description: Description, columns: Sequence[str]) -> Fragment:
    name = f"{description.participant}.{description.dataset}"
    missing = [column for column in columns if column not in description.columns]
    if missing:
        text = f"{name} shows no column {missing[0]!r}; it shows {', '.join(description.columns)}."
        raise NotPermitted([Reason(code="column_not_exposed", text=text, source=description.participant)])
    if not description.shows_rows:
        text = f"{name} shows no rows, only groups of at least {description.min_group_size} persons."
        raise NotPermitted([Reason(code="aggregate_only", text=text, source=description.participant)])
    return Fragment(
        dataset_id=description.dataset, columns=tuple(dict.fromkeys(columns or description.columns))
    )


async def _counted(incoming: IncomingFragment, source: SourceProgress) -> AsyncIterator[pa.RecordBatch]:
    source.state = SourceState.READING
    async for batch in incoming:
        source.rows += batch.num_rows
        yield batch


def _require_columns(schema: pa.Schema, asked: Sequence[str], participant: str) -> None:
    """A provider that answers something else than it was asked is not to be interpreted."""
    if tuple(schema.names) != tuple(asked):
        raise PeerProtocolError(
            "it answered with other columns than it was asked for", participant=participant
        )


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them at once; when one fails the others are cancelled, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _distinct(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


def _parsed(sql: str, parameters: Parameters) -> Statement:
    from connector.query.parse import parse

    return parse(sql, parameters)


def _planned(statement: Statement, descriptions: Mapping[TableName, Description]) -> Plan:
    from connector.query.plan import plan

    return plan(statement, descriptions)
