"""A participant's own dealings with the registry: its list, an application, new keys."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from types import TracebackType
from typing import Any

import httpx

from connector.access import registry_application, trust_list
from connector.access.jose import Refusal
from connector.access.registry_application import ApplicationKind
from connector.adapters.clock import SystemClock
from connector.errors import ConfigurationError, ConnectorError, NotFound, PeerRefused, Unavailable
from connector.model.participant import Participant, TrustList
from connector.ports import Keys
from connector.settings import Settings

_SECONDS = 10.0


class Registrar:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._http = httpx.Client(base_url=settings.registry_url, timeout=_SECONDS, trust_env=False)

    def __enter__(self) -> Registrar:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.close()

    def trust_list(self) -> TrustList:
        """As the registry has it now, verified by the pinned keys. Raises Unavailable, PeerRefused."""
        answer = self._ask("GET", "/trust-list")
        pinned = json.loads(self._settings.path(self._settings.registry_jwks).read_text(encoding="utf-8"))
        try:
            return trust_list.accept(answer.text.strip(), pinned["keys"], now=self._clock.now()).content
        except Refusal as refusal:
            raise PeerRefused(
                f"its list is not signed by the pinned key ({refusal.code})", participant="registry"
            ) from refusal

    def apply(self, keys: Keys, participant: Participant) -> Any:
        """For admission; a person decides. The registry's answer: {id, state, ...}."""
        token = self._signed(keys, participant, ApplicationKind.ADMISSION, self.trust_list().issuer)
        return self._ask("POST", "/applications", token).json()

    def application(self, application_id: str) -> Any:
        return self._ask("GET", f"/applications/{application_id}").json()

    def publish_keys(self, keys: Keys) -> None:
        """Signed with a key that the list has: the present one, or one that still verifies."""
        current = self.trust_list()
        held = current.participants.get(self._settings.participant_id)
        if held is None:
            raise NotFound(
                f"{self._settings.participant_id} is not in the participant registry.",
                mend="Apply for admission first: `connector apply`.",
            )
        changed = replace(held, jwks=tuple(keys.public_jwks()))
        token = self._signed(keys, changed, ApplicationKind.KEYS, current.issuer)
        self._ask("POST", f"/participants/{held.id}/keys", token)

    def knows(self, kid: str) -> bool:
        held = self.trust_list().participants.get(self._settings.participant_id)
        return held is not None and any(jwk["kid"] == kid for jwk in held.jwks)

    def seconds_until_known(self, kid: str, seconds: float) -> float:
        """Until the registry's list has had the key for `seconds`; at least one second while it has not."""
        current = self.trust_list()
        held = current.participants.get(self._settings.participant_id)
        if held is None or all(jwk["kid"] != kid for jwk in held.jwks):
            return max(seconds, 1.0)
        return seconds - (self._clock.now() - current.issued_at).total_seconds()

    def _signed(self, keys: Keys, participant: Participant, kind: ApplicationKind, issuer: str) -> str:
        return registry_application.make(
            keys,
            participant,
            kind=kind,
            audience=issuer,
            at=self._clock.now(),
            application_id=uuid.uuid4().hex,
        )

    def _ask(self, method: str, path: str, content: str | None = None) -> httpx.Response:
        try:
            answer = self._http.request(method, path, content=content)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"The registry at {self._settings.registry_url} does not answer ({type(error).__name__}).",
                mend="Check registry_url; nothing was changed there.",
            ) from None
        if answer.status_code >= 300:
            raise _refused(answer)
        return answer


def _refused(answer: httpx.Response) -> ConnectorError:
    try:
        body = answer.json()
        return PeerRefused(str(body["detail"]), participant="registry", mend=str(body.get("mend", "")))
    except (ValueError, KeyError, TypeError):
        return ConfigurationError(
            f"answered {answer.status_code}", where="registry_url", mend="Is it a participant registry?"
        )
