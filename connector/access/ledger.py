"""The disclosure ledger: whose rows left, to whom and for what, with no row and no id kept.

It answers two questions: "who has looked at my data" and "who must be told of this withdrawal". A
fragment's subjects are ordinals in a Roaring bitmap, encrypted under this connector's own key; every
other member of the entry is bound to it as associated data, and its hash stands in the audit log.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import TYPE_CHECKING

import rfc8785

from connector.errors import AuditBroken
from connector.model.audit import LedgerEntry
from connector.model.json import to_rfc3339
from connector.ports import Clock, DisclosureLedger, Keys

if TYPE_CHECKING:
    from pyroaring import BitMap

NONCE_BYTES = 12
_NOT_BOUND = {"ciphertext", "sha256"}


class Ledger:
    """Writes entries and reads them back. `random_bytes` makes nonces; each must be fresh."""

    def __init__(
        self,
        store: DisclosureLedger,
        keys: Keys,
        clock: Clock,
        new_id: Callable[[], str],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._key = keys.derive("disclosure-ledger")
        self._clock = clock
        self._new_id = new_id
        self._random_bytes = random_bytes

    async def record(
        self,
        subjects: Iterable[bytes],
        *,
        rows: int,
        audit_id: str,
        agreement: str,
        grant: str,
        dataset: str,
        recipient: str,
        purpose: str,
    ) -> LedgerEntry:
        """On record when it returns. `subjects` are AES-SIV tokens, repeats allowed; `audit_id` is the
        decision's. The entry's `sha256` goes into the outcome's audit leaf."""
        ordinals = await self._store.ordinals(list(dict.fromkeys(subjects)))
        unsealed = LedgerEntry(
            id=self._new_id(),
            at=self._clock.now(),
            audit_id=audit_id,
            agreement=agreement,
            grant=grant,
            dataset=dataset,
            recipient=recipient,
            purpose=purpose,
            subjects=len(ordinals),
            rows=rows,
            ciphertext=b"",
            sha256="",
        )
        entry = seal(unsealed, ordinals, key=self._key, nonce=self._random_bytes(NONCE_BYTES))
        await self._store.write(entry)
        return entry

    async def who_looked(self, subject: bytes, *, recipient: str | None = None) -> Sequence[LedgerEntry]:
        """Every entry that disclosed this subject, oldest first. Raises AuditBroken on a forged one."""
        (ordinal,) = await self._store.ordinals([subject])
        entries = await self._store.entries(recipient=recipient)
        return await asyncio.to_thread(
            lambda: [entry for entry in entries if ordinal in unseal(entry, key=self._key)]
        )


def seal(entry: LedgerEntry, ordinals: Sequence[int], *, key: bytes, nonce: bytes) -> LedgerEntry:
    """`entry` with its bitmap: nonce, then AES-256-GCM of a portable Roaring bitmap, and its hash."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from pyroaring import BitMap

    bitmap = BitMap(ordinals)
    bitmap.run_optimize()
    ciphertext = nonce + AESGCM(key).encrypt(nonce, bitmap.serialize(), _bound(entry))
    return replace(entry, ciphertext=ciphertext, sha256=hashlib.sha256(ciphertext).hexdigest())


def unseal(entry: LedgerEntry, *, key: bytes) -> BitMap:
    """The ordinals of an entry. Raises AuditBroken when any member of it was changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from pyroaring import BitMap

    nonce, sealed = entry.ciphertext[:NONCE_BYTES], entry.ciphertext[NONCE_BYTES:]
    try:
        bitmap = BitMap.deserialize(AESGCM(key).decrypt(nonce, sealed, _bound(entry)))
    except (InvalidTag, ValueError) as error:
        raise AuditBroken(f"Ledger entry {entry.id} was changed.") from error
    if len(bitmap) != entry.subjects or hashlib.sha256(entry.ciphertext).hexdigest() != entry.sha256:
        raise AuditBroken(f"Ledger entry {entry.id} was changed.")
    return bitmap


def _bound(entry: LedgerEntry) -> bytes:
    members = {f.name: getattr(entry, f.name) for f in fields(entry) if f.name not in _NOT_BOUND}
    at: datetime = members["at"]
    return rfc8785.dumps({**members, "at": to_rfc3339(at)})
