"""Queries of our own people: agreements resolved, providers asked, on record before anybody hears of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from connector.access.audit import Auditor
from connector.access.peers import Peers
from connector.access.purposes import PurposeTree
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.json import JsonObject, from_rfc3339
from connector.model.negotiation import Role
from connector.model.person import Person, PersonRole
from connector.model.policy import AgreementState
from connector.model.token import SCOPE_DATA, Actor, AuthorizationDetail
from connector.model.transfer import TransferState
from connector.ports import Clock, JoinEngine, Store
from connector.query.answers import rows
from connector.query.federate import Access, Explanation, Federation, QueryAnswer
from connector.query.running import RunningQueries, RunningQuery

if TYPE_CHECKING:
    from connector.query.parse import Parameters

ACTION = "query"


class Queries:
    """Who may ask for which purpose is settled before; what may be had, by the providers."""

    def __init__(
        self,
        *,
        store: Store,
        peers: Peers,
        auditor: Auditor,
        purposes: PurposeTree,
        join_engine: JoinEngine,
        batch_rows: int,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._peers = peers
        self._auditor = auditor
        self._purposes = purposes
        self.running = RunningQueries(clock)
        self.new_id = new_id
        self._federation = Federation(
            resolve=self._resolve,
            describe=self._describe,
            open_stream=self._open_stream,
            jwks_of=lambda participant: self._peers.participant(participant).jwks,
            join_engine=join_engine,
            batch_rows=batch_rows,
        )

    async def run(
        self, sql: str, purpose: str, parameters: Parameters, person: Person, query_id: str
    ) -> QueryAnswer:
        """Raises what `Federation.run` does; Conflict where the id is taken or the query was cancelled."""

        async def work(query: RunningQuery) -> QueryAnswer:
            actor = await self._asked(sql, purpose, person)
            answer = await self._federation.run(sql, purpose, parameters, actor, query)
            query.answer = answer.without_rows()
            return answer

        return await self.running.run(query_id, person.subject, purpose, work)

    async def explain(self, sql: str, purpose: str, parameters: Parameters, person: Person) -> Explanation:
        return await self._federation.explain(sql, purpose, parameters, self.actor_of(person))

    async def stream(
        self, dataset: str, columns: Sequence[str], purpose: str, batch_rows: int, person: Person
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Lines {rows, writtenAt}, then {end}. Rows count only once the end has come."""
        actor = await self._asked(f"{dataset}: {', '.join(columns)}", purpose, person)

        async def lines() -> AsyncIterator[Mapping[str, Any]]:
            async with self._federation.stream(dataset, columns, purpose, batch_rows, actor) as fragment:
                async for batch in fragment:
                    written_at = from_rfc3339(fragment.made_at).timestamp() if fragment.made_at else None
                    yield {"rows": rows(batch), "writtenAt": written_at}
            end = fragment.end
            yield {"end": {"rows": end.rows, "auditId": end.audit_id, "identified": end.identified}}

        return lines()

    # --- what the federation needs from outside ----------------------------------------------------

    async def _resolve(
        self, participant: str, dataset: str, purpose: str, actor: Actor | None
    ) -> Access | None:
        """The newest agreement in force with a started transfer, made for this purpose or a wider one."""
        wanted = set(self._purposes.ancestors(purpose))
        async with self._store.transaction(read_only=True) as tx:
            held = [
                a
                for a in await tx.agreements(counter_party=participant)
                if a.role is Role.CONSUMER
                and a.state is AgreementState.ACTIVE
                and a.agreement.target == dataset
                and wanted & a.agreement.policy.values_of("purpose")
            ]
            for record in sorted(held, key=lambda a: a.agreement.timestamp, reverse=True):
                for transfer in await tx.transfers(agreement_id=record.agreement.id):
                    started = transfer.state is TransferState.STARTED
                    if started and transfer.format is TransferFormat.FEDERATED_QUERY_PULL:
                        return Access(
                            participant=participant,
                            dataset=dataset,
                            agreement_id=record.agreement.id,
                            purpose=purpose,
                            actor=actor,
                        )
        return None

    async def _describe(self, access: Access) -> JsonObject:
        provider = self._peers.participant(access.participant)
        url = f"{provider.data_url}/datasets/{quote(access.dataset, safe='')}"
        found: JsonObject = await self._peers.call(
            provider,
            "GET",
            url,
            resource=provider.data_url,
            scope=SCOPE_DATA,
            detail=_detail(access),
            actor=access.actor,
        )
        return found

    def _open_stream(
        self, access: Access, sql: str, batch_rows: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        provider = self._peers.participant(access.participant)
        return self._peers.stream(
            provider,
            f"{provider.data_url}/datasets/{quote(access.dataset, safe='')}/query",
            resource=provider.data_url,
            scope=SCOPE_DATA,
            detail=_detail(access),
            actor=access.actor,
            body={"sql": sql, "batchRows": batch_rows},
        )

    # --- who asks ------------------------------------------------------------------------------------

    def actor_of(self, person: Person) -> Actor:
        """Our own opaque name for the person, and the role in which they ask; nothing else is told."""
        role = PersonRole.CASE_WORKER if PersonRole.CASE_WORKER in person.roles else PersonRole.ANALYST
        name = self._auditor.statement_hash(f"person:{person.subject}")[:32]
        return Actor(subject=name, kind=role.value)

    async def _asked(self, statement: str, purpose: str, person: Person) -> Actor:
        """On record at our side before anybody else hears of it."""
        actor = self.actor_of(person)
        await self._auditor.record(
            AuditEvent.QUERY_ASKED,
            on_behalf_of=actor.subject,
            purpose=purpose,
            statement=self._auditor.statement_hash(statement),
        )
        return actor


def _detail(access: Access) -> AuthorizationDetail:
    return AuthorizationDetail(
        agreement_id=access.agreement_id,
        dataset_id=access.dataset,
        actions=frozenset({ACTION}),
        purpose=access.purpose,
    )
