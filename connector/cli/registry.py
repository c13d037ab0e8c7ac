"""registry: the orchestrator's signed list of participants, as files or as a service."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from connector.cli.output import AsJson, Folder, guarded, show, table
from connector.errors import ConfigurationError
from connector.model.participant import Collaboration, CollaborationRole, Participant, ParticipantStatus

app = typer.Typer(no_args_is_help=True, help="The participant registry: who takes part, signed.")
Here = Path()
REGISTRY_ID = "registry"


@app.command("init")
@guarded
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    issuer: Annotated[str, typer.Option(help="Who publishes the list, as a URL.")],
    as_json: AsJson = False,
) -> None:
    """Make an empty registry with a key of its own; hand registry.jwks.json to the participants."""
    from connector.adapters import file_keys, registry_files

    registry_files.create(folder, issuer=issuer)
    keys = file_keys.create(folder / "keys", REGISTRY_ID)
    jwks = {"keys": [k for k in keys.public_jwks() if k["use"] == "sig"]}
    (folder / "registry.jwks.json").write_text(json.dumps(jwks, indent=2) + "\n", encoding="utf-8")
    show({"folder": str(folder), "jwks": jwks}, as_json=as_json, text=f"{folder} is made.")


@app.command("add")
@guarded
def add(
    application: Annotated[Path, typer.Argument(help="participant.json, as `connector init` made it.")],
    name: Annotated[str, typer.Option(help="The organisation's name.")],
    folder: Folder = Here,
    business_id: Annotated[str, typer.Option(help="Business ID.")] = "",
    sector: Annotated[str, typer.Option(help="Sector.")] = "",
    as_json: AsJson = False,
) -> None:
    """Admit a participant. The others need no change."""
    from connector.adapters import registry_files

    try:
        entry = json.loads(application.read_text(encoding="utf-8"))
        participant = Participant(
            id=entry["id"],
            name=name,
            base_url=entry["baseUrl"],
            jwks=tuple(entry["jwks"]),
            business_id=business_id,
            sector=sector,
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            "is not an application", where=str(application), mend="Use the file that `connector init` made."
        ) from None
    registry_files.add_participant(folder, participant)
    show({"added": participant.id}, as_json=as_json, text=f"{participant.id} is admitted.")


@app.command("applications")
@guarded
def applications(folder: Folder = Here, as_json: AsJson = False) -> None:
    """List the applications that wait for a person."""
    from connector.adapters import registry_desk

    found = registry_desk.waiting(folder)
    if as_json:
        show({"applications": [registry_desk.public(r) for r in found]}, as_json=True, text="")
        return
    rows = [
        (r.application.id, p.id, p.name, p.business_id, p.base_url, r.application.signed_by)
        for r in found
        for p in [r.application.participant]
    ]
    table(("application", "id", "name", "business id", "base URL", "key"), rows)


@app.command("approve")
@guarded
def approve(
    application: Annotated[str, typer.Argument(help="The application's id.")],
    by: Annotated[str, typer.Option(help="Who decides.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Admit an applicant. Compare the key with what they told you by another way first."""
    from connector.adapters import registry_desk
    from connector.adapters.clock import SystemClock

    decided = registry_desk.approve(folder, application, by=by, now=SystemClock().now())
    text = f"{decided.application.participant.id} is admitted."
    show(registry_desk.public(decided), as_json=as_json, text=text)


@app.command("refuse")
@guarded
def refuse(
    application: Annotated[str, typer.Argument(help="The application's id.")],
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Shown to the applicant.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Turn an applicant down."""
    from connector.adapters import registry_desk
    from connector.adapters.clock import SystemClock

    now = SystemClock().now()
    decided = registry_desk.refuse(folder, application, by=by, reason=reason, now=now)
    show(registry_desk.public(decided), as_json=as_json, text="Refused.")


@app.command("sign")
@guarded
def sign(folder: Folder = Here, as_json: AsJson = False) -> None:
    """Bring the signed list up to date as a file, to be served by any web server at /trust-list.

    It holds for 24 hours: sign it anew at least every twelve.
    """
    from connector.adapters import file_keys
    from connector.adapters.clock import SystemClock
    from connector.adapters.registry_files import SIGNED, RegistryFolder

    keys = file_keys.load(folder / "keys", REGISTRY_ID)
    signed = RegistryFolder(folder, keys=keys, clock=SystemClock()).signed()
    found = {"version": signed.content.version, "file": str(folder / SIGNED)}
    show(found, as_json=as_json, text=f"{found['file']} is version {found['version']}.")


@app.command("set-status")
@guarded
def set_status(
    participant: Annotated[str, typer.Argument(help="The participant's id.")],
    status: Annotated[ParticipantStatus, typer.Argument(help="The new status.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Suspend, readmit or let go a participant; the others act on it within seconds."""
    from connector.adapters import registry_files

    registry_files.set_status(folder, participant, status)
    show({participant: status.value}, as_json=as_json, text=f"{participant} is {status.value}.")


@app.command("collaborate")
@guarded
def collaborate(
    collaboration: Annotated[str, typer.Argument(help="The collaboration's id.")],
    purpose: Annotated[str, typer.Option(help="Its one purpose.")],
    lead: Annotated[str, typer.Option(help="The provider that makes the pseudonym secret.")],
    provider: Annotated[list[str], typer.Option(help="Providers, the lead among them; repeat.")],
    consumer: Annotated[list[str], typer.Option(help="Consumers; repeat.")],
    folder: Folder = Here,
    valid_until: Annotated[datetime | None, typer.Option(help="End of validity.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a pseudonym domain: its members see the same pseudonyms, nobody else's."""
    from connector.adapters import registry_files

    members: dict[str, set[CollaborationRole]] = {}
    for role, ids in ((CollaborationRole.PROVIDER, provider), (CollaborationRole.CONSUMER, consumer)):
        for member in ids:
            members.setdefault(member, set()).add(role)
    made = Collaboration(
        id=collaboration,
        purpose=purpose,
        lead=lead,
        members={m: frozenset(roles) for m, roles in members.items()},
        valid_until=valid_until.astimezone() if valid_until else None,
    )
    registry_files.add_collaboration(folder, made)
    show({"added": made.id}, as_json=as_json, text=f"{made.id} is made.")


@app.command("show")
@guarded
def show_list(folder: Folder = Here, as_json: AsJson = False) -> None:
    """List participants and collaborations."""
    from connector.adapters import registry_files

    found = registry_files.read(folder)
    if as_json:
        participants = {p.id: {"name": p.name, "status": p.status.value} for p in found.participants.values()}
        show(
            {"participants": participants, "collaborations": sorted(found.collaborations)},
            as_json=True,
            text="",
        )
        return
    rows = [(p.id, p.name, p.status.value, p.base_url) for p in found.participants.values()]
    table(("id", "name", "status", "base URL"), rows)
    for made in found.collaborations.values():
        typer.echo(
            f"collaboration {made.id}: {made.purpose}, lead {made.lead}, members {', '.join(made.members)}"
        )


@app.command("serve")
@guarded
def serve(
    folder: Folder = Here,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8090,
    as_json: AsJson = False,  # noqa: ARG001 - every command takes --json
) -> None:
    """Publish the signed list until told to stop."""
    from connector.asgi import serve_registry

    serve_registry(folder, host=host, port=port)
