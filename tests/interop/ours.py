"""Our connector as EDC meets it: the product's own application, with `iam-mock`'s header for identity."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from connector.adapters import file_keys, participant_folder, registry_files
from connector.bootstrap.application import running_application
from connector.bootstrap.services import Services
from connector.demo.processes import Process
from connector.local_api import Api
from connector.model.participant import Participant
from connector.model.person import PersonRole
from connector.ports import PeerIdentity
from connector.settings import load_settings
from tests.interop.identity import UnsafeMockIdentity
from tests.interop.serving import bound, serving, url_of
from tests.parts import HOST, free_ports
from tests.parts.edc import EdcServer

T = TypeVar("T")

OURS = "helsinki"
DATASET = "stations"
APPROVER = "register-owner"
PURPOSE = "service-planning"
STATIONS = (("Kallio", 12), ("Pasila", 7), ("Vuosaari", 3))
FOR_OTHERS_CONNECTORS = ("plain_dsp_peers", "unsigned_peers")
"""Settings that name participants whose connectors are not of our kind."""

WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.05
ROLES = (PersonRole.OPERATOR, PersonRole.APPROVER, PersonRole.VIEWER, PersonRole.ANALYST)

DESCRIPTOR = """\
apiVersion: v3.2.0
kind: DataContract
id: {contract}
name: {dataset}
version: 1.0.0
status: active
description:
  purpose: Where city bikes are to be had.
schema:
  - name: stations
    physicalName: stations
    physicalType: table
    properties:
      - {{name: name, logicalType: string, physicalType: TEXT, required: true}}
      - {{name: bikes, logicalType: integer, physicalType: INTEGER, required: true}}
customProperties:
  - property: dataspace
    value:
      title: {{fi: Pyöräasemat, sv: Cykelstationer, en: Bike stations}}
      accessRights: RESTRICTED
      formats: [HttpData-PULL]
      gdpr: {{personalData: false}}
      source: {{kind: sqlite, location: data/stations.sqlite, table: stations}}
      offers:
{offers}
"""
OFFER = """\
        - id: {id}
          termsVersion: "1.0"
          approval: {approval}
          approver: {approver}
          columns: {{name: clear, bikes: clear}}
          permission:
            - action: use
              constraint:
                - {{leftOperand: purpose, operator: isA, rightOperand: {purpose}}}
          prohibition:
            - {{action: distribute}}
"""


@dataclass(frozen=True, slots=True)
class Ours:
    """Our connector, running: its client API as its own people use it, and its use cases."""

    base_url: str
    api: Api
    services: Services
    loop: asyncio.AbstractEventLoop

    @property
    def dsp_url(self) -> str:
        return f"{self.base_url}/dsp/2025-1"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """A use case, in the connector's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def settled(self, path: str, *states: str) -> Mapping[str, Any]:
        """The negotiation or transfer at `path` once it has one of `states`."""
        otherwise = f"{path} is not {' or '.join(states)}"
        found: Mapping[str, Any] = until(lambda: self._in_state(path, states), otherwise)
        return found

    def _in_state(self, path: str, states: tuple[str, ...]) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] = self.api.get(path)
        return found if found["state"] in states else None


@contextmanager
def running_ours(folder: Path, peer: EdcServer, data_host: str) -> Iterator[Ours]:
    """A registry that knows us and `peer`, and our connector, both on free loopback ports. `data_host`: where
    the data plane of `peer` is."""
    built: list[Services] = []

    class MockIamServices(Services):
        """The product's, but for how peers prove who they are."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            built.append(self)

        def _identity(self) -> PeerIdentity:
            return UnsafeMockIdentity(self.settings.participant_id, self.trust)

    with _running_registry(folder / "registry") as registry_url, bound() as listener:
        base_url = url_of(listener)
        home = _participant(folder, base_url, registry_url, peer)
        with (home / "connector.toml").open("a", encoding="utf-8") as settings:
            lists = "".join(f'{name} = ["{peer.participant_id}"]\n' for name in FOR_OTHERS_CONNECTORS)
            settings.write(f'{lists}[data_hosts]\n{peer.participant_id} = "{data_host}"\n')
        with (
            serving(lambda: running_application(load_settings(home), MockIamServices), listener) as loop,
            Api(home, roles=ROLES, purposes=[PURPOSE], subject=APPROVER) as api,
        ):
            yield Ours(base_url, api, built[0], loop)


@contextmanager
def _running_registry(folder: Path) -> Iterator[str]:
    """Its URL. It reads the folder anew whenever the list in it changes."""
    (port,) = free_ports(1)
    url = f"http://{HOST}:{port}"
    registry_files.create(folder, issuer=url)
    file_keys.create(folder / "keys", "registry")
    arguments = ["registry", "serve", "--folder", str(folder), "--port", str(port)]
    process = Process(name="registry", arguments=arguments, base_url=url, log=folder / "log")
    process.start()
    try:
        process.wait_ready()
        yield url
    finally:
        process.stop()


def _participant(folder: Path, base_url: str, registry_url: str, peer: EdcServer) -> Path:
    """Our folder, made; the registry knows us and `peer`."""
    registry, home = folder / "registry", folder / OURS
    keys = participant_folder.create(
        home,
        participant_folder.NewParticipant(
            id=OURS,
            public_url=base_url,
            port=int(base_url.rsplit(":", 1)[1]),
            registry_url=registry_url,
            registry_jwks=file_keys.load(registry / "keys", "registry").public_jwks(),
            mode="development",
            peer_private_addresses=True,
        ),
    )
    # EDC has no keys, and the list wants some of everybody: nobody uses these
    peer_keys = file_keys.create(folder / "edc-keys", peer.participant_id)
    for name, url, held in ((OURS, base_url, keys), (peer.participant_id, peer.base_url, peer_keys)):
        entry = Participant(id=name, name=name.title(), base_url=url, jwks=tuple(held.public_jwks()))
        registry_files.add_participant(registry, entry)
    _publish(home)
    return home


def until(look: Callable[[], Any], otherwise: str) -> Any:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(otherwise)
        time.sleep(LOOK_SECONDS)
    return found


def descriptor(dataset: str, offers: Mapping[str, str] = MappingProxyType({"planning": "automatic"})) -> str:
    """Of a dataset over the bike stations, with `offers` by id: who approves them."""
    texts = (OFFER.format(id=o, approval=a, approver=APPROVER, purpose=PURPOSE) for o, a in offers.items())
    contract = uuid.uuid5(uuid.NAMESPACE_URL, dataset)
    return DESCRIPTOR.format(dataset=dataset, contract=contract, offers="".join(texts))


def make_source(data: Path) -> None:
    """The bike stations themselves."""
    with closing(sqlite3.connect(data / "stations.sqlite")) as db, db:
        db.execute("CREATE TABLE stations (name TEXT NOT NULL, bikes INTEGER NOT NULL) STRICT")
        db.executemany("INSERT INTO stations VALUES (?, ?)", STATIONS)


def _publish(home: Path) -> None:
    text = descriptor(DATASET, {"planning": "automatic", "by-hand": "manual"})
    (home / "catalog" / f"{DATASET}.odcs.yaml").write_text(text, encoding="utf-8")
    make_source(home / "data")
