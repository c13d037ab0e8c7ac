"""Our keys, from files or from a security module, as the settings say."""

from __future__ import annotations

from pathlib import Path

from connector.adapters import file_keys
from connector.errors import SettingsInvalid
from connector.ports import Keys
from connector.settings import Settings


def open_keys(settings: Settings) -> Keys:
    """Raises KeysInvalid or SettingsInvalid, naming what is wrong."""
    if settings.pkcs11_module:
        from connector.adapters import pkcs11_keys  # needs the extra `pkcs11`

        pin = secret_file(settings, "pkcs11_pin_file")
        module = Path(settings.pkcs11_module)
        return pkcs11_keys.open_token(settings.participant_id, module, settings.pkcs11_token, pin or "")
    return file_keys.load(settings.path(settings.keys_dir), settings.participant_id, passphrase(settings))


def passphrase(settings: Settings) -> bytes | None:
    text = secret_file(settings, "keys_passphrase_file")
    return text.encode() if text else None


def secret_file(settings: Settings, name: str) -> str | None:
    """What stands in the file that the setting names, without the line's end; None where none is named."""
    named: str = getattr(settings, name)
    if not named:
        return None
    try:
        found = settings.path(named).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        found = ""
    if not found:
        raise SettingsInvalid(
            "its file is missing, empty or cannot be read", where=name, mend=f"Check {settings.path(named)}."
        )
    return found
