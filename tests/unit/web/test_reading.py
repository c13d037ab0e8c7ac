"""`HttpData-PULL` at the provider: what a plain HTTP client reads, who may, and how it stops (Protocol)."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from connector.access.stopping import Stopping
from connector.control_plane.agreements import Agreements
from connector.dsp import messages as m
from connector.errors import GrantStopped, NotPermitted, PeerRefused, SourceUnavailable
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.decision import Deny, Limits
from connector.model.participant import ParticipantStatus
from connector.model.policy import Constraint, Policy, Rule
from connector.model.token import AuthorizationDetail
from connector.model.transfer import EDC_ENDPOINT, TransferProcess, TransferState
from connector.ports import GrantSelector
from connector.web import render
from connector.web.data import acceptable
from tests.agreed import CONSUMER, PERMIT, PERSONS, PURPOSE, detail, record, transfer, until
from tests.clocks import START
from tests.reading import PATH, Answer, Client, Reading, a_chunk, rest, serving

ALL = [{"hetu": f"p-{n}", "status": f"paid {p[:6]}"} for n, p in enumerate(PERSONS)]
QUERY = TransferFormat.FEDERATED_QUERY_PULL


@pytest.fixture
async def world() -> Reading:
    return await Reading().set_up()


@pytest.fixture
async def client(world: Reading) -> AsyncIterator[Client]:
    async with serving(world.app()) as served:
        yield served


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# --- what is read -----------------------------------------------------------------------------------------


async def test_a_listed_peer_gets_an_address_with_a_bearer(world: Reading) -> None:
    """dsp.md 7.10h: endpoint, `authorization` and `authType`; and nothing of our own kind of tokens."""
    started = await world.request()
    assert started.state is TransferState.STARTED
    assert world.address["endpoint"] == f"https://kela.example{PATH}"
    told = {p["name"]: p["value"] for p in world.address["endpointProperties"]}
    assert told.keys() == {"authorization", "authType", EDC_ENDPOINT}
    assert told[EDC_ENDPOINT] == world.address["endpoint"]  # the only place where EDC looks for it
    assert len(world.token) == 43


async def test_all_that_the_permit_shows_as_json(world: Reading, client: Client) -> None:
    """Every exposed column after pseudonyms and consent; decision before, outcome and ledger after."""
    await world.request()
    found = await client.get(bearer(world.token))
    assert (found.status, found.headers["content-type"], found.whole) == (200, "application/json", True)
    assert json.loads(found.body) == ALL
    (decided,) = world.audit.of(AuditEvent.QUERY_DECIDED)
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert (decided.outcome, decided.actor, decided.purpose) == ("permit", CONSUMER, PURPOSE)
    assert (ended.outcome, ended.rows, ended.subjects, ended.refers) == ("complete", 4, 4, decided.id)
    assert world.ledger.disclosed == [(decided.id, frozenset(PERSONS), 4)]


async def test_the_same_as_lines_and_as_csv(world: Reading, client: Client) -> None:
    """One decision and one stream, three forms of it."""
    await world.request()
    lines = await client.get(bearer(world.token), "Accept: application/x-ndjson")
    assert [json.loads(line) for line in lines.body.splitlines()] == ALL
    table = await client.get(bearer(world.token), "Accept: text/csv")
    assert table.body.endswith(b"\r\n")
    assert list(csv.DictReader(io.StringIO(table.body.decode()))) == ALL
    assert lines.whole
    assert table.whole


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        ("application/json", b"[\n]\n"),
        ("application/x-ndjson", b""),
        ("text/csv", b'"hetu","status"\r\n'),
    ],
)
async def test_nothing_at_all_is_a_whole_answer_too(
    world: Reading, client: Client, accept: str, body: bytes
) -> None:
    """No row is no error."""
    world.register.batches = 0
    await world.request()
    found = await client.get(bearer(world.token), f"Accept: {accept}")
    assert (found.status, found.body, found.whole) == (200, body, True)


ACCEPTED = {
    "none": ([], "application/json"),
    "anything": (["*/*"], "application/json"),
    "one": (["text/csv"], "text/csv"),
    "the best liked": (["text/csv;q=0.2, application/x-ndjson;q=0.9"], "application/x-ndjson"),
    "a range": (["text/*, application/json;q=0.1"], "text/csv"),
    "two headers": (["text/html", "text/csv;q=0.5"], "text/csv"),
    "a browser's": (["text/html,application/xhtml+xml,*/*;q=0.8"], "application/json"),
    "not this one": (["application/json;q=0, */*"], "application/x-ndjson"),
    "parameters of its own": (["Application/JSON; charset=utf-8"], "application/json"),
    "another": (["application/xml"], None),
    "none of them": (["*/*;q=0"], None),
    "no weight": (["text/csv;q=many"], None),
    "empty": ([""], None),
}


@pytest.mark.parametrize(("headers", "chosen"), ACCEPTED.values(), ids=ACCEPTED)
def test_the_form_is_the_readers_to_choose(headers: list[str], chosen: str | None) -> None:
    """RFC 9110 §12.5.1."""
    if chosen is None:
        with pytest.raises(Exception, match="no such form") as refused:
            acceptable(headers)
        assert "application/json" in str(refused.value)
    else:
        assert acceptable(headers) == chosen


async def test_a_reader_that_could_not_tell_a_cut_is_refused(world: Reading, client: Client) -> None:
    """HTTP/1.0 ends every body by closing the connection."""
    await world.request()
    found = await client.get(bearer(world.token), version="1.0")
    assert found.status == 400
    assert b"HTTP/1.1" in found.body


async def test_a_slow_reader_slows_the_source(world: Reading, client: Client) -> None:
    """Constant memory: no more is read than the sockets hold."""
    world.register.batches, world.register.rows_of_each = None, 20
    await world.request()
    async with client.opened(bearer(world.token)):
        seen = -1
        while world.register.asked != seen:
            seen = world.register.asked
            await asyncio.sleep(0.1)
    await until(lambda: world.register.closed == 1)
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert ended.outcome == "consumer_left"


# --- who may ----------------------------------------------------------------------------------------------

Spoil = Callable[[Reading, TransferProcess], Awaitable[Any]]


async def nothing(_world: Reading, _started: TransferProcess) -> None: ...


async def suspended(world: Reading, started: TransferProcess) -> None:
    await world.transfers.suspend(started.pid)


async def suspended_by_the_consumer(world: Reading, started: TransferProcess) -> None:
    message = m.TransferSuspensionMessage(provider_pid=started.pid, consumer_pid="urn:t")
    await world.transfers.receive(world.consumer, started.pid, message)


async def completed(world: Reading, started: TransferProcess) -> None:
    await world.transfers.complete(started.pid)


async def completed_by_the_consumer(world: Reading, started: TransferProcess) -> None:
    message = m.TransferCompletionMessage(provider_pid=started.pid, consumer_pid="urn:t")
    await world.transfers.receive(world.consumer, started.pid, message)


async def terminated(world: Reading, started: TransferProcess) -> None:
    await world.transfers.terminate(started.pid, "operator", ["Over."])


async def terminated_by_the_consumer(world: Reading, started: TransferProcess) -> None:
    message = m.TransferTerminationMessage(provider_pid=started.pid, consumer_pid="urn:t")
    await world.transfers.receive(world.consumer, started.pid, message)


async def agreement_ended(world: Reading, _started: TransferProcess) -> None:
    agreements = Agreements(world.environment, world.transfers, lambda: world.datasets)
    await agreements.terminate("a1", "The purpose is served.")


async def participant_suspended(world: Reading, _started: TransferProcess) -> None:
    """As the keeper of the trust list does it."""
    world.registry.set_status(CONSUMER, ParticipantStatus.SUSPENDED)
    async with world.store.transaction() as tx:
        ended = await tx.bump_grants(GrantSelector(consumer=CONSUMER), ended_reason="participant_inactive")
    await world.board.publish(ended)


async def expired(world: Reading, _started: TransferProcess) -> None:
    await world.clock.advance(timedelta(hours=2).total_seconds())


async def delisted(world: Reading, _started: TransferProcess) -> None:
    """The operator struck it off, and started anew over the same store."""
    world.bearers._peers = frozenset()


async def policy_changed(world: Reading, _started: TransferProcess) -> None:
    world.decider.answer = Deny(reasons=())
    async with world.store.transaction() as tx:
        moved = await tx.bump_grants(GrantSelector())
    await world.board.publish(moved)


SHORT = Policy(
    permissions=(
        Rule(
            action="use",
            constraints=(
                Constraint(left_operand="purpose", operator="eq", right_operand=PURPOSE),
                Constraint(
                    left_operand="dateTime",
                    operator="lteq",
                    right_operand=(START + timedelta(hours=1)).isoformat(),
                ),
            ),
        ),
    )
)

STOPS: dict[str, Spoil] = {
    "suspended": suspended,
    "suspended by the consumer": suspended_by_the_consumer,
    "completed": completed,
    "completed by the consumer": completed_by_the_consumer,
    "terminated": terminated,
    "terminated by the consumer": terminated_by_the_consumer,
    "agreement ended": agreement_ended,
    "participant suspended": participant_suspended,
    "out of time": expired,
    "policy denies": policy_changed,
}


async def refusal_of_nobody(client: Client) -> Answer:
    return await client.get()


async def assert_refused(found: Answer, client: Client) -> None:
    """Word for word what somebody without any token hears."""
    nobody = await refusal_of_nobody(client)
    assert (found.status, found.body) == (401, nobody.body)
    assert found.headers["www-authenticate"] == nobody.headers["www-authenticate"]


@pytest.mark.parametrize("stop", [*STOPS.values(), delisted], ids=[*STOPS, "delisted"])
async def test_a_bearer_is_dead_once_anything_it_stands_on_is(
    world: Reading, client: Client, stop: Spoil
) -> None:
    """Looked up at each use, and everything below it; nothing is learned from the refusal."""
    await world.change_agreement(agreement=replace(record().agreement, policy=SHORT))
    world.decider.answer = replace(PERMIT, expires_at=START + timedelta(hours=1))
    started = await world.request()
    assert (await client.get(bearer(world.token))).status == 200
    await stop(world, started)
    await assert_refused(await client.get(bearer(world.token)), client)


ATTACKS: dict[str, tuple[Callable[[str], list[str]], str]] = {
    "no header": (lambda _: [], PATH),
    "another token": (lambda t: [bearer(t[::-1])], PATH),
    "one letter more": (lambda t: [bearer(f"{t}A")], PATH),
    "one letter less": (lambda t: [bearer(t[:-1])], PATH),
    "another letter": (lambda t: [bearer(t[:-1] + ("A" if t[-1] != "A" else "B"))], PATH),
    "other case": (lambda t: [bearer(t.swapcase())], PATH),
    "its hash": (lambda _: [bearer("0" * 64)], PATH),
    "empty": (lambda _: ["Authorization: Bearer "], PATH),
    "no scheme": (lambda t: [f"Authorization: {t}"], PATH),
    "Basic": (lambda t: [f"Authorization: Basic {t}"], PATH),
    "as a DPoP token": (lambda t: [f"Authorization: DPoP {t}"], PATH),
    "two blanks": (lambda t: [f"Authorization: Bearer  {t}"], PATH),
    "two tokens": (lambda t: [f"Authorization: Bearer {t}, Bearer {t}"], PATH),
    "repeated header": (lambda t: [bearer(t), bearer(t)], PATH),
    "second header of another kind": (lambda t: [bearer(t), "Authorization: DPoP x"], PATH),
    "query parameter": (lambda _: [], f"{PATH}?access_token=TOKEN"),
    "another header": (lambda t: [f"X-Authorization: Bearer {t}"], PATH),
    "another dataset": (lambda t: [bearer(t)], "/data/v1/http/clients"),
    "no such dataset": (lambda t: [bearer(t)], "/data/v1/http/nothing"),
}


@pytest.mark.parametrize(("headers", "path"), ATTACKS.values(), ids=ATTACKS)
async def test_what_is_not_exactly_the_bearer_is_refused_alike(
    world: Reading, client: Client, headers: Callable[[str], list[str]], path: str
) -> None:
    """RFC 6750 §2: the header only, once. Every fault gets the same words."""
    await world.request()
    found = await client.get(*headers(world.token), path=path.replace("TOKEN", world.token))
    await assert_refused(found, client)
    assert world.audit.of(AuditEvent.QUERY_DECIDED) == []


@pytest.mark.parametrize(
    ("path", "method"),
    [("/data/v1/datasets/benefits", "GET"), ("/data/v1/datasets/benefits/query", "POST")],
)
async def test_a_bearer_opens_no_other_route(world: Reading, client: Client, path: str, method: str) -> None:
    """Only what its transfer's format gives."""
    await world.request()
    found = await client.get(bearer(world.token), "Content-Length: 0", path=path, method=method)
    assert found.status == 401


