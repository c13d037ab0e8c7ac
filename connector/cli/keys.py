"""keys: a participant's own keys, changed without an outage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.output import AsJson, Folder, guarded, show
from connector.errors import Conflict

app = typer.Typer(no_args_is_help=True, help="Our own keys: show, change, encrypt.")
Here = Path()
WAIT_SECONDS = 3.0
"""Between two looks at the registry while waiting for it."""


@app.command("show")
@guarded
def show_keys(folder: Folder = Here, as_json: AsJson = False) -> None:
    """The public keys, and the next step where a change is under way."""
    from connector.adapters import key_rotation
    from connector.bootstrap.keys import open_keys
    from connector.settings import load_settings

    settings = load_settings(folder)
    keys = open_keys(settings)
    step = "" if settings.pkcs11_module else key_rotation.next_step(settings.path(settings.keys_dir)).value
    found = {"signsWith": keys.thumbprint(), "keys": list(keys.public_jwks()), "nextStep": step}
    lines = [
        f"{k['use']}  {k['kid']}{'  signs' * (k['kid'] == keys.thumbprint())}" for k in keys.public_jwks()
    ]
    show(found, as_json=as_json, text="\n".join([*lines, f"next step: {step}"] if step else lines))


@app.command("rotate")
@guarded
def rotate(
    folder: Folder = Here,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Retire the old key now: others may have it.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="How long everybody may take to fetch a new trust list.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """The next step of a change of keys: publish, sign (once everybody has the new key), retire.

    Run it again until it says that the change is complete; a running connector follows by itself.
    """
    from connector.adapters import key_rotation
    from connector.adapters.clock import SystemClock
    from connector.adapters.key_rotation import Step
    from connector.bootstrap.keys import open_keys, passphrase
    from connector.cli.registrar import Registrar
    from connector.settings import load_settings

    settings = load_settings(folder)
    if settings.pkcs11_module:
        raise Conflict(
            "Keys in a security module are changed there.",
            mend="Make new ones under another token, and apply for a change of keys.",
            code="keys_in_module",
        )
    keys_dir, sealing, own = settings.path(settings.keys_dir), passphrase(settings), settings.participant_id
    step = key_rotation.next_step(keys_dir)
    with Registrar(settings) as registrar:
        if step is Step.PUBLISH:
            keys = key_rotation.publish(keys_dir, own, sealing)
            registrar.publish_keys(keys)
            text = f"The next key is published. In {seconds:g} s or more, run this again to sign with it."
        elif step is Step.SIGN:
            kid = key_rotation.published_kid(keys_dir, sealing)
            if not registrar.knows(kid):  # the last run was cut off before it said so
                registrar.publish_keys(open_keys(settings))
            _wait_until_known(registrar, kid, seconds)
            keys = key_rotation.sign(keys_dir, own, sealing, now=SystemClock().now())
            registrar.publish_keys(keys)
            minutes = round(key_rotation.VERIFIES_FOR.total_seconds() // 60)
            text = f"Signing with {keys.thumbprint()} from now on. Run this again in {minutes} minutes."
        else:
            now = SystemClock().now()
            keys = key_rotation.retire(keys_dir, own, sealing, now=now, at_once=at_once)
            registrar.publish_keys(keys)
            text = "The old keys are retired: the change is complete."
    found = {
        "step": step.value,
        "signsWith": keys.thumbprint(),
        "keys": [k["kid"] for k in keys.public_jwks()],
    }
    show(found, as_json=as_json, text=text)


@app.command("publish")
@guarded
def publish(folder: Folder = Here, as_json: AsJson = False) -> None:
    """Send our present keys to the registry again, where `rotate` could not."""
    from connector.bootstrap.keys import open_keys
    from connector.cli.registrar import Registrar
    from connector.settings import load_settings

    settings = load_settings(folder)
    keys = open_keys(settings)
    with Registrar(settings) as registrar:
        registrar.publish_keys(keys)
    show({"keys": [k["kid"] for k in keys.public_jwks()]}, as_json=as_json, text="The registry has our keys.")


@app.command("encrypt")
@guarded
def encrypt(
    passphrase_file: Annotated[Path, typer.Argument(help="File with the passphrase, mode 0600.")],
    folder: Folder = Here,
    as_json: AsJson = False,
) -> None:
    """Encrypt the key files in place; then set `keys_passphrase_file` and restart."""
    from connector.adapters import key_files, key_rotation
    from connector.settings import load_settings

    settings = load_settings(folder)
    phrase = key_files.read(passphrase_file).rstrip(b"\r\n")
    if len(phrase) < 12:
        raise Conflict("The passphrase is too short.", mend="Twelve characters or more.", code="too_short")
    key_rotation.encrypt(settings.path(settings.keys_dir), settings.participant_id, phrase)
    show(
        {"encrypted": True},
        as_json=as_json,
        text=f"The key files are encrypted. Set keys_passphrase_file = {str(passphrase_file)!r} and restart.",
    )


@app.command("create")
@guarded
def create(folder: Folder = Here, as_json: AsJson = False) -> None:
    """Make fresh keys in the security module that the settings name (`pkcs11_module`)."""
    from connector.bootstrap.keys import secret_file
    from connector.settings import load_settings

    settings = load_settings(folder)
    if not settings.pkcs11_module:
        raise Conflict(
            "No security module is set.", mend="Keys in files are made by `connector init`.", code="no_module"
        )
    from connector.adapters import pkcs11_keys

    pin = secret_file(settings, "pkcs11_pin_file") or ""
    keys = pkcs11_keys.create(
        settings.participant_id, Path(settings.pkcs11_module), settings.pkcs11_token, pin
    )
    found: Mapping[str, Any] = {"signsWith": keys.thumbprint(), "keys": list(keys.public_jwks())}
    keys.close()
    show(found, as_json=as_json, text=f"Made in the module: {found['signsWith']} signs.")


def _wait_until_known(registrar: Any, kid: str, seconds: float) -> None:
    """Everybody must be able to verify before we sign: the list has the key, and has had it for `seconds`."""
    while True:
        wait = registrar.seconds_until_known(kid, seconds)
        if wait <= 0:
            return
        time.sleep(min(wait, WAIT_SECONDS))
