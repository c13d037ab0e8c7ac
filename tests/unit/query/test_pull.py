"""`HttpData-PULL` at the consumer: a provider's bytes, read where it may be called, with what it told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI

from connector.access.audit import Auditor
from connector.access.peers import Peers
from connector.access.people import ApiTokens, issue_api_token
from connector.access.purposes import PurposeTree
from connector.adapters.http_peer import HttpPeer
from connector.control_plane.hooks import Hold
from connector.control_plane.transfer import Transfers
from connector.control_plane.unit import Environment
from connector.dsp import messages as m
from connector.errors import ConnectorError, NotPermitted, Reason
from connector.model.audit import AuditEvent
from connector.model.negotiation import AgreementRecord, Role
from connector.model.participant import Participant
from connector.model.person import Person, PersonRole
from connector.model.token import Actor
from connector.model.transfer import DataAddress, TransferProcess, TransferState
from connector.query.pull import Pulls
from connector.web.errors import on_connector_error
from connector.web.transfers import add_transfers
from tests.agreed import CONSUMER, PROVIDER, PURPOSE, MemoryAuditLog, record, transfer, until
from tests.clocks import ManualClock
from tests.fakes import MemoryStore
from tests.pair import Scripted
from tests.reading import HTTP, Answer, Client, a_chunk, serving
from tests.unit.access.world import StaticRegistry, fresh_keys

TOKEN = "told-once-AbCdEfGhIjKlMnOpQrStUvWxYz"
BEARER = {"authorization": TOKEN, "authType": "bearer"}
PURPOSES = PurposeTree({PURPOSE: "", "outreach-by-phone": PURPOSE, "marketing": ""})
KEYS = fresh_keys(CONSUMER)


@dataclass
class Provider:
    """A data plane that does as `how` says, and keeps what it was asked."""

    how: str = "whole"
    seen: list[Mapping[str, str]] = field(default_factory=list)
    left: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {n.decode(): v.decode() for n, v in scope["headers"]}
        self.seen.append({**headers, "path": scope["path"]})
        status = {"refused": 403, "moved": 302, "broken": 500}.get(self.how, 200)
        kind = b"text/html; charset=utf-8" if self.how == "page" else b"text/csv"
        head = [(b"content-type", kind), (b"location", b"http://127.0.0.1:1/other")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        if self.how == "refused":
            body = f'{{"detail": "No {TOKEN}!"}}'.encode()
            await send({"type": "http.response.body", "body": body})
            return
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"a,b\r\n", "more_body": True})
        if self.how == "endless":
            gone = asyncio.create_task(_gone(receive))
            while not gone.done():
                await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
                await asyncio.sleep(0)
            self.left += 1
        if self.how != "cut":
            await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class NoProof:
    """Our own kind's tokens, as `access/tokens.py` would get them."""

    def __init__(self) -> None:
        self.details: list[Any] = []

    async def headers(self, _participant: Participant, method: str, url: str, **about: Any) -> dict[str, str]:
        self.details.append((method, url, about["resource"], about["detail"], about["actor"]))
        return {"Authorization": "DPoP ours", "DPoP": "proof"}

    def refused(self, *_: Any, **__: Any) -> bool:
        return False


