"""What a consumer's application hears: events and rows, each with the moment it came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from connector.demo.stage import WAIT_SECONDS, Stage
from connector.errors import ConnectorError
from connector.local_api import Api, ApiProblem
from connector.model.person import PersonRole

SMALL_BUFFER_BYTES = 16_384


@dataclass(slots=True)
class Heard:
    """Lines of a stream, in order, each with `time.monotonic()` seconds of its arrival."""

    lines: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    error: ConnectorError | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def add(self, line: Mapping[str, Any]) -> None:
        with self._news:
            self.lines.append((time.monotonic(), line))
            self._news.notify_all()

    def wait_for(
        self, wanted: Callable[[Mapping[str, Any]], bool], seconds: float = WAIT_SECONDS
    ) -> tuple[float, Mapping[str, Any]] | None:
        """The first line that is wanted, as soon as it is there; None after `seconds`."""

        def first() -> tuple[float, Mapping[str, Any]] | None:
            return next(((at, line) for at, line in self.lines if wanted(line)), None)

        with self._news:
            return self._news.wait_for(first, timeout=seconds)


@contextmanager
def listening(
    stage: Stage,
    name: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    roles: tuple[PersonRole, ...],
    purposes: tuple[str, ...] = (),
    pause_seconds: float = 0.0,
    **params: str,
) -> Iterator[Heard]:
    """Read a stream of JSON lines in the background; `pause_seconds` between lines makes a slow reader."""
    heard = Heard()
    stop = threading.Event()

    def read(api: Api) -> None:
        try:
            with api.stream(method, path, body, **params) as lines:
                for line in lines:
                    if stop.is_set():
                        return
                    heard.add(line)
                    if pause_seconds:
                        stop.wait(pause_seconds)
        except (ApiProblem, ConnectorError) as error:
            heard.error = error
        finally:
            heard.ended.set()

    with stage.ecosystem.api(name, *roles, purposes=purposes, receive_buffer_bytes=SMALL_BUFFER_BYTES) as api:
        reader = threading.Thread(target=read, args=(api,), daemon=True)
        reader.start()
        try:
            yield heard
        finally:
            stop.set()
            heard.ended.wait(timeout=2)
