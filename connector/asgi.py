"""Ways in for a server: `serve` runs a participant's connector, `serve_registry` the orchestrator's list."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from connector.adapters import file_keys
from connector.adapters.clock import SystemClock
from connector.adapters.registry_desk import RegistryDesk
from connector.adapters.registry_files import RegistryFolder
from connector.errors import ConfigurationError
from connector.settings import Settings, load_settings
from connector.web.registry import registry_app
from connector.web.server import Limits, server

REGISTRY_ID = "registry"
_OTHER_FILES = 500
"""Stores, sources, logs, and connections to peers."""

_log = logging.getLogger(__name__)


def serve(folder: Path) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError or Unavailable before it answers anybody."""
    settings = load_settings(folder)
    _configure_logging(settings.log_level)
    with _bound(settings.host, settings.port, send_buffer_kb=settings.stream_buffer_kb) as listener:
        _run(_serve(settings, listener))


def serve_registry(folder: Path, *, host: str, port: int) -> None:
    """The signed list, kept in step with the folder's JSON."""
    _configure_logging("info")
    keys = file_keys.load(folder / "keys", REGISTRY_ID)
    source = RegistryFolder(folder, keys=keys, clock=SystemClock())
    source.signed()  # a malformed list stops the start
    with _bound(host, port) as listener:
        app = registry_app(source, RegistryDesk(folder, SystemClock()))
        _run(server(app, Limits()).serve(sockets=[listener]))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    from connector.bootstrap.application import running_application  # not for the registry, which is light

    async with running_application(settings) as app:
        gc.freeze()  # what was loaded stays: no collection need look at it again
        gc.enable()
        limits = Limits(request_seconds=settings.request_seconds, connections=settings.connections)
        _allow_files(limits.connections)
        with _signals_spent():
            await server(app, limits).serve(sockets=[listener])


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


@contextmanager
def _signals_spent() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more, which would end us before anything is closed: the
    last tree head unsigned, the outbox's leases still held."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bound(host: str, port: int, *, send_buffer_kb: int = 0) -> Iterator[socket.socket]:
    """Bound before anything is opened: a port in use stops the start while nothing has happened yet.

    The kernel's send buffer is inherited by every connection; what lies in it is out of reach of a stop.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if send_buffer_kb:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_kb * 1024)
        try:
            listener.bind((host, port))
            listener.listen(1024)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} ({error.strerror})",
                where="port",
                mend="Stop the process that has it, or choose another port.",
                code="port_in_use",
            ) from None
        yield listener


def _allow_files(connections: int) -> None:
    """Each connection is an open file: without room for them all, accepting fails before our limit holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            _log.warning("only %d open files are allowed: `connections` asks for %d", most, wanted)


def _configure_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore", "aiokafka"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for quoting in ("uvicorn.error", "asyncpg.pool"):
        logging.getLogger(quoting).addFilter(_without_texts)


def _without_texts(record: logging.LogRecord) -> bool:
    """web.errors has told type and place of an unforeseen error; its text could hold values, and a driver's
    the name of a user."""
    record.exc_info = None
    return True
