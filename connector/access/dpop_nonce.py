"""Nonces that a server has DPoP proofs carry (RFC 9449 §8, 9): a proof made ahead of time, or by whoever had
the key for a moment only, is of no use.

Nothing is kept: a nonce is a window of time and a MAC over it. Any replica with the same key takes it, in its
window and the next.
"""

from __future__ import annotations

import hashlib
import hmac

from connector.access import jose
from connector.access.jose import Refusal
from connector.ports import Clock

WINDOW_SECONDS = 120
_MAC_BYTES = 16


class NonceWanted(Refusal):
    """The proof is good but for its nonce; the client is told the present one and asks again."""

    def __init__(self, nonce: str) -> None:
        super().__init__("proof_nonce")
        self.nonce = nonce


class Nonces:
    """`key`: a secret of the connector's (Keys.derive)."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def current(self) -> str:
        return self._of(self._window())

    def require(self, nonce: object) -> None:
        """Raises NonceWanted."""
        window = self._window()
        given = nonce.encode() if isinstance(nonce, str) else b""
        taken = (self._of(window), self._of(window - 1))
        if not any(hmac.compare_digest(given, one.encode()) for one in taken):
            raise NonceWanted(taken[0])

    def _window(self) -> int:
        return int(self._clock.now().timestamp()) // WINDOW_SECONDS

    def _of(self, window: int) -> str:
        mac = hmac.new(self._key, str(window).encode("ascii"), hashlib.sha256).digest()
        return jose.encode(mac[:_MAC_BYTES])
