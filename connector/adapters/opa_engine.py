"""PolicyEngine on a real OPA server (1.19.1 or later), one beside each connector.

OPA replaces modules one by one and compiles after each. So every revision is pushed under a root package of
its own, `data.<scope>_<revision>.dataspace...`, tried there, and decisions move to it in one assignment; the
one before stays until the next change, for decisions under way. An OPA that has forgotten its modules (it was
restarted) gets them again at the next decision.

The client library's traps are closed here: no retries (it would repeat failed evaluations), no rewriting of
policies, undefined is an error, and its own texts never leave (they can hold parts of the input).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
from opa_client.errors import DeletePolicyError, RegoParseError
from opa_client.opa_async import AsyncOpaClient

from connector.access.decision_fixtures import fixture_inputs
from connector.adapters.policy_files import (
    deciding_packages,
    relocated,
    require_answers,
    require_portable,
    revision_of,
)
from connector.errors import ConfigurationError, PolicyInvalid, PolicyUnavailable
from connector.model.json import JsonObject

_log = logging.getLogger(__name__)

DECISION_SECONDS = 1.5
LOAD_SECONDS = 10.0
_STRICT = {"strict-builtin-errors": "true"}
"""A builtin that fails is an error, as it is in the embedded engine, and not "undefined"."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Revision:
    """Modules in force at the server: `root` is their package, `packages` those that decide."""

    id: str
    root: str
    modules: Mapping[str, str]
    packages: Mapping[str, str]

    def policy_id(self, path: str) -> str:
        return quote(f"{self.root}/{path}")


class OpaEngine:
    """`url`: scheme, host and port. `scope` keeps connectors apart that share a server."""

    def __init__(
        self,
        url: str,
        *,
        scope: str = "connector",
        token: str = "",
        decision_seconds: float = DECISION_SECONDS,
    ) -> None:
        self._client = _client(url, token)
        self._scope = scope
        self._decision_seconds = decision_seconds
        self._current: _Revision | None = None
        self._before: _Revision | None = None
        self._changing = asyncio.Lock()

    @property
    def revision(self) -> str:
        return self._current.id if self._current else ""

    async def load(self, modules: Mapping[str, str]) -> None:
        require_portable(modules)
        revision = revision_of(modules)
        candidate = _Revision(
            revision, f"{self._scope}_{revision}", dict(modules), deciding_packages(modules)
        )
        async with self._changing:
            await self._open()
            try:
                await self._push(candidate)
                require_answers(candidate.packages, await self._tried(candidate))
            except (PolicyInvalid, PolicyUnavailable):
                if candidate not in (self._current, self._before):
                    await self._remove(candidate)
                raise
            if candidate != self._current:
                outdated, self._before, self._current = self._before, self._current, candidate
                if outdated is not None and outdated != candidate:
                    await self._remove(outdated)

    async def evaluate(self, packages: Sequence[str], request: JsonObject) -> Mapping[str, JsonObject]:
        current = self._current
        if current is None:
            raise PolicyUnavailable("no policies are loaded")
        found = await self._asked(current, packages, request)
        if any(found[p] is None and p in current.packages for p in packages):
            await self._restore(current)
            found = await self._asked(current, packages, request)
        return {package: _decision(package, answer) for package, answer in found.items()}

    async def close(self) -> None:
        await self._client.close_connection()

    async def _open(self) -> None:
        if self._client._session is None:  # the library has no other way to tell, nor a lazy start
            await self._client.__aenter__()

    async def _asked(
        self, revision: _Revision, packages: Sequence[str], request: JsonObject
    ) -> Mapping[str, object]:
        """The decision of each package, None where OPA calls it undefined."""
        async with _within(self._decision_seconds):
            answers = await asyncio.gather(*(self._query(revision, p, request) for p in packages))
        return dict(zip(packages, answers, strict=True))

    async def _query(self, revision: _Revision, package: str, request: JsonObject) -> object:
        path = f"{revision.root}.{package}"
        answer = await _reached(self._client.query_rule(dict(request), path, "decision", _STRICT))
        return answer.get("result")

    async def _tried(self, candidate: _Revision) -> Mapping[str, Sequence[object]]:
        decisions: dict[str, list[object]] = {package: [] for package in candidate.packages}
        documents = fixture_inputs()
        for package, path in candidate.packages.items():
            for document in documents:
                try:
                    answers = await self._asked(candidate, [package], document)
                except PolicyUnavailable as error:
                    raise PolicyInvalid(
                        f"{package} cannot decide the trial inputs: {error.message}",
                        where=path,
                        mend="Mend the policy; the ones in force stay.",
                    ) from None
                decisions[package].append(answers[package])
        return decisions

    async def _push(self, revision: _Revision) -> None:
        """All modules, in an order in which each compiles: one may call functions of another."""
        waiting = dict(revision.modules)
        while waiting:
            refused: dict[str, PolicyInvalid] = {}
            for path, text in waiting.items():
                try:
                    await self._put(revision, path, text)
                except PolicyInvalid as error:
                    refused[path] = error
            if len(refused) == len(waiting):
                raise next(iter(refused.values()))
            waiting = {path: waiting[path] for path in refused}

    async def _put(self, revision: _Revision, path: str, text: str) -> None:
        moved = relocated(text, revision.root)
        try:
            await _reached(
                self._client.update_policy_from_string(moved, revision.policy_id(path), rego_compat=False)
            )
        except RegoParseError as error:
            raise _invalid(error, revision, path) from None

    async def _remove(self, revision: _Revision) -> None:
        """Callers before what they call. What stays is in nobody's way: each revision has its own root."""
        waiting = list(revision.modules)
        while waiting:
            refused = []
            for path in waiting:
                try:
                    await _reached(self._client.delete_policy(revision.policy_id(path)))
                except DeletePolicyError:
                    refused.append(path)
                except PolicyUnavailable as error:
                    _log.info("revision %s stays at OPA: %s", revision.id, error.message)
                    return
            if len(refused) == len(waiting):
                return
            waiting = refused

    async def _restore(self, revision: _Revision) -> None:
        async with self._changing:
            if revision == self._current:
                _log.warning("OPA has lost revision %s; pushing it again", revision.id)
                try:
                    await self._push(revision)
                except PolicyInvalid:
                    raise PolicyUnavailable("OPA does not take the policies in force") from None


