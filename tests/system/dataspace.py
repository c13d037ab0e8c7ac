"""A data space made as its people make it: by the command line, with real processes on loopback."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from connector.cli import app
from connector.demo.processes import Process, free_ports
from connector.errors import ConnectorError
from connector.local_api import Api
from connector.model.person import PersonRole

KELA, CITY = "kela", "city"
"""The provider of the stations, and their consumer."""

PURPOSE = "service-planning"
WAIT_SECONDS = 20.0
SQL = "SELECT COUNT(*) AS n, SUM(bikes) AS bikes FROM kela.stations"
ROWS = 60_000
PAUSE_SECONDS = 0.005
"""Between two batches of ten: the whole takes half a minute, so whatever ends sooner was ended."""

STATIONS = """\
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


class CommandFailed(AssertionError):
    """`error`: what the command printed with --json."""

    def __init__(self, arguments: tuple[str, ...], output: str) -> None:
        super().__init__(f"connector {' '.join(arguments)}: {output}")
        self.output = output

    @property
    def error(self) -> str:
        return str(json.loads(self.output.strip().splitlines()[-1])["error"])


def connector(*arguments: str | Path) -> Any:
    """A command with --json: what it prints. Raises CommandFailed where it ends with anything but 0."""
    words = tuple(map(str, arguments))
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    if done.exit_code != 0:
        raise CommandFailed(words, done.output)
    return json.loads(done.stdout) if done.stdout else None


