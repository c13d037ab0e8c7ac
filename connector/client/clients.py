"""The two clients: one waits, one is awaited."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import httpx

from connector.client import calls
from connector.client.answer import Answer
from connector.client.calls import Call, Key, Parameters

TIMEOUT = httpx.Timeout(30.0, read=600.0)  # a query may take its time; a connection may not


class Client:
    """One's own connector at `url`, asked with `key`. Raises ApiProblem, Unavailable, PeerUnreachable."""

    def __init__(self, url: str, *, key: Key, timeout: httpx.Timeout = TIMEOUT) -> None:
        self._url, self._key = url, key
        self._http = httpx.Client(base_url=url, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def query(self, sql: str, *, purpose: str, parameters: Parameters = (), id: str = "") -> Answer:
        """`id`: of your choice, to look at it with `progress` and stop it with `cancel` from elsewhere."""
        return calls.answer_of(self._send(calls.query(sql, purpose, parameters, id)))

    def explain(self, sql: str, *, purpose: str, parameters: Parameters = ()) -> dict[str, Any]:
        """Which participant would run what, and what would be hidden; nothing is run."""
        return self._json(calls.explain(sql, purpose, parameters))

    def progress(self, query_id: str) -> dict[str, Any]:
        return self._json(calls.progress(query_id))

    def cancel(self, query_id: str) -> dict[str, Any]:
        return self._json(calls.cancel(query_id))

    def search(self, text: str = "", *, participant: str = "", theme: str = "") -> dict[str, Any]:
        """Datasets of all participants, as last read from their catalogues."""
        return self._json(calls.search(text, participant, theme))

    def request_access(self, dataset: str, *, purpose: str, offer: str = "") -> dict[str, Any]:
        """Ask for `participant.dataset` for a purpose, or see how far that is: say it again until `READY`."""
        return self._json(calls.request_access(dataset, purpose, offer))

    def _json(self, call: Call) -> dict[str, Any]:
        return calls.json_of(self._send(call))

    def _send(self, call: Call) -> httpx.Response:
        try:
            return self._http.request(**call.arguments(self._key))
        except httpx.HTTPError as error:
            raise calls.failed(error, self._url) from None


class AsyncClient:
    """As `Client`, awaited. Cancelling what awaits a query ends the query."""

    def __init__(self, url: str, *, key: Key, timeout: httpx.Timeout = TIMEOUT) -> None:
        self._url, self._key = url, key
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def query(self, sql: str, *, purpose: str, parameters: Parameters = (), id: str = "") -> Answer:
        return calls.answer_of(await self._send(calls.query(sql, purpose, parameters, id)))

    async def explain(self, sql: str, *, purpose: str, parameters: Parameters = ()) -> dict[str, Any]:
        return await self._json(calls.explain(sql, purpose, parameters))

    async def progress(self, query_id: str) -> dict[str, Any]:
        return await self._json(calls.progress(query_id))

    async def cancel(self, query_id: str) -> dict[str, Any]:
        return await self._json(calls.cancel(query_id))

    async def search(self, text: str = "", *, participant: str = "", theme: str = "") -> dict[str, Any]:
        return await self._json(calls.search(text, participant, theme))

    async def request_access(self, dataset: str, *, purpose: str, offer: str = "") -> dict[str, Any]:
        return await self._json(calls.request_access(dataset, purpose, offer))

    async def _json(self, call: Call) -> dict[str, Any]:
        return calls.json_of(await self._send(call))

    async def _send(self, call: Call) -> httpx.Response:
        try:
            return await self._http.request(**call.arguments(self._key))
        except httpx.HTTPError as error:
            raise calls.failed(error, self._url) from None
