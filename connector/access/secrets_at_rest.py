"""Secrets that we give out and know again: only their hash is kept.

They are 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from connector.access import jose

RandomBytes = Callable[[int], bytes]
SECRET_BYTES = 32


def new_secret(random_bytes: RandomBytes) -> str:
    return jose.encode(random_bytes(SECRET_BYTES))


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def matches(secret: str, kept: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(digest(secret).encode("ascii"), kept.encode("utf-8", "surrogatepass"))
