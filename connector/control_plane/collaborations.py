"""Pseudonym secrets: made by a collaboration's lead, handed from provider to provider, never to a consumer.

One secret per collaboration and generation, so that who has left knows nothing of the next one. It travels
signed by the lead inside a JWE to the requester's registry key, over an authenticated request, and rests in
the store under AES-GCM. The key that pseudonyms are made with is HKDF(secret, collaboration, generation).
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connector.access import jose
from connector.access.jose import Refusal
from connector.access.tokens import PeerTokens
from connector.errors import (
    KeysInvalid,
    NotFound,
    NotPermitted,
    PeerError,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    Reason,
    Unavailable,
)
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from connector.model.participant import Collaboration, CollaborationRole, Participant, ParticipantStatus
from connector.model.token import SCOPE_DSP
from connector.ports import Clock, Keys, PeerClient, PeerResponse, Store, TrustRegistry

TYP = "collaboration-secret+jwt"
SECRET_BYTES = 32
ANSWER_SECONDS = 60
_WRAPPING_PURPOSE = "collaboration-secret"
_NONCE_BYTES = 12
_MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class _Domain:
    """What a secret belongs to; also the associated data under which it is stored."""

    collaboration: str
    generation: int

    @property
    def store_key(self) -> str:
        return f"collaboration-secret/{self.collaboration}/{self.generation}"


class CollaborationSecrets:
    def __init__(
        self,
        *,
        keys: Keys,
        store: Store,
        registry: TrustRegistry,
        peer: PeerClient,
        tokens: PeerTokens,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        record: Callable[..., Awaitable[object]],
    ) -> None:
        """`random_bytes`: cryptographically strong. `record(event, **fields)`: on record when it returns."""
        self._us = keys.participant_id
        self._keys = keys
        self._store = store
        self._registry = registry
        self._peer = peer
        self._tokens = tokens
        self._clock = clock
        self._random_bytes = random_bytes
        self._record = record
        self._derived: dict[_Domain, bytes] = {}
        self._fetching: defaultdict[_Domain, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def key(self, collaboration_id: str) -> bytes:
        """The collaboration's present pseudonym key, 32 bytes, for us as one of its providers.

        Raises NotPermitted where we are none, or it has ended; PeerError where the lead does not give it.
        """
        collaboration = self._live(collaboration_id)
        _require_provider(collaboration, self._us)
        domain = _Domain(collaboration.id, collaboration.generation)
        if domain not in self._derived:
            async with self._fetching[domain]:
                if domain not in self._derived:
                    self._derived[domain] = _derive(await self._secret(collaboration, domain), domain)
        return self._derived[domain]

    async def hand_out(self, requester: Participant, collaboration_id: str) -> str:
        """The lead's answer to another provider: a JWE that only the requester can open.

        Raises NotFound for who is no member, NotPermitted for members who are no providers.
        """
        collaboration = self._live(collaboration_id)
        if collaboration.lead != self._us or requester.id not in collaboration.members:
            raise NotFound("There is no such collaboration here.")
        _require_provider(collaboration, requester.id)
        domain = _Domain(collaboration.id, collaboration.generation)
        secret = await self._own_secret(domain)
        now = int(self._clock.now().timestamp())
        signed = self._keys.sign_jwt(
            {
                "iss": self._us,
                "aud": requester.id,
                "iat": now,
                "exp": now + ANSWER_SECONDS,
                "collaboration": domain.collaboration,
                "generation": domain.generation,
                "secret": jose.encode(secret),
            },
            typ=TYP,
        )
        try:
            sealed = jose.encrypt_jwe(signed.encode("ascii"), requester.jwks)
        except Refusal:
            text = "The registry has no encryption key for you; have one admitted."
            raise NotPermitted([Reason(code="no_encryption_key", text=text)]) from None
        await self._record(
            AuditEvent.COLLABORATION_KEY_SENT,
            actor=requester.id,
            object=collaboration.id,
            purpose=collaboration.purpose,
            outcome="sent",
        )
        return sealed

    def _live(self, collaboration_id: str) -> Collaboration:
        collaboration = self._registry.current().collaborations.get(collaboration_id)
        if collaboration is None:
            raise NotFound("There is no such collaboration here.")
        if collaboration.valid_until is not None and self._clock.now() >= collaboration.valid_until:
            raise NotPermitted([Reason(code="collaboration_ended", text="The collaboration has ended.")])
        return collaboration

    async def _secret(self, collaboration: Collaboration, domain: _Domain) -> bytes:
        if collaboration.lead == self._us:
            return await self._own_secret(domain)
        async with self._store.transaction(read_only=True) as tx:
            held = await tx.value(domain.store_key)
        if held is not None:
            return self._unwrap(held, domain)
        secret = await self._fetch(collaboration, domain)
        async with self._store.transaction() as tx:
            await tx.put_value(domain.store_key, self._wrap(secret, domain))
        await self._record(
            AuditEvent.COLLABORATION_KEY_RECEIVED,
            actor=collaboration.lead,
            object=collaboration.id,
            purpose=collaboration.purpose,
            outcome="received",
        )
        return secret

    async def _own_secret(self, domain: _Domain) -> bytes:
        """Made once: of two replicas that try at the same moment, one counts the use and writes."""
        async with self._store.transaction() as tx:
            held = await tx.value(domain.store_key)
            if held is None and await tx.count_use(domain.store_key, period="made", at_most=1):
                held = self._wrap(self._random_bytes(SECRET_BYTES), domain)
                await tx.put_value(domain.store_key, held)
        if held is None:
            async with self._store.transaction(read_only=True) as tx:
                held = await tx.value(domain.store_key)
        if held is None:
            raise Unavailable("A collaboration's secret is missing.", mend="Restore the store's backup.")
        return self._unwrap(held, domain)

    # --- from the lead ------------------------------------------------------------------------------

    async def _fetch(self, collaboration: Collaboration, domain: _Domain) -> bytes:
        lead = self._registry.current().participants[collaboration.lead]
        if lead.status is not ParticipantStatus.ACTIVE:
            text = "The collaboration's lead is not active."
            raise NotPermitted([Reason(code="lead_inactive", text=text)])
        url = f"{lead.base_url}/collaborations/{collaboration.id}/secret"
        answer = await self._post(lead, url)
        for _ in range(2):  # the lead wants a nonce, or has forgotten our token
            if answer.status == 401:
                self._tokens.refused(lead, answer, resource=lead.dsp_url, scope=SCOPE_DSP)
                answer = await self._post(lead, url)
        if answer.status >= 500:
            raise PeerUnreachable("it cannot hand out the secret now", participant=lead.id)
        if answer.status != 200:
            raise PeerRefused(
                "it refused the collaboration's secret", participant=lead.id, status=answer.status
            )
        try:
            signed = self._keys.decrypt_jwe(answer.body.decode("ascii", "replace")).decode("ascii", "replace")
            claims = jose.verify_jws(signed, lead.jwks, typ={TYP})
            return self._accept(claims, lead, domain)
        except (KeysInvalid, Refusal):
            raise PeerProtocolError(
                "its answer holds no secret for us",
                participant=lead.id,
                mend="Check that the registry has both sides' present keys.",
            ) from None

    async def _post(self, lead: Participant, url: str) -> PeerResponse:
        headers = await self._tokens.headers(lead, "POST", url, resource=lead.dsp_url, scope=SCOPE_DSP)
        try:
            return await self._peer.request("POST", url, headers=headers, max_bytes=_MAX_ANSWER_BYTES)
        except PeerError as error:  # the transport knows hosts, not participants
            raise type(error)(error.message, participant=lead.id, mend=error.mend, code=error.code) from error

    def _accept(self, claims: JsonObject, lead: Participant, domain: _Domain) -> bytes:
        expected = (lead.id, self._us, domain.collaboration, domain.generation)
        if (claims.get("iss"), claims.get("aud"), claims.get("collaboration"), claims.get("generation")) != (
            expected
        ):
            raise Refusal("secret_for_another")
        jose.require_current(claims, self._clock.now().timestamp())
        secret = jose.decode(jose.text(claims, "secret"))
        if len(secret) != SECRET_BYTES:
            raise Refusal("secret")
        return secret

    # --- at rest ------------------------------------------------------------------------------------

    def _wrap(self, secret: bytes, domain: _Domain) -> JsonObject:
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = self._cipher().encrypt(nonce, secret, domain.store_key.encode())
        return {"nonce": jose.encode(nonce), "ciphertext": jose.encode(sealed)}

    def _unwrap(self, held: JsonObject, domain: _Domain) -> bytes:
        try:
            nonce, sealed = jose.decode(held["nonce"]), jose.decode(held["ciphertext"])
            return self._cipher().decrypt(nonce, sealed, domain.store_key.encode())
        except (InvalidTag, Refusal, KeyError):
            raise KeysInvalid(
                "A stored collaboration secret cannot be opened with this connector's keys.",
                mend="Restore the key folder that belongs to this store.",
            ) from None

    def _cipher(self) -> AESGCM:
        return AESGCM(self._keys.derive(_WRAPPING_PURPOSE))


def _require_provider(collaboration: Collaboration, participant_id: str) -> None:
    if not collaboration.has(participant_id, CollaborationRole.PROVIDER):
        text = "Only providers of the collaboration hold its pseudonym secret."
        raise NotPermitted([Reason(code="not_a_provider", text=text)])


def _derive(secret: bytes, domain: _Domain) -> bytes:
    info = json.dumps(["pseudonym-key", domain.collaboration, domain.generation]).encode()
    return HKDF(hashes.SHA256(), SECRET_BYTES, salt=None, info=info).derive(secret)