async def test_each_transfer_has_its_own(world: Reading, client: Client) -> None:
    """Two under one agreement: ending one leaves the other, and its token is of no use for it."""
    one = await world.request("urn:t1")
    first = world.token
    await world.request("urn:t2")
    second = world.token
    assert first != second
    await world.transfers.terminate(one.pid, "operator")
    await assert_refused(await client.get(bearer(first)), client)
    assert (await client.get(bearer(second))).status == 200
    grants = {leaf.transfer for leaf in world.audit.of(AuditEvent.QUERY_DECIDED)}
    assert one.pid not in grants


async def test_a_grant_of_another_format_is_not_for_reading(world: Reading, client: Client) -> None:
    """One token, one way of access: neither a query's here, nor a reader's at the query."""
    async with world.store.transaction() as tx:
        await tx.save_transfer(transfer("t-query"))
    asking = await world.admission.open(world.consumer, detail_of("query"))
    assert (await client.get(f"Authorization: DPoP {asking.id}")).status == 401
    await world.request()
    reading = await world.admission.open(world.consumer, detail_of("read"))
    body = '{"sql": "SELECT status FROM benefits"}'
    for grant, status in ((reading, 401), (asking, 200)):
        found = await client.get(
            f"Authorization: DPoP {grant.id}",
            f"Content-Length: {len(body)}",
            path="/data/v1/datasets/benefits/query",
            method="POST",
            body=body,
        )
        assert found.status == status


