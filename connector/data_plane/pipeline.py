"""The way of the data, and the only module that joins its stages.

1 identity      done at the door: verified claims, a participant
2 grant         everything it stands on is live, now            access/admission.py
3 decision      policy + consent -> Permit, on record           access/admission.py
4 statement     closed grammar; the persons it names agreed     data_plane/fragment.py
5 source        the policy relation, run read-only              data_plane/render.py
6 obligations   masks, pseudonyms, small groups, limits         data_plane/obligations.py
7 transport     written under the grant's epoch; end record     data_plane/transport.py
8 outcome       ledger and audit                                access/ledger.py, access/audit.py
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from connector.access.admission import Admission, Disclosures, LiveGrant
from connector.access.audit import Auditor
from connector.access.grants import EpochBoard, GrantWatch
from connector.data_plane import explain, obligations, transport
from connector.data_plane.columns import Pseudonymisers
from connector.data_plane.fragment import named_subjects, parse_fragment, whole_view
from connector.data_plane.render import RenderedQuery, render
from connector.data_plane.rows import RowWriter
from connector.errors import GrantStopped, NotPermitted, Reason, TokenRejected
from connector.model.audit import AuditEvent
from connector.model.catalog import Dataset, TransferFormat
from connector.model.consent import ConsentSet
from connector.model.decision import Permit, Revisions
from connector.model.fragment import EndRecord, Fragment
from connector.model.token import DataClaims
from connector.ports import Clock, Source

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "query"


class ConsentSets(Protocol):
    async def valid_set(self, purpose: str, recipient: str) -> ConsentSet: ...


@dataclass(slots=True)
class Written:
    """What has left so far."""

    rows: int = 0
    bytes: int = 0
    groups_hidden: int = 0
    subjects: set[str] = field(default_factory=set)

    def add(self, leaving: obligations.Leaving) -> None:
        self.rows += leaving.batch.num_rows
        self.bytes += leaving.batch.nbytes
        self.subjects.update(leaving.subjects)


@dataclass(slots=True)
class Running:
    """One fragment on its way: decided, not yet written. Changes when a moved epoch is decided anew."""

    live: LiveGrant
    permit: Permit
    fragment: Fragment
    rendered: RenderedQuery
    pseudonymisers: Pseudonymisers
    audit_id: str
    statement: str
    batch_rows: int
    consenting: ConsentSet | None
    claims: DataClaims
    written: Written = field(default_factory=Written)
    outcome_recorded: bool = False


class Pipeline:
    def __init__(
        self,
        *,
        participant_id: str,
        clock: Clock,
        admission: Admission,
        board: EpochBoard,
        auditor: Auditor,
        consents: ConsentSets,
        disclosures: Disclosures,
        pseudonymisers: Callable[[LiveGrant, Permit], Awaitable[Pseudonymisers]],
        source_of: Callable[[Dataset], Source],
        sign_end: Callable[[EndRecord], str],
        is_revoked: Callable[[DataClaims], bool],
    ) -> None:
        self._participant_id = participant_id
        self._clock = clock
        self._admission = admission
        self._board = board
        self._auditor = auditor
        self._consents = consents
        self._disclosures = disclosures
        self._pseudonymisers = pseudonymisers
        self._source_of = source_of
        self._sign_end = sign_end
        self._is_revoked = is_revoked

    async def describe(self, claims: DataClaims, dataset_id: str) -> dict[str, Any]:
        """What this token may see of the dataset. Raises NotPermitted, GrantStopped."""
        live = await self._live(claims, dataset_id)
        async with self._admission.refusals_on_record(live, AuditEvent.QUERY_DECIDED, actor=claims.actor):
            permit = await self._admission.decide(live, STAGE, actor=claims.actor)
        return explain.describe(
            live.dataset, permit, live.grant, self._participant_id, permit.revisions.policy
        )

    async def prepare(self, claims: DataClaims, dataset_id: str, *, sql: str, batch_rows: int) -> Running:
        """Steps 2 to 4; the decision is on record when this returns. Raises what a consumer may be told."""
        live = await self._live(claims, dataset_id, TransferFormat.FEDERATED_QUERY_PULL)
        return await self._prepare(live, claims, sql, batch_rows, partial(parse_fragment, sql))

    async def prepare_view(self, claims: DataClaims, dataset_id: str, *, batch_rows: int) -> Running:
        """The same for all that the permit shows of the dataset."""
        live = await self._live(claims, dataset_id, TransferFormat.HTTP_DATA_PULL)
        return await self._prepare(live, claims, f"VIEW {dataset_id}", batch_rows, whole_view)

    async def _prepare(
        self,
        live: LiveGrant,
        claims: DataClaims,
        sql: str,
        batch_rows: int,
        fragment_of: Callable[[Dataset, Permit], Fragment],
    ) -> Running:
        event = AuditEvent.QUERY_DECIDED
        async with self._admission.refusals_on_record(live, event, statement=sql, actor=claims.actor):
            permit = await self._admission.decide(live, STAGE, actor=claims.actor)
            fragment = fragment_of(live.dataset, permit)
            consenting = await self._consenting(permit)
            _require_consent_of_named(fragment, live.dataset, permit, consenting)
            pseudonymisers = await self._pseudonymisers(live, permit)
            source = self._source_of(live.dataset)
            rendered = render(
                fragment,
                live.dataset,
                permit,
                dialect=source.dialect,
                relation=source.relation,
                consenting=sorted(consenting.keys) if consenting else None,
                pseudonymisers=pseudonymisers,
            )
        receipt = await self._admission.on_record(live, event, permit, statement=sql, actor=claims.actor)
        return Running(
            live=live,
            permit=permit,
            fragment=fragment,
            rendered=rendered,
            pseudonymisers=pseudonymisers,
            audit_id=receipt.audit_id,
            statement=sql,
            batch_rows=batch_rows,
            consenting=consenting,
            claims=claims,
        )

    @contextmanager
    def watched(self, running: Running, cancel: Callable[[], object]) -> Iterator[GrantWatch]:
        """Register the stream with the stop signal; `cancel` ends the task that writes it."""
        with self._board.watch(running.live.grant, cancel) as watch:
            yield watch

    def chunks(self, running: Running, watch: GrantWatch) -> AsyncGenerator[bytes, None]:
        """Steps 5 to 8: the bytes of the answer. Close the iterator when its writing ends early."""

        async def finish(rows: int, digest: str, error: str) -> str:
            await self._outcome(running, rows, "stopped" if watch.cancelled else error or "complete")
            return self._sign_end(self._end_record(running, rows, digest, error))

        batches = self._batches(running, watch)
        return transport.encode(running.rendered.schema(), batches, finish, self._clock.now)

    def texts(self, running: Running, watch: GrantWatch, writer: RowWriter) -> AsyncGenerator[bytes, None]:
        """`chunks` as text. Raises what stopped it: then the answer must be seen to break off."""

        async def finish(rows: int, _digest: str, error: str) -> str:
            await self._outcome(running, rows, "stopped" if watch.cancelled else error or "complete")
            return ""

        batches = self._batches(running, watch)
        return transport.encode_rows(running.rendered.schema(), batches, writer, finish)

    async def never_begun(self, running: Running) -> None:
        """Where no outcome is on record yet, the consumer left before the first byte: that is the outcome."""
        await self._outcome(running, 0, "consumer_left")

    async def _batches(self, running: Running, watch: GrantWatch) -> AsyncIterator[pa.RecordBatch]:
        source = self._source_of(running.live.dataset)
        raw = source.execute(running.rendered.query, batch_rows=running.batch_rows)
        try:
            async for batch in raw:
                while watch.moved or self._ran_out(running):
                    await self._decide_anew(running, watch)
                done = obligations.apply(
                    running.rendered,
                    batch,
                    running.pseudonymisers,
                    still_consenting=running.consenting.keys if running.consenting else None,
                )
                running.written.groups_hidden += done.groups_hidden
                if done.batch.num_rows:
                    running.written.add(done)
                    obligations.require_within(
                        running.rendered.limits, rows=running.written.rows, size_bytes=running.written.bytes
                    )
                    # from the check, with no await between, until it is written
                    with watch.writing(None if running.fragment.aggregated else done.subjects):
                        yield done.batch
            if watch.moved and running.fragment.aggregated:
                await self._decide_anew(running, watch)
        finally:
            await raw.aclose()  # type: ignore[attr-defined]  # an async generator, closed to cancel

    async def _decide_anew(self, running: Running, watch: GrantWatch) -> None:
        """The epoch moved. Rows: go on with those who may still be shown. Aggregates: start over."""
        if self._is_revoked(running.claims):
            raise GrantStopped("the access token was revoked", code="token_revoked")
        live = await self._admission.load(running.live.grant.id)
        event = AuditEvent.QUERY_DECIDED
        async with self._admission.refusals_on_record(
            live, event, statement=running.statement, actor=running.claims.actor
        ):
            permit = await self._admission.decide(live, STAGE, actor=running.claims.actor)
            consenting = await self._consenting(permit)
            _require_consent_of_named(running.fragment, live.dataset, permit, consenting)
        if _shape(permit) != _shape(running.permit):
            raise GrantStopped("the policy has changed; ask again", code="policy_changed", retryable=True)
        if running.fragment.aggregated and permit.consent:
            raise GrantStopped("a consent has changed; ask again", code="consent_changed", retryable=True)
        await self._admission.on_record(
            live,
            event,
            permit,
            statement=running.statement,
            refers=running.audit_id,
            actor=running.claims.actor,
        )
        running.live, running.permit, running.consenting = live, permit, consenting
        watch.decided(live.grant)

    def _ran_out(self, running: Running) -> bool:
        until = running.consenting.good_until if running.consenting else None
        return until is not None and self._clock.now() >= until

    async def _live(
        self, claims: DataClaims, dataset_id: str, format_: TransferFormat | None = None
    ) -> LiveGrant:
        """`format_`: the grant must be for this way of access."""
        detail = claims.detail
        if detail is None or not detail.grant_id:
            raise TokenRejected("The token names no agreement.")
        live = await self._admission.load(detail.grant_id)
        grant = live.grant
        stated = (claims.subject, detail.agreement_id, detail.dataset_id, detail.purpose, dataset_id)
        if stated != (grant.consumer, grant.agreement_id, grant.dataset_id, grant.purpose, grant.dataset_id):
            raise TokenRejected("The token is not for this dataset.")
        if format_ not in (None, grant.format):
            raise TokenRejected("The token is for another way of access.")
        return live

    async def _consenting(self, permit: Permit) -> ConsentSet | None:
        """Everybody whose consent meets every requirement; None where the permit asks for none."""
        found: ConsentSet | None = None
        for need in permit.consent:
            one = await self._consents.valid_set(need.purpose, need.recipient)
            found = one if found is None else found.intersect(one)
        return found

    async def _outcome(self, running: Running, rows: int, outcome: str) -> None:
        if running.outcome_recorded:
            return
        running.outcome_recorded = True
        live, grant = running.live, running.live.grant
        ledger = await self._disclosures.disclose(
            live, running.audit_id, running.written.subjects, running.written.rows
        )
        await self._auditor.record(
            AuditEvent.QUERY_ENDED,
            actor=grant.consumer,
            object=grant.dataset_id,
            purpose=grant.purpose,
            agreement=grant.agreement_id,
            transfer=grant.transfer_pid,
            grant=grant.id,
            epoch=grant.epoch,
            outcome=outcome,
            rows=rows,
            subjects=len(running.written.subjects),
            groups_hidden=running.written.groups_hidden or None,
            identified=running.permit.identified,
            ledger=ledger,
            refers=running.audit_id,
        )

    def _end_record(self, running: Running, rows: int, digest: str, error: str) -> EndRecord:
        return EndRecord(
            rows=rows,
            digest=digest,
            audit_id=running.audit_id,
            grant_id=running.live.grant.id,
            policy_revision=running.permit.revisions.policy,
            identified=running.permit.identified,
            groups_hidden=running.written.groups_hidden,
            hidden=explain.hidden_parts(running.live.dataset, running.permit, self._participant_id),
            error=error,
        )


def _require_consent_of_named(
    fragment: Fragment, dataset: Dataset, permit: Permit, consenting: ConsentSet | None
) -> None:
    """The answer is the same whether or not the register knows the person: nothing is learned from it."""
    if not permit.subjects_named:
        return
    named = named_subjects(fragment, dataset)
    if not named:
        text = "Name the persons one by one: this agreement opens no list of persons."
        raise NotPermitted([Reason(code="subjects_not_named", text=text, source="offer")])
    if consenting is not None and not consenting.keys.issuperset(named):
        purpose = ", ".join(sorted({c.purpose for c in permit.consent}))
        text = f"A person named has given no valid consent to {purpose} by this recipient."
        raise NotPermitted([Reason(code="consent_missing", text=text, source="consent register")])


def _shape(permit: Permit) -> Permit:
    return replace(permit, revisions=Revisions(), expires_at=None)
