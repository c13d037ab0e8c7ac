"""Requests to other participants: stale tokens renewed once, strangers' words kept short, errors named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from connector.access.peers import Peers
from connector.errors import (
    PeerError,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    Reason,
    Unavailable,
)
from connector.model.participant import Participant, ParticipantStatus
from connector.ports import PeerResponse
from tests.agreed import Agreed, detail

URL = "https://kela.example/data/v1/datasets/benefits/query"
RESOURCE = "https://kela.example/data/v1"


@dataclass
class Tokens:
    """Counts what `PeerTokens` would ask its peer for."""

    issued: int = 0
    held: bool = False
    forgotten: list[Mapping[str, Any]] = field(default_factory=list)
    refuses: PeerError | None = None

    async def headers(self, participant: Participant, method: str, url: str, **_: Any) -> dict[str, str]:
        if self.refuses is not None:
            raise self.refuses
        if not self.held:
            self.held, self.issued = True, self.issued + 1
        return {"Authorization": f"DPoP token-{self.issued}", "DPoP": f"{method} {url}"}

    def refused(self, participant: Participant, answer: PeerResponse, **which: Any) -> bool:
        if "dpop-nonce" in answer.headers:
            return True
        self.held = False
        self.forgotten.append(which)
        return False


@dataclass
class Client:
    """Answers in order; the last one again and again."""

    answers: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    read: int = 0

    def _next(self, **asked: Any) -> PeerResponse:
        self.asked.append(asked)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, body = answer if isinstance(answer, tuple) else (answer, b"")
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return PeerResponse(status=status, headers={}, body=content)

    async def request(self, method: str, url: str, **asked: Any) -> PeerResponse:
        return self._next(method=method, url=url, **asked)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, **asked: Any
    ) -> AsyncIterator[tuple[PeerResponse, AsyncIterator[bytes]]]:
        answer = self._next(method=method, url=url, **asked)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(answer.body), 1_000):
                self.read += 1_000
                yield answer.body[start : start + 1_000]

        try:
            yield PeerResponse(status=answer.status, headers={}, body=b""), chunks()
        finally:
            self.left += 1


class Asking:
    """kela, as another participant asks it."""

    def __init__(self, *answers: Any) -> None:
        self.agreed = Agreed()
        self.tokens, self.client = Tokens(), Client(list(answers))
        self.peers = Peers(self.agreed.registry, cast("Any", self.tokens), cast("Any", self.client))
        self.kela = self.agreed.registry.participants["kela"]

    async def call(self, body: Any = None) -> Any:
        return await self.peers.call(
            self.kela, "POST", URL, resource=RESOURCE, scope="data", detail=detail(), body=body
        )

    async def stream(self) -> bytes:
        asked = self.peers.stream(
            self.kela, URL, resource=RESOURCE, scope="data", detail=detail(), body={"sql": "SELECT 1"}
        )
        async with asked as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def both(self, kind: type[PeerError]) -> list[PeerError]:
        """The error of a call and of a stream: they are read alike."""
        with pytest.raises(kind) as called:
            await self.call()
        with pytest.raises(kind) as streamed:
            await self.stream()
        return [called.value, streamed.value]


# --- who ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [ParticipantStatus.SUSPENDED, ParticipantStatus.LEFT])
def test_only_active_participants_are_asked(status: ParticipantStatus) -> None:
    """Who is not active in the trust list is refused before anything is sent, and by what it is."""
    asking = Asking(200)
    asking.agreed.registry.set_status("kela", status)
    with pytest.raises(PeerRefused, match=status.value) as refused:
        asking.peers.participant("kela")
    assert (refused.value.participant, refused.value.code) == ("kela", "participant_inactive")
    with pytest.raises(PeerRefused) as refused:
        asking.peers.participant("nobody")
    assert (refused.value.participant, refused.value.code) == ("nobody", "participant_unknown")


def test_an_expired_trust_list_names_nobody() -> None:
    """Then nobody is asked."""
    asking = Asking(200)
    asking.agreed.registry.expired = True
    with pytest.raises(Unavailable):
        asking.peers.participant("kela")


# --- answers --------------------------------------------------------------------------------------------


async def test_a_call_carries_token_proof_and_json() -> None:
    """Our own body as JSON, the peer's answer as JSON; no body, no content type."""
    asking = Asking((200, {"accepted": 3}))
    assert await asking.call({"sql": "SELECT 1"}) == {"accepted": 3}
    (asked,) = asking.client.asked
    assert asked["headers"] == {
        "Authorization": "DPoP token-1",
        "DPoP": f"POST {URL}",
        "Content-Type": "application/json",
    }
    assert json.loads(asked["content"]) == {"sql": "SELECT 1"}
    await asking.call()
    assert "Content-Type" not in asking.client.asked[-1]["headers"]


