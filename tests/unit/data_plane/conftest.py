"""The test register behind every kind of source, filled once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.postgres import fresh_database
from tests.unit.data_plane import registers
from tests.unit.data_plane.running import Provider
from tests.unit.data_plane.strategies import rows


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=registers.KINDS)
def provider(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Provider]:
    location = written(request, request.param, tmp_path_factory.mktemp("register"), rows())
    provider = Provider(registers.open_source(request.param, location), runner)
    yield provider
    runner.run(provider.source.close())


def written(request: pytest.FixtureRequest, kind: str, folder: Path, content: list[registers.Row]) -> str:
    """Where the register of this kind now is."""
    if kind == "postgres":
        return registers.write_postgres(fresh_database(request.getfixturevalue("postgres_server")), content)
    write = {"sqlite": registers.write_sqlite, "parquet": registers.write_parquet, "csv": registers.write_csv}
    path = folder / f"register.{kind}"
    write[kind](path, content)
    return str(path)
