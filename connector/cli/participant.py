"""init, serve, check, token, status: one participant's own connector."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Annotated

import typer

from connector.cli.output import AsJson, Folder, client, show, table
from connector.errors import ConfigurationError
from connector.model.person import PersonRole

Here = Path()


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    participant_id: Annotated[str, typer.Option("--id", help="Our id in the registry: a-z, 0-9, _.")],
    registry_url: Annotated[str, typer.Option(help="Base URL of the participant registry.")],
    registry_jwks: Annotated[Path, typer.Option(help="File with the registry's public keys.")],
    public_url: Annotated[
        str, typer.Option(help="The base URL that peers will use.")
    ] = "http://127.0.0.1:8080",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    development: Annotated[bool, typer.Option(help="Allow embedded parts and private addresses.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new participant's folder: keys, settings, an example descriptor and policy."""
    from connector.adapters import participant_folder

    try:
        pinned = json.loads(registry_jwks.read_text(encoding="utf-8"))["keys"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            "is not a JWKS file",
            where=str(registry_jwks),
            mend="Ask the orchestrator for the registry's keys.",
        ) from None
    new = participant_folder.NewParticipant(
        id=participant_id,
        public_url=public_url,
        port=port,
        registry_url=registry_url,
        registry_jwks=pinned,
        mode="development" if development else "production",
        peer_private_addresses=development,
    )
    keys = participant_folder.create(folder, new)
    participant_folder.write_examples(folder)
    entry = {"id": participant_id, "baseUrl": public_url, "jwks": list(keys.public_jwks())}
    (folder / "participant.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    text = (
        f"{folder} is made. Next: ask to be admitted\n"
        f"  connector apply --folder {folder} --name 'Our organisation'\n"
        f"(or send {folder / 'participant.json'} to the orchestrator, for `connector registry add`),\n"
        f"then start with\n  connector serve --folder {folder}"
    )
    show({"folder": str(folder), "participant": entry}, as_json=as_json, text=text)


def apply(
    name: Annotated[str, typer.Option(help="The organisation's name.")],
    folder: Folder = Here,
    business_id: Annotated[str, typer.Option(help="Business ID.")] = "",
    sector: Annotated[str, typer.Option(help="Sector.")] = "",
    role: Annotated[list[str] | None, typer.Option(help="Roles in the ecosystem; repeat.")] = None,
    rulebook: Annotated[str, typer.Option(help="Version of the rulebook that we accept.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask the registry to admit us, signed with our key. A person there decides."""
    from connector.bootstrap.keys import open_keys
    from connector.cli.registrar import Registrar
    from connector.model.participant import Participant
    from connector.settings import load_settings

    settings = load_settings(folder)
    keys = open_keys(settings)
    participant = Participant(
        id=settings.participant_id,
        name=name,
        base_url=settings.public_url,
        jwks=tuple(keys.public_jwks()),
        business_id=business_id,
        sector=sector,
        roles=frozenset(role or ()),
        rulebook_version=rulebook,
    )
    with Registrar(settings) as registrar:
        answer = registrar.apply(keys, participant)
    text = (
        f"Application {answer['id']} is {answer['state']}. Tell the orchestrator our key by another way:\n"
        f"  {keys.thumbprint()}"
    )
    show({**answer, "key": keys.thumbprint()}, as_json=as_json, text=text)


def serve(folder: Folder = Here, as_json: AsJson = False) -> None:  # noqa: ARG001 - every command takes --json
    """Run the connector of this folder until it is told to stop."""
    gc.disable()  # loading makes many objects and no garbage; asgi.serve turns it on again
    from connector.asgi import serve as run  # the server's weight is for the server

    run(folder)


def token(
    folder: Folder = Here,
    role: Annotated[list[PersonRole] | None, typer.Option(help="Roles; repeat for several.")] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="Purposes it may act for.")] = None,
    subject: Annotated[str, typer.Option(help="Who acts.")] = "cli",
    as_json: AsJson = False,
) -> None:
    """Make a short client API token with this folder's own key."""
    with client(folder, roles=role or [PersonRole.VIEWER], purposes=purpose or [], subject=subject) as api:
        made = api.token()
    show({"token": made}, as_json=as_json, text=made)


def check(
    folder: Folder = Here,
    against: Annotated[
        Path | None, typer.Option(help="A catalogue folder as it was published before, to be compared with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, policies and descriptors, and that no descriptor breaks what was published before."""
    from connector.bootstrap.check import checked_catalogue

    found = checked_catalogue(folder, against)
    rows = [
        (d.id, d.version, d.status.value, ", ".join(o.wire_id(d.id) for o in d.offers))
        for d in found.values()
    ]
    columns = ("dataset", "version", "status", "offers")
    if as_json:
        datasets = [dict(zip(columns, row, strict=True)) for row in rows]
        show({"datasets": datasets}, as_json=True, text="")
        return
    table(columns, rows)


def status(folder: Folder = Here, as_json: AsJson = False) -> None:
    """Say how the connector is: its parts, embedded or real, and what it serves."""
    with client(folder, roles=[PersonRole.VIEWER]) as api:
        found = api.get("/v1/status")
    if as_json:
        show(found, as_json=True, text="")
        return
    table(("part", "what"), sorted(found["parts"].items()), title=f"{found['participant']}")