async def test_an_empty_answer_is_none() -> None:
    """204, and 200 with nothing."""
    assert await Asking(204).call() is None


async def test_a_stream_is_had_chunk_by_chunk() -> None:
    """And its connection is left when the reader is done."""
    asking = Asking((200, b"x" * 5_000))
    assert await asking.stream() == b"x" * 5_000
    assert asking.client.left == 1


@pytest.mark.parametrize("status", [401, 409])
async def test_a_stale_token_is_renewed_once(status: int) -> None:
    """401: the token is no longer good; 409: the grant it names. A new one may be."""
    asking = Asking(status, (200, {"ok": True}), status, (200, b"rows"))
    assert await asking.call() == {"ok": True}
    assert await asking.stream() == b"rows"
    tokens = [asked["headers"]["Authorization"] for asked in asking.client.asked]
    assert tokens == ["DPoP token-1", "DPoP token-2", "DPoP token-2", "DPoP token-3"]
    assert [(f["resource"], f["scope"], f["detail"]) for f in asking.tokens.forgotten] == [
        (RESOURCE, "data", detail())
    ] * 2
    assert asking.client.left == 2


@pytest.mark.parametrize("status", [401, 409])
async def test_and_only_once(status: int) -> None:
    """A peer that says so again is believed."""
    asking = Asking((status, {"code": "grant_stopped", "detail": "the transfer is suspended"}))
    for error in await asking.both(PeerRefused):
        assert isinstance(error, PeerRefused)
        assert (error.status, error.code, error.participant) == (status, "grant_stopped", "kela")
        assert "the transfer is suspended" in str(error)
    assert len(asking.client.asked) == 4


PROBLEM = {
    "type": "urn:connector:problem:not_permitted",
    "status": 403,
    "detail": "Not for this purpose.",
    "code": "not_permitted",
    "mend": "Ask for another purpose.",
    "deniedBy": [
        {"code": "purpose", "text": "This purpose is not agreed.", "source": "odrl"},
        {"code": "consent", "text": "Nobody consented.", "source": "baseline", "more": 1},
    ],
}


async def test_a_problem_becomes_reasons() -> None:
    """RFC 9457: the provider's own reasons reach the person who asked."""
    for error in await Asking((403, PROBLEM)).both(PeerRefused):
        assert isinstance(error, PeerRefused)
        assert error.reasons == (
            Reason(code="purpose", text="This purpose is not agreed.", source="odrl"),
            Reason(code="consent", text="Nobody consented.", source="baseline"),
        )
        assert (error.status, error.code, error.mend) == (403, "not_permitted", "Ask for another purpose.")
        assert error.message == "kela: Not for this purpose."


async def test_a_dsp_error_becomes_reasons() -> None:
    """DSP 2025-1: `reason` is an array of anything; texts are kept."""
    body = {"@type": "TransferError", "code": "409.1", "reason": ["No such transfer.", {"x": 1}, 7]}
    for error in await Asking((404, body)).both(PeerRefused):
        assert isinstance(error, PeerRefused)
        assert error.reasons == (Reason(code="409.1", text="No such transfer."),)


