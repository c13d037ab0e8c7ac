"""The client API of one connector, for the command line, the demo and tests: synchronous, typed errors."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from connector.access.people import issue_api_token
from connector.adapters.clock import SystemClock
from connector.bootstrap.keys import open_keys
from connector.errors import ConnectorError, PeerUnreachable, Reason, Unavailable
from connector.model.person import PersonRole
from connector.settings import Settings, load_settings


class ApiProblem(ConnectorError):
    """The connector's answer was a problem (RFC 9457); `problem` is its body."""

    code = "api_problem"

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        text = str(problem.get("detail") or f"the connector answered {status}")
        super().__init__(
            text, mend=str(problem.get("mend") or ""), code=str(problem.get("code") or self.code)
        )
        self.status = status
        self.problem = dict(problem)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(
            Reason(code=r.get("code", ""), text=r.get("text", ""), source=r.get("source", ""))
            for r in self.problem.get("deniedBy", ())
        )


class Api:
    """Acts in `folder`'s connector as `subject` with `roles`, by tokens made with the folder's own key.

    `receive_buffer_bytes`: the kernel's, per connection; 0 leaves it to the kernel.
    """

    def __init__(
        self,
        folder: Path,
        *,
        roles: Iterable[PersonRole],
        purposes: Iterable[str] = (),
        subject: str = "cli",
        timeout_seconds: float = 60.0,
        receive_buffer_bytes: int = 0,
    ) -> None:
        self.settings: Settings = load_settings(folder)
        self._keys = open_keys(self.settings)
        self._roles, self._purposes, self._subject = tuple(roles), tuple(purposes), subject
        options = (
            [(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)] if receive_buffer_bytes else None
        )
        self._http = httpx.Client(
            base_url=f"http://{self.settings.host}:{self.settings.port}",
            timeout=timeout_seconds,
            trust_env=False,
            transport=httpx.HTTPTransport(trust_env=False, socket_options=options),
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.close()

    def token(self) -> str:
        return issue_api_token(
            self._keys,
            SystemClock(),
            audience=f"{self.settings.public_url}/v1",
            subject=self._subject,
            roles=self._roles,
            purposes=self._purposes,
            token_id=uuid.uuid4().hex,
            seconds=self.settings.api_token_seconds,
        )

    def get(self, path: str, **params: str) -> Any:
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("POST", path, json=dict(body or {}))

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    @contextmanager
    def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **params: str
    ) -> Iterator[Iterator[Any]]:
        """JSON lines, as they come. Leaving the context ends the stream."""
        try:
            with self._http.stream(
                method,
                path,
                json=dict(body) if body else None,
                params=params,
                headers=self._headers(),
                timeout=None,
            ) as answer:
                if answer.status_code >= 300:
                    answer.read()
                    raise _problem(answer)
                yield (json.loads(line) for line in answer.iter_lines() if line)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    @contextmanager
    def download(self, path: str, *, accept: str = "", **params: str) -> Iterator[Iterator[bytes]]:
        """The bytes of an answer. Raises PeerUnreachable where it ends before it is whole."""
        headers = {**self._headers(), **({"Accept": accept} if accept else {})}
        try:
            with self._http.stream("GET", path, params=params, headers=headers, timeout=None) as answer:
                if answer.status_code >= 300:
                    answer.read()
                    raise _problem(answer)
                yield answer.iter_raw()
        except httpx.RemoteProtocolError:
            raise PeerUnreachable(
                "The answer broke off: what was read is not all of it.",
                mend="Look at the transfer's state, and read it again.",
            ) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _call(self, method: str, path: str, **about: Any) -> Any:
        try:
            answer = self._http.request(method, path, headers=self._headers(), **about)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.status_code >= 300:
            raise _problem(answer)
        return answer.json() if answer.content else None

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token()}"}

    def _unreachable(self, error: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"The connector at {self._http.base_url} does not answer ({type(error).__name__}).",
            mend="Start it with `connector serve`.",
        )


def _problem(answer: httpx.Response) -> ApiProblem:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    return ApiProblem(answer.status_code, body if isinstance(body, dict) else {})
