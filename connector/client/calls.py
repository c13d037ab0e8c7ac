"""What the client asks and how it reads the answers: the same for waiting and awaiting."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import httpx

from connector.client.answer import Answer, read_answer
from connector.client.problem import problem_of
from connector.errors import PeerUnreachable, Unavailable

Parameters = Sequence[Any] | Mapping[str, Any]
"""Of `?` in their order, or of `$name` by name."""

Key = str | Callable[[], str]
"""An API key or an access token; or what gives one, for each call anew."""


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    params: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, key: Key) -> dict[str, Any]:
        token = key if isinstance(key, str) else key()
        return {
            "method": self.method,
            "url": self.path,
            "json": self.body,
            "params": self.params,
            "headers": {"Authorization": f"Bearer {token}"},
        }


def query(sql: str, purpose: str, parameters: Parameters, query_id: str) -> Call:
    asked = {**_statement(sql, purpose, parameters), "format": "arrow", "id": query_id or uuid.uuid4().hex}
    return Call("POST", "/v1/queries", asked)


def explain(sql: str, purpose: str, parameters: Parameters) -> Call:
    return Call("POST", "/v1/queries/explain", _statement(sql, purpose, parameters))


def progress(query_id: str) -> Call:
    return Call("GET", f"/v1/queries/{query_id}")


def cancel(query_id: str) -> Call:
    return Call("DELETE", f"/v1/queries/{query_id}")


def search(text: str, participant: str, theme: str) -> Call:
    given = {"q": text, "participant": participant, "theme": theme}
    return Call("GET", "/v1/catalog/search", params={k: v for k, v in given.items() if v})


def request_access(dataset: str, purpose: str, offer: str) -> Call:
    return Call("POST", "/v1/access-requests", {"dataset": dataset, "purpose": purpose, "offer": offer})


def answer_of(response: httpx.Response) -> Answer:
    return read_answer(_read(response).content, response.headers.get("Dataspace-Query", ""))


def json_of(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = _read(response).json()
    return found


def failed(error: httpx.HTTPError, url: str) -> Exception:
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return PeerUnreachable(
            "The connector's answer broke off: nothing of it is given.", mend="Ask again.", participant=url
        )
    return Unavailable(
        f"The connector at {url} does not answer ({type(error).__name__}).", mend="Is the URL right?"
    )


def _read(response: httpx.Response) -> httpx.Response:
    if response.status_code >= 300:
        raise problem_of(response)
    return response


def _statement(sql: str, purpose: str, parameters: Parameters) -> dict[str, Any]:
    if isinstance(parameters, Mapping):
        given: Any = {name: _json(value) for name, value in parameters.items()}
    else:
        given = [_json(value) for value in parameters]
    return {"sql": sql, "purpose": purpose, "parameters": given}


def _json(value: Any) -> Any:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
