"""People sign in at a real Keycloak: authorization code with PKCE, in a browser that is a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from connector.adapters import file_keys
from connector.demo.processes import Process
from tests.parts.keycloak import KeycloakServer, password_of
from tests.system.dataspace import DataSpace

pytestmark = pytest.mark.slow

SETTINGS = """
oidc_issuer = "{issuer}"
oidc_client_id = "connector"
oidc_claim = "realm_access.roles"
oidc_subject_claim = "preferred_username"
oidc_client_auth = "{client_auth}"
oidc_scope = "openid profile"
[oidc_roles]
planners = "operator, analyst"
data-protection = "dpo"
[oidc_purposes]
planners = "service-planning"
"""
FORM = re.compile(r'<form[^>]*id="kc-form-login"[^>]*action="([^"]+)"')


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSpace]:
    made = DataSpace(tmp_path_factory.mktemp("sign-in"))
    made.make_registry()
    made.serve("registry")
    try:
        yield made
    finally:
        made.stop()


def served(space: DataSpace, keycloak: KeycloakServer, name: str, client_auth: str) -> str:
    """A connector whose people sign in there; its base URL."""
    client = f"connector-{name}"
    space.init(name)
    settings = SETTINGS.format(issuer=keycloak.issuer, client_auth=client_auth)
    space.set(name, settings.replace('"connector"', f'"{client}"'))
    keys = file_keys.load(space.of(name) / "keys", name)
    signing = [jwk for jwk in keys.public_jwks() if jwk["use"] == "sig"]
    keycloak.add_client(
        client,
        f"{space.url(name)}/v1/sign-in/callback",
        jwks=signing if client_auth == "private_key_jwt" else None,
    )
    space.approve(space.apply(name))
    space.serve(name)
    return space.url(name)


@pytest.fixture(scope="module")
def city(space: DataSpace, keycloak_server: KeycloakServer) -> str:
    return served(space, keycloak_server, "city", "none")


class Browser(httpx.Client):
    """Loopback is a secure context to browsers: `Secure` cookies go there by plain http too."""

    def __init__(self) -> None:
        hooks = {"response": [self._as_on_tls]}
        super().__init__(follow_redirects=True, trust_env=False, timeout=20, event_hooks=hooks)

    def _as_on_tls(self, _: httpx.Response) -> None:
        for cookie in self.cookies.jar:
            cookie.secure = False


def sign_in(person: httpx.Client, base: str, name: str, return_to: str = "/v1/me") -> httpx.Response:
    """Through the provider's own form, as it is served; the answer where the way ends."""
    page = person.get(f"{base}/v1/sign-in", params={"return_to": return_to})
    found = FORM.search(page.text)
    assert found, page.text[:2000]
    return person.post(unescape(found[1]), data={"username": name, "password": password_of(name)})


def test_anna_signs_in_works_and_signs_out(city: str) -> None:
    """OIDC code + PKCE at a real provider; claims are roles and purposes; a session that really ends."""
    with Browser() as anna:
        arrived = sign_in(anna, city, "anna")
        assert str(arrived.url) == f"{city}/v1/me"
        assert arrived.json() == {
            "subject": "anna",
            "roles": ["analyst", "operator"],
            "purposes": ["service-planning"],
        }
        assert anna.get(f"{city}/v1/status").json()["participant"] == "city"
        stolen = dict(anna.cookies.items())
        ours = {"Origin": city}
        for origin in ({}, {"Origin": "http://mallory.example"}):
            refused = anna.post(f"{city}/v1/stop", json={"reason": "Try"}, headers=origin)
            assert refused.status_code == 401
        assert anna.post(f"{city}/v1/stop", json={"reason": "Drill"}, headers=ours).json() == {"ended": 0}
        administered = anna.delete(f"{city}/v1/stop", headers=ours)
        assert administered.status_code == 403, "an operator does not administer"
        assert anna.post(f"{city}/v1/sign-out", headers=ours).status_code == 204
        assert anna.get(f"{city}/v1/me").status_code == 401
    with httpx.Client(cookies=stolen, trust_env=False) as thief:
        assert thief.get(f"{city}/v1/me").status_code == 401, "a copied cookie ends with the session"


def test_another_role_is_another_person(city: str) -> None:
    with Browser() as officer:
        assert sign_in(officer, city, "dpo").json()["roles"] == ["dpo"]


def test_a_guest_is_turned_away(city: str) -> None:
    """The provider knows them, and nobody gave them a role: 403, and no session."""
    with Browser() as guest:
        refused = sign_in(guest, city, "guest")
        assert refused.status_code == 403
        assert refused.json()["deniedBy"][0]["code"] == "no_role"
        assert guest.get(f"{city}/v1/me").status_code == 401


def test_a_code_of_somebody_else_signs_nobody_in(city: str) -> None:
    """A code is bound to the browser that asked (state, PKCE), and good once."""
    with Browser() as anna, Browser() as mallory:
        page = anna.get(f"{city}/v1/sign-in")
        form = FORM.search(page.text)
        assert form
        anna.follow_redirects = False
        answer = anna.post(unescape(form[1]), data={"username": "anna", "password": password_of("anna")})
        back = answer.headers["location"]
        assert parse_qs(urlsplit(back).query)["iss"], "RFC 9207"
        assert mallory.get(back).status_code == 401
        assert anna.get(back).status_code == 303
        assert anna.get(back).status_code == 401


def test_the_connector_proves_itself_with_its_own_key(
    space: DataSpace, keycloak_server: KeycloakServer
) -> None:
    """private_key_jwt (RFC 7523) at a real provider: no shared secret."""
    base = served(space, keycloak_server, "kela", "private_key_jwt")
    with Browser() as anna:
        assert sign_in(anna, base, "anna").json()["subject"] == "anna"
    process: Process = space.processes["kela"]
    assert "anna-of-the-tests" not in process.log.read_text()
