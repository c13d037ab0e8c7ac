"""Ways in for a server: `serve` runs a participant's connector, `serve_registry` the orchestrator's list."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from connector.adapters import file_keys
from connector.adapters.clock import SystemClock
from connector.adapters.registry_files import RegistryFolder
from connector.errors import ConfigurationError
from connector.settings import Settings, load_settings
from connector.web.registry import registry_app

REGISTRY_ID = "registry"


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
        _run(_server(registry_app(source)).serve(sockets=[listener]))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    from connector.bootstrap.application import running_application  # not for the registry, which is light

    async with running_application(settings) as app:
        gc.freeze()  # what was loaded stays: no collection need look at it again
        gc.enable()
        await _server(app).serve(sockets=[listener])


def _server(app: FastAPI) -> uvicorn.Server:
    """No access log of its own: requests are told by the gateway's log and by the audit log."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


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


def _configure_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore", "aiokafka"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_without_texts)


def _without_texts(record: logging.LogRecord) -> bool:
    """web.errors has told type and place of an unforeseen error; its text could hold values."""
    record.exc_info = None
    return True
