"""Requests to other participants: address from the trust list, a token of theirs, our proof, typed errors."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from connector.errors import PeerError, PeerProtocolError, PeerRefused, PeerUnreachable, Reason
from connector.model.json import JsonObject
from connector.model.participant import Participant, ParticipantStatus
from connector.model.token import Actor, AuthorizationDetail
from connector.ports import PeerClient, PeerCredentials, PeerResponse, TrustRegistry

STALE_TOKEN = frozenset({401, 409})
"""The token, or the grant it names, is no longer good: a new token may be, or the proof wants a nonce."""

NOT_NOW = frozenset({408, 425, 429})
"""A 4xx that says only: ask again later."""

_MAX_ERROR_BYTES = 65_536
_MAX_TEXT_CHARS = 500
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Tries:
    """Once more with the nonce that was asked for, and once more with a new token."""

    def __init__(self) -> None:
        self._left = {True, False}

    def another(self, for_nonce: bool) -> bool:
        allowed = for_nonce in self._left
        self._left.discard(for_nonce)
        return allowed


class Peers:
    def __init__(self, trust: TrustRegistry, credentials: PeerCredentials, client: PeerClient) -> None:
        self._trust = trust
        self._credentials = credentials
        self._client = client

    def participant(self, participant_id: str) -> Participant:
        """Raises PeerRefused for one that the trust list does not hold as active."""
        participant = self._trust.current().participants.get(participant_id)
        if participant is None:
            raise PeerRefused(
                "is not in the participant registry",
                participant=participant_id,
                mend="Check the name with `connector registry show`, or ask the orchestrator.",
                code="participant_unknown",
            )
        if participant.status is not ParticipantStatus.ACTIVE:
            raise PeerRefused(
                f"is {participant.status} in the registry",
                participant=participant_id,
                code="participant_inactive",
            )
        return participant

    async def call(
        self,
        participant: Participant,
        method: str,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
        body: JsonObject | Sequence[JsonObject] | None = None,
    ) -> Any:
        """The JSON of a 2xx answer, None where it has none. Raises PeerError naming the participant."""
        answer = await self.ask(
            participant, method, url, resource=resource, scope=scope, detail=detail, actor=actor, body=body
        )
        return _json(participant.id, answer.body)

    async def tell(
        self, participant: Participant, url: str, *, resource: str, scope: str, body: JsonObject
    ) -> JsonObject | None:
        """The object that a 2xx answers, None where it answers something else or nothing: what was told has
        arrived either way. Raises PeerError naming the participant."""
        answer = await self.ask(participant, "POST", url, resource=resource, scope=scope, body=body)
        try:
            found = _json(participant.id, answer.body)
        except PeerProtocolError:
            return None
        return found if isinstance(found, dict) else None

    async def ask(
        self,
        participant: Participant,
        method: str,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
        body: JsonObject | Sequence[JsonObject] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        timeout_seconds: float = 10.0,
        max_bytes: int = 10_000_000,
    ) -> PeerResponse:
        """The answer as it came, where it is a 2xx or its status is one to `accept`. `headers` come beside
        our own, which win. Raises PeerError naming the participant."""
        content = None if body is None else json.dumps(body).encode()
        tries = _Tries()
        while True:
            proved = await self._headers(participant, method, url, resource, scope, detail, actor, content)
            try:
                answer = await self._client.request(
                    method,
                    url,
                    headers={**(headers or {}), **proved},
                    content=content,
                    timeout_seconds=timeout_seconds,
                    max_bytes=max_bytes,
                )
            except PeerError as error:
                raise _named(error, participant.id) from None
            if answer.status not in STALE_TOKEN or not tries.another(
                self._credentials.refused(
                    participant, answer, resource=resource, scope=scope, detail=detail, actor=actor
                )
            ):
                break
        if answer.status not in accept:
            _raise_for(participant.id, answer, answer.body)
        return answer

    @asynccontextmanager
    async def stream(
        self,
        participant: Participant,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
        body: JsonObject,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of a 2xx answer to a POST, with backpressure. Raises PeerError."""
        content = json.dumps(body).encode()
        async with self._opened(
            participant, "POST", url, resource, scope, detail, actor, content, {}
        ) as opened:
            yield opened[1]

    @asynccontextmanager
    async def read(
        self,
        participant: Participant,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
        headers: Mapping[str, str],
    ) -> AsyncIterator[tuple[PeerResponse, AsyncIterator[bytes]]]:
        """The head and the chunks of a 2xx answer to a GET. `headers` come beside our own, which win."""
        async with self._opened(
            participant, "GET", url, resource, scope, detail, actor, None, headers
        ) as opened:
            yield opened

    @asynccontextmanager
    async def read_as_told(
        self, participant: Participant, url: str, *, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[PeerResponse, AsyncIterator[bytes]]]:
        """The same without a proof of ours, for a peer that told us what to send. Of a refusal only the
        status is told on: its text could repeat that."""
        try:
            async with self._client.stream("GET", url, headers=headers) as (answer, chunks):
                _raise_for(participant.id, answer, b"")
                yield answer, chunks
        except PeerError as error:
            raise _named(error, participant.id) from None

    @asynccontextmanager
    async def _opened(
        self,
        participant: Participant,
        method: str,
        url: str,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None,
        actor: Actor | None,
        content: bytes | None,
        more_headers: Mapping[str, str],
    ) -> AsyncIterator[tuple[PeerResponse, AsyncIterator[bytes]]]:
        tries = _Tries()
        while True:
            proved = await self._headers(participant, method, url, resource, scope, detail, actor, content)
            headers = {**more_headers, **proved}
            try:
                async with self._client.stream(method, url, headers=headers, content=content) as opened:
                    answer, chunks = opened
                    if answer.status in STALE_TOKEN and tries.another(
                        self._credentials.refused(
                            participant, answer, resource=resource, scope=scope, detail=detail, actor=actor
                        )
                    ):
                        continue
                    if answer.status >= 300:
                        _raise_for(participant.id, answer, await _collect(chunks))
                    yield answer, chunks
                    return
            except PeerError as error:
                raise _named(error, participant.id) from None

    async def _headers(
        self,
        participant: Participant,
        method: str,
        url: str,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None,
        actor: Actor | None,
        content: bytes | None,
    ) -> Mapping[str, str]:
        proved = await self._credentials.headers(
            participant, method, url, resource=resource, scope=scope, detail=detail, actor=actor
        )
        return {**proved, "Content-Type": "application/json"} if content is not None else proved


