"""The client API of one's own connector with the keys of its folder: for the command line, demo and tests."""

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
from connector.client.problem import ApiProblem, problem_of
from connector.errors import PeerUnreachable, Unavailable
from connector.model.person import PersonRole
from connector.settings import Settings, load_settings

__all__ = ["Api", "ApiProblem"]


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

    def save(self, path: str, body: Mapping[str, Any], file: Path) -> Any:
        """The answer's bytes into `file`; what its `describedby` link says of them. A file is there only when
        it is whole: raises PeerUnreachable where the answer breaks off."""
        part = file.with_name(f"{file.name}.part")
        try:
            with (
                self._http.stream(
                    "POST", path, json=dict(body), headers=self._headers(), timeout=None
                ) as answer,
                part.open("wb") as out,
            ):
                if answer.status_code >= 300:
                    answer.read()
                    raise problem_of(answer)
                for chunk in answer.iter_raw():
                    out.write(chunk)
                described_by = answer.links["describedby"]["url"]
            part.replace(file)
        except httpx.RemoteProtocolError:
            raise _broke_off() from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        finally:
            part.unlink(missing_ok=True)
        return self.get(described_by)["about"]

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
                    raise problem_of(answer)
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
                    raise problem_of(answer)
                yield answer.iter_raw()
        except httpx.RemoteProtocolError:
            raise _broke_off() from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _call(self, method: str, path: str, **about: Any) -> Any:
        try:
            answer = self._http.request(method, path, headers=self._headers(), **about)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.status_code >= 300:
            raise problem_of(answer)
        return answer.json() if answer.content else None

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token()}"}

    def _unreachable(self, error: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"The connector at {self._http.base_url} does not answer ({type(error).__name__}).",
            mend="Start it with `connector serve`.",
        )


def _broke_off() -> PeerUnreachable:
    return PeerUnreachable("The answer broke off: what was read is not all of it.", mend="Ask for it again.")
