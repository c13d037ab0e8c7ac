"""The client API of a connector that may die at any moment, as an application that cares would use it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from connector.access.people import issue_api_token
from connector.adapters import file_keys
from connector.adapters.clock import SystemClock
from connector.model.person import PersonRole
from tests.crash.estate import Estate

PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 90.0


class Cut(Exception):
    """No answer, or one of 5xx: what was asked for may have happened or not."""


class Refused(Exception):
    """A 4xx: it did not happen."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')}")
        self.status = status
        self.code = str(problem.get("code"))


_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Client:
    def __init__(self, estate: Estate, name: str) -> None:
        self.name = name
        self.cut_calls = 0
        self._keys = file_keys.load(estate.participant_folder(name) / "keys", name)
        self._audience = f"{estate.url(name)}/v1"
        self._http = httpx.AsyncClient(
            base_url=self._audience,
            timeout=30,
            trust_env=False,
            limits=httpx.Limits(max_connections=32, keepalive_expiry=2),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: str) -> Any:
        """Asked again until there is an answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await self._once("GET", path, params=params)
                except Cut:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Once. Raises Cut, Refused."""
        try:
            return await self._once("POST", path, json=dict(body or {}))
        except Cut:
            self.cut_calls += 1
            raise

    async def until(self, path: str, done: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done(found := await self.get(path)):  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(PAUSE_SECONDS)
        return found

    async def _once(self, method: str, path: str, **about: Any) -> Any:
        while True:
            try:
                answer = await self._http.request(method, path, headers=self._headers(), **about)
                break
            except _NOT_SENT:
                await asyncio.sleep(PAUSE_SECONDS)
            except httpx.HTTPError as error:
                raise Cut(type(error).__name__) from None
        if answer.status_code >= 500:
            raise Cut(str(answer.status_code))
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.json())
        return answer.json()

    def _headers(self) -> dict[str, str]:
        token = issue_api_token(
            self._keys,
            SystemClock(),
            audience=self._audience,
            subject="crash-harness",
            roles=(PersonRole.OPERATOR, PersonRole.VIEWER),
            purposes=(),
            token_id=uuid.uuid4().hex,
        )
        return {"Authorization": f"Bearer {token}"}
