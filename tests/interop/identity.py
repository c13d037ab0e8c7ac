"""EDC's `iam-mock`, spoken by ours: the Authorization header is a bare JSON object that names the sender.

It proves nothing, so it exists in tests only. That the sender is an active participant is checked still.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from connector.access.identity import single_value
from connector.errors import NotAuthenticated
from connector.model.participant import Participant, ParticipantStatus
from connector.ports import PeerResponse, TrustRegistry

REGION = "eu"


class UnsafeMockIdentity:
    """Port PeerIdentity."""

    def __init__(self, participant_id: str, registry: TrustRegistry) -> None:
        self._participant_id = participant_id
        self._registry = registry

    async def headers(
        self, participant: Participant, method: str, url: str, **_about: Any
    ) -> Mapping[str, str]:
        # EDC reads all three, and fails on a token without a region
        token = {"clientId": self._participant_id, "audience": participant.dsp_url, "region": REGION}
        return {"Authorization": json.dumps(token)}

    def refused(self, participant: Participant, answer: PeerResponse, **_about: Any) -> bool:
        return False  # there is nothing to renew

    async def identify(self, method: str, url: str, headers: Mapping[str, Sequence[str]]) -> Participant:
        try:
            told = json.loads(single_value(headers.get("authorization", ())) or "")
            participant = self._registry.current().participants.get(told["clientId"])
        except (ValueError, TypeError, KeyError):
            participant = None
        if participant is None or participant.status is not ParticipantStatus.ACTIVE:
            raise NotAuthenticated("The header names no participant of ours.")
        return participant