def detail_of(action: str) -> AuthorizationDetail:
    return detail(actions=frozenset({action}))


async def test_our_own_kind_reads_with_an_access_token() -> None:
    """Not listed: an address with no token, and authorization details with the action `read`."""
    world = await Reading(listed=()).set_up()
    await world.request()
    told = {p["name"]: p["value"] for p in world.address["endpointProperties"]}
    base = "https://kela.example"
    assert told == {"tokenEndpoint": f"{base}/oauth2/token", "resource": f"{base}/data/v1"}
    grant = await world.admission.open(world.consumer, detail_of("read"))
    async with serving(world.app()) as client:
        found = await client.get(f"Authorization: DPoP {grant.id}")
        assert json.loads(found.body) == ALL
        await assert_refused(await client.get(bearer("A" * 43)), client)
    assert world.state.values == {}


# --- a new one with every start ---------------------------------------------------------------------------


async def test_the_providers_resumption_brings_a_new_bearer(world: Reading, client: Client) -> None:
    """The one before is dead for good."""
    started = await world.request()
    old = world.token
    await world.transfers.suspend(started.pid)
    await world.settle()
    await world.transfers.resume(started.pid)
    await world.settle()
    assert world.token != old
    assert (await client.get(bearer(world.token))).status == 200
    await assert_refused(await client.get(bearer(old)), client)


