"""Reads queries.sql: every statement under its name, rendered for one dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from connector.adapters.sql.connection import Dialect

_HEAD = re.compile(r"^-- (name|piece): (\w+)(?: \((\w+)\))?$")
_PARAMETER = re.compile(r"\$(\d+)")
_PIECE = re.compile(r"\{(\w+)\}")


@cache
def queries(dialect: Dialect) -> Mapping[str, str]:
    """Name -> SQL. A `name (dialect)` stands beside no plain `name`; `{piece}` is spelt per dialect."""
    text = (files("connector.adapters.sql") / "queries.sql").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {"name": {}, "piece": {}}
    for kind, name, only, body in _blocks(text):
        if only in (None, dialect):
            if name in found[kind]:
                raise ValueError(f"queries.sql: {kind} {name} is there twice for {dialect}")
            found[kind][name] = body
    return {name: _render(body, found["piece"], dialect) for name, body in found["name"].items()}


def _blocks(text: str) -> list[tuple[str, str, str | None, str]]:
    blocks: list[tuple[str, str, str | None, list[str]]] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            blocks.append((head[1], head[2], head[3], []))
        elif blocks and not line.startswith("--"):
            blocks[-1][3].append(line)
    return [(kind, name, only, "\n".join(body).strip().rstrip(";")) for kind, name, only, body in blocks]


def _render(body: str, pieces: Mapping[str, str], dialect: Dialect) -> str:
    whole = _PIECE.sub(lambda found: pieces[found[1]], body)
    return _PARAMETER.sub(r"?\1", whole) if dialect == "sqlite" else whole
