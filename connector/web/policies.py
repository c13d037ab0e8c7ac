"""Our policies, for our own people: what is in force, what waits, and who said so. Prefix /v1/policies."""

# no `from __future__ import annotations`: FastAPI must see the types that a function names for itself

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from connector.control_plane.policies import Policies, PolicyStatus, Revision, Said
from connector.model.json import to_rfc3339
from connector.model.person import Person, PersonRole
from connector.web.auth import Door, needs

R = PersonRole


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyServices:
    door: Door
    policies: Policies


def policies_router(services: PolicyServices) -> APIRouter:
    router = APIRouter(prefix="/v1/policies", tags=["policies"])
    policies = services.policies
    Viewer = Annotated[Person, Depends(needs(services.door, R.VIEWER))]
    Submitter = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]
    Approver = Annotated[Person, Depends(needs(services.door, R.APPROVER))]

    @router.get("")
    async def status(_person: Viewer) -> dict[str, Any]:
        """The revision in force, and the one that waits for approval."""
        return _status(await policies.status())

    @router.get("/{revision}")
    async def revision(revision: str, _person: Viewer) -> dict[str, Any]:
        """Its modules, word for word: what an approval is an approval of."""
        found = await policies.revision(revision)
        return {"revision": found.digest, "modules": dict(found.modules)}

    @router.post("/{revision}/submit")
    async def submit(revision: str, person: Submitter) -> dict[str, Any]:
        """Says that the waiting revision is one's own work: others approve it."""
        return _status(await policies.submit(revision, by=person.subject))

    @router.post("/{revision}/approve")
    async def approve(revision: str, person: Approver) -> dict[str, Any]:
        """With enough approvals it is in force when this answers."""
        return _status(await policies.approve(revision, by=person.subject))

    return router


def _status(status: PolicyStatus) -> dict[str, Any]:
    return {
        "approvalsNeeded": status.approvals_needed,
        "active": _revision(status.active),
        "waiting": _revision(status.waiting),
        "problem": status.problem,
    }


def _revision(revision: Revision | None) -> Mapping[str, Any] | None:
    if revision is None:
        return None
    return {
        "revision": revision.digest,
        "files": sorted(revision.modules),
        "submittedBy": [_said(s) for s in revision.submitted],
        "approvedBy": [_said(s) for s in revision.approved],
    }


def _said(said: Said) -> Mapping[str, str]:
    return {"by": said.by, "at": to_rfc3339(said.at)}
