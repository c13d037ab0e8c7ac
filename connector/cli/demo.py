"""demo: the main job, end to end, on real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from connector.cli.output import AsJson
from connector.demo import DEFAULT_PERSONS, DEFAULT_SEED


def demo(
    keep: Annotated[bool, typer.Option(help="Leave the ecosystem running, and say how to go on.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="An empty or new folder; default: a scratch folder.")
    ] = None,
    persons: Annotated[int, typer.Option(help="How many synthetic persons.")] = DEFAULT_PERSONS,
    seed: Annotated[int, typer.Option(help="Seed of the life-course model.")] = DEFAULT_SEED,
    kill_between: Annotated[bool, typer.Option(help="Kill and restart a connector between scenes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build a small ecosystem, run the main job through it and check every step."""
    from connector.demo.run import run

    failed = run(
        keep=keep, folder=folder, persons=persons, seed=seed, kill_between=kill_between, as_json=as_json
    )
    if failed:
        raise typer.Exit(1)
