"""The demo's organisations: folders, registry, connectors; all that real ones have, in a scratch folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from connector.adapters import file_keys, participant_folder, registry_files
from connector.demo import registers
from connector.demo.population import Population
from connector.demo.processes import Process, free_ports
from connector.errors import ConfigurationError
from connector.local_api import Api
from connector.model.participant import Collaboration, CollaborationRole, Participant
from connector.model.person import PersonRole

COLLABORATION = "planning-2026"
PURPOSE_PLANNING = "service-planning"
PURPOSE_CASE_WORK = "case-work"
PURPOSE_OUTREACH = "outreach"
PURPOSE_STATISTICS = "statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    id: str
    name: str
    business_id: str
    sector: str
    roles: frozenset[str]


ORGANISATIONS = (
    Organisation(
        id="employment",
        name="Employment services of the city",
        business_id="9000001-0",
        sector="employment",
        roles=frozenset({"data-producer", "data-user"}),
    ),
    Organisation(
        id="kela",
        name="Social insurance",
        business_id="9000002-9",
        sector="social-insurance",
        roles=frozenset({"data-producer"}),
    ),
    Organisation(
        id="school",
        name="Vocational school",
        business_id="9000003-7",
        sector="education",
        roles=frozenset({"data-producer"}),
    ),
    Organisation(
        id="youth",
        name="Outreach youth work",
        business_id="9000004-5",
        sector="youth",
        roles=frozenset({"data-user"}),
    ),
    Organisation(
        id="city",
        name="Planning office of the city",
        business_id="9000005-3",
        sector="city",
        roles=frozenset({"data-user"}),
    ),
)

POLICIES = {
    "employment": ("statutory_planning",),
    "kela": ("statutory_planning", "case_work", "open_statistics"),
    "school": ("outreach",),
}


class Ecosystem:
    """Folders and processes by participant id; the registry is `registry`."""

    def __init__(self, folder: Path, examples: Path) -> None:
        self.folder = folder
        self._examples = examples
        ports = free_ports(len(ORGANISATIONS) + 1)
        self._ports = dict(zip(["registry", *(o.id for o in ORGANISATIONS)], ports, strict=True))
        self.processes = {name: self._process(name) for name in self._ports}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def participant_folder(self, name: str) -> Path:
        return self.folder / name

    def create(self, population: Population) -> None:
        """Keys, settings, descriptors, policies, registers; the trust list names everybody."""
        (self.folder / "logs").mkdir(parents=True)
        registry = self.participant_folder("registry")
        registry_files.create(registry, issuer=self.url("registry"))
        registry_keys = file_keys.create(registry / "keys", "registry")
        for organisation in ORGANISATIONS:
            folder = self.participant_folder(organisation.id)
            keys = participant_folder.create(
                folder,
                participant_folder.NewParticipant(
                    id=organisation.id,
                    public_url=self.url(organisation.id),
                    port=self._ports[organisation.id],
                    registry_url=self.url("registry"),
                    registry_jwks=registry_keys.public_jwks(),
                    mode="development",
                    peer_private_addresses=True,
                ),
            )
            _use_small_buffers(folder)
            self._offer(organisation.id)
            registry_files.add_participant(
                registry,
                Participant(
                    id=organisation.id,
                    name=organisation.name,
                    base_url=self.url(organisation.id),
                    jwks=tuple(keys.public_jwks()),
                    business_id=organisation.business_id,
                    sector=organisation.sector,
                    roles=organisation.roles,
                    rulebook_version="1.0",
                ),
            )
        registry_files.add_collaboration(registry, _collaboration())
        self._write_registers(population)

    def start(self, on_ready: Callable[[str], None] = lambda _name: None) -> None:
        for process in self.processes.values():  # the registry first: it is light, and ready before the rest
            process.start()
        for process in self.processes.values():
            process.wait_ready()
            on_ready(process.name)

    def restart(self, name: str) -> None:
        """Kill without warning, and start again."""
        self.processes[name].kill()
        self.processes[name].start()
        self.processes[name].wait_ready()

    def stop(self) -> None:
        for process in self.processes.values():
            process.stop()

    @contextmanager
    def api(
        self,
        name: str,
        *roles: PersonRole,
        purposes: Iterable[str] = (),
        subject: str = "demo",
        receive_buffer_bytes: int = 0,
    ) -> Iterator[Api]:
        with Api(
            self.participant_folder(name),
            roles=roles,
            purposes=purposes,
            subject=subject,
            receive_buffer_bytes=receive_buffer_bytes,
        ) as api:
            yield api

    def facts(self) -> Mapping[str, object]:
        return {"folder": str(self.folder), "urls": {name: self.url(name) for name in self._ports}}

    def write_facts(self) -> None:
        """What `--keep` leaves for the next commands."""
        (self.folder / "ecosystem.json").write_text(json.dumps(self.facts(), indent=2) + "\n")

    def _process(self, name: str) -> Process:
        command = ["registry", "serve"] if name == "registry" else ["serve"]
        arguments = [*command, "--folder", str(self.participant_folder(name))]
        if name == "registry":
            arguments += ["--port", str(self._ports[name])]
        return Process(
            name=name, arguments=arguments, base_url=self.url(name), log=self.folder / "logs" / f"{name}.log"
        )

    def _offer(self, name: str) -> None:
        """The example descriptors of this organisation become its own, and the policies that they name."""
        folder = self.participant_folder(name)
        for file in sorted((self._examples / "catalog" / name).glob("*")):
            shutil.copyfile(file, folder / "catalog" / file.name)
        for policy in POLICIES.get(name, ()):
            shutil.copyfile(
                self._examples / "policies" / f"{policy}.rego", folder / "policies" / f"{policy}.rego"
            )

    def _write_registers(self, population: Population) -> None:
        data = {name: self.participant_folder(name) / "data" for name in ("employment", "kela", "school")}
        registers.write_clients_sqlite(data["employment"] / "clients.sqlite", population)
        registers.write_benefits_parquet(data["kela"] / "benefits.parquet", population)
        registers.write_leavers_csv(data["school"] / "leavers.csv", population)
        registers.write_consents_csv(data["kela"] / "consents.csv", population.kela_consents)
        registers.write_consents_csv(data["school"] / "consents.csv", population.school_consents)


def _use_small_buffers(folder: Path) -> None:
    """On loopback the kernel would take in a whole answer at once, and no reader could ever be slow."""
    with (folder / participant_folder.SETTINGS_FILE).open("a", encoding="utf-8") as settings:
        settings.write("stream_buffer_kb = 16\n")


def examples_folder() -> Path:
    """The examples beside the package, where the demo's descriptors and policies are."""
    folder = Path(__file__).resolve().parents[2] / "examples"
    if not folder.is_dir():
        raise ConfigurationError(
            "the examples are not there",
            where=str(folder),
            mend="Run the demo from a checkout of the project.",
        )
    return folder


def _collaboration() -> Collaboration:
    provider, consumer = frozenset({CollaborationRole.PROVIDER}), frozenset({CollaborationRole.CONSUMER})
    return Collaboration(
        id=COLLABORATION,
        purpose=PURPOSE_PLANNING,
        lead="kela",
        members={"kela": provider, "employment": provider, "city": consumer},
    )