class Consumer:
    """youth, whose transfer with kela is started; its client API on a real socket."""

    def __init__(self, base_url: str, hosts: Mapping[str, frozenset[str]] | None = None) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.audit = MemoryAuditLog()
        numbers = count(1)
        auditor = Auditor(self.audit, self.clock, lambda: f"id-{next(numbers)}", CONSUMER, KEYS)
        kela = Participant(id=PROVIDER, name="Kela", base_url=base_url, jwks=())
        self.registry = StaticRegistry(cast("Any", self.clock), [kela])
        self.proof = NoProof()
        self.peer = HttpPeer(allow_private=True)
        self.invalid: ConnectorError | None = None
        self.environment = Environment(
            store=self.store,
            clock=self.clock,
            new_id=lambda: f"urn:{next(numbers)}",
            participant_id=CONSUMER,
            base_url="https://youth.example",
            wake=asyncio.Event(),
            on_grants_changed=_nobody,
        )
        self.transfers = Transfers(self.environment, hook=cast("Any", Scripted({"STARTED": Hold()})))
        self.pulls = Pulls(
            store=self.store,
            peers=Peers(self.registry, cast("Any", self.proof), self.peer),
            auditor=auditor,
            purposes=PURPOSES,
            valid_agreement=self._valid,
            actor_of=lambda person: Actor(subject=f"opaque {person.subject}", kind="analyst"),
            hosts=hosts or {},
        )
        self.tokens = ApiTokens(KEYS, self.clock, audience="https://youth.example/v1", longest_seconds=300)

    async def start(self, endpoint: str, properties: Mapping[str, str] = BEARER, **changes: Any) -> Consumer:
        address = DataAddress(endpoint_type="HttpData", endpoint=endpoint, properties=dict(properties))
        made = transfer("t1", HTTP, role=Role.CONSUMER, counter_party=PROVIDER, data_address=address)
        async with self.store.transaction() as tx:
            await tx.save_agreement(replace(record(), role=Role.CONSUMER))
            await tx.save_transfer(replace(made, **changes))
        return self

    async def _valid(self, agreement_id: str) -> AgreementRecord:
        if self.invalid is not None:
            raise self.invalid
        async with self.store.transaction(read_only=True) as tx:
            found = await tx.agreement(agreement_id)
        assert found is not None
        return found

    @property
    def process(self) -> TransferProcess:
        return self.store.state.transfers["t1"]

    def header(self, *roles: PersonRole, purposes: tuple[str, ...] = (PURPOSE,)) -> str:
        token = issue_api_token(
            KEYS,
            self.clock,
            audience="https://youth.example/v1",
            subject="anna",
            roles=roles,
            purposes=purposes,
            token_id="t",
        )
        return f"Authorization: Bearer {token}"

    async def person(self, asked: Any) -> Person:
        """The door of the client API, for whoever has a token."""
        return self.tokens.verify(asked.authorization)

    def app(self) -> FastAPI:
        from fastapi import APIRouter

        router = APIRouter(prefix="/v1")
        services = SimpleNamespace(door=self, transfers=self.transfers, pulls=self.pulls)
        add_transfers(router, cast("Any", services))
        app = FastAPI()
        app.add_exception_handler(ConnectorError, on_connector_error)
        app.include_router(router)
        return app


async def _nobody(_grants: Any) -> None: ...


@pytest.fixture
async def provider() -> AsyncIterator[tuple[Provider, str]]:
    made = Provider()
    async with serving(made) as served:
        yield made, f"http://127.0.0.1:{served.port}"


@asynccontextmanager
async def reading(consumer: Consumer) -> AsyncIterator[Client]:
    try:
        async with serving(consumer.app()) as client:
            yield client
    finally:
        await consumer.peer.close()


DATA = f"/v1/transfers/t1/data?purpose={PURPOSE}"


async def pull(consumer: Consumer, *headers: str, path: str = DATA) -> Answer:
    async with reading(consumer) as client:
        return await client.get(consumer.header(PersonRole.ANALYST), *headers, path=path)


# --- what is sent and what comes --------------------------------------------------------------------------


async def test_a_foreign_providers_bytes_come_through(provider: tuple[Provider, str]) -> None:
    """The token as RFC 6750 says; the bytes and their kind as they come; who asked for what on record."""
    there, url = provider
    consumer = await Consumer(url).start(f"{url}/public/x?of=1")
    found = await pull(consumer, "Accept: text/csv")
    assert (found.status, found.headers["content-type"], found.whole) == (200, "text/csv", True)
    assert found.body == b"a,b\r\n" * 3
    (seen,) = there.seen
    assert (seen["authorization"], seen["accept"], seen["path"]) == (
        f"Bearer {TOKEN}",
        "text/csv",
        "/public/x",
    )
    assert "dpop" not in seen
    assert consumer.proof.details == []
    (asked,) = consumer.audit.of(AuditEvent.QUERY_ASKED)
    assert (asked.purpose, asked.object, asked.agreement, asked.transfer, asked.on_behalf_of) == (
        *(PURPOSE, "benefits", "a1", "t1"),
        "opaque anna",
    )


