"""Brings a database's schema forward: numbered files, in order, each once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from connector.adapters.sql.connection import Connection, Database, Dialect
from connector.errors import ConfigurationError

Component = Literal["store", "replay", "catalog_index"]
"""What has a schema of its own; several may share one database."""

_FOLDERS: Mapping[Component, str] = {
    "store": "{}",
    "replay": "replay",  # one text serves both dialects
    "catalog_index": "catalog_index_{}",
}
_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")
_VERSIONS_TABLE = """
create table schema_version (
  component text not null,
  version bigint not null,
  name text not null,
  primary key (component, version)
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    version: int
    name: str
    sql: str


async def migrate(database: Database, component: Component) -> None:
    """Apply what is missing, all of it or nothing; other processes wait meanwhile.

    Raises ConfigurationError when the schema is newer than this code: an older connector would
    misread it. Raises Unavailable when the database does not answer.
    """
    known = migrations(database.dialect, component)
    async with database.connect() as connection:
        await connection.fetchone("lock_schema")
        present = await _present_version(connection, component)
        if present > len(known):
            raise ConfigurationError(
                f"The {component} database has schema version {present}, this connector knows {len(known)}.",
                mend="Start the newer connector, or restore the backup made before the upgrade.",
                code="schema_too_new",
            )
        for migration in known[present:]:
            await connection.script(migration.sql)
            await connection.execute("record_schema_version", component, migration.version, migration.name)


def migrations(dialect: Dialect, component: Component) -> tuple[Migration, ...]:
    """In order, numbered from 1 without a gap."""
    folder = files("connector.adapters.sql") / "migrations" / _FOLDERS[component].format(dialect)
    found = sorted(
        (
            Migration(version=int(match[1]), name=match[2], sql=file.read_text(encoding="utf-8"))
            for file in folder.iterdir()
            if (match := _FILE.match(file.name))
        ),
        key=lambda migration: migration.version,
    )
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ConfigurationError("The migrations are not numbered 1, 2, 3, ...", where=str(folder))
    return tuple(found)


async def _present_version(connection: Connection, component: Component) -> int:
    exists = await connection.fetchone("has_schema_version")
    if not exists or not exists[0]:
        await connection.script(_VERSIONS_TABLE)
        return 0
    version = await connection.fetchone("schema_version", component)
    return int(version[0]) if version else 0
