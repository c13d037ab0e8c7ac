"""API keys for the organisation's own apps: roles, purposes and an end; shown once, kept as a hash.

`ck_<id>_<secret>`, sent as a bearer token over our own network or TLS. Nobody decides or administers by an
app's key; only the first administrator's, got for the one-time bootstrap token, may administer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from connector.access.jose import Refusal
from connector.access.secrets_at_rest import RandomBytes, digest, matches, new_secret
from connector.errors import NotFound, NotPermitted, Reason, RequestInvalid
from connector.model.audit import AuditEvent
from connector.model.json import from_rfc3339, to_rfc3339
from connector.model.person import Person, PersonRole
from connector.ports import Clock, Store

PREFIX = "ck_"
LONGEST = timedelta(days=366)
FOR_PEOPLE_ONLY = frozenset({PersonRole.ADMIN, PersonRole.APPROVER, PersonRole.DPO})
BOOTSTRAP_LIFE = timedelta(days=1)

_KEY = re.compile(r"ck_([A-Za-z0-9]{16})_([A-Za-z0-9_-]{43})")
_STORE = "api-key:"
_BOOTSTRAP = "bootstrap"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key, and not the key."""

    id: str
    name: str
    roles: frozenset[PersonRole]
    purposes: frozenset[str]
    created_at: datetime
    expires_at: datetime
    created_by: str
    secret_hash: str

    @property
    def person(self) -> Person:
        return Person(subject=f"app:{self.name}", roles=self.roles, purposes=self.purposes)


class ApiKeys:
    """`record` has a change on record in the audit log when it returns."""

    def __init__(self, store: Store, clock: Clock, random_bytes: RandomBytes, record: Any) -> None:
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes
        self._record = record

    async def create(
        self,
        name: str,
        *,
        roles: Iterable[PersonRole],
        purposes: Iterable[str],
        life: timedelta,
        by: str,
    ) -> tuple[ApiKey, str]:
        """The key's text is shown now and never again. Raises RequestInvalid, NotPermitted."""
        held = frozenset(roles)
        if not held:
            raise RequestInvalid("A key without a role opens nothing.", where="roles")
        if refused := held & FOR_PEOPLE_ONLY:
            text = f"The role {min(refused)} is for people: an app's key does not get it."
            raise NotPermitted([Reason(code="role_for_people", text=text)])
        return await self._make(name, held, frozenset(purposes), life, by)

    async def list(self) -> Sequence[ApiKey]:
        async with self._store.transaction(read_only=True) as tx:
            return [_read(k.removeprefix(_STORE), v) for k, v in (await tx.values(_STORE)).items()]

    async def revoke(self, key_id: str, *, by: str) -> None:
        """Opens nothing when this returns. Raises NotFound."""
        async with self._store.transaction() as tx:
            if await tx.value(_STORE + key_id) is None:
                raise NotFound("There is no such key.")
            await tx.delete_values([_STORE + key_id])
        await self._record(AuditEvent.API_KEY_REVOKED, actor=by, object=key_id)

    async def verify(self, text: str) -> Person:
        """Raises Refusal, the caller's business to hide; Unavailable where the store does not answer."""
        match = _KEY.fullmatch(text)
        if match is None:
            raise Refusal("api_key")
        async with self._store.transaction(read_only=True) as tx:
            found = await tx.value(_STORE + match[1])
        if found is None or not matches(match[2], str(found["hash"])):
            raise Refusal("api_key")
        key = _read(match[1], found)
        if self._clock.now() >= key.expires_at:
            raise Refusal("api_key_expired")
        return key.person

    # --- the first administrator ------------------------------------------------------------------------

    async def offer_bootstrap(self) -> str:
        """A token good for one administrator's key, once, on a store that never had one; "" on any other."""
        async with self._store.transaction() as tx:
            if await tx.value(_BOOTSTRAP) is not None:
                return ""
            secret = new_secret(self._random_bytes)
            await tx.put_value(_BOOTSTRAP, {"hash": digest(secret)})
            return secret

    async def bootstrap(self, token: str, name: str) -> tuple[ApiKey, str]:
        """Spends the token: a key that administers for a day, to set up sign-in with. Raises NotPermitted."""
        async with self._store.transaction() as tx:
            held = await tx.value(_BOOTSTRAP) or {}
            good = bool(held.get("hash")) and matches(token, str(held["hash"]))
            # counted, so that of two who come at once one is first
            if not good or not await tx.count_use(_BOOTSTRAP, period=str(held["hash"]), at_most=1):
                text = "The bootstrap token is not good, or was used."
                raise NotPermitted([Reason(code="bootstrap_refused", text=text)])
            await tx.put_value(_BOOTSTRAP, {"used": to_rfc3339(self._clock.now())})
        return await self._make(name, frozenset({PersonRole.ADMIN}), frozenset(), BOOTSTRAP_LIFE, "bootstrap")

    async def _make(
        self, name: str, roles: frozenset[PersonRole], purposes: frozenset[str], life: timedelta, by: str
    ) -> tuple[ApiKey, str]:
        if not _NAME.fullmatch(name):
            raise RequestInvalid("is letters, digits, spaces and . _ -, at most 64", where="name")
        if not timedelta(0) < life <= LONGEST:
            raise RequestInvalid(f"is between 1 and {LONGEST.days} days", where="days")
        now = self._clock.now()
        secret, key_id = new_secret(self._random_bytes), self._random_bytes(8).hex()
        key = ApiKey(
            id=key_id,
            name=name,
            roles=roles,
            purposes=purposes,
            created_at=now,
            expires_at=now + life,
            created_by=by,
            secret_hash=digest(secret),
        )
        async with self._store.transaction() as tx:
            await tx.put_value(_STORE + key_id, _to_wire(key))
        await self._record(AuditEvent.API_KEY_CREATED, actor=by, object=key_id, reasons=tuple(sorted(roles)))
        return key, f"{PREFIX}{key_id}_{secret}"


def _to_wire(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "roles": sorted(key.roles),
        "purposes": sorted(key.purposes),
        "created": to_rfc3339(key.created_at),
        "expires": to_rfc3339(key.expires_at),
        "by": key.created_by,
        "hash": key.secret_hash,
    }


def _read(key_id: str, wire: Mapping[str, Any]) -> ApiKey:
    return ApiKey(
        id=key_id,
        name=wire["name"],
        roles=frozenset(PersonRole(r) for r in wire["roles"]),
        purposes=frozenset(wire["purposes"]),
        created_at=from_rfc3339(wire["created"]),
        expires_at=from_rfc3339(wire["expires"]),
        created_by=wire["by"],
        secret_hash=wire["hash"],
    )
