"""Four eyes on a policy, and the folder taken up while the connector runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from connector.control_plane.policies import Policies
from connector.errors import Conflict, NotFound, NotPermitted, PolicyInvalid, PolicyUnavailable
from connector.model.audit import AuditEvent
from connector.model.json import JsonObject
from tests.clocks import ManualClock
from tests.fakes import MemoryStore

FIRST, SECOND, BAD = {"a.rego": "one"}, {"a.rego": "two"}, {"a.rego": "bad"}


def digest(modules: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(modules.items())).encode()).hexdigest()


class Engine:
    def __init__(self) -> None:
        self.modules: Mapping[str, str] | None = None
        self.down = False

    @property
    def revision(self) -> str:
        return digest(self.modules)[:16] if self.modules is not None else ""

    async def load(self, modules: Mapping[str, str]) -> None:
        if self.down:
            raise PolicyUnavailable("OPA does not answer")
        await tried(modules)
        self.modules = dict(modules)

    async def evaluate(self, packages: Sequence[str], request: JsonObject) -> Mapping[str, JsonObject]:
        raise NotImplementedError

    async def close(self) -> None: ...


async def tried(modules: Mapping[str, str]) -> None:
    if "bad" in modules.values():
        raise PolicyInvalid("unexpected word", where="a.rego:1")


class Office:
    """A connector's policies; `restart` keeps store and folder only."""

    def __init__(self, approvals: int) -> None:
        self.approvals = approvals
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.folder: Mapping[str, str] = FIRST
        self.records: list[tuple[AuditEvent, dict[str, Any]]] = []
        self.decided_anew = 0

    async def restart(self) -> Office:
        self.engine = Engine()
        if not self.approvals:
            await self.engine.load(self.folder)
        self.policies = self.replica(self.engine)
        await self.policies.open()
        return self

    def replica(self, engine: Engine) -> Policies:
        return Policies(
            approvals=self.approvals,
            read=self._read,
            digest_of=digest,
            check=tried,
            engine=engine,
            store=self.store,
            clock=self.clock,
            in_force_anew=self._anew,
            record=self._record,
        )

    async def _read(self) -> Mapping[str, str]:
        return self.folder

    async def _anew(self) -> None:
        self.decided_anew += 1

    async def _record(self, event: AuditEvent, **fields: Any) -> None:
        self.records.append((event, fields))

    async def save(self, modules: Mapping[str, str]) -> None:
        """As an editor does, and time for two looks."""
        self.folder = modules
        await self.policies.look()
        await self.policies.look()

    async def waiting(self) -> str:
        found = (await self.policies.status()).waiting
        return found.digest if found else ""


@pytest.fixture(params=[1, 2])
async def office(request: pytest.FixtureRequest) -> Office:
    return await Office(request.param).restart()


async def approved(office: Office, modules: Mapping[str, str]) -> None:
    for number in range(office.approvals):
        await office.policies.approve(digest(modules), by=f"person-{number}")


# --- where nobody asks for approvals ------------------------------------------------------------------------


async def test_what_is_in_the_folder_is_in_force() -> None:
    """As ever: and a change is taken up with no restart, and every grant decided anew."""
    office = await Office(0).restart()
    assert office.engine.modules == FIRST
    assert office.decided_anew == 0
    await office.save(SECOND)
    assert office.engine.modules == SECOND
    assert office.decided_anew == 1
    assert office.records == [(AuditEvent.POLICY_LOADED, {"object": digest(SECOND)})]
    await office.policies.look()
    assert office.decided_anew == 1
    with pytest.raises(Conflict):
        await office.policies.approve(digest(SECOND), by="anna")


async def test_a_folder_that_is_being_saved_is_left_alone() -> None:
    """Two looks must see the same: half of a change is no policy."""
    office = await Office(0).restart()
    for half in ({"a.rego": "t"}, {"a.rego": "tw"}, SECOND):
        office.folder = half
        await office.policies.look()
        assert office.engine.modules == FIRST
    await office.policies.look()
    assert office.engine.modules == SECOND


@pytest.mark.parametrize("approvals", [0, 1])
async def test_a_bad_one_is_named_once_and_the_old_one_stays(
    approvals: int, caplog: pytest.LogCaptureFixture
) -> None:
    """file:line in the log and in the status; mended, it is taken up."""
    caplog.set_level(logging.ERROR)
    office = await Office(approvals).restart()
    if approvals:
        await approved(office, FIRST)
    for _ in range(3):
        await office.save(BAD)
    assert [r.getMessage() for r in caplog.records] == [
        "policies are not taken up: a.rego:1: unexpected word"
    ]
    assert (await office.policies.status()).problem == "a.rego:1: unexpected word"
    assert office.engine.modules == FIRST
    assert await office.waiting() == ""
    await office.save(SECOND)
    assert (await office.policies.status()).problem == ""
    assert (office.engine.modules == SECOND) is (not approvals)


async def test_an_engine_that_does_not_answer_gets_it_later() -> None:
    office = await Office(0).restart()
    office.engine.down = True
    await office.save(SECOND)
    assert "does not answer" in (await office.policies.status()).problem
    assert office.engine.modules == FIRST
    office.engine.down = False
    await office.policies.look()
    assert office.engine.modules == SECOND
    assert (await office.policies.status()).problem == ""


# --- four eyes ----------------------------------------------------------------------------------------------


