"""One Source per dataset, opened on first use: engines are heavy, and a dataset may never be asked."""

from __future__ import annotations

from connector.bootstrap.parts import new_id
from connector.errors import ConfigurationError, DescriptorInvalid
from connector.model.catalog import Dataset, DatasetStatus
from connector.ports import Source
from connector.settings import Settings


class Sources:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[str, Source] = {}

    def of(self, dataset: Dataset) -> Source:
        source = self._opened.get(dataset.id)
        if source is None:
            source = self._opened[dataset.id] = self._make(dataset)
        return source

    def check(self, dataset: Dataset) -> None:
        """What can be known at start: a file is there, a DSN is configured. Raises ConfigurationError.
        A draft may run ahead of its source."""
        where = dataset.source
        if dataset.status in (DatasetStatus.DRAFT, DatasetStatus.PROPOSED):
            return
        if where.kind == "postgresql":
            self._dsn(dataset)
        elif not self._settings.path(where.location).exists():
            raise DescriptorInvalid(
                f"the source of {dataset.id} is not there: {where.location}",
                where=dataset.where,
                mend="Mend `source.location`; it is relative to the participant's folder.",
            )

    async def close(self) -> None:
        for source in self._opened.values():
            await source.close()

    def _make(self, dataset: Dataset) -> Source:
        where, fields = dataset.source, dataset.fields
        path = self._settings.path(where.location)
        match where.kind:
            case "sqlite":
                from connector.adapters.sources.sqlite_source import SqliteSource

                return SqliteSource(
                    name=dataset.id, path=path, table=where.table, fields=fields, new_id=new_id
                )
            case "parquet" | "csv" | "json" | "duckdb":
                from connector.adapters.sources.duckdb_source import DuckDbSource

                return DuckDbSource(
                    name=dataset.id,
                    path=path,
                    kind=where.kind,
                    table=where.table,
                    fields=fields,
                    new_id=new_id,
                    memory_mb=self._settings.source_memory_mb,
                )
            case "postgresql":
                from connector.adapters.sources.postgres_source import PostgresSource

                return PostgresSource(
                    name=dataset.id, dsn=self._dsn(dataset), table=where.table, fields=fields, new_id=new_id
                )

    def _dsn(self, dataset: Dataset) -> str:
        name = dataset.source.location
        try:
            return self._settings.source_dsns[name]
        except KeyError:
            raise ConfigurationError(
                f"the source {name!r} of {dataset.id} has no DSN",
                where=f"source_dsns.{name}",
                mend="Set it in connector.toml or the environment.",
            ) from None
