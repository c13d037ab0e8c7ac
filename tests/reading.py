"""kela's data API on a real socket, over an agreement with youth; transfers start and stop by its own control
plane, and what youth is told of them is kept. A client of bare sockets sees whether an answer was whole."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import uvicorn
from fastapi import FastAPI, Request

from connector.access.bearer import Bearers
from connector.access.revocation import RevokedTokens
from connector.control_plane.outbox import Backoff, OutboxWorker
from connector.control_plane.product_hooks import ProductTransferHook
from connector.control_plane.transfer import Transfers
from connector.control_plane.unit import Environment
from connector.data_plane.columns import arrow_schema
from connector.data_plane.pipeline import Pipeline
from connector.dsp.messages import TransferRequestMessage
from connector.errors import ConnectorError, TokenRejected
from connector.model.catalog import Dataset, TransferFormat
from connector.model.decision import Permit
from connector.model.json import JsonObject
from connector.model.participant import Participant
from connector.model.token import AuthorizationDetail, VerifiedClaims
from connector.model.transfer import Grant, TransferProcess
from connector.ports import OutboxMessage, SourceQuery
from connector.web.auth import reader_auth
from connector.web.data import data_router
from connector.web.errors import on_connector_error
from tests.agreed import CONSUMER, PERSONS, PROVIDER, Agreed, answer, benefits, record, until
from tests.clocks import ManualClock
from tests.fakes import MemoryStore, State

HTTP = TransferFormat.HTTP_DATA_PULL
PATH = "/data/v1/http/benefits"


@dataclass
class Register:
    """A source of `batches` batches, each with a row per person; None: without an end."""

    batches: int | None = 1
    persons: Sequence[str] = PERSONS
    rows_of_each: int = 1
    asked: int = 0
    closed: int = 0
    failure: Exception | None = None
    fail_after: int = 0
    dialect: str = "sqlite"
    relation: str = '"benefits"'

    async def schema(self) -> Sequence[Any]:
        raise NotImplementedError

    async def execute(self, query: SourceQuery, *, batch_rows: int) -> AsyncIterator[pa.RecordBatch]:
        people = [p for p in self.persons for _ in range(self.rows_of_each)]
        consenting = query.key_lists.get("__consenting")
        shown = [p for p in people if consenting is None or p in consenting]
        values = {"hetu": shown, "status": [f"paid {p[:6]}" for p in shown], "__subject": shown}
        made = 0
        try:
            while self.batches is None or made < self.batches:
                if self.failure is not None and made == self.fail_after:
                    raise self.failure
                made += 1
                self.asked += 1
                columns = [pa.array(values[f.name], pa.string()) for f in query.result]
                yield pa.RecordBatch.from_arrays(columns, schema=arrow_schema(query.result))
                await asyncio.sleep(0)
        finally:
            self.closed += 1

    async def close(self) -> None: ...


class Shown:
    """Stands for pseudonyms: what leaves is not what was read. `left`: the persons, as they leave."""

    def __init__(self, left: list[str]) -> None:
        self._left = left

    def apply(self, values: Sequence[str | None]) -> list[str | None]:
        self._left.extend(v for v in values if v is not None)
        return [None if v is None else f"p-{PERSONS.index(v)}" for v in values]


class NoLedger:
    def __init__(self) -> None:
        self.disclosed: list[tuple[str, frozenset[str], int]] = []

    async def disclose(self, _live: Any, audit_id: str, subjects: Iterable[str], rows: int) -> str:
        self.disclosed.append((audit_id, frozenset(subjects), rows))
        return "ledger-entry" if subjects else ""


class Reading(Agreed):
    """`listed`: plain DSP peers. `told`: the messages that youth got, in order. `left`: whose rows left."""

    def __init__(self, listed: Sequence[str] = (CONSUMER,), clock: ManualClock | None = None) -> None:
        super().__init__(clock=clock)
        self.datasets = {"benefits": benefits(formats=(HTTP, TransferFormat.FEDERATED_QUERY_PULL))}
        self.register = Register()
        self.told: list[JsonObject] = []
        self.ledger = NoLedger()
        self.left: list[str] = []
        self.bearers = Bearers(
            store=self.store,
            admission=self.admission,
            auditor=self.auditor,
            new_token=lambda: secrets.token_urlsafe(32),
            peers=listed,
        )
        self.environment = Environment(
            store=self.store,
            clock=self.clock,
            new_id=self.new_id,
            participant_id=PROVIDER,
            base_url=self.provider.base_url,
            wake=asyncio.Event(),
            on_grants_changed=self.board.publish,
        )
        hook = ProductTransferHook(
            store=self.store,
            clock=self.clock,
            catalogue=lambda: self.datasets,
            base_url=self.provider.base_url,
            bearers=self.bearers,
        )
        self.transfers = Transfers(self.environment, hook=hook, bearers=self.bearers)
        self.worker = OutboxWorker(
            store=self.store,
            clock=self.clock,
            wake=self.environment.wake,
            senders={"transfer": self.transfers},
            deliver=self._deliver,
            audit=self.auditor.record,
            chance=lambda: 0.0,
            name="worker",
            backoff=Backoff(attempts=2),
        )
        self.revoked = RevokedTokens(self.store, self.clock)
        self.pipeline = Pipeline(
            participant_id=PROVIDER,
            clock=self.clock,
            admission=self.admission,
            board=self.board,
            auditor=self.auditor,
            consents=self.consents,
            disclosures=self.ledger,
            pseudonymisers=self._pseudonymisers,
            source_of=self._source_of,
            sign_end=lambda _record: "signed",
            is_revoked=self.revoked.__contains__,
        )

    async def set_up(self) -> Reading:
        async with self.store.transaction() as tx:
            await tx.save_agreement(record())
        await self.consents.import_answers([answer(p) for p in PERSONS])
        return self

    @property
    def state(self) -> State:
        assert isinstance(self.store, MemoryStore)
        return self.store.state

    @property
    def provider(self) -> Participant:
        return self.registry.participants[PROVIDER]

    async def _deliver(self, message: OutboxMessage) -> JsonObject | None:
        self.told.append(message.body)
        return None

    async def _pseudonymisers(self, _live: Any, _permit: Permit) -> Mapping[str, Any]:
        return {"hetu": Shown(self.left)}

    def _source_of(self, _dataset: Dataset) -> Any:
        return self.register

    # --- youth's side of it -------------------------------------------------------------------------------

    async def request(self, consumer_pid: str = "urn:t", **changes: Any) -> TransferProcess:
        """Asked for, and answered."""
        values: dict[str, Any] = {
            "id": f"urn:m:{consumer_pid}",
            "consumer_pid": consumer_pid,
            "agreement_id": "a1",
            "format": HTTP.value,
            "callback_address": self.consumer.dsp_url,
        }
        message = TransferRequestMessage(**{**values, **changes})
        made, _ = await self.transfers.receive_request(self.consumer, message)
        await self.settle()
        return await self.transfers.get(made.pid)

    async def settle(self) -> None:
        while await self.worker.step(limit=10):
            pass

    @property
    def address(self) -> JsonObject:
        """Of the latest start message."""
        starts = [m["dataAddress"] for m in self.told if m["@type"] == "TransferStartMessage"]
        found: JsonObject = starts[-1]
        return found

    @property
    def token(self) -> str:
        told = {p["name"]: p["value"] for p in self.address["endpointProperties"]}
        assert told["authType"] == "bearer"
        return str(told["authorization"])

    # --- the door -----------------------------------------------------------------------------------------

    async def _authenticate(self, request: Request) -> tuple[Participant, VerifiedClaims]:
        """Stands for DPoP: the token is `<grant's id>~<its own id>`, its proof is somebody else's test."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        grant_id, _, token_id = token.partition("~")
        async with self.store.transaction(read_only=True) as tx:
            grant = await tx.grant(grant_id)
        if scheme != "DPoP" or grant is None:
            raise TokenRejected("The access token was not accepted.")
        return self.consumer, self.claims(grant, token_id)

    def claims(self, grant: Grant, token_id: str = "") -> VerifiedClaims:
        detail = AuthorizationDetail(
            agreement_id=grant.agreement_id,
            dataset_id=grant.dataset_id,
            actions=frozenset({"read"}),
            purpose=grant.purpose,
            grant_id=grant.id,
        )
        return VerifiedClaims(
            issuer=self.provider.base_url,
            subject=CONSUMER,
            client_id=CONSUMER,
            audience=self.provider.data_url,
            token_id=token_id,
            issued_at=self.clock.now(),
            expires_at=self.clock.now(),
            scope=frozenset({"data"}),
            key_thumbprint="k",
            detail=detail,
        )

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_exception_handler(ConnectorError, on_connector_error)
        readers = reader_auth(self._authenticate, self.bearers)
        app.include_router(data_router(self.pipeline, self._authenticate, readers, default_batch_rows=100))
        return app


