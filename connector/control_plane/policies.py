"""Which revision of our policies is in force: the folder's, or the last one that enough people approved.

A revision is the SHA-256 over all modules, names and texts: approving one approves exactly that text. The
folder is looked at all the time; what changed there is compiled and tried before anything happens, and a bad
one is named in the log while the one in force stays. A new one in force means that every grant is decided on
anew, running streams too.

Where approvals are needed, a revision waits for that many different people, none of whom submitted it. What
they approved is kept in the store, modules and all: a restart, or another folder, changes nothing about it.
With nothing approved, everything is denied (`policy_not_approved`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from connector.errors import Conflict, ConnectorError, NotFound, NotPermitted, PolicyInvalid, Reason
from connector.model.audit import AuditEvent
from connector.model.json import from_rfc3339, to_rfc3339
from connector.ports import Clock, PolicyEngine, Store, Transaction

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the folder, and at what other replicas know to be approved."""

Modules = Mapping[str, str]

_APPROVED = "policy-approved"
_APPROVAL = "policy-approval:"
_SUBMISSION = "policy-submission:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """That somebody submitted or approved a revision."""

    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    digest: str
    modules: Modules
    submitted: Sequence[Said] = ()
    approved: Sequence[Said] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """`active` is None while everything is denied. `waiting`: in the folder, and not in force for want of
    approvals. `problem`: why what is in the folder is not taken up, "" where nothing is wrong."""

    approvals_needed: int
    active: Revision | None
    waiting: Revision | None
    problem: str


class Policies:
    """`read` gives all modules as the folder has them now; `check` raises PolicyInvalid for modules that no
    engine could take; `in_force_anew` makes every grant be decided anew, and returns once that holds."""

    def __init__(
        self,
        *,
        approvals: int,
        read: Callable[[], Awaitable[Modules]],
        digest_of: Callable[[Modules], str],
        check: Callable[[Modules], Awaitable[None]],
        engine: PolicyEngine,
        store: Store,
        clock: Clock,
        in_force_anew: Callable[[], Awaitable[None]],
        record: Callable[..., Awaitable[object]],
    ) -> None:
        self._needed = approvals
        self._read = read
        self._digest_of = digest_of
        self._check = check
        self._engine = engine
        self._store = store
        self._clock = clock
        self._in_force_anew = in_force_anew
        self._record = record
        self._changing = asyncio.Lock()
        self._active: Revision | None = None
        self._waiting: Revision | None = None
        self._seen = ""
        self._refused = ""
        self._announced = True
        self._problems: dict[str, str] = {}

    async def open(self) -> None:
        """At start. Where no approval is needed the engine has the folder's modules already; else what was
        approved comes from the store, and nothing else does."""
        modules = await self._read()
        revision = Revision(digest=self._digest_of(modules), modules=modules)
        self._seen = revision.digest
        if not self._needed:
            self._active = revision
            return
        async with self._changing:
            with self._noted("store"):
                await self._follow_approved()
            self._announced = True  # nothing runs yet that could be decided anew
            await self._consider(revision)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take up what has changed in the folder, or has been approved elsewhere. Faults are logged, once."""
        async with self._changing:
            with self._noted("store"):
                if self._needed:
                    await self._follow_approved()
                await self._announce()
            with self._noted("folder"):
                modules = await self._read()
                revision = Revision(digest=self._digest_of(modules), modules=modules)
                settled = revision.digest == self._seen  # else perhaps somebody is still saving files
                self._seen = revision.digest
                if settled:
                    await self._consider(revision)

    # --- people -------------------------------------------------------------------------------------------

    async def status(self) -> PolicyStatus:
        async with self._store.transaction(read_only=True) as tx:
            waiting = await self._described(tx, self._waiting) if self._waiting else None
        return PolicyStatus(
            approvals_needed=self._needed,
            active=self._active,
            waiting=waiting,
            problem="; ".join(self._problems.values()),
        )

    async def revision(self, digest: str) -> Revision:
        """The one in force or the one that waits, with its modules. Raises NotFound."""
        for known in (self._waiting, self._active):
            if known is not None and known.digest == digest:
                return known
        raise _not_there()

    async def submit(self, digest: str, *, by: str) -> PolicyStatus:
        """Whoever says that it is theirs does not approve it. Raises NotFound, Conflict."""
        async with self._changing:
            waiting = self._required(digest)
            async with self._store.transaction() as tx:
                first = await self._say(tx, _SUBMISSION, waiting, by)
            if first:
                await self._record(AuditEvent.POLICY_SUBMITTED, actor=by, object=digest)
        return await self.status()

    async def approve(self, digest: str, *, by: str) -> PolicyStatus:
        """Of somebody who may approve. With enough of them it is in force when this returns; a repeat counts
        once. Raises NotFound, Conflict, NotPermitted, or PolicyUnavailable: approved, and taken up later."""
        async with self._changing:
            if self._needed and self._active is not None and self._active.digest == digest:
                return await self.status()
            waiting = self._required(digest)
            async with self._store.transaction() as tx:
                if by in {s.by for s in await _said(tx, _SUBMISSION, digest)}:
                    text = "You have submitted this revision: somebody else approves it."
                    raise NotPermitted([Reason(code="own_submission", text=text)])
                first = await self._say(tx, _APPROVAL, waiting, by)
                enough = await self._put_in_force(tx, waiting)
            if first:
                await self._record(AuditEvent.POLICY_APPROVED, actor=by, object=digest)
            if enough:
                await self._follow_approved()
                await self._announce()
        return await self.status()

    # --- what is in force ---------------------------------------------------------------------------------

    async def _consider(self, revision: Revision) -> None:
        """What the folder holds now. Raises PolicyUnavailable; then it is looked at again."""
        if revision.digest == self._refused:
            return
        self._refused = ""
        self._problems.pop("modules", None)
        if self._active is not None and revision.digest == self._active.digest:
            self._waiting = None
            return
        if self._waiting is not None and revision.digest == self._waiting.digest:
            return
        try:
            if self._needed:
                await self._check(revision.modules)
                self._waiting = revision
                _log.warning("revision %s of the policies waits for approval", revision.digest)
            else:
                await self._load(revision)
        except PolicyInvalid as error:
            self._waiting, self._refused = None, revision.digest
            self._wrong("modules", error)
            return
        await self._announce()

    async def _follow_approved(self) -> None:
        """What was approved, here or at another replica. Raises PolicyInvalid, PolicyUnavailable."""
        async with self._store.transaction() as tx:
            if self._waiting is not None:
                await self._put_in_force(tx, self._waiting)  # two who approved at the same time
            held = await tx.value(_APPROVED)
        if held is None or (self._active is not None and held["digest"] == self._active.digest):
            return
        approved = Revision(
            digest=str(held["digest"]),
            modules=dict(held["modules"]),
            submitted=_read(held["submitted"]),
            approved=_read(held["approved"]),
        )
        if len({s.by for s in approved.approved}) < self._needed:
            return  # more are asked for now than then
        if self._digest_of(approved.modules) != approved.digest:
            raise PolicyInvalid(
                "the approved modules are not those that were approved",
                where="store",
                mend="Have the folder's revision approved anew.",
            )
        await self._load(approved)
        if self._waiting is not None and self._waiting.digest == approved.digest:
            self._waiting = None

    async def _load(self, revision: Revision) -> None:
        await self._engine.load(revision.modules)
        self._active, self._announced = revision, False
        _log.info("revision %s of the policies is in force", revision.digest)

    async def _announce(self) -> None:
        """Made up for at the next look, where the store does not answer."""
        if self._announced or self._active is None:
            return
        await self._in_force_anew()
        self._announced = True
        await self._record(AuditEvent.POLICY_LOADED, object=self._active.digest)

    async def _put_in_force(self, tx: Transaction, waiting: Revision) -> bool:
        """On record as the approved one, if enough others than its submitters say so."""
        found = await self._described(tx, waiting)
        if len(found.approved) < self._needed:
            return False
        approved = {
            "digest": found.digest,
            "modules": dict(found.modules),
            "submitted": [_wire(s) for s in found.submitted],
            "approved": [_wire(s) for s in found.approved],
        }
        await tx.put_value(_APPROVED, approved)
        said = [*await tx.values(_APPROVAL), *await tx.values(_SUBMISSION)]
        await tx.delete_values(said)  # of others too: they were said beside another revision in force
        return True

    async def _described(self, tx: Transaction, revision: Revision) -> Revision:
        submitted = await _said(tx, _SUBMISSION, revision.digest)
        barred = {s.by for s in submitted}
        approved = [s for s in await _said(tx, _APPROVAL, revision.digest) if s.by not in barred]
        return Revision(
            digest=revision.digest, modules=revision.modules, submitted=submitted, approved=approved
        )

    async def _say(self, tx: Transaction, what: str, revision: Revision, by: str) -> bool:
        """Whether it is new. A key for each person: two at the same time do not overwrite each other."""
        key = f"{what}{revision.digest}:{hashlib.sha256(by.encode()).hexdigest()}"
        if await tx.value(key) is not None:
            return False
        await tx.put_value(key, _wire(Said(by=by, at=self._clock.now())))
        return True

    def _required(self, digest: str) -> Revision:
        if not self._needed:
            raise Conflict(
                "No approval is needed here: what is in the folder is in force.",
                mend="Set policy_approvals to ask for some.",
                code="no_approval_needed",
            )
        if self._waiting is None or self._waiting.digest != digest:
            raise _not_there()
        return self._waiting

    @contextmanager
    def _noted(self, where: str) -> Iterator[None]:
        try:
            yield
            self._problems.pop(where, None)
        except ConnectorError as error:
            self._wrong(where, error)

    def _wrong(self, where: str, error: ConnectorError) -> None:
        if self._problems.get(where) != error.message:  # once, not every second
            _log.error("policies are not taken up: %s", error.message)
        self._problems[where] = error.message


def _not_there() -> NotFound:
    return NotFound(
        "This revision is neither in force nor waiting.", mend="Look at `connector policy status`."
    )


async def _said(tx: Transaction, what: str, digest: str) -> Sequence[Said]:
    return _read(list((await tx.values(f"{what}{digest}:")).values()))


def _read(wires: Sequence[Mapping[str, Any]]) -> Sequence[Said]:
    found = [Said(by=str(w["by"]), at=from_rfc3339(str(w["at"]))) for w in wires]
    return sorted(found, key=lambda s: (s.at, s.by))


def _wire(said: Said) -> dict[str, str]:
    return {"by": said.by, "at": to_rfc3339(said.at)}
