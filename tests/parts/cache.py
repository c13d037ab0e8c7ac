"""Where installed parts are kept between runs: outside the tree, so that a fresh clone finds them again."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """PARTS_CACHE, else connector-parts in the user's cache folder; made when missing."""
    chosen = os.environ.get("PARTS_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(chosen or Path(caches) / "connector-parts").expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def installed(name: str, install: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; when missing, filled by `install(empty folder)` first.

    A folder that is there is complete: it is filled under another name, then renamed. Runs take turns.
    """
    folder = root() / name
    if folder.exists():
        return folder
    with _lock(name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(
                prefix=f".{name}-", dir=root(), ignore_cleanup_errors=True
            ) as temporary:
                filling = Path(temporary) / name
                filling.mkdir()
                install(filling)
                filling.rename(folder)
    return folder


@contextmanager
def _lock(name: str) -> Iterator[None]:
    # The file stays: removing a lock file lets two runs hold "the" lock at once.
    with (root() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
