"""The tests' real parts: Apache Kafka, OPA and PostgreSQL, started on free loopback ports.

Each part has a module with `running_…()`, a context manager that yields where the server listens and leaves
nothing behind: no process, no folder, also when the test run itself is killed. `plugin` makes pytest fixtures
of them, `install` fetches them ahead, `cache` is where they are kept. Here is what the three share.
"""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

Server = TypeVar("Server")
Result = TypeVar("Result")
Command: TypeAlias = Sequence[str | Path]

HOST = "127.0.0.1"
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0
PORT_ATTEMPTS = 3
LOG_TAIL_LINES = 15


class PartUnavailable(Exception):
    """A part can't be had on this machine. The message says what was tried and how to get it."""


class PartFailed(PartUnavailable):
    """An installed part ended or was not ready in time. The message ends with its last output."""


def tail(output: str) -> str:
    """The last lines of a program's output, indented to stand under a message."""
    lines = output.strip().splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"


def output_of(
    command: Command,
    *,
    timeout_seconds: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: tuple[int, int] | None = None,
) -> str:
    """Run a command; return what it printed on both streams. `user` is (uid, gid). Raises PartUnavailable."""
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            env=env,
            cwd=cwd,
            user=user[0] if user else None,
            group=user[1] if user else None,
            extra_groups=[] if user else None,
        )
    except subprocess.TimeoutExpired as error:
        raise PartUnavailable(
            f"`{program}` did not end within {timeout_seconds:.0f} s; try again."
        ) from error
    except OSError as error:
        raise PartUnavailable(f"`{program}` can't be run: {error}") from error
    if done.returncode != 0:
        command_line = " ".join(str(word) for word in command)
        raise PartUnavailable(f"`{command_line}` failed (exit {done.returncode}):\n{tail(done.stdout)}")
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on just now. Another process may take one before we do: see `on_free_ports`."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def on_free_ports(count: int, start: Callable[[list[int]], Server]) -> Server:
    """Start a server on free ports; on others when somebody was faster at binding one of them."""
    for _ in range(PORT_ATTEMPTS - 1):
        try:
            return start(free_ports(count))
        except PartFailed as error:
            if "address already in use" not in str(error).lower():
                raise
    return start(free_ports(count))


def accepts_connections(port: int) -> bool:
    """Whether a server on this machine listens on the port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def run_apart(work: Callable[[], Coroutine[object, object, Result]]) -> Result:
    """Run a coroutine to its end in a thread and loop of its own: works inside and outside a running loop."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


@contextmanager
def temporary_folder(part: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder for one server's data and log, removed afterwards."""
    prefix = f"connector-{part}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def running(
    command: Command,
    *,
    folder: Path,
    ready: Callable[[], bool],
    timeout_seconds: float,
    stop_signal: signal.Signals,
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
) -> Iterator[int]:
    """Run a server in a process group of its own, yield its pid once `ready()`, stop it afterwards.

    `folder` is temporary; the server works and logs there. Raises PartFailed with the end of the log.
    """
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            cwd=folder,
            user=user[0] if user else None,
            group=user[1] if user else None,
            extra_groups=[] if user else None,
        )
    with _stopped_at_the_end(process, stop_signal), _watchdog(process.pid, stop_signal, folder):
        _wait_until(ready, process, log, timeout_seconds)
        yield process.pid


def _wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, timeout_seconds: float
) -> None:
    deadline = time.monotonic() + timeout_seconds
    name = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
    while process.poll() is None:
        if ready():
            return
        if time.monotonic() > deadline:
            output = log.read_text(errors="replace")
            raise PartFailed(
                f"`{name}` was not ready after {timeout_seconds:.0f} s. Its last output:\n{tail(output)}"
            )
        time.sleep(POLL_SECONDS)
    output = log.read_text(errors="replace")
    raise PartFailed(f"`{name}` ended at once (exit {process.returncode}). Its last output:\n{tail(output)}")


@contextmanager
def _stopped_at_the_end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> Iterator[None]:
    try:
        yield
    finally:
        for wanted in (stop_signal, signal.SIGKILL):
            # Once the process is reaped its group's number may belong to somebody else: signal only before.
            if process.poll() is None:
                os.killpg(process.pid, wanted)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def _watchdog(group: int, stop_signal: signal.Signals, folder: Path) -> Iterator[None]:
    """A shell on a pipe from this process: when this process is killed, it ends the server and its folder."""
    script = (
        'read -r _; kill -s "$1" -- "-$2"; for _ in 1 2 3; do sleep 1; kill -s 0 -- "-$2" || break; done;'
        ' kill -s KILL -- "-$2"; rm -rf -- "$3"'
    )
    command = [
        "/bin/sh",
        "-c",
        script,
        "watchdog",
        stop_signal.name.removeprefix("SIG"),
        str(group),
        str(folder),
    ]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
    ) as dog:
        try:
            yield
        finally:
            dog.kill()
