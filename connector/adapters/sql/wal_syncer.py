"""Brings SQLite's write-ahead log to the disk, after many commits at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from connector.errors import Unavailable

SYNC_DELAY_SECONDS = 0.004
"""From the first unsynced commit to the sync that covers it. The rest of the 10 ms is the disk's."""

fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has fsync only


class WalSyncer(threading.Thread):
    """Brings the write-ahead log to the disk after commits; one sync for all that came in before it.

    A sync that fails is for good: the kernel may have dropped the pages, and a second sync would
    claim success. From then on `check` raises, until the connector has started anew.
    """

    def __init__(self, wal: Path, fdatasync: Callable[[int], None]) -> None:
        super().__init__(name=f"sync-{wal.name}", daemon=True)
        self._file = os.open(wal, os.O_RDONLY)
        self._fdatasync = fdatasync
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._failed = False
        self.start()

    def wanted(self) -> None:
        """A commit is in the log."""
        self._wanted.set()

    def check(self) -> None:
        if self._failed:
            raise Unavailable(
                "The disk did not take what was written.",
                mend="Look at the disk and start the connector anew.",
            )

    def close(self) -> None:
        self._closing.set()
        self._wanted.set()
        self.join()
        os.close(self._file)

    def run(self) -> None:
        try:
            while not self._closing.is_set():
                self._wanted.wait()
                self._closing.wait(SYNC_DELAY_SECONDS)
                self._wanted.clear()
                self._fdatasync(self._file)
        except OSError:
            self._failed = True


def sync_folder(folder: Path) -> None:
    """Files that were just made must be found again after a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