@dataclass
class DataSpace:
    """`registry` is a name like those of the participants."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    def url(self, name: str) -> str:
        if name not in self.ports:
            self.ports[name] = free_ports(1)[0]
        return f"http://127.0.0.1:{self.ports[name]}"

    def of(self, name: str) -> Path:
        return self.folder / name

    # --- as its people do it ------------------------------------------------------------------------------

    def make_registry(self, url: str = "") -> None:
        (self.folder / "logs").mkdir()
        connector("registry", "init", self.of("registry"), "--issuer", url or self.url("registry"))

    def init(self, name: str, *settings: str, registry_url: str = "") -> None:
        """`settings`: more lines of its connector.toml."""
        base = self.url(name)
        about = ["--id", name, "--registry-url", registry_url or self.url("registry"), "--public-url", base]
        about += ["--registry-jwks", str(self.of("registry") / "registry.jwks.json")]
        connector("init", self.of(name), *about, "--port", str(self.ports[name]), "--development")
        self.set(name, "stream_buffer_kb = 16", *settings)

    def set(self, name: str, *lines: str) -> None:
        with (self.of(name) / "connector.toml").open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def apply(self, name: str) -> str:
        """The application's id."""
        made = connector("apply", "--folder", self.of(name), "--name", name.title(), "--sector", "city")
        assert made["state"] == "waiting"
        return str(made["id"])

    def approve(self, application: str) -> None:
        registry = self.of("registry")
        connector("registry", "approve", application, "--by", "orchestrator", "--folder", registry)

    def offer_stations(self, name: str, rows: int = ROWS) -> None:
        folder = self.of(name)
        (folder / "catalog" / "stations.odcs.yaml").write_text(STATIONS, encoding="utf-8")
        with closing(sqlite3.connect(folder / "data" / "stations.sqlite")) as db, db:
            db.execute("CREATE TABLE stations (name TEXT NOT NULL, bikes INTEGER NOT NULL) STRICT")
            db.executemany("INSERT INTO stations VALUES (?, ?)", ((f"Asema {n}", 1) for n in range(rows)))

    # --- processes ----------------------------------------------------------------------------------------

    def serve(self, *names: str) -> None:
        for name in names:
            command = ["registry", "serve"] if name == "registry" else ["serve"]
            arguments = [*command, "--folder", str(self.of(name))]
            arguments += ["--port", str(self.ports[name])] if name == "registry" else []
            log = self.folder / "logs" / f"{name}.log"
            process = Process(name=name, arguments=arguments, base_url=self.url(name), log=log)
            self.processes[name] = process
            process.start()
        for name in names:
            self.processes[name].wait_ready()

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.processes):
            self.processes.pop(name).stop()

    # --- what a consumer does -----------------------------------------------------------------------------

    def api(self, name: str, *roles: PersonRole, purposes: tuple[str, ...] = ()) -> Api:
        held = roles or (PersonRole.VIEWER,)
        return Api(self.of(name), roles=held, purposes=purposes, receive_buffer_bytes=16_384)

    def agree(self, consumer: str, provider: str, dataset: str = "stations") -> str:
        """From the provider's catalogue to an agreement that both have signed and a started transfer."""
        with self.api(consumer, PersonRole.OPERATOR) as api:
            (shown,) = api.get("/v1/catalog", participant=provider)["participants"]
            offer = next(d for d in shown["datasets"] if d["id"] == dataset)["offers"][0]["id"]
            made = api.post("/v1/negotiations", {"provider": provider, "dataset": dataset, "offer": offer})
            done = self.wait_for(api, f"/v1/negotiations/{made['pid']}", "FINALIZED")
            agreement = str(done["agreement"])
            transfer = api.post("/v1/transfers", {"agreement": agreement, "format": "FederatedQuery-PULL"})
            self.wait_for(api, f"/v1/transfers/{transfer['pid']}", "STARTED")
        return agreement

    def wait_for(self, api: Api, path: str, state: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(api.get(path))
            return found["state"] == state

        until(reached)
        return found

    def count(self, consumer: str) -> int:
        """Of the provider's rows, by a federated query."""
        with self.api(consumer, PersonRole.ANALYST, purposes=(PURPOSE,)) as api:
            return int(api.post("/v1/queries", {"sql": SQL, "purpose": PURPOSE})["rows"][0][0])


@contextmanager
def agreed_space(folder: Path, rows: int = ROWS) -> Iterator[DataSpace]:
    """kela offers its stations, city has an agreement on them; both are served."""
    space = DataSpace(folder)
    space.make_registry()
    try:
        space.serve("registry")
        for name in (KELA, CITY):
            space.init(name)
            space.approve(space.apply(name))
        space.offer_stations(KELA, rows)
        space.serve(KELA, CITY)
        space.agree(CITY, KELA)
        yield space
    finally:
        space.stop()


@dataclass
class Stream:
    """`written_at`: when the provider wrote the last of it (epoch seconds); what is in buffers comes later.
    `whole` where it came to its own end."""

    rows: int = 0
    whole: bool = False
    written_at: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def read(self, api: Api, provider: str) -> None:
        about = {"dataset": f"{provider}.stations", "columns": ["name"], "purpose": PURPOSE, "batchRows": 10}
        try:
            with api.stream("POST", "/v1/streams", about) as lines:
                for line in lines:
                    self.rows += len(line.get("rows", ()))
                    self.written_at = line.get("writtenAt", self.written_at)
                    self.whole = "end" in line
                    time.sleep(PAUSE_SECONDS)
        except ConnectorError:
            self.whole = False
        finally:
            self.over.set()


@contextmanager
def reading(space: DataSpace, consumer: str, provider: str) -> Iterator[Stream]:
    """The provider's stations, read slowly in the background; inside, its rows have begun to come."""
    stream = Stream()
    with space.api(consumer, PersonRole.ANALYST, purposes=(PURPOSE,)) as api:
        reader = threading.Thread(target=stream.read, args=(api, provider), daemon=True)
        reader.start()
        until(lambda: stream.rows > 0 or stream.over.is_set())
        assert not stream.over.is_set()
        yield stream
        reader.join(WAIT_SECONDS)
        assert stream.over.is_set()


def until(done: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() < began + seconds, "it did not come about"
        time.sleep(0.02)
    return time.monotonic() - began
