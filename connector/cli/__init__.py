"""The command line: `connector --help`. Every command has --help and --json; errors say what to do.

Exit codes: 0 done · 1 refused or failed, with the reason · 2 wrong usage.
"""

from __future__ import annotations

import typer

from connector.cli import (
    ask,
    audit,
    catalog,
    consent,
    contract,
    demo,
    keys,
    participant,
    policy,
    registry,
    stop,
    transfers,
    undelivered,
)
from connector.cli.output import guarded

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A federated data-space connector: contracts, consent and policy enforced on every byte.",
)
app.command("init")(guarded(participant.init))
app.command("apply")(guarded(participant.apply))
app.command("serve")(guarded(participant.serve))
app.command("token")(guarded(participant.token))
app.command("status")(guarded(participant.status))
app.command("query")(guarded(ask.query))
app.command("explain")(guarded(ask.explain))
app.command("request")(guarded(contract.request))
app.command("negotiate")(guarded(contract.negotiate))
app.command("negotiations")(guarded(contract.negotiations))
app.command("approve")(guarded(contract.approve))
app.command("refuse")(guarded(contract.refuse))
app.command("counter")(guarded(contract.counter))
app.command("agreements")(guarded(contract.agreements))
app.command("renew")(guarded(contract.renew))
app.command("verify-agreement")(guarded(contract.verify_agreement))
app.command("terminate")(guarded(contract.terminate))
app.command("undelivered")(guarded(undelivered.undelivered))
app.command("check")(guarded(participant.check))
app.command("stop")(guarded(stop.stop))
app.command("resume")(guarded(stop.resume))
app.command("demo")(guarded(demo.demo))
app.add_typer(catalog.app, name="catalog")
app.add_typer(consent.app, name="consent")
app.add_typer(audit.app, name="audit")
app.add_typer(registry.app, name="registry")
app.add_typer(transfers.app, name="transfers")
app.add_typer(keys.app, name="keys")
app.add_typer(policy.app, name="policy")
app.add_typer(stop.keys_app, name="api-keys")


def main() -> None:
    app()
