"""Each real part really answers, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.parts import (
    PartFailed,
    PartUnavailable,
    accepts_connections,
    cache,
    edc,
    on_free_ports,
    opa,
    running,
)
from tests.parts.edc import EdcServer
from tests.parts.kafka import KafkaServer
from tests.parts.opa import OpaServer
from tests.parts.postgres import PostgresServer, fresh_database

POLICY = b'package smoke\n\nallow if input.purpose in {"research", "care"}\n'


def ask(url: str, method: str, body: bytes, content_type: str) -> object:
    request = urllib.request.Request(url, body, {"Content-Type": content_type}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
        return json.load(response)


def test_opa_evaluates_a_policy(opa_server: OpaServer) -> None:
    ask(f"{opa_server.url}/v1/policies/smoke", "PUT", POLICY, "text/plain")
    for purpose, answer in (("care", {"result": True}), ("marketing", {})):
        body = json.dumps({"input": {"purpose": purpose}}).encode()
        assert ask(f"{opa_server.url}/v1/data/smoke/allow", "POST", body, "application/json") == answer


def test_opa_checks_a_policy(opa_server: OpaServer, tmp_path: Path) -> None:
    policy = tmp_path / "smoke.rego"
    policy.write_bytes(POLICY)
    subprocess.run([opa.opa_binary(), "check", "--strict", policy], check=True)
    assert opa_server.version == opa.version()


def test_kafka_keeps_what_an_idempotent_producer_sent(kafka_server: KafkaServer) -> None:
    topic = f"smoke-{uuid.uuid4().hex}"
    servers = kafka_server.bootstrap_servers

    async def round_trip() -> list[bytes | None]:
        async with AIOKafkaProducer(
            bootstrap_servers=servers, acks="all", enable_idempotence=True
        ) as producer:
            for number in range(3):
                await producer.send_and_wait(topic, b"%d" % number, headers=[("ce_id", b"1")])
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=servers, group_id=topic, auto_offset_reset="earliest"
        ) as consumer:
            return [(await asyncio.wait_for(anext(consumer), 10)).value for _ in range(3)]

    assert asyncio.run(round_trip()) == [b"0", b"1", b"2"]


def test_postgres_answers(postgres_server: PostgresServer) -> None:
    async def select(dsn: str) -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    assert asyncio.run(select(postgres_server.dsn)) == 1
    assert asyncio.run(select(fresh_database(postgres_server))) == 1


def test_fresh_databases_are_apart(postgres_server: PostgresServer) -> None:
    async def create_table(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("create table only_here (id int)")
        finally:
            await connection.close()

    async def both() -> None:
        # Also from inside a running loop, where asynchronous tests are.
        for _ in range(2):
            await create_table(fresh_database(postgres_server))

    asyncio.run(both())


@pytest.mark.slow
def test_edc_speaks_dsp(edc_server: EdcServer) -> None:
    """What stands for other connectors in the data space answers as one, at the protocol version of ours."""
    with urllib.request.urlopen(f"{edc_server.base_url}/dsp/.well-known/dspace-version", timeout=5) as answer:
        versions = json.load(answer)["protocolVersions"]
    assert "/2025-1" in {version["path"] for version in versions}
    assert edc_server.version == edc.version()


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo out of cheese; exit 3"]
    with (
        pytest.raises(PartFailed, match=r"exit 3[^$]*out of cheese"),
        running(command, folder=tmp_path, ready=lambda: False, timeout_seconds=5, stop_signal=signal.SIGTERM),
    ):
        pass


def test_a_taken_port_is_tried_again() -> None:
    tried: list[int] = []

    def start(ports: list[int]) -> int:
        tried.extend(ports)
        if len(tried) == 1:
            raise PartFailed("listen tcp: bind: address already in use")
        return ports[0]

    assert on_free_ports(1, start) == tried[-1]
    assert len(tried) == 2


def test_a_failed_installation_leaves_no_half_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTS_CACHE", str(tmp_path))

    def broken(folder: Path) -> None:
        (folder / "half").touch()
        raise PartUnavailable("no network")

    with pytest.raises(PartUnavailable):
        cache.installed("part", broken)
    assert not (tmp_path / "part").exists()
    assert cache.installed("part", lambda folder: (folder / "whole").touch()) == tmp_path / "part"
    assert (tmp_path / "part" / "whole").exists()


def test_servers_end_with_a_killed_test_run(opa_server: OpaServer) -> None:
    """The run that started a server gets no chance to stop it: the watchdog does."""
    script = (
        "from tests.parts.opa import running_opa\n"
        "with running_opa() as server:\n"
        "    print(server.url, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as run:
        assert run.stdout is not None
        port = int(run.stdout.readline().rsplit(":", 1)[1])
        assert accepts_connections(port)
        run.kill()
    deadline = time.monotonic() + 5
    while accepts_connections(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not accepts_connections(port)
    assert opa_server.url  # the shared one is another
