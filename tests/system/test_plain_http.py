"""`HttpData-PULL` between two real connectors: by our own tokens, and by a bearer for a listed peer."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from connector.adapters import file_keys, participant_folder, registry_files
from connector.cli import app
from connector.demo.processes import Process, free_ports
from connector.errors import PeerUnreachable
from connector.local_api import Api, ApiProblem
from connector.model.participant import Participant
from connector.model.person import PersonRole

ROWS = 60_000
PURPOSE = "service-planning"
WAIT_SECONDS = 20.0
KELA, CITY, GUEST = "kela", "city", "guest"
"""The provider; a consumer of our own kind; one that kela lists as a plain DSP peer."""

DESCRIPTOR = """\
apiVersion: v3.2.0
kind: DataContract
id: 00000000-0000-4000-8000-000000000b1e
name: stations
version: 1.0.0
status: active
description:
  purpose: Where city bikes are to be had.
schema:
  - name: stations
    physicalName: stations
    physicalType: table
    properties:
      - {name: name, logicalType: string, physicalType: TEXT, required: true}
      - {name: bikes, logicalType: integer, physicalType: INTEGER, required: true}
customProperties:
  - property: dataspace
    value:
      title: {fi: Pyöräasemat, sv: Cykelstationer, en: Bike stations}
      accessRights: RESTRICTED
      formats: [HttpData-PULL]
      gdpr: {personalData: false}
      source: {kind: sqlite, location: data/stations.sqlite, table: stations}
      offers:
        - id: planning
          termsVersion: "1.0"
          approval: automatic
          columns: {name: clear, bikes: clear}
          permission:
            - action: use
              constraint:
                - {leftOperand: purpose, operator: isA, rightOperand: service-planning}
"""


@dataclass
class Space:
    """Three connectors and their registry."""

    folder: Path
    ports: dict[str, int]
    processes: list[Process]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def api(self, name: str, *roles: PersonRole) -> Api:
        return Api(self.folder / name, roles=roles, purposes=[PURPOSE], receive_buffer_bytes=16_384)

    def create(self) -> None:
        (self.folder / "logs").mkdir()
        registry = self.folder / "registry"
        registry_files.create(registry, issuer=self.url("registry"))
        registry_keys = file_keys.create(registry / "keys", "registry")
        for name in (KELA, CITY, GUEST):
            keys = participant_folder.create(
                self.folder / name,
                participant_folder.NewParticipant(
                    id=name,
                    public_url=self.url(name),
                    port=self.ports[name],
                    registry_url=self.url("registry"),
                    registry_jwks=registry_keys.public_jwks(),
                    mode="development",
                    peer_private_addresses=True,
                ),
            )
            with (self.folder / name / "connector.toml").open("a") as settings:
                settings.write(f'stream_buffer_kb = 16\nplain_dsp_peers = ["{GUEST}"]\n')
            entry = Participant(
                id=name, name=name.title(), base_url=self.url(name), jwks=tuple(keys.public_jwks())
            )
            registry_files.add_participant(registry, entry)
        (self.folder / KELA / "catalog/stations.odcs.yaml").write_text(DESCRIPTOR, encoding="utf-8")
        with closing(sqlite3.connect(self.folder / KELA / "data/stations.sqlite")) as db, db:
            db.execute("CREATE TABLE stations (name TEXT NOT NULL, bikes INTEGER NOT NULL) STRICT")
            db.executemany(
                "INSERT INTO stations VALUES (?, ?)", ((f"Asema {n}", n % 30) for n in range(ROWS))
            )

    def start(self) -> None:
        for name, port in self.ports.items():
            command = ["registry", "serve"] if name == "registry" else ["serve"]
            arguments = [*command, "--folder", str(self.folder / name)]
            arguments += ["--port", str(port)] if name == "registry" else []
            log = self.folder / "logs" / f"{name}.log"
            process = Process(name=name, arguments=arguments, base_url=self.url(name), log=log)
            self.processes.append(process)
            process.start()
        for process in self.processes:
            process.wait_ready()

    def stop(self) -> None:
        for process in self.processes:
            process.stop()

    # --- from offer to a started transfer -----------------------------------------------------------------

    def agreed(self, consumer: str) -> str:
        with self.api(consumer, PersonRole.OPERATOR) as api:
            (provider,) = api.get("/v1/catalog", participant=KELA)["participants"]
            (dataset,) = provider["datasets"]
            assert dataset["formats"] == ["HttpData-PULL"]
            offer = dataset["offers"][0]["id"]
            made = api.post("/v1/negotiations", {"provider": KELA, "dataset": "stations", "offer": offer})
            done = wait(api, f"/v1/negotiations/{made['pid']}", "FINALIZED")
            return str(done["agreement"])

    def started(self, consumer: str) -> str:
        agreement = self.agreed(consumer)
        with self.api(consumer, PersonRole.OPERATOR) as api:
            made = api.post("/v1/transfers", {"agreement": agreement, "format": "HttpData-PULL"})
            return str(wait(api, f"/v1/transfers/{made['pid']}", "STARTED")["pid"])

    def at_kela(self, consumer: str, pid: str) -> str:
        """kela's own pid of it."""
        with self.api(consumer, PersonRole.VIEWER) as api:
            return str(api.get(f"/v1/transfers/{pid}")["peerPid"])