def _client(url: str, token: str) -> AsyncOpaClient:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ConfigurationError(
            "is not the base URL of an OPA server",
            where="opa_url",
            mend="Give scheme, host and port, as in http://127.0.0.1:8181.",
        )
    return AsyncOpaClient(
        host=f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        ssl=parts.scheme == "https",
        token=token or None,
        retries=0,
        timeout=LOAD_SECONDS,
    )


async def _reached(call: Awaitable[_Answer]) -> _Answer:
    try:
        return await call
    except aiohttp.ClientResponseError as error:
        # 500: the evaluation failed. OPA's own words can hold parts of the input
        raise PolicyUnavailable(f"OPA answered with status {error.status}") from None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise PolicyUnavailable(f"OPA does not answer ({type(error).__name__})") from None


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise PolicyUnavailable("OPA takes too long to decide") from None


def _decision(package: str, answer: object) -> JsonObject:
    if not isinstance(answer, dict):
        raise PolicyUnavailable(f"{package} gives no decision")
    return answer


def _invalid(error: RegoParseError, revision: _Revision, path: str) -> PolicyInvalid:
    """OPA names the module by its id; people know it by its path."""
    first: Mapping[str, Any] = next((e for e in error.errors if isinstance(e, dict)), {})
    place: Mapping[str, Any] = first.get("location") or {}
    file = str(place.get("file") or "").removeprefix(f"{revision.root}/") or path
    where = f"{file}:{place['row']}" if place.get("row") else file
    message = str(first.get("message") or error.message).replace(f"{revision.root}.", "")
    return PolicyInvalid(message, where=where, mend="Mend the policy; the ones in force stay.")
