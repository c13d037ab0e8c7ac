"""Two participants and their registry, as `connector init` makes them: the product by its command line."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from connector.adapters import file_keys, participant_folder, registry_files
from connector.demo.processes import Process, free_ports
from connector.model.participant import Participant

PARTIES = ("city", "kela")
"""Each provider and consumer of the other."""

DATASET = "people"
LEASE_SECONDS = 6
_QUICK = f"""
lease_seconds = {LEASE_SECONDS}
retry_seconds = 0.2
retry_limit = 1000
log_level = "warning"
"""
"""Pauses that suit a test, and messages that are never given up: whatever is lost is lost by a crash."""


class Estate:
    """Folders, processes and who is up. `dsns`: a PostgreSQL store by participant, none for SQLite."""

    def __init__(self, folder: Path, dsns: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.dsns = dict(dsns or {})
        self._ports = dict(zip(("registry", *PARTIES), free_ports(3), strict=True))
        self.kills = 0
        self._processes = {name: self._process(name) for name in self._ports}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def participant_folder(self, name: str) -> Path:
        return self.folder / name

    def create(self) -> None:
        """Keys, settings, one dataset each that is offered to everybody, and a trust list of both."""
        self.folder.mkdir(parents=True, exist_ok=True)
        registry = self.participant_folder("registry")
        registry_files.create(registry, issuer=self.url("registry"))
        registry_jwks = file_keys.create(registry / "keys", "registry").public_jwks()
        for name in PARTIES:
            folder = self.participant_folder(name)
            keys = participant_folder.create(
                folder,
                participant_folder.NewParticipant(
                    id=name,
                    public_url=self.url(name),
                    port=self._ports[name],
                    registry_url=self.url("registry"),
                    registry_jwks=registry_jwks,
                    mode="development",
                    peer_private_addresses=True,
                ),
            )
            with (folder / participant_folder.SETTINGS_FILE).open("a", encoding="utf-8") as settings:
                settings.write(_QUICK)
                if name in self.dsns:
                    settings.write(f'store_dsn = "{self.dsns[name]}"\n')
            _offer(folder)
            registry_files.add_participant(
                registry,
                Participant(
                    id=name,
                    name=name.title(),
                    base_url=self.url(name),
                    jwks=tuple(keys.public_jwks()),
                    business_id="9000001-0",
                    sector="city",
                    roles=frozenset({"data-producer", "data-user"}),
                    rulebook_version="1.0",
                ),
            )

    def start(self) -> None:
        for process in self._processes.values():
            process.start()
        for process in self._processes.values():
            process.wait_ready()

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()

    async def crash(self, names: Sequence[str], *, down_seconds: float) -> None:
        """SIGKILL all of `names` at once, and start them again after a while."""
        self.kills += len(names)
        await asyncio.gather(*(asyncio.to_thread(self._processes[n].kill) for n in names))
        await asyncio.sleep(down_seconds)
        for name in names:
            self._processes[name].start()
        await asyncio.gather(*(asyncio.to_thread(self._processes[n].wait_ready) for n in names))

    def log(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._log_file(name).read_text(errors="replace")
        return ""

    def _log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _process(self, name: str) -> Process:
        arguments = ["serve", "--folder", str(self.participant_folder(name))]
        if name == "registry":
            arguments = ["registry", *arguments, "--port", str(self._ports[name])]
        return Process(name=name, arguments=arguments, base_url=self.url(name), log=self._log_file(name))


def _offer(folder: Path) -> None:
    """The starter of `connector init`, shown and agreed to without a person."""
    participant_folder.write_examples(folder)
    descriptor = folder / "catalog" / "people.odcs.yaml"
    text = descriptor.read_text(encoding="utf-8")
    text = text.replace("status: draft", "status: active").replace("approval: manual", "approval: automatic")
    descriptor.write_text(text, encoding="utf-8")
    with closing(sqlite3.connect(folder / "data" / "people.sqlite")) as register:
        register.execute("CREATE TABLE people (person_id TEXT, postal_code TEXT, birth_year INTEGER)")
