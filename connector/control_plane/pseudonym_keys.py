"""Which key makes which pseudonym: a collaboration's secret or, without one, this agreement's own."""

from __future__ import annotations

from collections.abc import Sequence

from connector.access.admission import LiveGrant
from connector.access.pseudonym import ColumnHash, Pseudonymiser
from connector.control_plane.collaborations import CollaborationSecrets
from connector.errors import Unavailable
from connector.model.decision import Hash, Permit, Pseudonym
from connector.ports import Keys

AGREEMENT_DOMAIN = "agreement:"
"""Such a domain is this provider's own: nobody else's pseudonyms can match it."""


class PseudonymKeys:
    def __init__(self, keys: Keys, secrets: CollaborationSecrets) -> None:
        self._keys = keys
        self._secrets = secrets

    async def for_permit(self, live: LiveGrant, permit: Permit) -> dict[str, Pseudonymiser | ColumnHash]:
        """By column, for every pseudonym and keyed hash of the permit. Raises NotPermitted, PeerError."""
        made: dict[str, Pseudonymiser | ColumnHash] = {}
        for column, mask in permit.column_masks.items():
            if isinstance(mask, Hash):
                made[column] = ColumnHash(
                    self._keys.derive("column-hash"), f"{live.record.agreement.id}:{column}"
                )
        for column, pseudonym in permit.pseudonyms.items():
            made[column] = await self._pseudonymiser(pseudonym)
        return made

    async def names(self, pseudonym: Pseudonym, personal_ids: Sequence[str]) -> Sequence[str]:
        """The pseudonym of each id, in order. Raises Unavailable where one is no id."""
        found = (await self._pseudonymiser(pseudonym)).apply([i.strip() or None for i in personal_ids])
        named = [name for name in found if name is not None]
        if len(named) != len(personal_ids):
            raise Unavailable("An event names nobody.")
        return named

    async def _pseudonymiser(self, pseudonym: Pseudonym) -> Pseudonymiser:
        if pseudonym.domain.startswith(AGREEMENT_DOMAIN):
            key = self._keys.derive(f"pseudonym:{pseudonym.domain}:{pseudonym.generation}")
        else:
            key = await self._secrets.key(pseudonym.domain)
        return Pseudonymiser(key, pseudonym.domain, invertible=pseudonym.invertible)
