"""8: the audit log of each connector is proved offline, from its files; a tampered copy fails."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from connector.demo.ecosystem import ORGANISATIONS
from connector.demo.stage import Stage

LOG = "state/audit.sqlite"


def run(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        names = [o.id for o in ORGANISATIONS]
        copies = {n: _copy(stage.ecosystem.participant_folder(n), Path(scratch) / n) for n in names}
        tampered = _copy(stage.ecosystem.participant_folder("kela"), Path(scratch) / "tampered")
        _tamper(tampered / LOG)
        with ThreadPoolExecutor() as pool:
            proofs = dict(zip(names, pool.map(_verify, copies.values()), strict=True))
            refused = pool.submit(_verify, tampered).result()
    for name, proof in proofs.items():
        stage.narrator.check(proof.returncode == 0, f"{name}: {proof.stdout.strip()}", proof.stderr)
    claim = f"a tampered copy of kela's log fails: [italic]{refused.stderr.strip()}[/]"
    stage.narrator.check(refused.returncode != 0, claim)


def _copy(folder: Path, to: Path) -> Path:
    """The files as they lie there, and nothing that is needed to change them."""
    (to / "state").mkdir(parents=True)
    with (
        sqlite3.connect(f"file:{folder / LOG}?mode=ro", uri=True) as source,
        sqlite3.connect(to / LOG) as copy,
    ):
        source.backup(copy)
    shutil.copyfile(folder / "audit.jwks.json", to / "audit.jwks.json")
    return to


def _verify(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "connector", "audit", "verify", "--folder", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _tamper(log: Path) -> None:
    """One decision is made to look like another; whoever holds the file can drop its triggers."""
    with sqlite3.connect(log) as database:
        guards = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (guard,) in guards:
            database.execute(f'DROP TRIGGER "{guard}"')
        database.execute(
            'UPDATE leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), \'"outcome":"deny"\','
            ' \'"outcome":"permit"\') AS BLOB)'
        )
