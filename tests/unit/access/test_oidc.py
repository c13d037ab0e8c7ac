"""Sign-in by OpenID Connect, against a provider of the tests' own that can lie in every way."""

# ruff: noqa: E501 - a table is read best with one line per case
from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from connector.access import jose
from connector.access.oidc import KEYS_FRESH, KEYS_PAUSE, SIGN_IN_SECONDS, OidcSettings, OidcSignIn
from connector.adapters.http_peer import HttpPeer
from connector.errors import NotAuthenticated, NotPermitted, PeerUnreachable, Unavailable
from connector.model.person import PersonRole
from connector.ports import PeerResponse
from tests.unit.access.world import ManualClock, forge, fresh_keys

ISSUER = "https://login.example/realms/city"
RSA, EC = RSAKey.generate_key(2048, {"kid": "r1"}), ECKey.generate_key("P-256", {"kid": "e1"})
OURS = fresh_keys("kela")
JWKS_BYTES = 10_000_000
PUBLIC_AS_SECRET = RSA.as_pem(private=False)


class Provider:
    """Answers as a provider would, unless a test changes what it says."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.document: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/certs",
        }
        self.keys = [RSA.as_dict(private=False), EC.as_dict(private=False)]
        self.key: Any = RSA
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "r1"}
        self.claims: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Mapping[str, list[str]], Mapping[str, str]]] = []
        self.challenge = self.nonce = ""
        self.down = False

    async def request(
        self, method: str, url: str, *, headers: Any = None, content: bytes = b"", **_: Any
    ) -> PeerResponse:
        form = parse_qs((content or b"").decode())
        self.asked.append((method, url, form, headers or {}))
        if self.down:
            raise PeerUnreachable("login.example: no connection")
        if url.endswith("/.well-known/openid-configuration"):
            return _answer(self.document)
        if url.endswith("/certs"):
            return _answer({"keys": self.keys})
        verifier = form["code_verifier"][0]
        expected = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if form["code"] != ["good"] or expected != self.challenge:
            return _answer({"error": "invalid_grant"}, 400)
        return _answer({"access_token": "x", "id_token": self.id_token()})

    def id_token(self) -> str:
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": ISSUER,
            "aud": "connector",
            "sub": "u-17",
            "email": "anna@city.example",
            "iat": now,
            "exp": now + 300,
            "nonce": self.nonce,
            "realm_access": {"roles": ["planners", "offline_access"]},
            **self.claims,
        }
        claims = {k: v for k, v in claims.items() if v is not None}
        if isinstance(self.key, bytes):
            return forge(self.header, claims, self.key)
        return jwt.encode(self.header, claims, self.key, algorithms=["RS256", "PS256", "ES256", "RS512"])


def _answer(body: Any, status: int = 200) -> PeerResponse:
    return PeerResponse(status=status, headers={}, body=json.dumps(body).encode())


class Browser:
    def __init__(self, **changes: Any) -> None:
        self.clock = ManualClock()
        self.provider = Provider(self.clock)
        described: dict[str, Any] = {
            "issuer": ISSUER,
            "client_id": "connector",
            "redirect_uri": "https://kela.example/v1/sign-in/callback",
            "claim": "realm_access.roles",
            "roles": {"planners": "operator, analyst", "auditors": "dpo"},
            "purposes": {"planners": "service-planning"},
            **changes,
        }
        self.sign_in = OidcSignIn(
            OidcSettings(**described),
            keys=OURS,
            peer=self.provider,
            clock=self.clock,
            random_bytes=secrets.token_bytes,
        )

    async def go(self, return_to: str = "/console") -> tuple[str, str]:
        """State and cookie, as the browser comes back with them."""
        url, cookie = await self.sign_in.start(return_to)
        query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
        self.query = query
        self.provider.challenge, self.provider.nonce = query["code_challenge"], query["nonce"]
        return query["state"], cookie

    async def come_back(self, state: str, cookie: str, code: str = "good", issuer: str = ISSUER) -> Any:
        return await self.sign_in.finish(code=code, state=state, issuer=issuer, cookie=cookie)


async def test_a_person_signs_in() -> None:
    """OIDC Core §3.1, RFC 7636: code, PKCE S256, state and nonce; claims become roles and purposes."""
    browser = Browser()
    state, cookie = await browser.go()
    assert browser.query["code_challenge_method"] == "S256"
    assert browser.query["redirect_uri"] == "https://kela.example/v1/sign-in/callback"
    person, return_to = await browser.come_back(state, cookie)
    assert person.subject == "u-17"
    assert person.roles == {PersonRole.OPERATOR, PersonRole.ANALYST}
    assert person.purposes == {"service-planning"}
    assert return_to == "/console"


@pytest.mark.parametrize(
    ("key", "header"), [(EC, {"alg": "ES256", "kid": "e1"}), (RSA, {"alg": "PS256", "kid": "r1"})]
)
async def test_any_provider_with_a_sound_algorithm(key: Any, header: dict[str, Any]) -> None:
    browser = Browser()
    browser.provider.key, browser.provider.header = key, header
    person, _ = await browser.come_back(*await browser.go())
    assert person.subject == "u-17"


async def test_we_can_prove_ourselves_with_our_own_key() -> None:
    """No shared secret: private_key_jwt (OIDC Core §9)."""
    browser = Browser(client_auth="private_key_jwt")
    await browser.come_back(*await browser.go())
    form = next(f for m, u, f, _ in browser.provider.asked if u.endswith("/token"))
    claims = jose.verify_jws(form["client_assertion"][0], OURS.public_jwks(), typ={"JWT"})
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("connector", "connector", f"{ISSUER}/token")


async def test_a_secret_goes_in_the_header() -> None:
    """RFC 6749 §2.3.1: percent-encoded, then Basic."""
    browser = Browser(client_auth="client_secret_basic", client_secret="a:b/ö")
    await browser.come_back(*await browser.go())
    headers = next(h for m, u, _, h in browser.provider.asked if u.endswith("/token"))
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"connector:a%3Ab%2F%C3%B6"


Lie = Callable[[Browser], None]


def says(**claims: Any) -> Lie:
    return lambda b: b.provider.claims.update(claims)


def signs(key: Any, **header: Any) -> Lie:
    def lie(browser: Browser) -> None:
        browser.provider.key, browser.provider.header = key, header

    return lie


LIES: list[tuple[str, Lie]] = [
    ("another issuer", says(iss="https://mallory.example")),
    ("another audience", says(aud="somebody")),
    ("several audiences, not ours presented", says(aud=["connector", "x"], azp="x")),
    ("several audiences and no azp", says(aud=["connector", "x"])),
    ("azp of another", says(azp="x")),
    ("expired", says(exp=1)),
    ("no end", says(exp=None)),
    ("from the future", says(iat=4_000_000_000, exp=4_000_000_300)),
    ("an old one", says(iat=1_000_000_000)),
    ("another nonce", says(nonce="x")),
    ("no nonce", says(nonce=None)),
    ("nobody", says(sub=None)),
    ("a name that is no text", says(sub=["u-17"])),
    ("another's key", signs(RSAKey.generate_key(2048, {"kid": "r1"}), alg="RS256", kid="r1")),
    ("unknown kid", signs(RSA, alg="RS256", kid="r9")),
    ("HS256 with the public key", signs(PUBLIC_AS_SECRET, alg="HS256", kid="r1")),
    ("an algorithm not on the list", signs(RSA, alg="RS512", kid="r1")),
]


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("lie", [lie for _, lie in LIES], ids=[name for name, _ in LIES])
async def test_a_token_that_is_not_right_signs_nobody_in(lie: Lie) -> None:
    """OIDC Core §3.1.3.7: every check, one answer."""
    browser = Browser()
    came = await browser.go()
    lie(browser)
    with pytest.raises(NotAuthenticated, match="not accepted"):
        await browser.come_back(*came)


async def test_the_way_back_is_the_same_browsers() -> None:
    """RFC 6749 §10.12, RFC 9207, RFC 9700 §4.4: state, cookie and issuer belong together; a code is used once."""
    browser = Browser()
    state, cookie = await browser.go()
    other_state, other_cookie = await Browser().go()
    for about in (
        {"state": other_state, "cookie": cookie},
        {"state": state, "cookie": other_cookie},
        {"state": state, "cookie": ""},
        {"state": state, "cookie": cookie[:-4]},
        {"state": "", "cookie": cookie},
        {"state": state, "cookie": cookie, "code": "stolen"},
        {"state": state, "cookie": cookie, "issuer": "https://mallory.example"},
    ):
        with pytest.raises(NotAuthenticated):
            await browser.come_back(**about)
    browser.clock.advance(SIGN_IN_SECONDS)
    with pytest.raises(NotAuthenticated):
        await browser.come_back(state, cookie)


@pytest.mark.parametrize(
    "claims",
    [
        {"realm_access": None},
        {"realm_access": {"roles": "guests"}},
        {"realm_access": {"roles": [7, None]}},
        {"realm_access": []},
    ],
)
async def test_whoever_has_no_role_here_is_told_so(claims: dict[str, Any]) -> None:
    """Unknown means deny; they are known to the provider, so they may know why."""
    browser = Browser()
    came = await browser.go()
    browser.provider.claims = claims
    with pytest.raises(NotPermitted, match="nobody has given you a role"):
        await browser.come_back(*came)


@pytest.mark.parametrize(
    "path",
    [
        "https://mallory.example",
        "//mallory.example",
        "/\\mallory.example",
        "console",
        "/a\r\nSet-Cookie: x",
        "",
    ],
)
async def test_the_way_back_leads_to_us_only(path: str) -> None:
    """No open redirect."""
    browser = Browser()
    _, return_to = await browser.come_back(*await browser.go(path))
    assert return_to == "/"


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": f"{ISSUER}/"},
        {"token_endpoint": "https://mallory.example/token"},
        {"jwks_uri": "http://169.254.169.254/latest"},
        {"authorization_endpoint": None},
    ],
    ids=["another issuer", "token endpoint elsewhere", "keys elsewhere", "no endpoint"],
)
async def test_a_configuration_that_leads_elsewhere_is_not_taken(change: dict[str, Any]) -> None:
    """OIDC Discovery §4.3; our code and assertion go to the issuer's host only."""
    browser = Browser()
    browser.provider.document |= change
    with pytest.raises(Unavailable):
        await browser.go()


