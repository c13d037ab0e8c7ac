"""What the SQL adapters need of a driver, and how readers of the event log are woken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Dialect = Literal["sqlite", "postgresql"]
Parameter = str | int | None
Row = Sequence[Any]


@dataclass(slots=True)
class Appended:
    """What one transaction appended to the event log: `count` events so far, to these `topics`."""

    count: int = 0
    topics: set[str] = field(default_factory=set)


class Stage:
    """Whether a transaction takes statements. Misuse is a RuntimeError: the code's mistake, no caller's.

    After a statement that failed PostgreSQL would turn the commit into a rollback without a word, SQLite
    would commit the rest. So neither: such a transaction can only be left by an exception.
    """

    def __init__(self) -> None:
        self._failed = False
        self._over = False

    @contextmanager
    def statement(self) -> Iterator[None]:
        if self._over or self._failed:
            raise RuntimeError("a statement after the end, or the failure, of its transaction")
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def end(self) -> None:
        self._over = True

    def check_committable(self) -> None:
        if self._failed:
            raise RuntimeError("a transaction went on after a statement that failed; it was rolled back")


class Connection(Protocol):
    """One open transaction. `query` is a name in queries.sql, never SQL text.

    Raises Conflict (another writer was first), RequestInvalid (a value no database can hold) or
    Unavailable, without values, addresses or engine texts. Any of these ends the transaction, see `Stage`.
    """

    @property
    def appended(self) -> Appended: ...

    async def execute(self, query: str, *parameters: Parameter) -> int:
        """How many rows were touched."""
        ...

    async def post(
        self,
        query: str,
        *parameters: Parameter,
        otherwise: str = "",
        tell: Callable[[Row | None], None] | None = None,
    ) -> None:
        """A statement whose outcome may come as late as the commit, which spares waiting for it; in order
        with all others. `otherwise`: the text of a Conflict where it does not touch exactly one row.
        `tell` gets the first row it yields."""
        ...

    async def execute_many(self, query: str, rows: Sequence[Sequence[Parameter]]) -> None:
        """The same statement for each of `rows`, in order; as late as `post`."""
        ...

    async def fetch(self, query: str, *parameters: Parameter) -> Sequence[Row]: ...
    async def fetchone(self, query: str, *parameters: Parameter) -> Row | None: ...

    async def script(self, sql: str) -> None:
        """A migration's text: statements without parameters, each ending in `;` at a line's end."""
        ...


class Wakes:
    """Tells subscribers in this process that a topic has grown, so that they need not wait for their poll."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}

    def next(self, topic: str) -> asyncio.Event:
        """Set at the next append to `topic`. Take it *before* reading, or an append slips in between."""
        return self._events.setdefault(topic, asyncio.Event())

    def fire(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if event := self._events.pop(topic, None):
                event.set()


class Database(Protocol):
    """A database that hands out transactions."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def wakes(self) -> Wakes: ...

    async def open(self) -> None:
        """Connect. Raises ConfigurationError or Unavailable."""
        ...

    def connect(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Connection]:
        """A transaction: committed on leaving, rolled back on any exception. Not re-entrant.
        Read-only ones see one snapshot and never wait for a writer."""
        ...

    async def ping(self) -> None:
        """Raises Unavailable."""
        ...

    async def close(self) -> None: ...
