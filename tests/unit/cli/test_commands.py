"""The command line's promises: every command explains itself, speaks JSON, and starts light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from connector.cli import app

REQUIRED = {"init", "serve", "demo", "catalog", "negotiate", "query", "consent", "audit"}


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        full = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, full)
        else:
            yield full, command


ALL = dict(commands(typer.main.get_group(app)))


def test_the_commands_that_an_operator_needs_are_there() -> None:
    """Skeleton: command line, at least these."""
    assert {name.split()[0] for name in ALL} >= REQUIRED


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_explains_itself_and_speaks_json(name: str) -> None:
    """Skeleton: each with --help, --json."""
    command = ALL[name]
    assert command.help, name
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_help_is_printed_without_loading_the_server() -> None:
    """A command line that starts slowly is not used."""
    heavy = ("fastapi", "pyarrow", "duckdb", "sqlglot", "uvicorn")
    code = f"import sys, connector.cli; sys.exit(', '.join(m for m in {heavy!r} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_wrong_usage_exits_with_2() -> None:
    """Exit codes: 2 is wrong usage."""
    command = [sys.executable, "-m", "connector", "negotiate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
