"""The audit log: RFC 6962 leaves and signed tree heads in a SQLite file of its own.

One file, `audit.sqlite`, that only ever grows. A head is signed at most a second after a leaf, and at
the end; `verify_audit` proves a file, or a copy of one, with nothing but the signer's public keys.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector.access import audit, jose
from connector.access.merkle import Frontier, leaf_hash
from connector.adapters.group_commit import GroupCommit
from connector.errors import AuditBroken, ConnectorError
from connector.model.audit import AuditLeaf, Receipt, TreeHead
from connector.model.json import from_rfc3339, to_rfc3339
from connector.ports import Clock, Keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_log = logging.getLogger(__name__)

HEAD_TYP = "tree-head+jwt"
HEAD_EVERY_SECONDS = 1.0

# Triggers stop mistakes, not attackers: those are found by the signed heads.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS leaves (idx INTEGER PRIMARY KEY, leaf BLOB NOT NULL, hash BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS leaves_by_id ON leaves (json_extract(CAST(leaf AS TEXT), '$.id'));
CREATE TABLE IF NOT EXISTS heads (
  size INTEGER PRIMARY KEY, root TEXT NOT NULL, at TEXT NOT NULL, jws TEXT NOT NULL, frontier BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS leaves_stay BEFORE UPDATE ON leaves
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS leaves_keep BEFORE DELETE ON leaves
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS heads_stay BEFORE UPDATE ON heads
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS heads_keep BEFORE DELETE ON heads
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
_INSERT_LEAF = "INSERT INTO leaves (idx, leaf, hash) VALUES (?, ?, ?)"
_LEAF_OF_ID = "SELECT idx, hash FROM leaves WHERE json_extract(CAST(leaf AS TEXT), '$.id') = ?"
_INSERT_HEAD = "INSERT INTO heads (size, root, at, jws, frontier) VALUES (?, ?, ?, ?, ?)"
_LAST_HEAD = "SELECT size, root, at, jws, frontier FROM heads ORDER BY size DESC LIMIT 1"
_LEAVES_FROM = "SELECT idx, leaf, hash FROM leaves WHERE idx >= ? ORDER BY idx"
_LEAVES_PAGE = "SELECT idx, leaf FROM leaves WHERE idx > ? ORDER BY idx LIMIT ?"
_HEADS = "SELECT size, root, jws FROM heads ORDER BY size"


class SqliteAuditLog:
    """`connector.ports.AuditLog`. `open` first; one event loop and one process own the file."""

    def __init__(
        self, path: Path, *, keys: Keys, clock: Clock, head_every_seconds: float = HEAD_EVERY_SECONDS
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._head_every_seconds = head_every_seconds
        self._file = GroupCommit(path, _SCHEMA, name="audit log", rolled_back=self._forget)
        # Both belong to the writing thread; None: read them from the file again.
        self._frontier: Frontier | None = None
        self._head: TreeHead | None = None
        self._closed = False
        self._head_due: asyncio.TimerHandle | None = None
        self._signing: asyncio.Task[TreeHead] | None = None

    async def open(self) -> None:
        """Check the last head and every leaf behind it, then sign anew.

        Raises AuditBroken when the end of the file is not what this log wrote, ConfigurationError
        when it cannot be opened.
        """
        await self._file.open()
        try:
            await self._file.write(self._sign_head)
        except ConnectorError:
            await self._file.close()
            raise

    async def append(self, leaf: AuditLeaf) -> Receipt:
        data = audit.canonical(leaf)
        digest = leaf_hash(data)

        def insert(connection: sqlite3.Connection) -> tuple[int, bytes]:
            frontier = self._current(connection)
            try:
                connection.execute(_INSERT_LEAF, (frontier.size, data, digest))
            except sqlite3.IntegrityError:
                if (known := connection.execute(_LEAF_OF_ID, (leaf.id,)).fetchone()) is None:
                    raise
                return int(known[0]), bytes(known[1])
            self._frontier = frontier.append(digest)
            return frontier.size, digest

        index, kept = await self._file.write(insert)
        if self._head_due is None:
            self._head_due = asyncio.get_running_loop().call_later(
                self._head_every_seconds, self._start_signing
            )
        return Receipt(audit_id=leaf.id, index=index, leaf_hash=kept.hex())

    async def head(self) -> TreeHead:
        return await self._file.write(self._sign_head)

    async def leaves(self, *, after: int = -1, limit: int = 100) -> Sequence[tuple[int, AuditLeaf]]:
        rows = await self._file.read(lambda c: c.execute(_LEAVES_PAGE, (after, limit)).fetchall())
        return [(index, audit.parse(data)) for index, data in rows]

    async def close(self) -> None:
        """The last head covers everything."""
        if self._closed:
            return
        self._closed = True
        if self._head_due is not None:
            self._head_due.cancel()
        if self._signing is not None:
            await asyncio.wait([self._signing])
        try:
            await self.head()
        finally:
            await self._file.close()

    def _start_signing(self) -> None:
        self._head_due = None
        self._signing = asyncio.ensure_future(self.head())
        self._signing.add_done_callback(_report)

    # --- in the writing thread -------------------------------------------------------------------------

    def _forget(self) -> None:
        self._frontier = self._head = None

    def _current(self, connection: sqlite3.Connection) -> Frontier:
        if self._frontier is None:
            self._head, self._frontier = _checked_end(connection, self._keys.public_jwks())
        return self._frontier

    def _sign_head(self, connection: sqlite3.Connection) -> TreeHead:
        frontier = self._current(connection)
        if self._head is not None and self._head.size == frontier.size:
            return self._head
        claims = {
            "log": self._keys.participant_id,
            "size": frontier.size,
            "root": frontier.root().hex(),
            "time": to_rfc3339(self._clock.now()),
        }
        jws = self._keys.sign_jwt(claims, typ=HEAD_TYP)
        row = (frontier.size, claims["root"], claims["time"], jws, frontier.to_bytes())
        connection.execute(_INSERT_HEAD, row)
        self._head = _tree_head(claims, jws)
        return self._head


def _report(signing: asyncio.Task[TreeHead]) -> None:
    """No loss yet: the leaves are on record, and the next append makes the next attempt."""
    if not signing.cancelled() and (error := signing.exception()) is not None:
        _log.error("The audit log's tree head could not be signed: %s", error)


def _checked_end(
    connection: sqlite3.Connection, jwks: Iterable[Mapping[str, Any]]
) -> tuple[TreeHead | None, Frontier]:
    """The last head and the frontier behind the last leaf. Raises AuditBroken.

    The head's own frontier is believed because its root is the signed one, so that opening a long
    log costs no more than the leaves since its last head.
    """
    row = connection.execute(_LAST_HEAD).fetchone()
    head, frontier = None, Frontier()
    if row is not None:
        size, root, _, jws, peaks = row
        head = _checked_head(size, root, jws, jwks, retired_keys=True)
        try:
            frontier = Frontier.from_bytes(size, peaks)
        except ValueError:
            frontier = Frontier()
        if frontier.root().hex() != head.root:
            raise AuditBroken(f"The frontier kept with the head over {size} leaves was changed.")
    (held,) = connection.execute("SELECT coalesce(max(idx) + 1, 0) FROM leaves").fetchone()
    if held < frontier.size:
        raise _missing(held, frontier.size)
    if head is None and held:
        raise AuditBroken("Leaf 0 fails: the log holds no signed head.")
    for index, data, digest in connection.execute(_LEAVES_FROM, (frontier.size,)):
        frontier = frontier.append(_checked_leaf(frontier.size, index, data, digest))
    return head, frontier


# --- verification without the connector ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLog:
    """`size` leaves under `root` (hex), of which the first `signed_size` stand under a signed head.

    More leaves than that means the log was copied while it ran or its connector was killed; their
    own hashes held, but nobody signed their order.
    """

    log: str
    size: int
    root: str
    heads_checked: int
    signed_size: int


def verify_audit(path: Path, jwks: Sequence[Mapping[str, Any]]) -> VerifiedLog:
    """Prove a log offline: every leaf hash, every head's signature and root, numbering without gaps.

    `jwks` are the public keys, past ones included, of the participant whose log it is. Raises
    AuditBroken naming the first leaf that fails. What it cannot see is a log cut back together with
    its heads: that takes a head kept elsewhere, to compare with.
    """
    if not path.is_file():
        raise AuditBroken(f"{path}: there is no such file.")
    try:
        with closing(sqlite3.connect(_read_only(path), uri=True)) as connection:
            return _verify(connection, jwks)
    except sqlite3.Error as error:
        raise AuditBroken(f"{path}: not a readable audit log ({error}).") from error


def _verify(connection: sqlite3.Connection, jwks: Sequence[Mapping[str, Any]]) -> VerifiedLog:
    leaves: Iterator[tuple[Any, Any, Any]] = connection.execute(_LEAVES_FROM, (-1,))
    frontier, head, heads = Frontier(), None, 0
    for size, root, jws in connection.execute(_HEADS):
        trusted = frontier.size
        earlier, head = head, _checked_head(size, root, jws, jwks)
        if earlier is not None and earlier.log != head.log:
            raise AuditBroken(f"The head over {size} leaves belongs to another log ({head.log}).")
        while frontier.size < size:
            frontier = frontier.append(_checked_leaf(frontier.size, *_next_leaf(leaves, frontier.size, size)))
        if frontier.root().hex() != head.root:
            raise AuditBroken(
                f"Leaf {trusted} fails, or one behind it up to {size - 1}: "
                f"the head signed at {to_rfc3339(head.at)} has another root."
            )
        heads += 1
    if head is None:
        raise AuditBroken("Leaf 0 fails: the log holds no signed head.")
    for index, data, digest in leaves:
        frontier = frontier.append(_checked_leaf(frontier.size, index, data, digest))
    return VerifiedLog(
        log=head.log,
        size=frontier.size,
        root=frontier.root().hex(),
        heads_checked=heads,
        signed_size=head.size,
    )


def _next_leaf(leaves: Iterator[tuple[Any, Any, Any]], held: int, signed: int) -> tuple[Any, Any, Any]:
    leaf = next(leaves, None)
    if leaf is None:
        raise _missing(held, signed)
    return leaf


def _missing(held: int, signed: int) -> AuditBroken:
    return AuditBroken(f"Leaf {held} is missing: a signed head covers {signed} leaves, the log holds {held}.")


def _checked_leaf(expected: int, index: Any, data: Any, digest: Any) -> bytes:
    if index != expected:
        gap = isinstance(index, int) and index > expected
        raise AuditBroken(
            f"Leaf {expected} is missing." if gap else f"Leaf {expected} fails: it is not numbered so."
        )
    if not isinstance(data, bytes) or leaf_hash(data) != digest:
        raise AuditBroken(f"Leaf {index} fails: it does not have the hash on record.")
    return leaf_hash(data)


def _checked_head(
    size: Any, root: Any, jws: Any, jwks: Iterable[Mapping[str, Any]], *, retired_keys: bool = False
) -> TreeHead:
    """`retired_keys`: a head by a key not among `jwks` is taken unverified; the offline check is stricter."""
    try:
        token = jose.parse_jws(jws, typ={HEAD_TYP})
        key = _key(jwks, token, retired_keys)
        claims = token.verified(key) if key else token.unverified_claims()
        head = _tree_head(claims, jws)
    except (jose.Refusal, ValueError, TypeError, KeyError) as error:
        raise AuditBroken(f"The signature of the head over {size} leaves fails ({error}).") from error
    if (head.size, head.root) != (size, root):
        raise AuditBroken(f"The head over {size} leaves was signed for something else.")
    return head


def _key(
    jwks: Iterable[Mapping[str, Any]], token: jose.UnverifiedJws, retired_keys: bool
) -> ec.EllipticCurvePublicKey | None:
    try:
        return jose.signing_key(jwks, token.header.get("kid"))
    except jose.Refusal:
        if retired_keys:
            return None
        raise


def _tree_head(claims: Mapping[str, Any], jws: str) -> TreeHead:
    return TreeHead(
        log=claims["log"],
        size=claims["size"],
        root=claims["root"],
        at=from_rfc3339(claims["time"]),
        signature=jws,
    )


def _read_only(path: Path) -> str:
    """A log that nobody has open has no write-ahead log beside it, and may lie on a read-only medium."""
    running = path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro{'' if running else '&immutable=1'}"
