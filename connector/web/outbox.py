"""The client API's look at the outbox: which messages were given up, to whom, and why."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query

from connector.control_plane.undelivered import MOST
from connector.model.json import to_rfc3339
from connector.model.person import Person, PersonRole
from connector.ports import OutboxMessage
from connector.web.auth import needs

if TYPE_CHECKING:
    from connector.web.client_api import ClientServices


def add_outbox(router: APIRouter, services: "ClientServices") -> None:
    viewer = needs(services.door, PersonRole.VIEWER, PersonRole.OPERATOR)

    @router.get("/outbox/abandoned", tags=["contracts"])
    async def abandoned(
        _person: Annotated[Person, Depends(viewer)],
        limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
        before: str = "",
    ) -> dict[str, Any]:
        """Messages that were given up, the latest first. `next` is the `before` of the next page."""
        found = await services.undelivered.list(limit=limit, before=before)
        return {
            "messages": [_shown(m) for m in found],
            "next": found[-1].id if len(found) == limit else None,
        }


def _shown(message: OutboxMessage) -> dict[str, Any]:
    """Not the body: it may hold what is for the peer alone."""
    return {
        "id": message.id,
        "process": message.process_pid,
        "kind": message.kind,
        "message": str(message.body.get("@type", message.kind)),
        "recipient": message.recipient,
        "decidedAt": to_rfc3339(message.created_at),
        "attempts": message.attempts,
        "reason": message.last_error,
    }
