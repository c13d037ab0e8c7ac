"""audit: prove a connector's log from its files, with nothing running."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from connector.cli.output import AsJson, Folder, guarded, show
from connector.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="The audit log: verify it, offline.")
Here = Path()


@app.command("verify")
@guarded
def verify(folder: Folder = Here, as_json: AsJson = False) -> None:
    """Recompute every leaf and every signed tree head; say the first thing that does not fit."""
    from connector.adapters.audit_log import verify_audit

    log, keys = folder / "state" / "audit.sqlite", folder / "audit.jwks.json"
    for file in (log, keys):
        if not file.is_file():
            raise ConfigurationError(
                "there is no such file", where=str(file), mend="Name the participant's folder."
            )
    found = verify_audit(log, json.loads(keys.read_text(encoding="utf-8"))["keys"])
    text = f"the log holds: {found.size} leaves, {found.heads_checked} signed heads, root {found.root[:16]}…"
    value = {"size": found.size, "root": found.root, "headsChecked": found.heads_checked}
    show(value, as_json=as_json, text=text)


@app.callback()
def _group() -> None:
    """A group even with one command."""
