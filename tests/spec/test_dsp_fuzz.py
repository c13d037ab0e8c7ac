"""A fuzz over every DSP route, with and without a caller: whatever comes, the answer is a DSP one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.dsp import messages as m
from connector.dsp.messages import BASE_PATH
from connector.errors import NotAuthenticated
from connector.model.participant import Participant
from connector.model.transfer import TransferFormat
from tests.pair import ConnectorPair, Side, connected, participant
from tests.spec import schemas
from tests.spec.asgi_call import Answer, call
from tests.spec.mutations import MARKER, bodies
from tests.spec.samples import MESSAGES

NEGOTIATION_STEPS = ("request", "offers", "agreement", "agreement/verification", "events", "termination")
TRANSFER_STEPS = ("start", "completion", "suspension", "termination")
ROUTES = (
    *("catalog/request", "catalog/datasets/{}", "negotiations/request", "negotiations/offers"),
    *("negotiations/{}", "transfers/request", "transfers/{}", "agreements/{}/signatures"),
    *(f"negotiations/{{}}/{step}" for step in NEGOTIATION_STEPS),
    *(f"transfers/{{}}/{step}" for step in TRANSFER_STEPS),
)
LOOKED_UP = ("negotiations/{}", "transfers/{}", "agreements/{}/signatures", "catalog/datasets/benefits")
METHODS = ("POST",) * 6 + ("GET",) * 4 + ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
TAILS = (b"",) * 6 + (b"/", b"//", b"/x", b"%2F", b"/.", b"/..", b"%00", b";x=1", b"%C3%28", b"%", b"%zz")
PIDS = ("benefits", "urn:x", "..", ".", "", "\x00", "a b", "é", "request", "%2e%2e", "'", "a" * 2_000, MARKER)
QUERIES = (b"",) * 6 + (b"%00", b"continuationToken=x", b"a=b&a=c", b"=%ff", b"x=" + b"y" * 5_000)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/xml"),
    (b"content-type", b"application/json; charset=utf-16"),
    (b"content-encoding", b"gzip"),
    (b"content-length", b"7"),
    (b"accept", b"text/html"),
    (b"accept-encoding", b"br;q=2, gzip, *;q=x"),
    (b"host", b"evil.example"),
    (b"host", b"\xff\xfe["),
    (b"x-forwarded-host", b"evil.example"),
    (b"if-none-match", b'*, W/"\xff'),
    (b"range", b"bytes=0-"),
    (b"dpop", MARKER.encode()),
    (b"prefer", b"\x00"),
)
KNOWN = 6
"""Processes and agreements in each store of a `World`."""

CALLERS = ("peer",) * 8 + ("youth", "", f"Bearer {MARKER}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    to_provider: bool
    method: str
    route: str
    pid: int
    tail: bytes
    query: bytes
    body: bytes
    caller: str
    headers: list[tuple[bytes, bytes]]
    known_pids: bool


@dataclass(frozen=True, slots=True)
class World:
    """Two connectors with processes in several states; `pids` are those that each knows."""

    pair: ConnectorPair
    pids: dict[str, tuple[str, ...]]

    def side(self, attempt: Attempt) -> tuple[Side, Side]:
        sides = (self.pair.provider, self.pair.consumer)
        return sides if attempt.to_provider else sides[::-1]


def callers(name: str) -> Participant:
    if name not in ("city", "kela", "youth"):
        raise NotAuthenticated("The token is missing or not valid.")
    return participant(name)


async def world() -> World:
    """A negotiation finalized and one asked for; a transfer started, one suspended, one asked for."""
    pair = connected()
    agreement = await pair.negotiated()
    await pair.started(agreement)
    suspended = await pair.started(agreement)
    await pair.provider.transfers.suspend(suspended.pid)
    await pair.settle()
    await pair.consumer.transfers.request(agreement, TransferFormat.FEDERATED_QUERY_PULL)
    await pair.ask()
    await pair.consumer.worker.step(limit=9)
    pids = {
        side.participant.id: (*side.store.state.negotiations, *side.store.state.transfers, agreement)
        for side in (pair.provider, pair.consumer)
    }
    return World(pair, pids)


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    """Mostly a message at the route that takes it, about a process that exists; else anything anywhere."""
    message = draw(st.sampled_from(MESSAGES))
    near = draw(st.integers(0, 9)) < 8
    looked_up = near and draw(st.integers(0, 9)) < 2
    return Attempt(
        to_provider=draw(st.booleans()),
        method="GET" if looked_up else "POST" if near else draw(st.sampled_from(METHODS)),
        route=draw(st.sampled_from(LOOKED_UP))
        if looked_up
        else (near and route_of(message)) or draw(st.sampled_from(ROUTES)),
        pid=draw(st.integers(0, KNOWN - 1 if near else 40)),
        tail=b"" if near else draw(st.sampled_from(TAILS)),
        query=draw(st.sampled_from(QUERIES)),
        body=draw(bodies(message.document())),
        caller="peer" if near else draw(st.sampled_from(CALLERS)),
        headers=draw(st.lists(st.sampled_from(HEADERS), max_size=3)),
        known_pids=near or draw(st.booleans()),
    )


def route_of(message: m.Message) -> str:
    """Which of our routes takes it; "" for answers."""
    match message:
        case m.CatalogRequestMessage():
            return "catalog/request"
        case m.ContractRequestMessage(provider_pid="") | m.TransferRequestMessage():
            return (
                f"{'transfers' if isinstance(message, m.TransferRequestMessage) else 'negotiations'}/request"
            )
        case m.ContractOfferMessage(consumer_pid=""):
            return "negotiations/offers"
        case m.NegotiationMessage() if message.STEP:
            return f"negotiations/{{}}/{message.STEP}"
        case m.TransferMessage() if message.STEP:
            return f"transfers/{{}}/{message.STEP}"
    return ""


async def made(world: World, attempt: Attempt) -> tuple[str, Answer]:
    """The path and what came back."""
    side, other = world.side(attempt)
    known = world.pids[side.participant.id]
    pid = known[attempt.pid] if attempt.pid < len(known) else PIDS[attempt.pid % len(PIDS)]
    path = f"{BASE_PATH}/{attempt.route.format(quote(pid, safe=''))}"
    caller = other.participant.id if attempt.caller == "peer" else attempt.caller
    body = _about(side, pid, attempt.body) if attempt.known_pids else attempt.body
    answer = await call(
        side.app(callers),
        attempt.method,
        path.encode() + attempt.tail,
        query=attempt.query,
        headers=[(b"authorization", caller.encode()), *attempt.headers],
        body=body,
    )
    return path, answer


def _about(side: Side, pid: str, body: bytes) -> bytes:
    """The samples' pids replaced by those of the process, so that the message gets further."""
    state = side.store.state
    process = state.negotiations.get(pid) or state.transfers.get(pid)
    if process is None:
        return body
    (agreement,) = {t.agreement_id for t in state.transfers.values()}
    real = {"p": process.provider_pid, "c": process.consumer_pid, "a": agreement}
    for name, value in real.items():
        body = body.replace(f'"urn:uuid:{name}"'.encode(), f'"{value}"'.encode())
    return body


