"""`python -m benchmarks.sampled FILE ...`: `python -m connector ...`, its processor time by area in FILE.

At each tick of the process's own processor time, what each thread has used since the last one (by its own
clock, so waiting costs nothing) is booked on the area of its innermost frame that belongs to one. Native code
is booked on the Python frame that called it. SIGUSR1 starts the count anew.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

TICK_SECONDS = 0.002
# The innermost frame whose file holds one of these decides; the first line that fits, top down.
AREAS = (
    ("the store", ("/adapters/sqlite_store", "/adapters/postgres_store", "/adapters/sql/", "/asyncpg/")),
    ("policy decisions", ("/adapters/rego_", "/access/decision", "/access/odrl", "/access/vocabulary")),
    ("the audit log", ("/adapters/audit_log", "/access/audit", "/access/merkle", "/adapters/group_commit")),
    (
        "tokens, proofs and signatures",
        ("/joserfc/", "/cryptography/", "/access/jose", "/access/dpop", "/access/token", "/access/rfc"),
    ),
    ("the peer's HTTP client", ("/httpx/", "/httpcore/", "/h11/", "/adapters/http_")),
    ("the HTTP server", ("/uvicorn/", "/httptools/", "/starlette/", "/fastapi/", "/connector/web/")),
    ("JSON and messages", ("/json/", "/connector/dsp/", "/connector/model/", "/pydantic", "rfc8785")),
    ("the control plane's own code", ("/connector/",)),
    ("the event loop", ("/asyncio/", "/anyio/", "selectors.py", "/uvloop/")),
)
OTHER = "the rest"


class Sampler:
    """`seconds`: processor time by area, so far."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._used: dict[int, float] = {}
        self._areas: dict[str, str | None] = {}

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._tick)
        signal.setitimer(signal.ITIMER_PROF, TICK_SECONDS, TICK_SECONDS)

    def _tick(self, _number: int, interrupted: FrameType | None) -> None:
        main = threading.main_thread().ident
        for thread, frame in sys._current_frames().items():
            self._book(thread, interrupted if thread == main else frame)

    def _book(self, thread: int, frame: FrameType | None) -> None:
        try:
            used = time.clock_gettime(time.pthread_getcpuclockid(thread))
        except OSError:  # it has just ended
            return
        spent = used - self._used.get(thread, used)
        self._used[thread] = used
        if spent > 0:
            self.seconds[self._area(frame)] += spent

    def _area(self, frame: FrameType | None) -> str:
        while frame is not None:
            found = self._area_of(frame.f_code.co_filename)
            if found is not None:
                return found
            frame = frame.f_back
        return OTHER

    def _area_of(self, file: str) -> str | None:
        if file not in self._areas:
            fits = (area for area, marks in AREAS if any(mark in file for mark in marks))
            self._areas[file] = next(fits, None)
        return self._areas[file]


def main() -> None:
    out = Path(sys.argv.pop(1))
    sampler = Sampler()
    sampler.start()
    signal.signal(signal.SIGUSR1, lambda *_: sampler.seconds.clear())
    from connector.cli import main as connector  # from here on its imports are booked too

    try:
        connector()
    finally:
        out.write_text(json.dumps(sampler.seconds))


if __name__ == "__main__":
    main()