def _named(error: PeerError, participant: str) -> PeerError:
    """The transport knows hosts, not participants."""
    if error.participant:
        return error
    return type(error)(error.message, participant=participant, mend=error.mend, code=error.code)


async def _collect(chunks: AsyncIterator[bytes]) -> bytes:
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > _MAX_ERROR_BYTES:
            break
    return body


def _raise_for(participant: str, answer: PeerResponse, body: bytes) -> None:
    if answer.status < 300:
        return
    if answer.status >= 500 or answer.status in NOT_NOW:
        raise PeerUnreachable(f"answered {answer.status}", participant=participant)
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    raise PeerRefused(
        _text(problem.get("detail")) or f"answered {answer.status}",
        participant=participant,
        status=answer.status,
        reasons=_reasons(problem),
        mend=_text(problem.get("mend")),
        code=_code(problem.get("code")) or None,
    )


def _reasons(problem: Mapping[str, Any]) -> tuple[Reason, ...]:
    """RFC 9457 `deniedBy`, or DSP's `reason`: a stranger's texts, so short and of the expected shape only."""
    denied = problem.get("deniedBy")
    if isinstance(denied, list):
        entries = [e for e in denied[:20] if isinstance(e, dict)]
        return tuple(
            Reason(code=_code(e.get("code")), text=_text(e.get("text")), source=_text(e.get("source")))
            for e in entries
        )
    said = problem.get("reason")
    texts = [_text(r) for r in said[:20] if isinstance(r, str)] if isinstance(said, list) else []
    return tuple(Reason(code=_code(problem.get("code")) or "refused", text=t) for t in texts)


def _text(value: Any) -> str:
    """One line: it is shown in terminals and logs, where control characters would act."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:_MAX_TEXT_CHARS])


def _code(value: Any) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def _json(participant: str, body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise PeerProtocolError("answered nothing that is JSON", participant=participant) from None
