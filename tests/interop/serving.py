"""An application served from a thread with a loop of its own: the tests that talk to it are synchronous."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import uvicorn

from tests.parts import HOST

START_SECONDS = 30.0
Opened = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens an ASGI application in the loop it is to run in, and closes it there."""


def bound() -> socket.socket:
    """A listening socket on a free port of the loopback: the port is known before anybody answers on it."""
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(128)
    return listener


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


@contextmanager
def serving(opened: Opened, listener: socket.socket) -> Iterator[asyncio.AbstractEventLoop]:
    """Serve on `listener` until the end; what fails at the start is raised here. Yields its loop."""
    served = _Served(opened, listener)
    thread = threading.Thread(target=served.run, name=f"serving {url_of(listener)}")
    thread.start()
    try:
        yield served.wait_ready()
    finally:
        served.stop()
        thread.join()
        listener.close()


class _Served:
    def __init__(self, opened: Opened, listener: socket.socket) -> None:
        self._opened = opened
        self._listener = listener
        self._settled = threading.Event()
        self._failure: BaseException | None = None
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # a thread has nobody to raise it to
            self._failure = error
        finally:
            self._settled.set()

    def wait_ready(self) -> asyncio.AbstractEventLoop:
        if not self._settled.wait(START_SECONDS):
            raise TimeoutError("the application did not open in time")
        if self._failure is not None:
            raise self._failure
        assert self._loop is not None
        return self._loop

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True

    async def _serve(self) -> None:
        async with self._opened() as app:
            config = uvicorn.Config(
                app, http="httptools", log_config=None, access_log=False, timeout_graceful_shutdown=1
            )
            self._server, self._loop = uvicorn.Server(config), asyncio.get_running_loop()
            self._settled.set()  # the kernel takes connections already
            await self._server.serve(sockets=[self._listener])
