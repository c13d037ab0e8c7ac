"""Every setting, read once at start from a TOML file and the environment (`CONNECTOR_...`, which wins).

A wrong or unknown setting stops the start and names itself. docs/settings.md lists them; a test holds that.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from connector.errors import SettingsInvalid

PREFIX = "CONNECTOR_"
FILE_NAME = "connector.toml"
EMBEDDED_PARTS = ("policy_engine", "store", "event_bus", "gateway")
_BASE_URL = r"^https?://[^/?#]+(/[^/?#]+)*$"
_GIVEN = frozenset({"folder"})
"""Fields that the caller gives: no file and no variable can name them."""


class Settings(BaseSettings):
    """One participant's connector. Relative paths are relative to `folder`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    folder: Path = Field(Path(), description="The participant's folder: everything below is found in it.")
    participant_id: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Our id in the trust list; it names us in DSP, in SQL and in tokens.",
    )
    public_url: str = Field(
        pattern=_BASE_URL,
        description="The base URL that peers use, without a trailing slash: what links and proofs name.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")

    registry_url: str = Field(
        pattern=_BASE_URL,
        description="Base URL of the orchestrator's participant registry, without a trailing slash.",
    )
    registry_jwks: Path = Field(
        Path("registry.jwks.json"), description="File with the registry's public keys, pinned at onboarding."
    )
    registry_poll_seconds: float = Field(
        2.0, gt=0, description="Seconds between two looks at the trust list."
    )

    keys_dir: Path = Field(Path("keys"), description="Our private keys; files of mode 0600.")
    keys_passphrase_file: str = Field(
        "", description="File with the passphrase of the key files; empty: they are not encrypted."
    )
    pkcs11_module: str = Field(
        "", description="PKCS#11 library of a security module; empty means keys in files."
    )
    pkcs11_token: str = Field("", description="Label of the security module's token that holds our keys.")
    pkcs11_pin_file: str = Field("", description="File with the PIN of that token.")
    policy_approvals: int = Field(
        0,
        ge=0,
        le=2,
        description="How many people must approve a revision of our policies before it is in force; with "
        "none approved everything is denied. 0: what is in the folder is in force.",
    )
    catalog_dir: Path = Field(Path("catalog"), description="Dataset descriptors, `*.odcs.yaml`.")
    policy_dir: Path = Field(Path("policies"), description="Our own Rego policies.")
    state_dir: Path = Field(Path("state"), description="Store, audit log, disclosure ledger, replay guard.")

    mode: Literal["production", "development"] = Field(
        "production", description="`production` refuses embedded parts that `embedded_allowed` does not name."
    )
    embedded_allowed: tuple[Literal["policy_engine", "store", "event_bus", "gateway"], ...] = Field(
        (),
        description="Embedded parts that production may run with: policy_engine, store, event_bus, gateway.",
    )
    gateway: Literal["none", "envoy"] = Field(
        "none", description="Which API gateway stands in front of this connector."
    )
    store_dsn: str = Field("", description="PostgreSQL DSN; empty means the embedded SQLite store.")
    opa_url: str = Field("", description="Base URL of an OPA server; empty means the embedded Rego engine.")
    kafka_bootstrap: str = Field(
        "", description="Kafka bootstrap servers; empty means the embedded event log."
    )
    source_dsns: dict[str, str] = Field(
        default_factory=dict,
        description="DSNs of source databases by the name that descriptors use as `location`.",
    )

    peer_private_addresses: bool = Field(
        False,
        description="Whether peers may live at loopback or private addresses (demo, internal networks).",
    )
    plain_dsp_peers: tuple[str, ...] = Field(
        (),
        description="Participants whose connectors know none of our tokens: their `HttpData-PULL` transfers "
        "carry an opaque bearer.",
    )
    unsigned_peers: tuple[str, ...] = Field(
        (),
        description="Participants whose agreements hold without their signature: connectors that exchange "
        "none. All others' agreements give nothing before both sides have signed.",
    )
    data_hosts: dict[str, str] = Field(
        default_factory=dict,
        description="Where participants' data is besides their base URL, by participant: `host:port`, "
        "several with blanks between them.",
    )
    token_seconds: int = Field(300, ge=10, le=300, description="Life of an access token, in seconds.")
    oidc_issuer: str = Field(
        "", description="OpenID provider where our people sign in, exactly as it names itself; empty: none."
    )
    oidc_client_id: str = Field("", description="Our client id at the OpenID provider.")
    oidc_client_auth: Literal["none", "private_key_jwt", "client_secret_basic"] = Field(
        "none", description="How we prove ourselves to it; `none` is PKCE alone."
    )
    oidc_client_secret_file: str = Field("", description="File with the client secret, where it wants one.")
    oidc_claim: str = Field("roles", description="Dotted path of the claim that says who somebody is.")
    oidc_roles: dict[str, str] = Field(
        default_factory=dict, description="Value of that claim -> our roles, separated by commas."
    )
    oidc_purposes: dict[str, str] = Field(
        default_factory=dict,
        description="Value of that claim -> purposes that its holder may state, separated by commas.",
    )
    oidc_subject_claim: str = Field("sub", description="The claim that names a person to us.")
    oidc_scope: str = Field("openid", description="What we ask the provider for.")
    dpop_nonces: bool = Field(
        True, description="Whether DPoP proofs must carry a nonce of ours (RFC 9449 §8)."
    )
    api_token_seconds: int = Field(
        300, ge=10, le=3600, description="Longest life of a client API token that we accept, in seconds."
    )
    catalog_page: int = Field(
        100, ge=1, le=1_000, description="Datasets on a page of our catalogue, where a peer names no number."
    )
    catalog_cache_seconds: float = Field(
        30.0,
        ge=0,
        le=3_600,
        description="How long the catalogue remembers what a peer may see, in seconds; a changed policy, "
        "trust list or dataset ends it at once.",
    )
    catalog_open: tuple[Literal["RESTRICTED", "NON_PUBLIC"], ...] = Field(
        (), description="Access rights whose metadata is in the open catalogue as well, beside PUBLIC."
    )
    catalog_publisher: str = Field(
        "", description="Our name in the open catalogue; empty means the one in the trust list."
    )
    catalog_contact: str = Field(
        "",
        pattern=r"^(https?://\S+|[^\s@/:]+@[^\s@/:]+)?$",
        description="Web or mail address for datasets whose contract names none under `support`.",
    )
    catalog_refresh_seconds: float = Field(
        300.0, ge=0, description="Seconds between two looks at a participant's catalogue; 0: never."
    )
    request_seconds: float = Field(
        20.0, ge=1, description="Longest time in which a request must have arrived whole, in seconds."
    )
    connections: int = Field(
        1_000,
        ge=10,
        description="Connections open at once; with more, the longest without a request is closed.",
    )
    request_bytes: int = Field(1_000_000, ge=1_000, description="Largest request body, in bytes.")
    batch_rows: int = Field(
        8_192, ge=1, le=1_000_000, description="Rows in a batch where the consumer names none."
    )
    fragment_seconds: float = Field(120.0, gt=0, description="Longest run of one fragment, in seconds.")
    join_memory_mb: int = Field(
        1_024, ge=64, description="Memory of the consumer's join engine, in megabytes."
    )
    source_memory_mb: int = Field(512, ge=64, description="Memory of a file source's engine, in megabytes.")
    stream_buffer_kb: int = Field(
        256,
        ge=4,
        description="Kernel buffers per connection in kilobytes: what they hold, a stop cannot reach.",
    )
    retry_seconds: float = Field(
        0.5, gt=0, description="First pause before a message is sent again; doubles."
    )
    retry_limit: int = Field(12, ge=1, description="How often a message is tried before it is given up.")
    lease_seconds: float = Field(
        15.0,
        ge=1,
        description="How long a message stays with a replica that has died before another one takes it up.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)  # the environment wins over the file

    def path(self, relative: Path | str) -> Path:
        """A path below the participant's folder; an absolute one stays as it is."""
        return self.folder / relative

    def data_hosts_of(self, participant_id: str) -> frozenset[str]:
        return frozenset(self.data_hosts.get(participant_id, "").lower().split())

    def embedded(self) -> tuple[str, ...]:
        """Which parts run as their embedded twins."""
        real = {
            "policy_engine": bool(self.opa_url),
            "store": bool(self.store_dsn),
            "event_bus": bool(self.kafka_bootstrap),
            "gateway": self.gateway != "none",
        }
        return tuple(part for part in EMBEDDED_PARTS if not real[part])


def load_settings(folder: Path) -> Settings:
    """Read `folder`/connector.toml and the environment. Raises SettingsInvalid, naming setting and mend."""
    file = folder / FILE_NAME
    values = _read(file)
    known = Settings.model_fields.keys() - _GIVEN
    unknown = [f"{file}: {name}" for name in values if name not in known]
    unknown += [v for v in os.environ if v.upper().startswith(PREFIX) and not _is_setting(v, known)]
    if unknown:
        raise SettingsInvalid(
            "is not a setting", where=unknown[0], mend="Remove it, or see docs/settings.md for the name."
        )
    try:
        settings = Settings(**{**values, "folder": folder.resolve()})
    except ValidationError as error:
        raise _explain(error, file) from None
    except SettingsError:  # a list or a table in a variable; the text behind it would quote the value
        raise SettingsInvalid(
            "a list or a table in a variable is written as JSON",
            where="environment",
            mend=f"Mend it: {', '.join(_structured_variables())}.",
        ) from None
    if settings.mode == "production":
        refused = [part for part in settings.embedded() if part not in settings.embedded_allowed]
        if refused:
            raise SettingsInvalid(
                f"production does not start with the embedded {', '.join(refused)}",
                where="mode",
                mend="Configure the real part, or name it in embedded_allowed.",
            )
        if settings.plain_dsp_peers and not settings.public_url.startswith("https://"):
            raise SettingsInvalid(
                "a bearer must not travel without TLS",
                where="plain_dsp_peers",
                mend="Give the public_url with https, or list nobody.",
            )
    return settings


def settings_table() -> str:
    """Every setting as a row of Markdown: what docs/settings.md shows."""
    rows = ["| setting | type | default | what it is |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if name not in _GIVEN:
            cells = [f"`{name}`", _type_in_words(field), _default_in_words(field), field.description or ""]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsInvalid(
            "there is no such file",
            where=str(file),
            mend="Run `connector init` to make a participant's folder.",
        ) from None
    except OSError as error:
        raise SettingsInvalid(
            f"cannot be read ({error.strerror})", where=str(file), mend="Give it to the connector's own user."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(str(error), where=str(file), mend="Mend the TOML at the place named.") from None


def _is_setting(variable: str, known: set[str]) -> bool:
    """`CONNECTOR_NAME`, or `CONNECTOR_NAME__KEY` for a setting that is a table."""
    name, _, key = variable.upper().removeprefix(PREFIX).lower().partition("__")
    return name in known and (not key or _is_table(Settings.model_fields[name]))


def _is_table(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def _structured_variables() -> list[str]:
    """Variables that are set, of settings that are a list or a table."""
    structured = [n for n, f in Settings.model_fields.items() if get_origin(f.annotation) in (dict, tuple)]
    return [v for n in structured for v in (_variable(n),) if v]


def _variable(name: str) -> str:
    """The environment's variable for a setting, as it is spelled there; "" where it has none."""
    wanted = f"{PREFIX}{name}".upper()
    return next((v for v in os.environ if v.upper() == wanted or v.upper().startswith(f"{wanted}__")), "")


def _explain(error: ValidationError, file: Path) -> SettingsInvalid:
    """Names and rules, never the value: it may be a DSN with a password."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"]))
    field = str(first["loc"][0])
    if first["type"] == "missing":
        return SettingsInvalid(
            "is missing", where=f"{file}: {name}", mend=f"Add it, or set {PREFIX}{name.upper()}."
        )
    where = _variable(field) or f"{file}: {name}"
    return SettingsInvalid(first["msg"], where=where, mend=str(Settings.model_fields[field].description))


# --- the table ------------------------------------------------------------------------------------------

_TYPES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
_BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}


def _type_in_words(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is tuple:
        return f"list of {_choices(get_args(annotation)[0]) or 'texts'}"
    if get_origin(annotation) is Literal:
        return _choices(annotation)
    if _is_table(field):
        return "table of texts"
    return ", ".join([_TYPES[annotation], *_bounds(field)])


def _choices(literal: Any) -> str:
    return ", ".join(f"`{choice}`" for choice in get_args(literal))


def _bounds(field: FieldInfo) -> Iterator[str]:
    for rule in field.metadata:
        for name, words in _BOUNDS.items():
            if (bound := getattr(rule, name, None)) is not None:
                yield f"{words} {bound:,}"


def _default_in_words(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if default in ("", (), {}):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`"
