"""stop, resume, api-keys: what an organisation must be able to do at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from connector.cli.output import AsJson, Folder, client, guarded, show, table
from connector.errors import RequestInvalid
from connector.model.person import PersonRole

Here = Path()
Who = Annotated[str, typer.Option("--as", help="Who does it: goes on record.")]

keys_app = typer.Typer(no_args_is_help=True, help="API keys for our own apps.")


def stop(
    reason: Annotated[str, typer.Option(help="For our own records.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Every grant; there is no other stop here.")
    ] = False,
    folder: Folder = Here,
    who: Who = "cli",
    as_json: AsJson = False,
) -> None:
    """End every grant now: nothing leaves any more, to anybody, until `connector resume`."""
    if not everything:
        raise RequestInvalid(
            "say --all",
            where="stop",
            mend="To end one agreement: `connector terminate`. To end the process: its service manager.",
        )
    with client(folder, roles=[PersonRole.OPERATOR], subject=who) as api:
        found = api.post("/v1/stop", {"reason": reason})
    show(found, as_json=as_json, text=f"Stopped: {found['ended']} grants have ended.")


def resume(folder: Folder = Here, who: Who = "cli", as_json: AsJson = False) -> None:
    """Lift the stop: peers may come back, with new grants."""
    with client(folder, roles=[PersonRole.ADMIN], subject=who) as api:
        api.delete("/v1/stop")
    show({"stopped": False}, as_json=as_json, text="The stop is lifted.")


@keys_app.command("create")
@guarded
def create_key(
    name: Annotated[str, typer.Argument(help="The app's name.")],
    role: Annotated[list[PersonRole], typer.Option(help="Roles; repeat for several.")],
    folder: Folder = Here,
    purpose: Annotated[list[str] | None, typer.Option(help="Purposes it may act for.")] = None,
    days: Annotated[int, typer.Option(help="How long it is good, at most 366.")] = 90,
    who: Who = "cli",
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown now and never again."""
    asked = {"name": name, "roles": [r.value for r in role], "purposes": purpose or [], "days": days}
    with client(folder, roles=[PersonRole.ADMIN], subject=who) as api:
        made = api.post("/v1/api-keys", asked)
    show(made, as_json=as_json, text=made["key"])


@keys_app.command("list")
@guarded
def list_keys(folder: Folder = Here, as_json: AsJson = False) -> None:
    """Which keys there are, whose, and until when."""
    with client(folder, roles=[PersonRole.ADMIN]) as api:
        found = api.get("/v1/api-keys")
    if as_json:
        show(found, as_json=True, text="")
        return
    rows = [(k["id"], k["name"], ", ".join(k["roles"]), k["expires"], k["createdBy"]) for k in found["keys"]]
    table(("id", "name", "roles", "expires", "made by"), rows)


@keys_app.command("revoke")
@guarded
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id.")],
    folder: Folder = Here,
    who: Who = "cli",
    as_json: AsJson = False,
) -> None:
    """It opens nothing from now on."""
    with client(folder, roles=[PersonRole.ADMIN], subject=who) as api:
        api.delete(f"/v1/api-keys/{key}")
    show({"revoked": key}, as_json=as_json, text=f"{key} is revoked.")
