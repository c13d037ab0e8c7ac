"""The main job once more, with PostgreSQL as store, OPA as policy engine and Apache Kafka as event bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.demo import consents
from connector.demo.ecosystem import ORGANISATIONS, Ecosystem, examples_folder
from connector.demo.narrator import Narrator
from connector.demo.population import generate
from connector.demo.scenes import (
    catalogue,
    contracts,
    events,
    evidence,
    queries,
    refusals,
    tokens,
    withdrawal,
)
from connector.demo.stage import Stage
from tests.parts.kafka import KafkaServer
from tests.parts.opa import OpaServer
from tests.parts.postgres import PostgresServer, fresh_database

ON_KAFKA = "youth"
"""The consumer of the pushes reads them from a Kafka of its own; the others keep the log in PostgreSQL."""


@pytest.mark.slow
def test_the_main_job_on_postgresql_opa_and_kafka(
    tmp_path: Path, postgres_server: PostgresServer, opa_server: OpaServer, kafka_server: KafkaServer
) -> None:
    """Mission X2, X3, X6, C1: every port's real part at once, under the same checks as the embedded twins."""
    ecosystem = Ecosystem(tmp_path / "ecosystem", examples_folder())
    population = generate()
    ecosystem.create(population)
    for organisation in ORGANISATIONS:
        lines = [f'store_dsn = "{fresh_database(postgres_server)}"', f'opa_url = "{opa_server.url}"']
        if organisation.id == ON_KAFKA:
            lines.append(f'kafka_bootstrap = "{kafka_server.bootstrap_servers}"')
        with (ecosystem.participant_folder(organisation.id) / "connector.toml").open("a") as settings:
            settings.write("\n".join(lines) + "\n")
    stage = Stage(ecosystem=ecosystem, population=population, narrator=Narrator(as_json=True))
    try:
        ecosystem.start()
        consents.import_all(ecosystem, population)
        for scene in (
            catalogue.run,
            contracts.run,
            tokens.run,
            queries.planning,
            queries.aggregate_only,
            queries.case_worker,
            refusals.run,
            events.run,
            withdrawal.run,
            evidence.run,
        ):
            scene(stage)
    finally:
        ecosystem.stop()
    failed = [c for c in stage.narrator.checks if not c["ok"]]
    assert not failed, failed