async def test_the_consumers_resumption_is_answered_with_a_new_bearer(world: Reading, client: Client) -> None:
    """A start message that moves nothing is the only way to tell it; EDC waits for it."""
    started = await world.request()
    old = world.token
    await suspended_by_the_consumer(world, started)
    start = m.TransferStartMessage(id="urn:m:9", provider_pid=started.pid, consumer_pid="urn:t")
    resumed = await world.transfers.receive(world.consumer, started.pid, start)
    await world.settle()
    assert (resumed.state, resumed.sending) == (TransferState.STARTED, "")
    assert world.token != old
    assert (await client.get(bearer(world.token))).status == 200
    await assert_refused(await client.get(bearer(old)), client)
    assert await world.transfers.receive(world.consumer, started.pid, start) == resumed  # a repeat: no third
    tokens = len(world.told)
    await world.settle()
    assert len(world.told) == tokens


async def test_a_bearer_dies_with_a_start_that_does_not_arrive(world: Reading, client: Client) -> None:
    """The peer refuses the start: the transfer ends, and nobody can use what was in the message."""

    async def refuse(message: Any) -> Any:
        world.told.append(message.body)
        raise PeerRefused("no", participant=CONSUMER, status=400)

    world.worker._deliver = refuse
    started = await world.request()
    assert started.state is TransferState.TERMINATED
    await assert_refused(await client.get(bearer(world.token)), client)
    assert world.state.values == {}


