"""The client's side: access tokens of other participants' authorization servers, kept while they live.

One token per issuer, resource, scope, authorization detail (agreement and purpose) and person acted for. It
is renewed at 80 % of its life, by one request at a time; until it expires it stays in use, so a renewal that
fails or whose answer is lost locks nobody out: the next one comes with a new assertion and a new proof.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from connector.access import dpop, jose, rfc7523, rfc9396
from connector.access.jose import Refusal
from connector.errors import PeerError, PeerProtocolError, PeerRefused, PeerUnreachable, Reason
from connector.model.participant import Participant
from connector.model.token import Actor, AuthorizationDetail
from connector.ports import Clock, Keys, PeerClient, PeerResponse

RENEW_AT = 0.8
RETRY_SECONDS = 5.0
"""Pause after a failed renewal while the old token is still good."""

_REQUEST_SECONDS = 5.0
_MAX_ANSWER_BYTES = 65_536
_MAX_LIFE_SECONDS = 3_600
_ERROR_CODE = re.compile(r"[a-z_]{1,64}")
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,8192}=*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    issuer: str
    resource: str
    scope: str
    detail: AuthorizationDetail | None
    actor: Actor | None


@dataclass(slots=True, kw_only=True)
class _Held:
    token: str
    renew_at: datetime
    expires_at: datetime


class PeerTokens:
    def __init__(self, *, keys: Keys, peer: PeerClient, clock: Clock, new_id: Callable[[], str]) -> None:
        self._keys = keys
        self._peer = peer
        self._clock = clock
        self._new_id = new_id
        self._held: dict[_Key, _Held] = {}
        self._requests: dict[_Key, asyncio.Task[_Held]] = {}
        self._nonces: dict[str, str] = {}
        """By token endpoint and by resource: what their servers last asked for."""

    async def headers(
        self,
        participant: Participant,
        method: str,
        url: str,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
    ) -> dict[str, str]:
        """`Authorization` and a fresh `DPoP` proof for one request to `url`, from the participant's own
        authorization server. Raises PeerError; PeerRefused carries the reasons the server gave."""
        key = _Key(issuer=participant.base_url, resource=resource, scope=scope, detail=detail, actor=actor)
        token = await self._token(participant, key)
        proof = dpop.make_proof(
            self._keys,
            method=method,
            url=url,
            at=self._clock.now(),
            proof_id=self._new_id(),
            access_token=token,
            nonce=self._nonces.get(resource, ""),
        )
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    def refused(
        self,
        participant: Participant,
        answer: PeerResponse,
        *,
        resource: str,
        scope: str,
        detail: AuthorizationDetail | None = None,
        actor: Actor | None = None,
    ) -> bool:
        """After a 401 or 409: the next proof holds the nonce that `answer` asks for (RFC 9449 §9), or else
        the next request brings a new token."""
        nonce = _nonce(answer)
        if nonce and "use_dpop_nonce" in answer.headers.get("www-authenticate", ""):
            self._nonces[resource] = nonce
            return True
        self._held.pop(
            _Key(issuer=participant.base_url, resource=resource, scope=scope, detail=detail, actor=actor),
            None,
        )
        return False

    async def close(self) -> None:
        """Give up the requests in flight."""
        tasks = list(self._requests.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _token(self, participant: Participant, key: _Key) -> str:
        now = self._clock.now()
        held = self._held.get(key)
        if held is not None and now < held.expires_at:
            if now < held.renew_at or key in self._requests:
                return held.token
            return (await self._renew(participant, key, held)).token
        return (await self._request_once(participant, key)).token

    async def _renew(self, participant: Participant, key: _Key, held: _Held) -> _Held:
        try:
            return await self._request_once(participant, key)
        except PeerUnreachable:
            # No answer, or a lost one. The token in hand is still good: carry on, and ask again shortly.
            held.renew_at = self._clock.now() + timedelta(seconds=RETRY_SECONDS)
            return held

    async def _request_once(self, participant: Participant, key: _Key) -> _Held:
        """Join the request in flight, or start it. A waiter that is cancelled takes nobody else along."""
        task = self._requests.get(key)
        if task is None:
            task = asyncio.ensure_future(self._request(participant, key))
            self._requests[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    def _finished(self, key: _Key, task: asyncio.Task[_Held]) -> None:
        self._requests.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen by its waiters, if any are left

    async def _request(self, participant: Participant, key: _Key) -> _Held:
        asked_at = self._clock.now()
        endpoint = f"{key.issuer}/oauth2/token"
        answer = await self._post(participant.id, endpoint, self._form(key, asked_at))
        nonce = _nonce(answer)
        if nonce and answer.status == 400 and b"use_dpop_nonce" in answer.body:
            self._nonces[endpoint] = nonce
            answer = await self._post(participant.id, endpoint, self._form(key, asked_at))
        held = _read_answer(answer, participant.id, asked_at)
        self._drop_expired(asked_at)
        self._held[key] = held
        return held

    def _form(self, key: _Key, at: datetime) -> dict[str, str]:
        form = {
            "grant_type": "client_credentials",
            "scope": key.scope,
            "resource": key.resource,
            "client_assertion_type": rfc7523.ASSERTION_TYPE,
            "client_assertion": rfc7523.make_assertion(
                self._keys,
                audience=key.issuer,
                at=at,
                assertion_id=self._new_id(),
                actor=key.actor,
            ),
        }
        if key.detail is not None:
            form["authorization_details"] = rfc9396.to_parameter(key.detail)
        return form

    async def _post(self, participant_id: str, endpoint: str, form: Mapping[str, str]) -> PeerResponse:
        proof = dpop.make_proof(
            self._keys,
            method="POST",
            url=endpoint,
            at=self._clock.now(),
            proof_id=self._new_id(),
            nonce=self._nonces.get(endpoint, ""),
        )
        try:
            return await self._peer.request(
                "POST",
                endpoint,
                headers={"Content-Type": "application/x-www-form-urlencoded", "DPoP": proof},
                content=urlencode(form).encode("ascii"),
                timeout_seconds=_REQUEST_SECONDS,
                max_bytes=_MAX_ANSWER_BYTES,
            )
        except PeerError as error:  # the transport knows hosts, not participants
            raise type(error)(
                error.message, participant=participant_id, mend=error.mend, code=error.code
            ) from error

    def _drop_expired(self, now: datetime) -> None:
        for key in [k for k, held in self._held.items() if held.expires_at <= now]:
            del self._held[key]


def _nonce(answer: PeerResponse) -> str:
    """RFC 9449 §8.1: printable, and of a length that fits a proof; "" where there is none to use."""
    nonce = answer.headers.get("dpop-nonce", "")
    return nonce if _NONCE.fullmatch(nonce) else ""


def _read_answer(answer: PeerResponse, participant: str, asked_at: datetime) -> _Held:
    """RFC 6749 §5.1 and 5.2. Life counts from when we asked, so never too long."""
    if answer.status >= 500:
        raise PeerUnreachable("its authorization server does not answer", participant=participant)
    try:
        body = jose.parse_object(answer.body)
    except Refusal:
        raise _nonsense(participant) from None
    if answer.status != 200:
        raise _refused(answer.status, body, participant)
    token, life = body.get("access_token"), body.get("expires_in")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise _nonsense(participant)
    if str(body.get("token_type")).lower() != "dpop":  # a bearer token would not be bound to our key
        raise _nonsense(participant)
    if isinstance(life, bool) or not isinstance(life, int) or not 0 < life <= _MAX_LIFE_SECONDS:
        raise _nonsense(participant)
    return _Held(
        token=token,
        renew_at=asked_at + timedelta(seconds=life * RENEW_AT),
        expires_at=asked_at + timedelta(seconds=life),
    )


def _nonsense(participant: str) -> PeerError:
    return PeerProtocolError(
        "its authorization server answered nothing that is a token", participant=participant
    )


def _refused(status: int, body: Mapping[str, Any], participant: str) -> PeerRefused:
    error = body.get("error")
    code = error if isinstance(error, str) and _ERROR_CODE.fullmatch(error) else "unknown"
    return PeerRefused(
        f"its authorization server refused a token ({code})",
        participant=participant,
        status=status,
        reasons=_reasons(body.get("reasons")),
    )


def _reasons(wire: Any) -> tuple[Reason, ...]:
    """What the peer says to people: text of a stranger, so short and of the expected shape only."""
    entries = wire[:20] if isinstance(wire, list) else []
    return tuple(
        Reason(
            code=str(entry.get("code", ""))[:64],
            text=str(entry.get("text", ""))[:500],
            source=str(entry.get("source", ""))[:128],
        )
        for entry in entries
        if isinstance(entry, Mapping)
    )