def wait(api: Api, path: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found: dict[str, Any] = api.get(path)
        if found["state"] == state:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    names = ("registry", KELA, CITY, GUEST)
    made = Space(tmp_path_factory.mktemp("space"), dict(zip(names, free_ports(4), strict=True)), [])
    made.create()
    try:
        made.start()
        yield made
    finally:
        made.stop()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_our_own_kind_reads_it_by_the_command_line(space: Space, tmp_path: Path) -> None:
    """Offer to bytes: DPoP token with the action `read`; a whole file, or none."""
    pid = space.started(CITY)
    folder, out = str(space.folder / CITY), tmp_path / "stations.csv"
    done = run(
        *("transfers", "read", pid, "--purpose", PURPOSE, "--accept", "text/csv"),
        *("--folder", folder, "--out", str(out), "--json"),
    )
    assert done.exit_code == 0, done.output
    lines = out.read_text(encoding="utf-8").splitlines()
    assert (lines[0], len(lines)) == ('"name","bikes"', ROWS + 1)
    assert json.loads(done.output)["bytes"] == out.stat().st_size
    refused = run("transfers", "read", pid, "--purpose", "official-statistics", "--folder", folder, "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.output)["error"] == "not_permitted"


def test_a_stop_at_the_provider_reaches_the_application_behind_the_consumer(space: Space) -> None:
    """Through both connectors: the download breaks off, and shows it."""
    pid = space.started(CITY)
    theirs = space.at_kela(CITY, pid)
    with space.api(CITY, PersonRole.ANALYST) as reader, space.api(KELA, PersonRole.OPERATOR) as kela:
        chunks: list[bytes] = []

        def suspend_after_three() -> None:
            with reader.download(f"/v1/transfers/{pid}/data", purpose=PURPOSE) as answer:
                for chunk in answer:
                    chunks.append(chunk)
                    if len(chunks) == 3:
                        kela.post(f"/v1/transfers/{theirs}/suspend", {"reason": "Maintenance."})

        with pytest.raises(PeerUnreachable, match="not all of it"):
            suspend_after_three()
        with pytest.raises(ValueError):
            json.loads(b"".join(chunks))
        with (
            pytest.raises(ApiProblem) as refused,
            reader.download(f"/v1/transfers/{pid}/data", purpose=PURPOSE),
        ):
            pass
        assert refused.value.status in (409, 502)
        kela.post(f"/v1/transfers/{theirs}/resume")
    with space.api(CITY, PersonRole.VIEWER) as api:
        wait(api, f"/v1/transfers/{pid}", "STARTED")
    folder = str(space.folder / CITY)
    assert run("transfers", "read", pid, "--purpose", PURPOSE, "--folder", folder).exit_code == 0
    assert run("transfers", "complete", pid, "--folder", folder).exit_code == 0
    listed = json.loads(run("transfers", "list", "--state", "COMPLETED", "--folder", folder, "--json").output)
    assert pid in [t["pid"] for t in listed["transfers"]]


def test_a_listed_peer_reads_by_bearer_with_any_client(space: Space) -> None:
    """The start message's token, and a plain GET; a resumption brings another one."""
    pid = space.started(GUEST)
    with space.api(GUEST, PersonRole.OPERATOR, PersonRole.ANALYST) as api:
        first = api.get(f"/v1/transfers/{pid}/data-address")
        assert read(first)[0] == {"name": "Asema 0", "bikes": 0}
        api.post(f"/v1/transfers/{pid}/suspend", {"reason": "Enough for now."})
        wait(api, f"/v1/transfers/{pid}", "SUSPENDED")
        assert status(first) == 401
        api.post(f"/v1/transfers/{pid}/resume")
        wait(api, f"/v1/transfers/{pid}", "STARTED")
        second = first
        deadline = time.monotonic() + WAIT_SECONDS
        while second == first and time.monotonic() < deadline:
            time.sleep(0.05)
            second = api.get(f"/v1/transfers/{pid}/data-address")
        assert status(first) == 401
        assert len(read(second)) == ROWS
        with api.download(f"/v1/transfers/{pid}/data", purpose=PURPOSE) as chunks:
            assert len(json.loads(b"".join(chunks))) == ROWS
        shown = api.get(f"/v1/transfers/{pid}")
        assert "authorization" not in shown["dataAddress"]["properties"]
    tokens = [a["properties"]["authorization"].encode() for a in (first, second)]
    looked_at = [*(space.folder / "logs").iterdir(), *(space.folder / KELA / "state").glob("audit*")]
    kept = [file for file in looked_at if any(token in file.read_bytes() for token in tokens)]
    assert kept == []


def read(address: dict[str, Any]) -> list[dict[str, Any]]:
    found = httpx.get(address["endpoint"], headers=headers(address), trust_env=False, timeout=30)
    assert found.status_code == 200
    rows: list[dict[str, Any]] = found.json()
    return rows


def status(address: dict[str, Any]) -> int:
    return httpx.get(address["endpoint"], headers=headers(address), trust_env=False).status_code


def headers(address: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {address['properties']['authorization']}"}
