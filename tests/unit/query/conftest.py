"""The database that tests share is closed before the interpreter ends: DuckDB reports what is left open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.query import providers


@pytest.fixture(scope="session", autouse=True)
def _shared_database() -> Iterator[None]:
    yield
    providers.forget()
