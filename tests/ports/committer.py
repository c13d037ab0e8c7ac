"""A child process for the tests: commits as fast as it can, saying what is on record, until it is killed.

`python -m tests.ports.committer sqlite PATH RUN` or `... postgresql DSN RUN`; RUN makes the names unique.
"""

import asyncio
import os
import sys
from pathlib import Path

from connector.adapters.postgres_store import PostgresStore
from connector.adapters.sqlite_store import SqliteStore
from tests.ports.examples import message

WRITERS = 4


async def main(dialect: str, where: str, run: str) -> None:
    store = SqliteStore(Path(where)) if dialect == "sqlite" else PostgresStore(where)
    await store.open()
    async with asyncio.TaskGroup() as writers:
        for writer in range(WRITERS):
            writers.create_task(_commit_for_ever(store, f"{run}-{writer}"))


async def _commit_for_ever(store: SqliteStore | PostgresStore, writer: str) -> None:
    number = 0
    while True:
        number += 1
        name = f"{writer}-{number}"
        async with store.transaction() as transaction:
            await transaction.put_value(f"half/{name}", {"n": number})
            await transaction.enqueue(message(f"half/{name}", process_pid=name))
        os.write(1, f"{name}\n".encode())  # unbuffered: what was said before the kill was said


asyncio.run(main(*sys.argv[1:]))