TOLD = {
    "bearer": (BEARER, f"Bearer {TOKEN}"),
    "bearer in capitals": ({**BEARER, "authType": "Bearer"}, f"Bearer {TOKEN}"),
    "bearer said twice": ({**BEARER, "authorization": f"Bearer {TOKEN}"}, f"Bearer {TOKEN}"),
    "as it is": ({"authorization": TOKEN}, TOKEN),
    "by EDC's names": (
        {
            "https://w3id.org/edc/v0.0.1/ns/authorization": TOKEN,
            "https://w3id.org/edc/v0.0.1/ns/authType": "bearer",
        },
        f"Bearer {TOKEN}",
    ),
}


@pytest.mark.parametrize(("properties", "sent"), TOLD.values(), ids=TOLD)
async def test_the_token_goes_as_the_provider_said(
    provider: tuple[Provider, str], properties: Mapping[str, str], sent: str
) -> None:
    """dsp.md 1.11: conventional names; the value is opaque."""
    there, url = provider
    await pull(await Consumer(url).start(f"{url}/x", properties))
    assert there.seen[0]["authorization"] == sent


async def test_our_own_kind_is_asked_for_a_token_of_its_own(provider: tuple[Provider, str]) -> None:
    """The address names its token endpoint: authorization details with the action `read`."""
    there, url = provider
    told = {"tokenEndpoint": f"{url}/oauth2/token", "resource": f"{url}/data/v1"}
    consumer = await Consumer(url).start(f"{url}/data/v1/http/benefits", told)
    assert (await pull(consumer, path=DATA.replace(PURPOSE, "outreach"))).whole
    assert there.seen[0]["authorization"] == "DPoP ours"
    ((method, target, resource, detail, actor),) = consumer.proof.details
    assert (method, target, resource) == ("GET", f"{url}/data/v1/http/benefits", f"{url}/data/v1")
    assert (detail.actions, detail.purpose, detail.agreement_id) == ({"read"}, "outreach", "a1")
    assert actor == Actor(subject="opaque anna", kind="analyst")


async def test_a_cut_answer_is_cut_here_too(provider: tuple[Provider, str]) -> None:
    """What the provider did not finish must not look finished to our application."""
    there, url = provider
    there.how = "cut"
    found = await pull(await Consumer(url).start(f"{url}/x"))
    assert (found.status, found.whole) == (200, False)
    assert found.body == b"a,b\r\n" * 3


async def test_a_page_does_not_come_as_one(provider: tuple[Provider, str]) -> None:
    """A stranger's HTML must not act in a browser of ours."""
    there, url = provider
    there.how = "page"
    found = await pull(await Consumer(url).start(f"{url}/x"))
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("how", "status"), [("refused", 502), ("moved", 502), ("broken", 504)])
async def test_a_refusal_is_told_without_the_providers_words(
    provider: tuple[Provider, str], how: str, status: int
) -> None:
    """They could repeat the token; redirects are followed nowhere."""
    there, url = provider
    there.how = how
    found = await pull(await Consumer(url).start(f"{url}/x"))
    assert found.status == status
    assert TOKEN.encode() not in found.body
    assert len(there.seen) == 1


async def test_who_leaves_leaves_the_provider_too(provider: tuple[Provider, str]) -> None:
    """No stream runs on for nobody."""
    there, url = provider
    there.how = "endless"
    consumer = await Consumer(url).start(f"{url}/x")
    async with reading(consumer) as client:
        async with client.opened(consumer.header(PersonRole.ANALYST), path=DATA) as (_, reader):
            for _ in range(5):
                await a_chunk(reader)
        await until(lambda: there.left == 1)


# --- where, and when --------------------------------------------------------------------------------------