def typed(path: str, answer: Answer) -> None:
    """An error of the protocol that the path belongs to, as the published schema has it."""
    family = path.removeprefix(BASE_PATH).split("/")[1]
    kinds = {"transfers": "TransferError", "catalog": "CatalogError"}
    kind = kinds.get(family, "ContractNegotiationError")
    document = answer.document
    assert document["@type"] == kind
    assert document["code"]
    assert document["reason"]
    if schemas.FOLDER.is_dir():
        assert schemas.errors(kind, document) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(attempts(), min_size=10, max_size=30))
async def test_whatever_comes_the_answer_is_the_protocols(tried: list[Attempt]) -> None:
    """Protocol, bad input: a fuzz over all DSP routes finds no 5xx and no 422; every refusal is typed and
    leaves the store as it was; nothing that could be a secret comes back or is logged."""
    with everything_logged() as lines:
        built = await world()
        for attempt in tried:
            side, _ = built.side(attempt)
            before = side.store.state.copied()
            path, answer = await made(built, attempt)
            _judge(attempt, path, answer)
            if answer.status >= 400:
                assert side.store.state == before, (attempt, answer)
    assert MARKER not in "".join(lines)
    assert not [line for line in lines if "unforeseen" in line]


def _judge(attempt: Attempt, path: str, answer: Answer) -> None:
    assert answer.status in (200, 201, 304, 400, 401, 404, 405), (attempt, answer)
    if answer.status >= 400 and not attempt.tail.startswith((b"/..", b"/.")):
        typed(path, answer)
    if answer.status >= 400:
        echoed = answer.body.replace(MARKER.encode(), b"", 2) if MARKER in path else answer.body
        assert MARKER.encode() not in _without_pids(echoed), (attempt, answer)
        assert b"Traceback" not in answer.body
    if answer.status in (401, 405):
        assert {"www-authenticate", "allow"} & answer.headers.keys()


def _without_pids(body: bytes) -> bytes:
    """The typed errors repeat the pids of the request: DSP asks for them."""
    document = {k: v for k, v in Answer(0, {}, body).document.items() if not k.endswith("Pid")}
    return str(document).encode("utf-8", "replace")


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {record.exc_info or ''}")

    handler, root = Kept(level=logging.DEBUG), logging.getLogger()
    root.addHandler(handler)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
