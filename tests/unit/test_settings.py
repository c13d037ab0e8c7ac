"""Settings: where they come from, what is refused, and that no message ever repeats a value."""

from __future__ import annotations

import os
import tomllib
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from connector.adapters.participant_folder import NewParticipant, create
from connector.errors import ConfigurationError, SettingsInvalid
from connector.settings import EMBEDDED_PARTS, Settings, load_settings, settings_table

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-s3cret"
DSN = f"postgresql://connector:{SECRET}@db.example/kela"
BASE = """
participant_id = "kela"
public_url = "https://kela.example"
registry_url = "https://registry.example"
mode = "development"
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.upper().startswith("CONNECTOR_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "connector.toml").write_text(BASE)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    (folder / "connector.toml").write_text(text)
    return folder


def refused(folder: Path) -> SettingsInvalid:
    with pytest.raises(SettingsInvalid) as error:
        load_settings(folder)
    assert SECRET not in str(error.value) + "".join(traceback.format_exception(error.value))
    assert error.value.mend
    return error.value


# --- what holds -----------------------------------------------------------------------------------------


def test_the_file_is_enough(folder: Path) -> None:
    """Everything else has a default; paths are found in the participant's folder."""
    settings = load_settings(folder)
    assert (settings.participant_id, settings.port, settings.token_seconds) == ("kela", 8080, 300)
    assert settings.folder == folder.resolve()
    assert settings.path(settings.keys_dir) == folder.resolve() / "keys"
    assert settings.path("/etc/keys") == Path("/etc/keys")


def test_the_environment_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, number, list, table and one entry of a table; capitals or not."""
    written(folder, BASE + 'port = 7101\n[source_dsns]\nmain = "from the file"\nother = "kept"\n')
    monkeypatch.setenv("CONNECTOR_PORT", "8443")
    monkeypatch.setenv("connector_host", "0.0.0.0")
    monkeypatch.setenv("CONNECTOR_EMBEDDED_ALLOWED", '["store", "gateway"]')
    monkeypatch.setenv("CONNECTOR_SOURCE_DSNS__MAIN", DSN)
    settings = load_settings(folder)
    assert (settings.port, settings.host) == (8443, "0.0.0.0")
    assert settings.embedded_allowed == ("store", "gateway")
    assert settings.source_dsns == {"main": DSN, "other": "kept"}


def test_which_parts_are_embedded(folder: Path) -> None:
    """A part is embedded where its real one is not configured."""
    assert load_settings(folder).embedded() == EMBEDDED_PARTS
    real = 'gateway = "envoy"\nstore_dsn = "x"\nopa_url = "http://opa"\nkafka_bootstrap = "k:9092"\n'
    assert load_settings(written(folder, BASE + real)).embedded() == ()


def test_settings_do_not_change(folder: Path) -> None:
    """Read once at start."""
    settings = load_settings(folder)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["prot = 8080", '[store]\ndsn = "x"', 'folder = "/elsewhere"'])
def test_an_unknown_key_names_itself(folder: Path, line: str) -> None:
    """A misspelt setting must not be a default in disguise."""
    error = refused(written(folder, BASE + line))
    name = line.removeprefix("[").partition(" ")[0].partition("]")[0]
    assert error.where == f"{folder / 'connector.toml'}: {name}"
    assert error.message.endswith("is not a setting")


@pytest.mark.parametrize(
    "variable",
    ["CONNECTOR_PROT", "connector_prot", "CONNECTOR_FOLDER", "CONNECTOR_STORE__DSN", "CONNECTOR_PORT__X"],
)
def test_an_unknown_variable_names_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """In the environment too, and never with its value."""
    monkeypatch.setenv(variable, SECRET)
    error = refused(folder)
    assert (error.where, "is not a setting" in error.message) == (variable, True)


WRONG = {
    "port": ["0", "65536", '"eighty"', "1.5", "[]"],
    "participant_id": ['"Kela"', '"k ela"', '""', "7"],
    "public_url": [
        '"kela.example"',
        '"https://kela.example/"',
        '"https://kela.example?x"',
        '"ftp://k.example"',
    ],
    "registry_url": ['"https://registry.example/"'],
    "mode": ['"prod"'],
    "gateway": ['"nginx"'],
    "embedded_allowed": ['["everything"]', '"store"'],
    "token_seconds": ["301", "9"],
    "registry_poll_seconds": ["0", "-1"],
    "peer_private_addresses": ['"perhaps"'],
    "source_dsns": ['"x"'],
    "log_level": ['"verbose"'],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_a_wrong_value_names_its_setting_and_rule(folder: Path, name: str, value: str) -> None:
    """By file and key, with what the setting is for."""
    base = "\n".join(line for line in BASE.splitlines() if not line.startswith(f"{name} "))
    error = refused(written(folder, f"{base}\n{name} = {value}\n"))
    assert error.where.startswith(f"{folder / 'connector.toml'}: {name}")
    assert error.mend == Settings.model_fields[name].description


def test_a_wrong_variable_is_named_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the file, which is right."""
    monkeypatch.setenv("CONNECTOR_PORT", SECRET)
    assert refused(folder).where == "CONNECTOR_PORT"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONNECTOR_SOURCE_DSNS", DSN),
        ("CONNECTOR_SOURCE_DSNS", f'{{"main": "{DSN}"'),
        ("CONNECTOR_SOURCE_DSNS", f'["{DSN}"]'),
        ("CONNECTOR_EMBEDDED_ALLOWED", SECRET),
        ("CONNECTOR_EMBEDDED_ALLOWED", f'["{SECRET}"]'),
        ("CONNECTOR_MODE", SECRET),
        ("CONNECTOR_PUBLIC_URL", f"{SECRET}/"),
    ],
)
def test_no_message_repeats_a_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """It may be a DSN with a password, in the wrong place or half quoted; `refused` looks for it."""
    monkeypatch.setenv(variable, value)
    error = refused(folder)
    assert variable in f"{error.where} {error.mend}"


