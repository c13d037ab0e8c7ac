"""The databases that tests share are closed before the interpreter ends: DuckDB reports what is left open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.query import providers


@pytest.fixture(scope="session", autouse=True)
def _databases() -> Iterator[None]:
    yield
    providers.forget()
