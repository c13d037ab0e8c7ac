"""Personal ids and what stands for them: pseudonyms for consumers, tokens for our own registers.

A pseudonym belongs to one domain (a collaboration and its generation, see architecture.md): its key
never leaves the providers, so equal persons meet inside the domain and nowhere else. Invertible
pseudonyms can come back as join keys and are turned into ids at the provider; the others are one-way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connector.errors import KeysInvalid, RequestInvalid

ONE_WAY = "p1_"
INVERTIBLE = "x1_"
HASHED = "h1_"

BLANKS = " \t\n\v\f\r\u00a0"
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
LOWER = "abcdefghijklmnopqrstuvwxyz"
_NORMAL = str.maketrans(LOWER + DASHES, LOWER.upper() + "-" * len(DASHES))

BLOCK = 16
LONGEST_IN_A_BLOCK = BLOCK - 1
_FORM = re.compile(r"[px]1_[a-z2-7]{26,400}")
_ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567"
_TO_ALPHABET = _ALPHABET + bytes(256 - len(_ALPHABET))
_SYMBOLS = 26  # 128 bits in base32, without padding
_CHUNK = 2048
_LENGTH = tuple(bytes((n,)) for n in range(BLOCK))


def normalise_id(raw: str) -> str:
    """Trimmed, ASCII upper case, every Unicode dash a `-`. The dialects' `normal_id` does the same in SQL.

    The century sign stays as it is: since 2023 `-`, `Y`, `A`, `B`, ... name different persons, and
    the check character does not cover the sign.
    """
    trimmed = raw.strip(BLANKS)
    return trimmed.upper() if trimmed.isascii() else trimmed.translate(_NORMAL)


def is_pseudonym(text: str) -> bool:
    """Whether the text has the form of a pseudonym; says nothing of its domain."""
    return _FORM.fullmatch(text) is not None


class Pseudonymiser:
    """The pseudonyms of one domain. `key`: at least 16 secret bytes, shared by its providers."""

    def __init__(self, key: bytes, domain: str, *, invertible: bool) -> None:
        self.domain = domain
        self.invertible = invertible
        self._keyed_hash = _KeyedHash(_subkey(key, "hmac", domain, 32))
        self._block = Cipher(AES(_subkey(key, "block", domain, 32)), ECB())  # noqa: S305 - see _encrypt_short
        self._long = AESSIV(_subkey(key, "siv", domain, 64))

    def apply(self, values: Sequence[str | None]) -> list[str | None]:
        """The pseudonym of each id; absent stays absent. Ids are normalised first."""
        present = [normalise_id(v).encode() for v in values if v is not None]
        return _with_gaps(values, self._invertible(present) if self.invertible else self._one_way(present))

    def invert(self, pseudonym: str) -> str:
        """The normalised id. Raises RequestInvalid for what is not a pseudonym of this domain.

        A short id is not authenticated beyond its padding: a made-up pseudonym may invert to
        nonsense, which matches nobody.
        """
        if not self.invertible:
            raise RequestInvalid("The pseudonyms of this domain cannot be turned back.")
        if not (pseudonym.startswith(INVERTIBLE) and is_pseudonym(pseudonym)):
            raise _not_ours()
        sealed = _from_base32(pseudonym.removeprefix(INVERTIBLE))
        raw = self._decrypt_short(sealed) if len(sealed) == BLOCK else self._decrypt_long(sealed)
        try:
            identifier = raw.decode()
        except UnicodeDecodeError:
            raise _not_ours() from None
        if normalise_id(identifier) != identifier:
            raise _not_ours()
        return identifier

    def _one_way(self, ids: list[bytes]) -> list[str]:
        digest = self._keyed_hash.digest
        return _labelled(ONE_WAY, b"".join([digest(i)[:BLOCK] for i in ids]))

    def _invertible(self, ids: list[bytes]) -> list[str]:
        fitting = [i for i in ids if len(i) <= LONGEST_IN_A_BLOCK]
        short = self._encrypt_short(fitting)
        if len(fitting) == len(ids):
            return short
        rest = iter(short)
        return [next(rest) if len(i) <= LONGEST_IN_A_BLOCK else self._encrypt_long(i) for i in ids]

    def _encrypt_short(self, ids: list[bytes]) -> list[str]:
        """AES on one block per id: length, bytes, zeros.

        This is the bare permutation, not a mode of operation: no message is longer than its block,
        blocks never chain, and what ECB is feared for (equal blocks look equal) is exactly what a
        pseudonym is for. One update over all blocks only saves a million calls.
        """
        blocks = b"".join([_LENGTH[len(i)] + i.ljust(LONGEST_IN_A_BLOCK, b"\0") for i in ids])
        return _labelled(INVERTIBLE, self._block.encryptor().update(blocks))

    def _decrypt_short(self, sealed: bytes) -> bytes:
        block = self._block.decryptor().update(sealed)
        length, body = block[0], block[1:]
        if length > LONGEST_IN_A_BLOCK or any(body[length:]):
            raise _not_ours()
        return body[:length]

    def _encrypt_long(self, identifier: bytes) -> str:
        """Never 16 bytes long, so it cannot be taken for a block."""
        sealed = self._long.encrypt(identifier, None)
        return INVERTIBLE + base64.b32encode(sealed).rstrip(b"=").decode().lower()

    def _decrypt_long(self, sealed: bytes) -> bytes:
        try:
            return self._long.decrypt(sealed, None)
        except (InvalidTag, ValueError):
            raise _not_ours() from None


class ColumnHash:
    """The mask `hash`: equal values stay equal under one scope (an agreement and a column), nothing more.

    Values are hashed as they are. A column of few values can be guessed by who knows the key, so it is
    the provider's own and never shared.
    """

    def __init__(self, key: bytes, scope: str) -> None:
        self._keyed_hash = _KeyedHash(_subkey(key, "hash", scope, 32))

    def apply(self, values: Sequence[str | None]) -> list[str | None]:
        digest = self._keyed_hash.digest
        blocks = b"".join([digest(v.encode())[:BLOCK] for v in values if v is not None])
        return _with_gaps(values, _labelled(HASHED, blocks))


class SubjectTokens:
    """Personal id <-> the token under which our consent register and disclosure ledger know the person.

    `key` is this connector's own. Deterministic and authenticated (AES-SIV, RFC 5297).
    """

    def __init__(self, key: bytes) -> None:
        self._siv = AESSIV(_subkey(key, "subject", "", 64))

    def token_bytes(self, personal_id: str) -> bytes:
        normal = normalise_id(personal_id).encode()
        if not normal:
            raise RequestInvalid("A personal id is not empty.")
        return self._siv.encrypt(normal, None)

    def token(self, personal_id: str) -> str:
        """`token_bytes` as base64url without padding."""
        return base64.urlsafe_b64encode(self.token_bytes(personal_id)).rstrip(b"=").decode()

    def personal_id(self, token: str) -> str:
        """The normalised id. Raises RequestInvalid for what this connector did not make."""
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            return self._siv.decrypt(sealed, None).decode()
        except (InvalidTag, ValueError):
            raise RequestInvalid("This is not a subject token of this connector.") from None


class _KeyedHash:
    """HMAC-SHA256 (RFC 2104) with the key's two blocks hashed once: twice as fast over a column."""

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded))
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded))

    def digest(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def _subkey(key: bytes, kind: str, scope: str, length: int) -> bytes:
    """A key of its own per kind of use, so that no two constructions ever share one."""
    if len(key) < 16:
        raise KeysInvalid("A pseudonym key has at least 16 bytes.")
    info = f"connector/pseudonym/1|{kind}|{scope}".encode()
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(key)


def _with_gaps(values: Sequence[str | None], results: list[str]) -> list[str | None]:
    """One result for each present value; what was absent stays absent."""
    if len(results) == len(values):
        return list(results)
    rest = iter(results)
    return [None if v is None else next(rest) for v in values]


def _labelled(label: str, blocks: bytes) -> list[str]:
    """Each 16-byte block as `label` and 26 characters of base32, lower case."""
    labelled: list[str] = []
    for start in range(0, len(blocks), _CHUNK * BLOCK):
        text = _to_base32(blocks[start : start + _CHUNK * BLOCK])
        labelled += [label + text[at : at + _SYMBOLS] for at in range(0, len(text), 32)]
    return labelled


def _to_base32(blocks: bytes) -> str:
    """32 characters for each 16-byte block, of which 26 count. Five bits a byte, a whole column at once.

    `base64.b32encode` is a Python loop and would cost more than the cipher. Here every 40 bits sit in
    a lane of 64 and are halved three times, 40 -> 20 -> 10 -> 5, by masks over one long integer.
    """
    wide = bytearray(len(blocks) * 2)
    for i in range(BLOCK):
        lane, byte = divmod(i, 5)
        wide[8 * lane + 3 + byte :: 32] = blocks[i::BLOCK]
    lanes = len(wide) // 8
    bits = int.from_bytes(wide, "big")
    for low, high, shift in (
        (0x00000000000FFFFF, 0x000000FFFFF00000, 12),
        (0x000003FF000003FF, 0x000FFC00000FFC00, 6),
        (0x001F001F001F001F, 0x03E003E003E003E0, 3),
    ):
        bits = (bits & _repeated(low, lanes)) | ((bits & _repeated(high, lanes)) << shift)
    return bits.to_bytes(len(wide), "big").translate(_TO_ALPHABET).decode()


@lru_cache(maxsize=32)
def _repeated(lane: int, lanes: int) -> int:
    return int.from_bytes(lane.to_bytes(8, "big") * lanes, "big")


def _from_base32(text: str) -> bytes:
    """Raises RequestInvalid unless `text` is the one way to write its bytes."""
    padded = text.upper() + "=" * (-len(text) % 8)
    try:
        data = base64.b32decode(padded)
    except (binascii.Error, ValueError):
        raise _not_ours() from None
    if base64.b32encode(data).decode() != padded:
        raise _not_ours()
    return data


def _not_ours() -> RequestInvalid:
    return RequestInvalid(
        "This is not a pseudonym of this collaboration.",
        mend="Use pseudonyms as this provider returned them.",
    )