ELSEWHERE = {
    "another port": "http://127.0.0.1:1/x",
    "another host": "http://other.example/x",
    "metadata of a cloud": "http://169.254.169.254/latest/meta-data",
    "user information": "http://u:p@127.0.0.1:PORT/x",
    "host as user": "http://127.0.0.1:PORT@other.example/x",
    "fragment": "http://127.0.0.1:PORT/x#y",
    "another name of it": "http://localhost:PORT/x",
    "a longer name": "http://127.0.0.1.example:PORT/x",
    "another scheme": "ftp://127.0.0.1:PORT/x",
    "a file": "file:///etc/passwd",
    "no URL": "benefits",
    "no port": "http://127.0.0.1:x/",
    "not ASCII": "http://127.0.0.1:PORT/ä",
}


@pytest.mark.parametrize("endpoint", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_only_the_providers_own_host_is_called(provider: tuple[Provider, str], endpoint: str) -> None:
    """SSRF: an address in a message is a stranger's word."""
    there, url = provider
    port = url.rsplit(":", 1)[1]
    found = await pull(await Consumer(url).start(endpoint.replace("PORT", port)))
    assert found.status == 502
    assert b"address_not_theirs" in found.body
    assert there.seen == []


async def test_a_token_never_goes_over_a_weaker_line() -> None:
    """https in the trust list, http in the address."""
    consumer = await Consumer("https://kela.example:443").start("http://kela.example:443/x")
    found = await pull(consumer)
    assert b"address_not_theirs" in found.body


async def test_the_operator_may_name_a_data_plane_elsewhere(provider: tuple[Provider, str]) -> None:
    """Per participant: what one may name, another may not."""
    there, url = provider
    port = url.rsplit(":", 1)[1]
    hosts = {PROVIDER: frozenset({f"127.0.0.1:{port}"}), "city": frozenset({"other.example"})}
    consumer = await Consumer("http://kela.example", hosts).start(f"{url}/x")
    assert (await pull(consumer)).whole
    consumer = await Consumer("http://kela.example", hosts).start("http://other.example/x")
    assert (await pull(consumer)).status == 502
    assert len(there.seen) == 1


UNUSABLE = {
    "no token at all": {},
    "a line break in it": {**BEARER, "authorization": "x\r\nHost: other"},
    "not ASCII": {**BEARER, "authorization": "ä"},
    "longer than any": {**BEARER, "authorization": "x" * 20_000},
    "a kind not known here": {**BEARER, "authType": "basic"},
    "another's token endpoint": {"tokenEndpoint": "http://other.example/token", "resource": "URL/data/v1"},
    "another resource": {"tokenEndpoint": "URL/oauth2/token", "resource": "http://other.example"},
    "an endpoint beside the data API": {"tokenEndpoint": "URL/oauth2/token", "resource": "URL/data/v1"},
}


@pytest.mark.parametrize("properties", UNUSABLE.values(), ids=UNUSABLE)
async def test_an_address_of_no_use_is_said_to_be_one(
    provider: tuple[Provider, str], properties: Mapping[str, str]
) -> None:
    """Nothing is guessed, and nothing is sent."""
    there, url = provider
    told = {name: value.replace("URL", url) for name, value in properties.items()}
    found = await pull(await Consumer(url).start(f"{url}/x", told))
    assert (found.status, there.seen) == (502, [])


Spoil = Callable[[Consumer], Awaitable[Any]]
STATES = {
    "suspended": {"state": TransferState.SUSPENDED},
    "requested": {"state": TransferState.REQUESTED},
    "over": {"state": TransferState.COMPLETED},
    "about to stop": {"sending": "TransferSuspensionMessage"},
    "another format": {"format": transfer().format},
    "we are the provider": {"role": Role.PROVIDER},
}


@pytest.mark.parametrize("changes", STATES.values(), ids=STATES)
@pytest.mark.parametrize("path", [DATA, "/v1/transfers/t1/data-address"])
async def test_only_what_is_started_is_read(
    provider: tuple[Provider, str], changes: Mapping[str, Any], path: str
) -> None:
    """Our own stop binds us as well."""
    there, url = provider
    consumer = await Consumer(url).start(f"{url}/x", **changes)
    async with reading(consumer) as client:
        found = await client.get(consumer.header(PersonRole.ANALYST, PersonRole.OPERATOR), path=path)
    assert found.status in (404, 409)
    assert there.seen == []


async def test_an_agreement_that_is_not_in_force_gives_nothing(provider: tuple[Provider, str]) -> None:
    """Validity is checked at use."""
    there, url = provider
    consumer = await Consumer(url).start(f"{url}/x")
    consumer.invalid = NotPermitted([Reason(code="agreement_out_of_time", text="Its time has run out.")])
    assert (await pull(consumer)).status == 403
    assert there.seen == []


WHO = {
    "an operator": ((PersonRole.OPERATOR,), (PURPOSE,), PURPOSE, 403),
    "a viewer": ((PersonRole.VIEWER,), (PURPOSE,), PURPOSE, 403),
    "an analyst": ((PersonRole.ANALYST,), (PURPOSE,), PURPOSE, 200),
    "a case worker": ((PersonRole.CASE_WORKER,), (PURPOSE,), PURPOSE, 200),
    "for a purpose below the agreed": (
        (PersonRole.ANALYST,),
        ("outreach-by-phone",),
        "outreach-by-phone",
        200,
    ),
    "for a purpose that is not agreed": ((PersonRole.ANALYST,), ("marketing",), "marketing", 403),
    "for a purpose that is not theirs": ((PersonRole.ANALYST,), ("marketing",), PURPOSE, 403),
}


@pytest.mark.parametrize(("roles", "theirs", "stated", "status"), WHO.values(), ids=WHO)
async def test_who_reads_for_what(
    provider: tuple[Provider, str],
    roles: tuple[PersonRole, ...],
    theirs: tuple[str, ...],
    stated: str,
    status: int,
) -> None:
    """L1: a purpose on every use, stated by somebody whose it is, and agreed."""
    _, url = provider
    consumer = await Consumer(url).start(f"{url}/x")
    async with reading(consumer) as client:
        path = DATA.replace(PURPOSE, stated)
        found = await client.get(consumer.header(*roles, purposes=theirs), path=path)
    assert found.status == status


# --- the token's own life ---------------------------------------------------------------------------------


async def test_only_the_call_for_it_shows_the_address_whole(provider: tuple[Provider, str]) -> None:
    """An operator's, on record; neither lists nor the transfer itself show what is secret."""
    _, url = provider
    consumer = await Consumer(url).start(f"{url}/x", {**BEARER, "refreshToken": TOKEN})
    async with reading(consumer) as client:
        operator = consumer.header(PersonRole.OPERATOR)
        for path in ("/v1/transfers", "/v1/transfers/t1", "/v1/transfers?agreement=a1&state=STARTED"):
            shown = await client.get(operator, path=path)
            assert shown.status == 200
            assert f"{url}/x".encode() in shown.body
            assert TOKEN.encode() not in shown.body
        whole = await client.get(operator, path="/v1/transfers/t1/data-address")
        assert whole.body.count(TOKEN.encode()) == 2
        nobody = await client.get(consumer.header(PersonRole.ANALYST), path="/v1/transfers/t1/data-address")
        assert nobody.status == 403
    (told,) = consumer.audit.of(AuditEvent.DATA_ADDRESS_TOLD)
    assert (told.on_behalf_of, told.transfer) == ("opaque anna", "t1")
    assert TOKEN not in repr(consumer.audit.kept)


async def test_the_token_goes_with_the_transfer() -> None:
    """Kept while it may be resumed, and no longer."""
    ends: tuple[Any, ...] = (m.TransferCompletionMessage, m.TransferTerminationMessage)
    for ended in ends:
        consumer = await Consumer("http://kela.example").start("http://kela.example/x")
        kela = consumer.registry.participants[PROVIDER]
        pids = {"provider_pid": consumer.process.peer_pid, "consumer_pid": "t1"}
        if ended is m.TransferTerminationMessage:
            await consumer.transfers.receive(kela, "t1", m.TransferSuspensionMessage(**pids))
            assert TOKEN in repr(consumer.process)
        await consumer.transfers.receive(kela, "t1", ended(**pids))
        assert consumer.process.state.final
        assert TOKEN not in repr(consumer.store.state)
        assert consumer.process.data_address is not None
    for act in ("complete", "terminate"):
        consumer = await Consumer("http://kela.example").start("http://kela.example/x")
        await getattr(consumer.transfers, act)("t1", *(["operator"] if act == "terminate" else []))
        assert TOKEN not in repr(consumer.store.state)


async def test_a_new_address_for_what_is_started_replaces_the_old() -> None:
    """A provider tells a new token after our resumption; a repeat of it changes nothing."""
    consumer = await Consumer("http://kela.example").start("http://kela.example/x")
    kela = consumer.registry.participants[PROVIDER]
    address = DataAddress(endpoint_type="HttpData", endpoint="http://kela.example/y", properties=BEARER)
    start = m.TransferStartMessage(
        id="urn:m:2", provider_pid=consumer.process.peer_pid, consumer_pid="t1", data_address=address
    )
    told = await consumer.transfers.receive(kela, "t1", start)
    assert (told.state, told.data_address) == (TransferState.STARTED, address)
    assert await consumer.transfers.receive(kela, "t1", start) == told


async def test_the_token_is_in_no_log(
    provider: tuple[Provider, str], caplog: pytest.LogCaptureFixture
) -> None:
    """At any level, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    there, url = provider
    for how in ("whole", "cut", "refused", "moved", "broken"):
        there.how = how
        await pull(await Consumer(url).start(f"{url}/x"))
    assert TOKEN not in caplog.text
    assert len(there.seen) == 5


# --- for our operator -------------------------------------------------------------------------------------


async def test_the_operator_suspends_resumes_and_completes() -> None:
    """Protocol, transfers: all five from our side as well, over the client API."""
    consumer = await Consumer("http://kela.example").start("http://kela.example/x")
    app = consumer.app()
    kela = consumer.registry.participants[PROVIDER]
    async with serving(app) as client:
        operator = consumer.header(PersonRole.OPERATOR)
        reason = '{"reason": "Enough."}'
        for act, body, sending in (
            ("suspend", reason, m.TransferSuspensionMessage),
            ("resume", "", m.TransferStartMessage),
            ("complete", "", m.TransferCompletionMessage),
        ):
            found = await client.get(
                operator,
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                path=f"/v1/transfers/t1/{act}",
                method="POST",
                body=body,
            )
            assert found.status == 200, found.body
            (sent,) = [r.message for r in consumer.store.state.outbox if r.message.kind == "transfer"]
            assert sent.body["@type"] == sending.TYPE
            assert "dataAddress" not in sent.body
            await consumer.transfers.acknowledged(sent, None)
        assert consumer.process.state is TransferState.COMPLETED
        viewer = consumer.header(PersonRole.VIEWER)
        refused = await client.get(viewer, "Content-Length: 0", path="/v1/transfers/t1/resume", method="POST")
        assert refused.status == 403
    assert kela.id == PROVIDER


async def test_the_list_is_paged_and_filtered() -> None:
    """By agreement and state; `next` leads on until there is nothing more."""
    consumer = Consumer("http://kela.example")
    async with consumer.store.transaction() as tx:
        for number in range(7):
            state = TransferState.COMPLETED if number in (1, 4) else TransferState.STARTED
            made = transfer(f"t{number}", HTTP, state=state, agreement_id=f"a{number % 2}")
            await tx.save_transfer(made)
    found = await consumer.transfers.list(limit=3)
    assert [t.pid for t in found] == ["t0", "t1", "t2"]
    found = await consumer.transfers.list(limit=3, after="t4")
    assert [t.pid for t in found] == ["t5", "t6"]
    found = await consumer.transfers.list(state=TransferState.COMPLETED, limit=10)
    assert [t.pid for t in found] == ["t1", "t4"]
    found = await consumer.transfers.list(agreement_id="a0", state=TransferState.STARTED, limit=2)
    assert [t.pid for t in found] == ["t0", "t2"]
    async with serving(consumer.app()) as client:
        viewer = consumer.header(PersonRole.VIEWER)
        seen: list[str] = []
        after = ""
        while after is not None:
            page = await client.get(viewer, path=f"/v1/transfers?limit=3&after={after}")
            body = json.loads(page.body)
            seen += [t["pid"] for t in body["transfers"]]
            after = body["next"]
        assert seen == [f"t{n}" for n in range(7)]
