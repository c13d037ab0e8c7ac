"""What tests of identity share: a provider with its authorization server and verifier, clients, an outsider,
and small in-memory stands-in for Store, ReplayGuard and TrustRegistry.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from connector.access import dpop, rfc7523, rfc9068
from connector.access.authorization_server import AuthorizationServer, resources
from connector.access.dpop_nonce import Nonces
from connector.access.identity import TokenVerifier
from connector.access.issued_tokens import IssuedTokens
from connector.access.oauth_request import ClientAuthentication
from connector.access.revocation import RevokedTokens
from connector.access.token_status import TokenStatus
from connector.adapters.file_keys import FileKeys
from connector.errors import Unavailable
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.participant import Collaboration, Participant, ParticipantStatus, TrustList
from connector.model.token import Actor, AuthorizationDetail, VerifiedClaims
from connector.model.transfer import Grant, GrantState

START = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"


class ManualClock:
    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


class MemoryReplayGuard:
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.claimed: dict[tuple[str, str], datetime] = {}
        self.down = False

    async def claim(self, kind: str, token_id: str, *, expires_at: datetime) -> bool:
        if self.down:
            raise Unavailable("the replay guard does not answer")
        if self.claimed.get((kind, token_id), START) > self._clock.now():
            return False
        self.claimed[kind, token_id] = expires_at
        return True

    async def close(self) -> None:
        pass


class MemoryTransaction:
    """The part of `ports.Transaction` that identity uses."""

    def __init__(self, values: dict[str, Any], counts: dict[tuple[str, str], int]) -> None:
        self._values = values
        self._counts = counts

    async def value(self, key: str) -> Mapping[str, Any] | None:
        return copy.deepcopy(self._values.get(key))

    async def put_value(self, key: str, value: Mapping[str, Any]) -> None:
        self._values[key] = json.loads(json.dumps(value))

    async def values(self, prefix: str) -> Mapping[str, Any]:
        return {k: v for k, v in self._values.items() if k.startswith(prefix)}

    async def delete_values(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._values.pop(key, None)

    async def count_use(self, key: str, *, period: str, at_most: int) -> bool:
        if self._counts.get((key, period), 0) >= at_most:
            return False
        self._counts[key, period] = self._counts.get((key, period), 0) + 1
        return True


class MemoryStore:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.down = False

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[MemoryTransaction]:
        if self.down:
            raise Unavailable("the store does not answer")
        values, counts = dict(self.values), dict(self.counts)
        yield MemoryTransaction(values, counts)
        if not read_only:
            self.values, self.counts = values, counts


class StaticRegistry:
    """A trust list that a test edits."""

    def __init__(self, clock: ManualClock, participants: Sequence[Participant]) -> None:
        self._clock = clock
        self.participants = {p.id: p for p in participants}
        self.collaborations: dict[str, Collaboration] = {}
        self.expired = False

    def current(self) -> TrustList:
        if self.expired:
            raise Unavailable("The trust list has expired.")
        return TrustList(
            issuer="https://registry.example",
            version=1,
            issued_at=self._clock.now(),
            expires_at=self._clock.now() + timedelta(hours=24),
            participants=self.participants,
            collaborations=self.collaborations,
        )

    def set_status(self, participant_id: str, status: ParticipantStatus) -> None:
        self.participants[participant_id] = replace(self.participants[participant_id], status=status)


class Ids:
    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"id-{self._count}"


def fresh_keys(participant_id: str) -> FileKeys:
    signing, encryption = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    return FileKeys(participant_id, signing, encryption, hashlib.sha256(participant_id.encode()).digest())


def participant(keys: FileKeys) -> Participant:
    return Participant(
        id=keys.participant_id,
        name=keys.participant_id.title(),
        base_url=f"https://{keys.participant_id}.example",
        jwks=keys.public_jwks(),
    )


class World:
    """`kela` serves; `city` and `youth` are its clients; `mallory` is in no registry."""

    def __init__(self, *, nonces: bool = False) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.keys = {name: fresh_keys(name) for name in ("kela", "city", "youth", "mallory")}
        self.registry = StaticRegistry(
            self.clock, [participant(self.keys[n]) for n in ("kela", "city", "youth")]
        )
        self.kela = self.registry.participants["kela"]
        self.replay = MemoryReplayGuard(self.clock)
        self.audit_down = False
        self.audited: list[tuple[AuditEvent, dict[str, Any]]] = []
        self.opened: list[tuple[str, AuthorizationDetail]] = []
        self.open_error: Exception | None = None
        self.grant_changes: dict[str, Any] = {}
        self.revoked: set[str] = set()
        self.new_id = Ids()
        base_url = self.kela.base_url
        tokens = IssuedTokens(
            issuer=base_url,
            resources=frozenset(resources(base_url).values()),
            keys=self.keys["kela"],
            registry=self.registry,
            clock=self.clock,
            is_revoked=self.is_revoked,
        )
        clients = ClientAuthentication(
            audiences=(base_url, f"{base_url}/oauth2/token"),
            registry=self.registry,
            replay=self.replay,
            clock=self.clock,
        )
        self.revoked_tokens = RevokedTokens(self.store, self.clock)  # type: ignore[arg-type]  # what it uses of it
        self.stopped: list[VerifiedClaims] = []
        self.status = TokenStatus(
            base_url=base_url,
            participant_id="kela",
            clients=clients,
            tokens=tokens,
            revoked=self.revoked_tokens,
            on_revoked=self._stop,
            audit=self._audit,
        )
        self.server = AuthorizationServer(
            base_url=base_url,
            keys=self.keys["kela"],
            clients=clients,
            tokens=tokens,
            nonces=Nonces(b"n" * 32, self.clock) if nonces else None,
            replay=self.replay,
            clock=self.clock,
            new_id=self.new_id,
            open_grant=self._open_grant,
            audit=self._audit,
        )
        self.verifier = TokenVerifier(
            issuer=self.kela.base_url,
            keys=self.keys["kela"],
            registry=self.registry,
            replay=self.replay,
            clock=self.clock,
            is_revoked=self.is_revoked,
            nonces=Nonces(b"n" * 32, self.clock) if nonces else None,
        )

    def is_revoked(self, token: VerifiedClaims) -> bool:
        return token.token_id in self.revoked or token in self.revoked_tokens

    async def _stop(self, token: VerifiedClaims) -> None:
        self.stopped.append(token)

    async def _audit(self, event: AuditEvent, **fields: Any) -> None:
        if self.audit_down:
            raise Unavailable("the audit log does not answer")
        self.audited.append((event, fields))

    async def _open_grant(
        self, consumer: Participant, detail: AuthorizationDetail, actor: Actor | None
    ) -> Grant:
        self.opened.append((consumer.id, detail))
        if self.open_error is not None:
            raise self.open_error
        grant = Grant(
            id="grant-1",
            agreement_id=detail.agreement_id,
            transfer_pid="transfer-1",
            consumer=consumer.id,
            dataset_id=detail.dataset_id,
            purpose=detail.purpose,
            format=TransferFormat.FEDERATED_QUERY_PULL,
            policy_revision="0" * 16,
            consent_version=0,
            epoch=1,
            state=GrantState.ACTIVE,
            created_at=self.clock.now(),
        )
        return replace(grant, **self.grant_changes)

    # --- what an honest client sends --------------------------------------------------------------

    @property
    def now(self) -> int:
        return int(self.clock.now().timestamp())

    @property
    def endpoint(self) -> str:
        return f"{self.kela.base_url}/oauth2/token"

    def assertion_claims(self, client: str = "city", **changes: Any) -> dict[str, Any]:
        claims = {
            "iss": client,
            "sub": client,
            "aud": self.kela.base_url,
            "iat": self.now,
            "exp": self.now + rfc7523.LIFE_SECONDS,
            "jti": self.new_id(),
        }
        return changed(claims, changes)

    def assertion(
        self, client: str = "city", *, signer: str = "", typ: str = rfc7523.TYP, **changes: Any
    ) -> str:
        return self.keys[signer or client].sign_jwt(self.assertion_claims(client, **changes), typ=typ)

    def proof(self, client: str = "city", *, signer: str = "", typ: str = dpop.TYP, **changes: Any) -> str:
        claims = {"jti": self.new_id(), "htm": "POST", "htu": self.endpoint, "iat": self.now}
        return self.keys[signer or client].sign_jwt(changed(claims, changes), typ=typ, embed_jwk=True)

    def form(self, client: str = "city", **changes: Any) -> dict[str, str]:
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": rfc7523.ASSERTION_TYPE,
            "client_assertion": self.assertion(client),
            "scope": "dsp",
            "resource": self.kela.dsp_url,
        }
        return changed(form, changes)

    def data_form(self, client: str = "city", **changes: Any) -> dict[str, str]:
        details = json.dumps([detail_entry()])
        return changed(
            self.form(client, scope="data", resource=self.kela.data_url, authorization_details=details),
            changes,
        )

    async def ask(
        self,
        form: Mapping[str, str] | bytes,
        proofs: Sequence[str] | None = None,
        content_type: str = FORM,
    ) -> tuple[int, Mapping[str, Any]]:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        proofs = [self.proof()] if proofs is None else proofs
        status, _, answer = await self.server.token(body, content_type=content_type, dpop_headers=proofs)
        return status, answer

    async def access_token(self, client: str = "city", *, data: bool = False) -> str:
        form = self.data_form(client) if data else self.form(client)
        status, answer = await self.ask(form, [self.proof(client)])
        assert status == 200, answer
        return answer["access_token"]

    def token_claims(self, client: str = "city", **changes: Any) -> dict[str, Any]:
        """As kela's server would put them in a `dsp` token."""
        claims = {
            "iss": self.kela.base_url,
            "sub": client,
            "client_id": client,
            "aud": self.kela.dsp_url,
            "jti": self.new_id(),
            "iat": self.now,
            "exp": self.now + rfc9068.MAX_LIFE_SECONDS,
            "scope": "dsp",
            "cnf": {"jkt": self.keys[client].thumbprint()},
        }
        return changed(claims, changes)

    def minted(self, client: str = "city", *, typ: str = rfc9068.TYP, **changes: Any) -> str:
        return self.keys["kela"].sign_jwt(self.token_claims(client, **changes), typ=typ)

    @property
    def url(self) -> str:
        return f"{self.kela.dsp_url}/catalog/request"

    def use_proof(self, token: str, client: str = "city", **changes: Any) -> str:
        """The proof for POSTing `token` to `url`."""
        return self.proof(client, **{"htu": self.url, "ath": dpop.token_hash(token), **changes})


def changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """With members replaced, or left out where the change is None."""
    return {k: v for k, v in {**members, **changes}.items() if v is not None}


def detail_entry(**changes: Any) -> dict[str, Any]:
    entry = {
        "type": "dataspace_agreement",
        "agreement": "agreement-1",
        "dataset": "benefits",
        "actions": ["query"],
        "purpose": "service-planning",
    }
    return changed(entry, changes)


# --- forging: JOSE by hand, because the libraries refuse to make most of this -----------------------------


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Any, claims: Any, key: ec.EllipticCurvePrivateKey | bytes | None) -> str:
    """A JWS with any header: signed ES256 by a private key, HS256 by bytes, or not at all."""
    parts = [c if isinstance(c, bytes) else json.dumps(c).encode() for c in (header, claims)]
    signing_input = ".".join(b64(p) for p in parts)
    if key is None:
        signature = b""
    elif isinstance(key, bytes):
        signature = hmac.new(key, signing_input.encode(), "sha256").digest()
    else:
        r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{signing_input}.{b64(signature)}"


def private_key(keys: FileKeys) -> ec.EllipticCurvePrivateKey:
    return keys._held.signing


def kid(keys: FileKeys) -> str:
    return keys.thumbprint()


def respelled(token: str) -> str:
    """Another spelling of the same signature: its last character has four bits that nobody reads."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
