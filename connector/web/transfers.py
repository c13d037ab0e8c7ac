"""The client API's transfers: begin, look, stop, go on, and read what an `HttpData-PULL` gives."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from connector.model.catalog import TransferFormat
from connector.model.person import Person, PersonRole
from connector.model.transfer import TransferState
from connector.web import render
from connector.web.auth import needs
from connector.web.body import Body, Refusal
from connector.web.streams import Cancel, Streamed

if TYPE_CHECKING:
    from connector.web.client_api import ClientServices

R = PersonRole
OPERATOR_SAID = "operator"


class TransferAsked(Body):
    agreement: str
    format: TransferFormat


def add_transfers(router: APIRouter, services: "ClientServices") -> None:
    _looking(router, services)
    _acting(router, services)
    _reading(router, services)


def _looking(router: APIRouter, services: "ClientServices") -> None:
    Viewer = Annotated[Person, Depends(needs(services.door, R.VIEWER))]

    @router.get("/transfers", tags=["transfers"])
    async def transfers(
        _person: Viewer,
        agreement: str = "",
        state: TransferState | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
        after: str = "",
    ) -> dict[str, Any]:
        """By pid. `next`: what to give as `after` for the next page; null where this is the last one."""
        found = await services.transfers.list(
            agreement_id=agreement or None, state=state, limit=limit, after=after
        )
        last = found[-1].pid if len(found) == limit else None
        return {"transfers": [render.transfer(t) for t in found], "next": last}

    @router.get("/transfers/{pid}", tags=["transfers"])
    async def transfer(pid: str, _person: Viewer) -> dict[str, Any]:
        return render.transfer(await services.transfers.get(pid))


def _acting(router: APIRouter, services: "ClientServices") -> None:
    Operator = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]

    @router.post("/transfers", tags=["transfers"], status_code=201)
    async def start(asked: TransferAsked, person: Operator) -> dict[str, Any]:
        push = asked.format is TransferFormat.CLOUD_EVENTS_PUSH
        made = await services.transfers.request(
            asked.agreement,
            asked.format,
            data_address=services.events_address if push else None,
            by=person.subject,
        )
        return render.transfer(made)

    @router.post("/transfers/{pid}/suspend", tags=["transfers"])
    async def suspend(pid: str, refusal: Refusal, person: Operator) -> dict[str, Any]:
        """As provider, nothing leaves under it any more once this has answered."""
        return render.transfer(
            await services.transfers.suspend(pid, OPERATOR_SAID, [refusal.reason], by=person.subject)
        )

    @router.post("/transfers/{pid}/resume", tags=["transfers"])
    async def resume(pid: str, person: Operator) -> dict[str, Any]:
        """A consumer cannot resume what the provider suspended."""
        return render.transfer(await services.transfers.resume(pid, by=person.subject))

    @router.post("/transfers/{pid}/complete", tags=["transfers"])
    async def complete(pid: str, person: Operator) -> dict[str, Any]:
        return render.transfer(await services.transfers.complete(pid, by=person.subject))

    @router.post("/transfers/{pid}/terminate", tags=["transfers"])
    async def terminate(pid: str, refusal: Refusal, person: Operator) -> dict[str, Any]:
        return render.transfer(
            await services.transfers.terminate(pid, OPERATOR_SAID, [refusal.reason], by=person.subject)
        )


def _reading(router: APIRouter, services: "ClientServices") -> None:
    Operator = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]
    Asker = Annotated[Person, Depends(needs(services.door, R.ANALYST, R.CASE_WORKER))]

    @router.get("/transfers/{pid}/data-address", tags=["transfers"])
    async def data_address(pid: str, person: Operator) -> dict[str, Any]:
        """Where the data is, with the provider's token if it gave one: no other route shows it."""
        return render.data_address(await services.pulls.address(pid, person))

    @router.get("/transfers/{pid}/data", tags=["transfers"], response_class=Response)
    async def data(pid: str, purpose: str, request: Request, person: Asker) -> Response:
        """The data, as the provider sends it. One that ends without its last chunk is not whole."""
        person.require_purpose(purpose)
        accept = ", ".join(request.headers.getlist("accept"))

        def opened(_cancel: Cancel) -> AbstractAsyncContextManager[tuple[str, AsyncIterator[bytes]]]:
            return services.pulls.open(pid, purpose, person, accept=accept)

        return Streamed(opened)
