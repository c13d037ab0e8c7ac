"""People who signed in, for a working day at most: kept in the store, so that signing out is real."""

from __future__ import annotations

from datetime import timedelta

from connector.access.jose import Refusal
from connector.access.secrets_at_rest import RandomBytes, digest, new_secret
from connector.model.json import from_rfc3339, to_rfc3339
from connector.model.person import Person, PersonRole
from connector.ports import Clock, Store

LIFE = timedelta(hours=8)
"""A working day; after it the provider is asked again, and a role that was taken away is gone."""

_STORE = "session:"
_MAX_CHARS = 128


class Sessions:
    def __init__(self, store: Store, clock: Clock, random_bytes: RandomBytes) -> None:
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes

    async def open(self, person: Person) -> str:
        """The cookie's value. What has ended before is forgotten on the way."""
        secret, now = new_secret(self._random_bytes), self._clock.now()
        async with self._store.transaction() as tx:
            held = await tx.values(_STORE)
            await tx.delete_values([k for k, v in held.items() if from_rfc3339(str(v["expires"])) <= now])
            await tx.put_value(
                _STORE + digest(secret),
                {
                    "subject": person.subject,
                    "roles": sorted(person.roles),
                    "purposes": sorted(person.purposes),
                    "expires": to_rfc3339(now + LIFE),
                },
            )
        return secret

    async def person(self, cookie: str) -> Person:
        """Raises Refusal, or Unavailable."""
        if not 0 < len(cookie) <= _MAX_CHARS:
            raise Refusal("session")
        async with self._store.transaction(read_only=True) as tx:
            held = await tx.value(_STORE + digest(cookie))
        if held is None or self._clock.now() >= from_rfc3339(str(held["expires"])):
            raise Refusal("session")
        return Person(
            subject=held["subject"],
            roles=frozenset(PersonRole(r) for r in held["roles"]),
            purposes=frozenset(held["purposes"]),
        )

    async def close(self, cookie: str) -> None:
        async with self._store.transaction() as tx:
            await tx.delete_values([_STORE + digest(cookie)])