def test_a_secret_in_the_file_is_not_repeated_either(folder: Path) -> None:
    """Neither a value of the wrong type nor one in TOML that does not parse."""
    refused(written(folder, f'{BASE}store_dsn = ["{DSN}"]\n'))
    refused(written(folder, f'{BASE}[source_dsns]\nmain = {{dsn = "{DSN}"}}\n'))
    refused(written(folder, f"{BASE}store_dsn = {DSN}\n"))


@pytest.mark.parametrize("name", ["participant_id", "public_url", "registry_url"])
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    """With both ways to give it."""
    base = "\n".join(line for line in BASE.splitlines() if not line.startswith(name))
    error = refused(written(folder, base))
    assert error.message.endswith(f"{name}: is missing")
    assert f"CONNECTOR_{name.upper()}" in error.mend


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (BASE + "port = \n", "line 6"),
        (BASE + "port 8080\n", "line 6"),
        (BASE + 'host = "a\n', "line 6"),
        (BASE + "port = 1\nport = 2\n", "line 7"),
    ],
)
def test_bad_toml_names_its_line(folder: Path, text: str, place: str) -> None:
    """Where to look."""
    error = refused(written(folder, text))
    assert place in error.message
    assert error.where == str(folder / "connector.toml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """None, one that is not text, one that is a folder: each says what to do."""
    assert "connector init" in refused(tmp_path).mend
    (tmp_path / "connector.toml").write_bytes(b"\xff\xfe")
    refused(tmp_path)
    (tmp_path / "connector.toml").unlink()
    (tmp_path / "connector.toml").mkdir()
    assert "cannot be read" in refused(tmp_path).message


# --- production -----------------------------------------------------------------------------------------

REAL = {
    "policy_engine": 'opa_url = "http://opa.example"',
    "store": 'store_dsn = "postgresql://db.example/kela"',
    "event_bus": 'kafka_bootstrap = "kafka.example:9092"',
    "gateway": 'gateway = "envoy"',
}
PRODUCTION = BASE.replace('mode = "development"\n', "")


@pytest.mark.parametrize("embedded", EMBEDDED_PARTS)
def test_production_names_the_embedded_part_it_refuses(folder: Path, embedded: str) -> None:
    """Production is the default, and starts with an embedded part only where a setting says so by name."""
    lines = "\n".join(line for part, line in REAL.items() if part != embedded)
    error = refused(written(folder, f"{PRODUCTION}{lines}\n"))
    assert error.where == "mode"
    assert embedded in error.message
    assert not any(part in error.message for part in EMBEDDED_PARTS if part != embedded)
    allowed = f'{PRODUCTION}{lines}\nembedded_allowed = ["{embedded}"]\n'
    assert load_settings(written(folder, allowed)).embedded() == (embedded,)


def test_production_with_real_parts_starts(folder: Path) -> None:
    """Nothing embedded, nothing to allow."""
    lines = "\n".join(REAL.values())
    assert load_settings(written(folder, f"{PRODUCTION}{lines}\n")).mode == "production"


def test_production_sends_no_bearer_without_tls(folder: Path) -> None:
    """A bearer is of use to whoever reads it on its way."""
    listed = 'plain_dsp_peers = ["edc", "other"]'
    real = "\n".join(REAL.values())
    settings = load_settings(written(folder, f"{PRODUCTION}{real}\n{listed}\n"))
    assert settings.plain_dsp_peers == ("edc", "other")
    bare = PRODUCTION.replace("https://kela", "http://kela")
    assert refused(written(folder, f"{bare}{real}\n{listed}\n")).where == "plain_dsp_peers"
    assert load_settings(written(folder, f"{bare}{real}\n")).plain_dsp_peers == ()


def test_hosts_of_data_are_named_per_participant(folder: Path) -> None:
    """Several with blanks between them; nobody else's are anybody's."""
    text = f'{BASE}\n[data_hosts]\nedc = "Data.EDC.example:8443 127.0.0.1:1"\n'
    settings = load_settings(written(folder, text))
    assert settings.data_hosts_of("edc") == {"data.edc.example:8443", "127.0.0.1:1"}
    assert settings.data_hosts_of("city") == frozenset()


# --- the document and the folder ------------------------------------------------------------------------


def test_the_document_lists_every_setting() -> None:
    """docs/settings.md is the code's own table."""
    document = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings_table() in document
    for name, field in Settings.model_fields.items():
        assert (f"| `{name}` |" in document) is (name != "folder")
        assert field.description


NEW = NewParticipant(
    id="kela",
    public_url="https://kela.example",
    port=7101,
    registry_url="https://registry.example/r\u00e4kisteri",
    registry_jwks=[{"kty": "EC", "kid": "r"}],
    mode="development",
    peer_private_addresses=True,
)


def test_a_new_participants_folder_can_be_loaded(tmp_path: Path) -> None:
    """What `connector init` writes, settings read; state and keys are for their owner."""
    keys = create(tmp_path / "kela", NEW)
    settings = load_settings(tmp_path / "kela")
    assert (settings.participant_id, settings.port) == (keys.participant_id, 7101)
    assert settings.registry_url == NEW.registry_url
    assert settings.peer_private_addresses
    for private in ("keys", "state"):
        assert (tmp_path / "kela" / private).stat().st_mode & 0o077 == 0


def test_a_folder_that_has_a_participant_is_left_alone(tmp_path: Path) -> None:
    """Keys are never overwritten: not by a second init, nor after one that broke off."""
    create(tmp_path / "kela", NEW)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    with pytest.raises(ConfigurationError, match="already"):
        create(tmp_path / "kela", NEW)
    (tmp_path / "kela" / "connector.toml").unlink()
    with pytest.raises(ConfigurationError):
        create(tmp_path / "kela", NEW)
    kept = {f: before[f] for f in before if f.name != "connector.toml"}
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == kept


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "\U0001f600", "a\x7fb", "\u00e4"])
def test_any_text_survives_the_settings_file(tmp_path: Path, odd: str) -> None:
    """TOML's strings are nearly JSON's, not quite."""
    create(tmp_path / "p", replace(NEW, registry_url=odd))
    values = tomllib.loads((tmp_path / "p" / "connector.toml").read_text(encoding="utf-8"))
    assert values["registry_url"] == odd