async def test_nothing_approved_is_nothing_in_force(office: Office) -> None:
    """Fail closed: the engine holds no policy, and so denies (test_decision.py)."""
    assert office.engine.revision == ""
    status = await office.policies.status()
    assert status.active is None
    assert status.waiting is not None
    assert status.waiting.digest == digest(FIRST)


async def test_enough_different_people_put_it_in_force(office: Office) -> None:
    for number in range(office.approvals):
        assert office.engine.modules is None
        for _ in range(3):  # again counts once
            await office.policies.approve(digest(FIRST), by=f"person-{number}")
    assert office.engine.modules == FIRST
    status = await office.policies.status()
    assert status.waiting is None
    assert status.active is not None
    assert [s.by for s in status.active.approved] == [f"person-{n}" for n in range(office.approvals)]
    events = [e for e, _ in office.records]
    assert events == [AuditEvent.POLICY_APPROVED] * office.approvals + [AuditEvent.POLICY_LOADED]
    assert office.decided_anew == 1


async def test_the_approved_one_stays_until_the_next_is_approved(office: Office) -> None:
    """Also over a restart, whatever the folder holds by then."""
    await approved(office, FIRST)
    await office.save(SECOND)
    assert office.engine.modules == FIRST
    assert await office.waiting() == digest(SECOND)
    await office.restart()
    assert office.engine.modules == FIRST
    assert await office.waiting() == digest(SECOND)
    await approved(office, SECOND)
    assert office.engine.modules == SECOND
    office.folder = {}
    await office.restart()
    assert office.engine.modules == SECOND


async def test_an_approval_is_of_one_revision(office: Office) -> None:
    """Not of what is in the folder a moment later; nor of one that is not there."""
    await office.policies.approve(digest(FIRST), by="anna")
    await office.save(SECOND)
    with pytest.raises(NotFound):
        await office.policies.approve(digest({"a.rego": "three"}), by="bea")
    if office.approvals == 2:
        await office.policies.approve(digest(SECOND), by="bea")
        assert office.engine.modules is None
        status = await office.policies.status()
        assert status.waiting is not None
        assert [s.by for s in status.waiting.approved] == ["bea"]
    else:
        assert office.engine.modules == FIRST
    with pytest.raises(NotFound):
        await office.policies.approve(digest(BAD), by="bea")


async def test_going_back_is_a_change_like_any_other(office: Office) -> None:
    """Approvals are used up: an older revision needs new ones."""
    await approved(office, FIRST)
    await office.save(SECOND)
    await approved(office, SECOND)
    await office.save(FIRST)
    assert office.engine.modules == SECOND
    assert await office.waiting() == digest(FIRST)
    await office.save(SECOND)
    assert await office.waiting() == ""


async def test_who_submitted_it_does_not_approve_it(office: Office) -> None:
    """Nor counts where the approval came first."""
    await office.policies.approve(digest(FIRST), by="anna") if office.approvals == 2 else None
    await office.policies.submit(digest(FIRST), by="anna")
    with pytest.raises(NotPermitted, match="somebody else"):
        await office.policies.approve(digest(FIRST), by="anna")
    await office.policies.approve(digest(FIRST), by="person-0")
    if office.approvals == 2:
        assert office.engine.modules is None
        await office.policies.approve(digest(FIRST), by="person-1")
    assert office.engine.modules == FIRST
    status = await office.policies.status()
    assert status.active is not None
    assert [s.by for s in status.active.submitted] == ["anna"]
    assert "anna" not in [s.by for s in status.active.approved]


async def test_another_replica_follows(office: Office) -> None:
    """Approvals are in the store that they share."""
    engine = Engine()
    other = office.replica(engine)
    await other.open()
    for number in range(office.approvals):
        which = office.policies if number == 0 else other
        await which.approve(digest(FIRST), by=f"person-{number}")
    for policies in (other, office.policies):
        await policies.look()
    assert engine.modules == FIRST == office.engine.modules


async def test_what_was_changed_in_the_store_is_not_taken_up(office: Office) -> None:
    """The digest holds the modules: fail closed, and a new approval mends it."""
    await approved(office, FIRST)
    async with office.store.transaction() as tx:
        held = dict(await tx.value("policy-approved") or {})
        await tx.put_value("policy-approved", {**held, "modules": {"a.rego": "allow everything"}})
    await office.restart()
    assert office.engine.modules is None
    assert "not those that were approved" in (await office.policies.status()).problem
    await approved(office, FIRST)
    assert office.engine.modules == FIRST


async def test_more_approvals_asked_for_are_needed_for_what_was_approved_before() -> None:
    office = await Office(1).restart()
    await approved(office, FIRST)
    office.approvals = 2
    await office.restart()
    assert office.engine.modules is None
    assert await office.waiting() == digest(FIRST)
    await approved(office, FIRST)
    assert office.engine.modules == FIRST


async def test_approved_while_the_engine_is_down_is_taken_up_later(office: Office) -> None:
    office.engine.down = True
    for number in range(office.approvals - 1):
        await office.policies.approve(digest(FIRST), by=f"person-{number}")
    with pytest.raises(PolicyUnavailable):
        await office.policies.approve(digest(FIRST), by="last")
    office.engine.down = False
    await office.policies.look()
    assert office.engine.modules == FIRST
    assert office.decided_anew == 1