# --- a client of bare sockets -----------------------------------------------------------------------------


@dataclass
class Answer:
    """`whole`: whether HTTP itself says that the body is complete."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    whole: bool = False


@dataclass
class Client:
    """One request per connection."""

    port: int

    @asynccontextmanager
    async def opened(
        self, *headers: str, path: str = PATH, version: str = "1.1", method: str = "GET", body: str = ""
    ) -> AsyncIterator[tuple[Answer, asyncio.StreamReader]]:
        """The answer's head, and what follows it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**16)
        try:
            lines = [f"{method} {path} HTTP/{version}", "Host: kela.example", *headers, "", body]
            writer.write("\r\n".join(lines).encode("latin-1"))
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            named = (line.split(": ", 1) for line in head[1:] if line)
            yield Answer(int(head[0].split()[1]), {n.lower(): v for n, v in named}), reader
        finally:
            writer.close()

    async def get(self, *headers: str, path: str = PATH, **how: Any) -> Answer:
        async with self.opened(*headers, path=path, **how) as (found, reader):
            return await rest(found, reader)


async def rest(found: Answer, reader: asyncio.StreamReader) -> Answer:
    """All that still comes, to the end or to where it breaks off."""
    if "content-length" in found.headers:
        found.body = await reader.readexactly(int(found.headers["content-length"]))
        found.whole = True
        return found
    while (chunk := await a_chunk(reader)) is not None:
        if not chunk:
            found.whole = True
            break
        found.body += chunk
    return found


async def a_chunk(reader: asyncio.StreamReader) -> bytes | None:
    """The next chunk (RFC 9112 §7.1); b"" is the last one, None a connection that ended before it."""
    try:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        return (await reader.readexactly(size + 2))[:-2]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Client]:
    """On a free loopback port, in this loop."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await running