HOSTILE = {
    "no JSON": b"<html>secret</html>",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[1]",
    "a text": b'"no"',
    "nested to death": b"[" * 60_000,
    "wrong types": json.dumps(
        {"detail": 1, "code": ["x"], "mend": {}, "deniedBy": [1, "x", {"code": 1, "text": None}]}
    ).encode(),
    "reasons are an object": b'{"deniedBy": {"code": "x"}, "reason": {"a": 1}}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_garbage_is_a_refusal_with_no_words(body: bytes) -> None:
    """Whatever a 4xx carries, it is a refusal that names the participant."""
    for error in await Asking((403, body)).both(PeerRefused):
        assert isinstance(error, PeerRefused)
        assert (str(error), error.participant) == ("kela: answered 403", "kela")
        assert (error.status, error.code) == (403, "peer_refused")
        assert all(r.code == r.text == r.source == "" for r in error.reasons)


async def test_strangers_words_are_short_and_inert() -> None:
    """Texts are capped and lose their control characters: they are shown in terminals and logs."""
    nasty = "\x1b[2Jyou\nWARNING all is well\u202e" + "x" * 550
    body = {
        "detail": nasty,
        "mend": nasty,
        "code": "oops\nERROR root: all tokens revoked",
        "deniedBy": [{"code": nasty, "text": nasty, "source": nasty}] * 25,
    }
    for error in await Asking((403, body)).both(PeerRefused):
        assert isinstance(error, PeerRefused)
        assert len(error.reasons) == 20
        texts = [error.message, error.mend, error.code, *(r.text + r.source + r.code for r in error.reasons)]
        assert all(t.isprintable() and len(t) <= 1_010 for t in texts)
        assert (error.code, error.reasons[0].code) == ("peer_refused", "")


async def test_an_endless_error_body_is_not_read_to_its_end() -> None:
    """64 KB are enough to say no."""
    asking = Asking((403, b'{"detail": "' + b"x" * 5_000_000))
    for error in await asking.both(PeerRefused):
        assert str(error) == "kela: answered 403"
    assert asking.client.read < 70_000


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_worth_a_retry(status: int) -> None:
    """A gateway that says "not now" must not end a negotiation."""
    for error in await Asking((status, {"detail": "busy", "code": "x"})).both(PeerUnreachable):
        assert (str(error), error.participant) == (f"kela: answered {status}", "kela")


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_redirects_are_not_followed(status: int) -> None:
    """A peer does not send us, with its token and our proof, to somebody else."""
    for error in await Asking(status).both(PeerRefused):
        assert isinstance(error, PeerRefused)
        assert error.status == status


@pytest.mark.parametrize("body", [b"no", b"{", b"\xff", b"[" * 50_000])
async def test_a_good_status_with_garbage_breaks_the_protocol(body: bytes) -> None:
    """And names who broke it."""
    with pytest.raises(PeerProtocolError) as failed:
        await Asking((200, body)).call()
    assert failed.value.participant == "kela"


@pytest.mark.parametrize(
    "error",
    [
        PeerUnreachable("kela.example: no connection", mend="Check the network."),
        PeerProtocolError("kela.example answered more than 100 bytes", code="oversize"),
    ],
)
async def test_the_transports_errors_are_named(error: PeerError) -> None:
    """It knows hosts; people know participants."""
    for named in await Asking(error).both(type(error)):
        assert (named.participant, named.mend, named.code) == ("kela", error.mend, error.code)
        assert error.message in named.message


async def test_an_authorization_server_that_refuses_is_heard() -> None:
    """Its reasons are the answer; nothing is sent to the resource."""
    asking = Asking(200)
    asking.tokens.refuses = PeerRefused("no token", participant="kela", reasons=[Reason(code="a", text="b")])
    for error in await asking.both(PeerRefused):
        assert error is asking.tokens.refuses
    assert asking.client.asked == []


async def test_a_stream_that_breaks_while_it_is_read() -> None:
    """What the reader meets is named, and its own errors pass as they are."""
    asking = Asking((200, b"rows"))
    stream = asking.peers.stream(asking.kela, URL, resource=RESOURCE, scope="data", body={})
    with pytest.raises(PeerUnreachable, match=r"^kela: broke off"):
        async with stream:
            raise PeerUnreachable("broke off")
    stream = asking.peers.stream(asking.kela, URL, resource=RESOURCE, scope="data", body={})
    with pytest.raises(ZeroDivisionError):
        async with stream:
            raise ZeroDivisionError
    assert len(asking.client.asked) == 2
    assert asking.client.left == 2


# --- conditional requests ---------------------------------------------------------------------------------


async def test_headers_go_along_and_a_status_that_is_wanted_is_an_answer() -> None:
    """Crawler: `If-None-Match` out, 304 back; our own proof is nobody's to replace."""
    asking = Asking(304)
    sent = {"If-None-Match": '"1"', "Authorization": "Bearer somebody"}
    answer = await asking.peers.ask(
        asking.kela, "GET", URL, resource=RESOURCE, scope="dsp", headers=sent, accept={304}, max_bytes=7
    )
    assert answer.status == 304
    (asked,) = asking.client.asked
    assert asked["headers"]["If-None-Match"] == '"1"'
    assert asked["headers"]["Authorization"] == "DPoP token-1"
    assert asked["max_bytes"] == 7


async def test_a_status_that_is_not_wanted_is_an_error() -> None:
    """304 is an answer only to who asked on a condition."""
    asking = Asking(304)
    with pytest.raises(PeerRefused):
        await asking.peers.ask(asking.kela, "GET", URL, resource=RESOURCE, scope="dsp")
