"""Keycloak: an OpenID provider as organisations run it, from the distribution that Maven Central has.

Installing builds it, makes its database and imports our realm, which takes a minute; a start takes a copy of
that. People and their realm roles are in `PEOPLE`; a client is registered by each test that needs one.
"""

import functools
import hashlib
import json
import os
import shutil
import signal
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.parts import HOST, Command, cache, maven, on_free_ports, output_of, running, temporary_folder
from tests.parts.maven import java_binary

VERSION = "26.4.5"
COORDINATE = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
START_SECONDS = 120.0
INSTALL_SECONDS = 300.0
REALM = "city"
PEOPLE: Mapping[str, Sequence[str]] = {
    "anna": ["planners"],
    "dpo": ["data-protection"],
    "guest": [],
}
"""User names and their realm roles; `password_of` tells the rest."""

KEEPER = "keeper"
"""May register clients in the realm."""

# Quick to start, for tests: one compiler stage, one collector thread.
JVM_FLAGS = [
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory="
    "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
    "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
    "-Dpicocli.disable.closures=true",
    "-Dquarkus-log-max-startup-records=10000",
    *(f"--add-opens=java.base/java.{p}=ALL-UNNAMED" for p in ("util", "util.concurrent", "security")),
]
MAIN = "io.quarkus.bootstrap.runner.QuarkusEntryPoint"
BUILD = [
    "build",
    "--db=dev-file",
    "--features-disabled=admin,account,device-flow,ciba,kerberos,organization,impersonation",
]
SHARED = ("lib", "providers", "themes")
OWN = ("conf", "data")


def password_of(person: str) -> str:
    return f"{person}-of-the-tests"


def _user(name: str, **more: Any) -> dict[str, Any]:
    return {
        "username": name,
        "enabled": True,
        "email": f"{name}@city.example",
        "emailVerified": True,
        "firstName": name.title(),
        "lastName": "Test",
        "credentials": [{"type": "password", "value": password_of(name), "temporary": False}],
        **more,
    }


REALM_FILE: Mapping[str, Any] = {
    "realm": REALM,
    "enabled": True,
    "sslRequired": "none",
    "defaultRoles": [],
    "roles": {"realm": [{"name": role} for roles in PEOPLE.values() for role in roles]},
    "users": [
        *(_user(name, realmRoles=list(roles)) for name, roles in PEOPLE.items()),
        _user(KEEPER, clientRoles={"realm-management": ["manage-clients"]}),
    ],
}


@dataclass(frozen=True, slots=True)
class KeycloakServer:
    """A running provider. `issuer` as it states it: of the realm."""

    url: str
    pid: int
    version: str

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/{REALM}"

    def add_client(
        self, client_id: str, redirect_uri: str, *, jwks: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """PKCE is required; with `jwks` the client proves itself by private_key_jwt, else by nothing more.

        Its ID tokens say the person's roles in `realm_access.roles`; Keycloak itself tells them to access
        tokens only.
        """
        attributes = {"pkce.code.challenge.method": "S256"}
        if jwks is not None:
            attributes |= {
                "use.jwks.string": "true",
                "jwks.string": json.dumps({"keys": list(jwks)}),
                "token.endpoint.auth.signing.alg": "ES256",
            }
        client = {
            "clientId": client_id,
            "publicClient": jwks is None,
            "clientAuthenticatorType": "client-jwt",
            "redirectUris": [redirect_uri],
            "standardFlowEnabled": True,
            "directAccessGrantsEnabled": False,
            "attributes": attributes,
            "protocolMappers": [ROLES_IN_ID_TOKEN],
        }
        headers = {"Authorization": f"Bearer {self._keepers_token()}"}
        made = httpx.post(
            f"{self.url}/admin/realms/{REALM}/clients", json=client, headers=headers, trust_env=False
        )
        made.raise_for_status()

    def _keepers_token(self) -> str:
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": KEEPER,
            "password": password_of(KEEPER),
        }
        answer = httpx.post(f"{self.issuer}/protocol/openid-connect/token", data=form, trust_env=False)
        return str(answer.raise_for_status().json()["access_token"])


ROLES_IN_ID_TOKEN = {
    "name": "roles in the ID token",
    "protocol": "openid-connect",
    "protocolMapper": "oidc-usermodel-realm-role-mapper",
    "config": {
        "claim.name": "realm_access.roles",
        "jsonType.label": "String",
        "multivalued": "true",
        "id.token.claim": "true",
    },
}


@functools.cache
def keycloak_home() -> Path:
    """The distribution, built and with our realm, in the cache. Raises PartUnavailable."""
    return cache.installed(f"keycloak-{VERSION}-{_recipe()}", _install)


def version() -> str:
    """The version of what `keycloak_home()` holds."""
    keycloak_home()
    return VERSION


@contextmanager
def running_keycloak() -> Iterator[KeycloakServer]:
    """A provider on a free loopback port. Raises PartUnavailable."""
    home = keycloak_home()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("keycloak"))
        yield on_free_ports(1, lambda ports: stack.enter_context(_serving(home, folder, ports[0])))


@contextmanager
def _serving(home: Path, folder: Path, port: int) -> Iterator[KeycloakServer]:
    own = folder / f"home-{port}"  # one for each try
    for name in OWN:
        shutil.copytree(home / name, own / name)
    for name in SHARED:
        (own / name).symlink_to(home / name)
    url = f"http://{HOST}:{port}"
    start = ["start", "--optimized", "--log-level=warn", "--cache=local", "--http-enabled=true"]
    start += [f"--http-host={HOST}", f"--http-port={port}", f"--hostname={url}"]
    with running(
        [*_java(own), *start],
        folder=folder,
        ready=lambda: _answers(f"{url}/realms/{REALM}/.well-known/openid-configuration"),
        timeout_seconds=START_SECONDS,
        stop_signal=signal.SIGKILL,  # its data are thrown away
        env=_environment(),
    ) as pid:
        yield KeycloakServer(url=url, pid=pid, version=VERSION)


def _install(folder: Path) -> None:
    java_binary()
    with temporary_folder("keycloak-zip") as work:
        with zipfile.ZipFile(maven.archive(COORDINATE, work)) as archive:
            archive.extractall(work)
        for entry in (work / f"keycloak-{VERSION}").iterdir():
            shutil.move(entry, folder / entry.name)
        (work / "realm.json").write_text(json.dumps(REALM_FILE))
        steps = [BUILD, ["import", "--optimized", "--file", str(work / "realm.json")]]
        for step in steps:
            output_of([*_java(folder), *step], timeout_seconds=INSTALL_SECONDS, cwd=work, env=_environment())


def _java(home: Path) -> Command:
    about = [f"-Dkc.home.dir={home}", f"-Djboss.server.config.dir={home / 'conf'}"]
    return [java_binary(), *JVM_FLAGS, *about, "-cp", home / "lib" / "quarkus-run.jar", MAIN]


def _environment() -> Mapping[str, str]:
    """Its settings are what we say, whatever else is set on this machine."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("KC_", "QUARKUS_"))}


def _recipe() -> str:
    """Another one is installed beside it."""
    return hashlib.sha256(json.dumps([BUILD, REALM_FILE]).encode()).hexdigest()[:8]


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
