"""Queries of our own people: agreements resolved, providers asked, the answer with its provenance as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from connector.access.audit import Auditor
from connector.access.peers import Peers
from connector.access.purposes import PurposeTree
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.json import JsonObject, from_rfc3339, to_rfc3339
from connector.model.negotiation import Role
from connector.model.person import Person, PersonRole
from connector.model.policy import AgreementState
from connector.model.token import SCOPE_DATA, Actor, AuthorizationDetail
from connector.model.transfer import TransferState
from connector.ports import JoinEngine, Store
from connector.query.federate import Access, Explanation, Federation, FragmentProvenance, QueryAnswer

if TYPE_CHECKING:
    import pyarrow as pa

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
    ) -> None:
        self._store = store
        self._peers = peers
        self._auditor = auditor
        self._purposes = purposes
        self._federation = Federation(
            resolve=self._resolve,
            describe=self._describe,
            open_stream=self._open_stream,
            jwks_of=lambda participant: self._peers.participant(participant).jwks,
            join_engine=join_engine,
            batch_rows=batch_rows,
        )

    async def run(self, sql: str, purpose: str, parameters: Sequence[Any], person: Person) -> dict[str, Any]:
        actor = await self._asked(sql, purpose, person)
        answer = await self._federation.run(sql, purpose, parameters, actor)
        return _answer(answer)

    async def explain(
        self, sql: str, purpose: str, parameters: Sequence[Any], person: Person
    ) -> dict[str, Any]:
        found = await self._federation.explain(sql, purpose, parameters, self.actor_of(person))
        return _explanation(found)

    async def stream(
        self, dataset: str, columns: Sequence[str], purpose: str, batch_rows: int, person: Person
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Lines {rows, writtenAt}, then {end}. Rows count only once the end has come."""
        actor = await self._asked(f"{dataset}: {', '.join(columns)}", purpose, person)

        async def lines() -> AsyncIterator[Mapping[str, Any]]:
            async with self._federation.stream(dataset, columns, purpose, batch_rows, actor) as fragment:
                async for batch in fragment:
                    written_at = from_rfc3339(fragment.made_at).timestamp() if fragment.made_at else None
                    yield {"rows": _rows(batch), "writtenAt": written_at}
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


# --- JSON ----------------------------------------------------------------------------------------------


def _answer(answer: QueryAnswer) -> dict[str, Any]:
    return {
        "columns": list(answer.table.column_names),
        "rows": _rows(answer.table),
        "purpose": answer.purpose,
        "identified": answer.identified,
        "provenance": [_provenance(f) for f in answer.fragments],
        "hidden": [
            {
                "participant": h.participant,
                "dataset": h.dataset,
                "what": h.part.what,
                "why": h.part.why,
                "enforcedBy": h.part.enforced_by,
            }
            for h in answer.hidden
        ],
    }


def _provenance(part: FragmentProvenance) -> dict[str, Any]:
    return {
        "participant": part.participant,
        "dataset": part.dataset,
        "agreement": part.agreement_id,
        "sql": part.sql,
        "rows": part.end.rows,
        "policyRevision": part.end.policy_revision,
        "auditId": part.end.audit_id,
        "groupsHidden": part.end.groups_hidden,
    }


def _explanation(found: Explanation) -> dict[str, Any]:
    return {
        "purpose": found.purpose,
        "sql": found.sql,
        "fragments": [
            {
                "participant": f.participant,
                "dataset": f.dataset,
                "agreement": f.agreement_id,
                "sql": f.sql,
                "columns": {name: f.exposures.get(name, "computed") for name in f.columns},
                "identified": f.identified,
                "policyRevision": f.policy_revision,
            }
            for f in found.fragments
        ],
        "hidden": [
            {
                "participant": f.participant,
                "dataset": f.dataset,
                "what": h.what,
                "why": h.why,
                "enforcedBy": h.enforced_by,
            }
            for f in found.fragments
            for h in f.hidden
        ],
    }


def _rows(table: pa.Table | pa.RecordBatch) -> list[list[Any]]:
    columns = [[_json(v) for v in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _json(value: Any) -> Any:
    match value:
        case datetime():
            return to_rfc3339(value) if value.tzinfo else value.isoformat()
        case date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case list():
            return [_json(v) for v in value]
        case dict():
            return {str(k): _json(v) for k, v in value.items()}
        case _:
            return value
