"""The official conformance kit against the product's own app, on both stores; and that a fault is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import kit, runs, script
from tests.conformance.connector import running_connector
from tests.parts import HOST, free_ports
from tests.parts.postgres import PostgresServer, fresh_database
from tests.parts.tck import Kit


@pytest.mark.slow
async def test_every_test_of_the_kit_passes_on_both_stores(
    tmp_path: Path, conformance_kit: Kit, postgres_server: PostgresServer
) -> None:
    """Mission X6, Protocol: DSP 2025-1, 65 of 65 tests by their names (dsp.md 3.5)."""
    stores = {runs.SQLITE: "", runs.POSTGRESQL: fresh_database(postgres_server)}
    reports = await runs.run_on(stores, tmp_path)
    assert not runs.problems(reports), "\n".join(runs.table(reports))


@pytest.mark.slow
async def test_the_kit_finds_a_connector_that_does_nothing(tmp_path: Path, conformance_kit: Kit) -> None:
    """CN:01-04 needs it to agree, CN:02-02 needs it to wait: what fails is told, whatever the exit status."""
    names, (port,) = ("CN:01-04", "CN:02-02"), free_ports(1)
    (tmp_path / "kit").mkdir()
    peer_url = f"http://{HOST}:{port}"
    async with running_connector(tmp_path / "participant", peer_url=peer_url, scripts={}) as connector:
        report = await kit.run(connector, tmp_path / "kit", port, names=names, step_seconds=1)
    assert report.outcomes == {"CN:01-04": "FAILED", "CN:02-02": "passed"}
    assert (report.counted_passed, report.counted_failed) == (1, 1)
    assert any(problem.startswith("CN:01-04 failed: ") for problem in report.problems(names))


def test_the_script_covers_what_the_kit_runs() -> None:
    """dsp.md 3.5: 67 tests, of which two are switched off."""
    assert len(set(kit.NAMES)) == len(kit.NAMES) == 65
    assert len(script.SCRIPTS) == 63
