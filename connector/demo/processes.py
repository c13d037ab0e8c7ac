"""Real processes on loopback ports: started, watched until ready, stopped by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from connector.errors import Unavailable

READY_SECONDS = 30.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(slots=True)
class Process:
    """`arguments` go to `python -m module`. Its output goes to `log`."""

    name: str
    arguments: Sequence[str]
    base_url: str
    log: Path
    module: str = "connector"
    _running: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CONNECTOR_")}
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(
                [sys.executable, "-m", self.module, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Raises Unavailable with the end of the log when it stops or does not come up in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._running is None or self._running.poll() is not None:
                raise Unavailable(
                    f"{self.name} stopped at start: {self._last_words()}", mend=f"See {self.log}."
                )
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.base_url}/health/ready", timeout=2, trust_env=False).status_code == 200:
                    return
            time.sleep(0.05)
        raise Unavailable(f"{self.name} is not ready after {seconds:.0f} s.", mend=f"See {self.log}.")

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def resident_mb(self) -> float:
        """Resident set size now, in megabytes (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def _end(self, sign: signal.Signals) -> None:
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._running.send_signal(sign)
        try:
            self._running.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(nothing in the log)"
