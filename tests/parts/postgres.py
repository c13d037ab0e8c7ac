"""PostgreSQL: the machine's own server programs on a throw-away cluster."""

import functools
import os
import pwd
import re
import shutil
import signal
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.parts import (
    HOST,
    Command,
    PartFailed,
    PartUnavailable,
    accepts_connections,
    free_ports,
    on_free_ports,
    output_of,
    run_apart,
    running,
    temporary_folder,
)

MINIMUM = 14
START_SECONDS = 30.0
SERVER_FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")

SETTINGS = {
    # Durability is for data that somebody wants back.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "logical",  # change capture is tested too
    "shared_buffers": "64MB",
    "max_connections": "200",
    "listen_addresses": HOST,
    "timezone": "UTC",
}


CRASH_SETTINGS = {**SETTINGS, "synchronous_commit": "on"}
"""What was committed outlives the server; the machine goes on, so nothing need reach the disk."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server; `dsn` is its superuser's. Take a `fresh_database` per test."""

    dsn: str
    port: int
    pid: int
    version: str


@functools.cache
def server_folder() -> Path:
    """Where the newest `initdb` and `postgres` are, on PATH or elsewhere. Raises PartUnavailable."""
    on_path = shutil.which("postgres")
    places = [Path(on_path).resolve().parent] if on_path else []
    for pattern in SERVER_FOLDERS:
        places.extend(Path("/").glob(pattern))
    complete = [place for place in places if (place / "initdb").exists() and (place / "postgres").exists()]
    newest = max(complete, key=_version, default=None)
    if newest is not None and _version(newest) >= (MINIMUM,):
        return newest
    raise PartUnavailable(
        f"No PostgreSQL server >= {MINIMUM} found (looked for `initdb` and `postgres` on PATH and in"
        f" {', '.join('/' + pattern for pattern in SERVER_FOLDERS)})."
        " Install it, on Debian `apt-get install postgresql`."
    )


def version() -> str:
    """The version of the server in `server_folder()`."""
    return ".".join(str(number) for number in _version(server_folder()))


@contextmanager
def running_postgres(settings: Mapping[str, str] = SETTINGS) -> Iterator[PostgresServer]:
    """A server with trust authentication on a free loopback port. Raises PartUnavailable."""
    with ExitStack() as stack:
        programs, folder, user = stack.enter_context(_initialised())
        yield on_free_ports(
            1, lambda ports: stack.enter_context(_serving(programs, folder, ports[0], user, settings))
        )


class PostgresCluster:
    """A cluster whose server can be made to crash and started again, at the same DSN."""

    def __init__(self, programs: Path, folder: Path, user: tuple[int, int] | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        (self._port,) = free_ports(1)
        self._running = ExitStack()
        self._server: PostgresServer | None = None

    def start(self) -> PostgresServer:
        """Once it answers; a crashed one recovers first. Raises PartUnavailable."""
        deadline = time.monotonic() + START_SECONDS
        while self._server is None:
            try:
                serving = _serving(self._programs, self._folder, self._port, self._user, CRASH_SETTINGS)
                self._server = self._running.enter_context(serving)
            except PartFailed:  # the dead one's children hold its memory for another moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        return self._server

    def crash(self, *, immediate_shutdown: bool = False) -> None:
        """SIGKILL, or PostgreSQL's own immediate shutdown: either way it recovers from its log."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGQUIT if immediate_shutdown else signal.SIGKILL)
        self._server = None
        self._running.close()  # waits until it is gone

    def stop(self) -> None:
        self._running.close()


@contextmanager
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Nothing runs before its `start`. Raises PartUnavailable."""
    with _initialised() as (programs, folder, user):
        cluster = PostgresCluster(programs, folder, user)
        try:
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def _initialised() -> Iterator[tuple[Path, Path, tuple[int, int] | None]]:
    """The server's programs, a fresh cluster's folder, and whom to run it as."""
    programs, user = server_folder(), _unprivileged_user()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("postgres", parent=_open_folder()))
        if user:
            os.chown(folder, *user)
        data = folder / "data"
        initdb: Command = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "--no-instructions",
        ]
        locale = ["--encoding=UTF8", "--no-locale"]
        output_of(
            [*initdb, *locale], timeout_seconds=START_SECONDS, env=_environment(), cwd=folder, user=user
        )
        yield programs, folder, user


def fresh_database(server: PostgresServer) -> str:
    """Create an empty database, gone with the server; return its DSN. Works inside a running loop too."""
    name = f"test_{uuid.uuid4().hex}"

    async def create() -> None:
        connection = await asyncpg.connect(server.dsn)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()

    run_apart(create)
    return _dsn(server.port, name)


@contextmanager
def _serving(
    programs: Path, folder: Path, port: int, user: tuple[int, int] | None, settings: Mapping[str, str]
) -> Iterator[PostgresServer]:
    settings = {**settings, "port": str(port), "unix_socket_directories": str(folder)}
    flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    dsn = _dsn(port, "postgres")
    with running(
        [programs / "postgres", "-D", folder / "data", *flags],
        folder=folder,
        ready=lambda: accepts_connections(port) and run_apart(lambda: _answers(dsn)),
        timeout_seconds=START_SECONDS,
        stop_signal=signal.SIGQUIT,  # "immediate": no checkpoint of data that are thrown away
        env=_environment(),
        user=user,
    ) as pid:
        yield PostgresServer(dsn=dsn, port=port, pid=pid, version=version())


def _dsn(port: int, database: str) -> str:
    return f"postgresql://postgres@{HOST}:{port}/{database}"


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=2)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


@functools.cache
def _version(folder: Path) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", output_of([folder / "postgres", "--version"], timeout_seconds=30))
    return (int(found[1]), int(found[2])) if found else ()


def _environment() -> dict[str, str]:
    """Without PGDATA, PGOPTIONS and the like: a developer's own must not change what is tested."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _unprivileged_user() -> tuple[int, int] | None:
    """Whom to run the server as, (uid, gid): PostgreSQL refuses root. None when we aren't root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise PartUnavailable(
        "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`: add one."
    )


def _open_folder() -> Path:
    """A folder for temporary folders that another user can reach too."""
    for place in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if all(
            step.is_dir() and step.stat().st_mode & stat.S_IXOTH for step in (place, *place.resolve().parents)
        ):
            return place
    raise PartUnavailable("No folder for temporary files that every user can reach: set TMPDIR to one.")
