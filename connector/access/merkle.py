"""RFC 6962 §2.1: the hash tree that makes a log provable. Pure; every hash is SHA-256, 32 bytes.

`hashes` below are always leaf hashes, in the order of the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that appending needs: the roots of the perfect subtrees of `size` leaves, largest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        peaks, carry, size = list(self.peaks), leaf, self.size
        while size & 1:  # every trailing one-bit is a perfect subtree that the new leaf completes
            carry = node_hash(peaks.pop(), carry)
            size >>= 1
        return Frontier(self.size + 1, (*peaks, carry))

    def root(self) -> bytes:
        if not self.peaks:
            return EMPTY_ROOT
        *rest, root = self.peaks
        for peak in reversed(rest):
            root = node_hash(peak, root)
        return root

    def to_bytes(self) -> bytes:
        return b"".join(self.peaks)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """Raises ValueError when `data` cannot be the peaks of `size` leaves."""
        if size < 0 or len(data) != size.bit_count() * HASH_BYTES:
            raise ValueError("not the frontier of a tree of this size")
        return cls(size, tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)))


def root(hashes: Iterable[bytes]) -> bytes:
    frontier = Frontier()
    for leaf in hashes:
        frontier = frontier.append(leaf)
    return frontier.root()


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """RFC 6962 §2.1.1: the path that leads from leaf `index` to the root of `hashes`."""
    if not 0 <= index < len(hashes):
        raise ValueError(f"no leaf {index} in a tree of {len(hashes)}")
    low, high = 0, len(hashes)
    path: list[bytes] = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root(hashes[middle:high]))
            high = middle
        else:
            path.append(root(hashes[low:middle]))
            low = middle
    return path[::-1]


def consistency_proof(hashes: Sequence[bytes], old_size: int) -> list[bytes]:
    """RFC 6962 §2.1.2: that the tree of the first `old_size` leaves is a prefix of the tree of them all."""
    if not 0 < old_size <= len(hashes):
        raise ValueError(f"no tree of {old_size} within one of {len(hashes)}")
    low, high, whole = 0, len(hashes), True
    path: list[bytes] = []
    while old_size < high:
        middle = low + _split(high - low)
        if old_size <= middle:
            path.append(root(hashes[middle:high]))
            high = middle
        else:
            path.append(root(hashes[low:middle]))
            low, whole = middle, False
    if not whole:  # the old tree's own root needs no repeating
        path.append(root(hashes[low:high]))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], tree_root: bytes) -> bool:
    """RFC 9162 §2.1.3.2: whether `leaf` is number `index` of the `size` leaves under `tree_root`."""
    if not 0 <= index < size:
        return False
    place, last, computed = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            computed = node_hash(step, computed)
            while place and not place & 1:  # the right edge of an uneven tree skips levels
                place, last = place >> 1, last >> 1
        else:
            computed = node_hash(computed, step)
        place, last = place >> 1, last >> 1
    return last == 0 and computed == tree_root


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """RFC 9162 §2.1.4.2: whether the log of `new_size` leaves only ever grew from that of `old_size`."""
    if old_size == new_size:
        return not proof and old_root == new_root
    if not 0 < old_size < new_size:
        return old_size == 0 and not proof and old_root == EMPTY_ROOT
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def _split(size: int) -> int:
    """The largest power of two below `size` (2 or more): where RFC 6962 cuts a tree."""
    return 1 << (size - 1).bit_length() - 1
