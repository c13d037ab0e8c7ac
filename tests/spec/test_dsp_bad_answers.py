"""What a peer may answer to our messages, and what becomes of the process (dsp.md 1.13, 1.14, 7.7)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from connector.access.peers import Peers
from connector.errors import PeerError, PeerProtocolError, PeerUnreachable
from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation, NegotiationState
from connector.model.participant import Participant
from connector.ports import OutboxMessage, PeerClient, PeerCredentials, PeerResponse
from tests.pair import ConnectorPair, connected, participant


@dataclass
class Stub:
    """A peer that answers each call with the next of `answers`, and the client that calls it."""

    answers: list[PeerResponse | PeerError]
    told: list[JsonObject] = field(default_factory=list)

    async def request(self, _method: str, _url: str, *, content: bytes, **_: Any) -> PeerResponse:
        self.told.append(json.loads(content))
        answer = self.answers.pop(0)
        if isinstance(answer, PeerError):
            raise answer
        return answer

    # what Peers asks of the credentials and of the trust list

    async def headers(self, *_: Any, **__: Any) -> Mapping[str, str]:
        return {}

    def refused(self, *_: Any, **__: Any) -> bool:
        return False

    def current(self) -> Any:
        return self

    @property
    def participants(self) -> Mapping[str, Participant]:
        return {"kela": participant("kela")}


def answer(status: int, body: Any = b"", **headers: str) -> PeerResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return PeerResponse(status=status, headers=headers, body=content)


async def asking(*answers: PeerResponse | PeerError) -> tuple[ConnectorPair, Stub]:
    """A consumer whose request to the provider is answered so."""
    pair = connected()
    stub = Stub(list(answers))
    peers = Peers(cast("Any", stub), cast(PeerCredentials, stub), cast(PeerClient, stub))

    async def deliver(message: OutboxMessage) -> JsonObject | None:
        kela = peers.participant(message.recipient)
        return await peers.tell(
            kela, message.url, resource=kela.dsp_url, scope="dsp", body=dict(message.body)
        )

    pair.consumer.outside = deliver
    await pair.ask()
    return pair, stub


async def step(pair: ConnectorPair) -> ContractNegotiation:
    await pair.consumer.worker.step(limit=9)
    return pair.consumer.only_negotiation


def ack(**changes: Any) -> JsonObject:
    return {
        "@context": ["https://w3id.org/dspace/2025/1/context.jsonld"],
        "@type": "ContractNegotiation",
        "consumerPid": "urn:someone",
        "providerPid": "urn:provider",
        "state": "REQUESTED",
        **changes,
    }


ACKNOWLEDGED: dict[str, PeerResponse] = {
    "nothing": answer(200),
    "no content": answer(204),
    "accepted": answer(202, "later"),
    "a text": answer(200, b"OK"),
    "a page": answer(200, b"<html><body>200</body></html>"),
    "no UTF-8": answer(200, b"\xff\xfe\x00"),
    "half a document": answer(200, b'{"@type": "ContractNegoti'),
    "deep nesting": answer(200, b"[" * 200_000),
    "an array": answer(200, [ack()]),
    "another process": answer(200, ack()),
    "no provider's pid": answer(200, ack(providerPid=None)),
    "a pid that is none": answer(200, ack(providerPid="a b")),
    "a pid that is no text": answer(200, ack(providerPid={"@id": "urn:provider"})),
    "an error with status 200": answer(200, {"@type": "ContractNegotiationError", "code": "x"}),
}


@pytest.mark.parametrize("said", ACKNOWLEDGED.values(), ids=ACKNOWLEDGED)
async def test_any_2xx_acknowledges_and_only_a_fitting_one_tells_the_pid(said: PeerResponse) -> None:
    """dsp.md 7.7: any 2xx with any or no body. What is no answer about our process teaches nothing."""
    pair, stub = await asking(said)
    held = await step(pair)
    assert (held.state, held.sending, held.peer_pid) == (NegotiationState.REQUESTED, "", "")
    assert len(stub.told) == 1
    assert not [row for row in pair.consumer.store.state.outbox if row.message.kind == "negotiation"]


RETRIED: dict[str, PeerResponse | PeerError] = {
    **{str(s): answer(s, b"\xffgarbage") for s in (408, 425, 429, 500, 501, 502, 503, 504, 599)},
    "an error's body with 500": answer(500, {"@type": "ContractNegotiationError", "code": "x"}),
    "no answer": PeerUnreachable("no answer in time"),
    "too long an answer": PeerProtocolError("answered more than 10 bytes"),
}


@pytest.mark.parametrize("said", RETRIED.values(), ids=RETRIED)
async def test_what_may_pass_is_tried_again_with_the_same_message(said: PeerResponse | PeerError) -> None:
    """dsp.md 1.13, 1.14: 5xx and silence change nothing; the retry carries the same `@id`."""
    pair, stub = await asking(said, answer(201))
    before = pair.consumer.only_negotiation
    assert await step(pair) == before
    assert await step(pair) == before, "not before its pause is over"
    await pair.clock.advance(5)
    assert (await step(pair)).sending == ""
    first, second = stub.told
    assert first == second


FINAL: dict[str, PeerResponse] = {
    **{str(s): answer(s, b"\xffgarbage") for s in (301, 302, 307, 308, 400, 403, 404, 405, 410, 413, 422)},
    "a typed error": answer(400, {"@type": "ContractNegotiationError", "code": "x", "reason": ["No."]}),
    "a reason that is none": answer(400, {"reason": {"a": 1}, "code": ["x"], "detail": 7}),
    "too many reasons": answer(400, {"reason": ["No."] * 10_000, "code": "x" * 10_000}),
    "a long reason": answer(400, {"reason": ["\x1b[31m\u202e" + "n" * 100_000], "code": "\n"}),
}


@pytest.mark.parametrize("said", FINAL.values(), ids=FINAL)
async def test_a_refusal_ends_the_process_and_the_operator_reads_why(said: PeerResponse) -> None:
    """dsp.md 1.14: 4xx gives up. Redirects are not followed. The peer's words are kept short, one line."""
    pair, stub = await asking(said)
    held = await step(pair)
    assert held.state is NegotiationState.TERMINATED
    assert len(stub.told) == 1, "nobody is told who refused to listen"
    (reason,) = held.reasons
    assert "kela refused ContractRequestMessage" in reason
    assert reason.isprintable()
    assert len(reason) < 12_000