async def test_a_provider_that_is_down_is_said_to_be() -> None:
    browser = Browser()
    browser.provider.down = True
    with pytest.raises(Unavailable, match="does not answer"):
        await browser.go()
    browser.provider.down = False
    came = await browser.go()
    browser.provider.down = True
    with pytest.raises(Unavailable):
        await browser.come_back(*came)


async def test_new_keys_of_the_provider_are_found() -> None:
    """Looked for again on an unknown kid, at most every 30 s: nobody makes us ask for ever."""
    browser = Browser()
    await browser.come_back(*await browser.go())
    new = RSAKey.generate_key(2048, {"kid": "r2"})
    browser.provider.key, browser.provider.header = new, {"alg": "RS256", "kid": "r2"}
    browser.provider.keys = [new.as_dict(private=False)]
    with pytest.raises(NotAuthenticated):
        await browser.come_back(*await browser.go())
    browser.clock.advance(KEYS_PAUSE.total_seconds())
    person, _ = await browser.come_back(*await browser.go())
    assert person.subject == "u-17"
    looked = [u for _, u, _, _ in browser.provider.asked if u.endswith("/certs")]
    assert len(looked) == 2
    assert KEYS_FRESH > KEYS_PAUSE


async def test_ten_megabytes_of_keys_are_not_read() -> None:
    """A provider that is not itself any more: its JWKS is read no further than 256 KB, by the real client."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        asked = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        base = f"http://127.0.0.1:{port}"
        places = {n: f"{base}/{n}" for n in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
        token = jwt.encode({"alg": "ES256", "kid": "e1"}, {"sub": "u-17"}, EC)
        answers = {"/token_endpoint": {"id_token": token}, "/jwks_uri": None}
        answer = answers.get(asked, {"issuer": base, **places})
        body = json.dumps(answer).encode() if answer else b" " * JWKS_BYTES
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), 65_536):
                writer.write(body[start : start + 65_536])
                await writer.drain()
                sent += 65_536 if answer is None else 0
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    peer = HttpPeer(allow_private=True)
    about = {"issuer": f"http://127.0.0.1:{port}", "client_id": "connector", "roles": {"a": "viewer"}}
    settings = OidcSettings(**about, redirect_uri="https://kela.example/x", claim="roles", purposes={})
    clock = ManualClock()
    sign_in = OidcSignIn(settings, keys=OURS, peer=peer, clock=clock, random_bytes=secrets.token_bytes)
    async with server:
        url, cookie = await sign_in.start("/console")
        state = parse_qs(urlsplit(url).query)["state"][0]
        with pytest.raises(Unavailable):
            await sign_in.finish(code="good", state=state, issuer="", cookie=cookie)
        await peer.close()
    assert 0 < sent < JWKS_BYTES
