"""Set up, play the scenes, say what was embedded and what was real, take down."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from connector.demo import consents
from connector.demo.ecosystem import ORGANISATIONS, Ecosystem, examples_folder
from connector.demo.narrator import Narrator
from connector.demo.population import Population, generate
from connector.demo.scenes import SCENES
from connector.demo.stage import Stage
from connector.errors import ConfigurationError
from connector.model.person import PersonRole


def run(
    *, keep: bool, folder: Path | None, persons: int, seed: int, kill_between: bool, as_json: bool
) -> int:
    """Returns how many checks failed."""
    narrator = Narrator(as_json=as_json)
    with _scratch(folder, keep) as scratch:
        ecosystem = Ecosystem(scratch, examples_folder())
        population = _set_up(ecosystem, narrator, persons=persons, seed=seed)
        stage = Stage(ecosystem=ecosystem, population=population, narrator=narrator)
        try:
            _start(stage)
            _play(stage, kill_between=kill_between)
            _parts(stage)
        except BaseException:
            ecosystem.stop()
            raise
        narrator.close()
        if keep:
            _leave_running(stage)
        else:
            ecosystem.stop()
    return narrator.failed


def _set_up(ecosystem: Ecosystem, narrator: Narrator, *, persons: int, seed: int) -> Population:
    narrator.step("0  Five organisations and a registry")
    with narrator.working(f"{persons:,} synthetic persons live their lives"):
        population = generate(seed=seed, persons=persons)
    with narrator.working("their registers, keys, catalogues and policies are written"):
        ecosystem.create(population)
    sizes = (
        f"{len(population.clients):,} clients (SQLite)",
        f"{len(population.benefits):,} months of benefits (Parquet)",
        f"{len(population.leavers):,} months of school leavers (CSV)",
    )
    narrator.say(f"registers: {', '.join(sizes)}")
    return population


def _start(stage: Stage) -> None:
    started = time.monotonic()
    with stage.narrator.working("registry and five connectors start"):
        stage.ecosystem.start()
    stage.narrator.fact("all six processes ready after, seconds", time.monotonic() - started)
    for organisation in ORGANISATIONS:
        process = stage.ecosystem.processes[organisation.id]
        stage.narrator.facts[f"rss_mb_{organisation.id}_at_start"] = round(process.resident_mb(), 1)
    with stage.narrator.working("earlier answers of people go into the consent registers"):
        count = consents.import_all(stage.ecosystem, stage.population)
    stage.narrator.say(f"{count:,} consents are in the registers of kela and school")


def _play(stage: Stage, *, kill_between: bool) -> None:
    victims = cycle(o.id for o in ORGANISATIONS)
    for title, scene in SCENES:
        if kill_between:
            victim = next(victims)
            stage.ecosystem.restart(victim)
            stage.narrator.say(f"[yellow]{victim} was killed and started again[/]")
        stage.narrator.step(title)
        scene(stage)


def _parts(stage: Stage) -> None:
    with stage.ecosystem.api("kela", PersonRole.VIEWER) as api:
        parts = api.get("/v1/status")["parts"]
    stage.narrator.step("What this ran on")
    stage.narrator.table("Parts of each connector", ("part", "what"), sorted(parts.items()))
    for organisation in ORGANISATIONS:
        process = stage.ecosystem.processes[organisation.id]
        stage.narrator.facts[f"rss_mb_{organisation.id}_at_end"] = round(process.resident_mb(), 1)


def _leave_running(stage: Stage) -> None:
    ecosystem, narrator = stage.ecosystem, stage.narrator
    ecosystem.write_facts()
    narrator.step("It keeps running")
    for organisation in ORGANISATIONS:
        url, pid = ecosystem.url(organisation.id), ecosystem.processes[organisation.id].pid
        narrator.say(f"{organisation.id:<12} {url}/v1/docs   {url}/health/ready   pid {pid}")
    city, kela = ecosystem.participant_folder("city"), ecosystem.participant_folder("kela")
    us = Path(sys.argv[0]).name if shutil.which(Path(sys.argv[0]).name) else sys.argv[0]
    narrator.say("Try next:")
    narrator.say(f"  {us} catalog --folder {city}")
    sql = "SELECT support_need, COUNT(*) AS persons FROM employment.clients GROUP BY support_need"
    narrator.say(f'  {us} query "{sql}" --purpose service-planning --folder {city}')
    narrator.say(f"  {us} audit verify --folder {kela}")
    pids = " ".join(str(p.pid) for p in ecosystem.processes.values())
    narrator.say(f"Stop it with: kill {pids}")


@contextmanager
def _scratch(folder: Path | None, keep: bool) -> Iterator[Path]:
    if folder is not None:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError("is not empty", where=str(folder), mend="Name a new or empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
    elif keep:
        yield Path(tempfile.mkdtemp(prefix="connector-demo-"))
    else:
        with tempfile.TemporaryDirectory(prefix="connector-demo-") as scratch:
            yield Path(scratch)