# --- nothing of it stays ----------------------------------------------------------------------------------


async def test_the_token_is_in_no_log_no_record_and_no_answer(
    world: Reading, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Kept as a hash; in clear only in the outbox, until the peer has it."""
    caplog.set_level(logging.DEBUG)
    started = await world.request()
    token = world.token
    await client.get(bearer(token))
    await client.get(bearer(f"{token[:-1]}_"), path=f"{PATH}?token={token[:9]}")
    found = await client.get(bearer(token), path="/data/v1/http/clients")
    state = world.state
    everything = [
        caplog.text,
        repr(world.audit.kept),
        repr(render.transfer(await world.transfers.get(started.pid))),
        found.body.decode(),
        repr(state.transfers),
        repr(state.grants),
        repr(state.values),
        repr(state.outbox),
    ]
    assert not [text for text in everything if token in text]
    await world.transfers.terminate(started.pid, "operator")
    assert world.state.values == {}


# --- what cannot be read so -------------------------------------------------------------------------------


async def reasons_of_refusal(world: Reading, **terms: Any) -> list[str]:
    held = record()
    assert held.terms is not None
    await world.change_agreement(terms=replace(held.terms, **terms))
    ended = await world.request()
    assert ended.state is TransferState.TERMINATED
    return list(world.told[-1]["reason"])


@pytest.mark.parametrize("terms", [{"aggregate_only": True}, {"min_group_size": 5}, {"subjects_named": True}])
async def test_what_gives_no_rows_is_refused_when_it_is_asked_for(
    world: Reading, terms: dict[str, Any]
) -> None:
    """D5: a plain GET can neither ask for groups nor name persons; the reason says what can."""
    (reason,) = await reasons_of_refusal(world, **terms)
    assert "groups only" in reason
    assert "FederatedQuery-PULL" in reason
    assert world.told[-1]["code"] == "rows_not_offered"


def purposes(*constraints: Constraint, more: tuple[Rule, ...] = ()) -> Policy:
    return Policy(permissions=(Rule(action="use", constraints=constraints), *more))


def purpose(right: Any, operator: str = "eq") -> Constraint:
    return Constraint(left_operand="purpose", operator=operator, right_operand=right)


PURPOSES = {
    "one": (purposes(purpose(PURPOSE)), True),
    "one in a list": (purposes(purpose([PURPOSE], "isAnyOf")), True),
    "the same twice": (
        purposes(purpose(PURPOSE), more=(Rule(action="use", constraints=(purpose(PURPOSE),)),)),
        True,
    ),
    "none": (purposes(), False),
    "two": (purposes(purpose([PURPOSE, "case-work"], "isAnyOf")), False),
    "two permissions": (
        purposes(purpose(PURPOSE), more=(Rule(action="use", constraints=(purpose("case-work"),)),)),
        False,
    ),
    "one permission is for any": (purposes(purpose(PURPOSE), more=(Rule(action="use"),)), False),
    "all but one": (purposes(purpose(PURPOSE, "neq")), False),
    "none of": (purposes(purpose([PURPOSE], "isNoneOf")), False),
}


@pytest.mark.parametrize(("policy", "started"), PURPOSES.values(), ids=PURPOSES)
async def test_a_bearer_needs_an_agreement_for_one_purpose(
    world: Reading, policy: Policy, started: bool
) -> None:
    """Architecture, tokens and purpose: one token, one purpose; a bearer can state none."""
    await world.change_agreement(agreement=replace(record().agreement, policy=policy))
    made = await world.request()
    assert made.state is (TransferState.STARTED if started else TransferState.TERMINATED)
    if not started:
        assert "exactly" in world.told[-1]["reason"][0] or "same one" in world.told[-1]["reason"][0]


# --- running streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
async def test_a_running_stream_stops_at_once_and_is_seen_to(
    world: Reading, client: Client, stop: Spoil
) -> None:
    """Architecture, idea 3: once the stop has been answered nothing more is written, and the reader can
    tell that what it has is not all: no last chunk, and no JSON."""
    await world.change_agreement(agreement=replace(record().agreement, policy=SHORT))
    world.decider.answer = replace(PERMIT, expires_at=START + timedelta(hours=1))
    world.register.batches = None
    started = await world.request()
    async with client.opened(bearer(world.token)) as (found, reader):
        for _ in range(5):
            assert await a_chunk(reader)
        await stop(world, started)
        asked = world.register.asked
        await rest(found, reader)
    assert not found.whole
    with pytest.raises(ValueError):
        json.loads(b"[" + found.body)
    await until(lambda: world.board.running == 0)
    assert world.register.asked <= asked + 1
    assert world.register.closed == 1
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert ended.outcome not in ("complete", "consumer_left")


async def test_the_operators_stop_ends_everything_and_opens_nothing_until_it_is_lifted(
    world: Reading, client: Client
) -> None:
    """`connector stop --all`: holds when it answers, for bearers, access tokens and new grants alike."""
    stopping = Stopping(world.store, world.clock, publish=world.board.publish, record=world.auditor.record)
    world.register.batches = None
    await world.request()
    grant = await world.admission.open(world.consumer, detail_of("read"))
    first = client.opened(bearer(world.token))
    async with first as (one, slow), client.opened(f"Authorization: DPoP {grant.id}") as (two, reader):
        assert await a_chunk(slow)
        assert await a_chunk(reader)
        async with asyncio.timeout(1.0):
            assert await stopping.stop_all("An incident.", by="anna") == 1
            asked = world.register.asked
            await rest(one, slow)
            await rest(two, reader)
    assert not one.whole
    assert not two.whole
    assert world.register.asked <= asked + 2
    with pytest.raises(NotPermitted, match="for the time being"):
        await world.admission.open(world.consumer, detail_of("read"))
    await assert_refused(await client.get(bearer(world.token)), client)
    await stopping.lift(by="anna")
    world.register.batches = 1
    again = await world.admission.open(world.consumer, detail_of("read"))
    assert (await client.get(f"Authorization: DPoP {again.id}")).status == 200


async def test_a_revoked_token_ends_its_own_stream(world: Reading, client: Client) -> None:
    """RFC 7009 §2.1: at once, in the middle of it; another token of the same grant goes on."""
    world.register.batches = None
    started = await world.request()
    grant = await world.admission.open(world.consumer, detail_of("read"))
    first = client.opened(f"Authorization: DPoP {grant.id}~stolen")
    second = client.opened(f"Authorization: DPoP {grant.id}~kept")
    async with first as (stolen, thief), second as (kept, reader):
        assert await a_chunk(thief)
        stolen_token = world.claims(grant, "stolen")
        async with asyncio.timeout(1.0):
            await world.revoked.revoke(stolen_token)
            await world.board.publish(await world.revoked.grants_touched(stolen_token))
            await rest(stolen, thief)
        assert not stolen.whole
        for _ in range(50):
            assert await a_chunk(reader)
        await world.transfers.suspend(started.pid)
        await rest(kept, reader)
    assert "token_revoked" in [e.outcome for e in world.audit.of(AuditEvent.QUERY_ENDED)]


async def test_a_reader_that_does_not_read_holds_no_stop_up(world: Reading, client: Client) -> None:
    """The barrier: a write that a slow reader holds up is cancelled, never waited out."""
    world.register.batches, world.register.rows_of_each = None, 200
    started = await world.request()
    async with client.opened(bearer(world.token)) as (found, reader):
        seen = -1
        while world.register.asked != seen:  # until every buffer is full
            seen = world.register.asked
            await asyncio.sleep(0.1)
        async with asyncio.timeout(1.0):
            await world.transfers.suspend(started.pid)
        assert world.register.asked == seen
        await rest(found, reader)
    assert not found.whole
    await until(lambda: world.register.closed == 1)
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert ended.outcome == "stopped"


async def test_a_withdrawn_consent_drops_the_person_from_the_running_stream(
    world: Reading, client: Client
) -> None:
    """C1: after the withdrawal is answered no further record of that person leaves; the others' do."""
    world.register.batches = None
    started = await world.request()
    async with client.opened(bearer(world.token), "Accept: application/x-ndjson") as (found, reader):
        for _ in range(3):
            assert await a_chunk(reader)
        (given,) = await world.consents.records_of(PERSONS[0])
        await world.consents.withdraw(given.id)
        world.left.clear()
        for _ in range(200):
            found.body += await a_chunk(reader) or b""
        await world.transfers.suspend(started.pid)
        await rest(found, reader)
    assert set(world.left) == set(PERSONS[1:])
    assert found.body.splitlines()[-1].count(b"p-0") == 0
    first, second = world.audit.of(AuditEvent.QUERY_DECIDED)[:2]
    assert second.refers == first.id


# --- what goes wrong --------------------------------------------------------------------------------------


async def test_an_error_before_the_first_row_is_told(world: Reading, client: Client) -> None:
    """Nothing has been sent: the status can still say it."""
    world.register.failure = SourceUnavailable("the register does not answer")
    await world.request()
    found = await client.get(bearer(world.token))
    assert (found.status, json.loads(found.body)["code"]) == (503, "source_unavailable")
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert (ended.outcome, ended.rows) == ("source_unavailable", 0)


@pytest.mark.parametrize("failure", [SourceUnavailable("gone"), ZeroDivisionError("ours"), GrantStopped("x")])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
async def test_an_error_behind_the_first_row_breaks_the_answer_off(
    world: Reading, client: Client, failure: Exception, accept: str
) -> None:
    """In every form; a cut table of CSV looks like any other, but HTTP says that it is not whole."""
    world.register.batches, world.register.failure, world.register.fail_after = 5, failure, 2
    await world.request()
    found = await client.get(bearer(world.token), f"Accept: {accept}")
    assert (found.status, found.whole) == (200, False)
    assert found.body.count(b"p-3") == 2
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert ended.rows == 8
    assert ended.outcome != "complete"


async def test_too_many_rows_fail_the_answer(world: Reading, client: Client) -> None:
    """The agreement's limit: never cut short in silence."""
    world.decider.answer = replace(PERMIT, limits=Limits(max_rows=6))
    world.register.batches = 2
    await world.request()
    found = await client.get(bearer(world.token))
    assert not found.whole
    (ended,) = world.audit.of(AuditEvent.QUERY_ENDED)
    assert (ended.outcome, ended.rows) == ("not_permitted", 4)


async def test_a_permit_that_shows_nothing_shows_no_rows(world: Reading, client: Client) -> None:
    """Columns intersect to none: refused with a reason, on record."""
    await world.request()
    assert (await client.get(bearer(world.token))).status == 200
    world.decider.answer = replace(PERMIT, columns=frozenset(), pseudonyms={})
    found = await client.get(bearer(world.token))
    assert (found.status, json.loads(found.body)["deniedBy"][0]["code"]) == (403, "no_columns")
    assert world.audit.of(AuditEvent.QUERY_DECIDED)[-1].outcome == "deny"


async def test_nothing_leaves_that_could_not_be_put_on_record(world: Reading, client: Client) -> None:
    """Architecture, idea 6."""
    await world.request()
    world.audit.down = True
    found = await client.get(bearer(world.token))
    assert found.status == 503
    assert world.register.asked == 0
