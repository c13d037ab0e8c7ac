"""The client API `/v1`: for the organisation's own people and apps. Every route names the role it needs."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, Field
from starlette.responses import StreamingResponse

from connector.control_plane.access_requests import AccessRequests
from connector.control_plane.agreements import Agreements
from connector.control_plane.consent import ConsentGiven, ConsentRegister
from connector.control_plane.counter_offers import CounterOffers
from connector.control_plane.discovery import Discovery
from connector.control_plane.federated_catalog import FederatedCatalog
from connector.control_plane.negotiation import Negotiations
from connector.control_plane.publishing import NewEvent, Publishing
from connector.control_plane.renewal import Renewals
from connector.control_plane.signatures import AgreementSignatures
from connector.control_plane.transfer import Transfers
from connector.control_plane.undelivered import Undelivered
from connector.model.consent import ConsentState
from connector.model.person import Person, PersonRole
from connector.model.transfer import DataAddress
from connector.ports import TrustRegistry
from connector.query.pull import Pulls
from connector.query.service import Queries
from connector.web import render
from connector.web.auth import Door, needs
from connector.web.body import Body
from connector.web.contracts import add_contracts
from connector.web.lines import Subscriptions, json_lines
from connector.web.outbox import add_outbox
from connector.web.queries import add_queries
from connector.web.transfers import add_transfers

MAX_BODY_BYTES = 1_000_000
R = PersonRole


class RefreshAsked(Body):
    participant: str = Field(min_length=1)


class ConsentAnswer(Body):
    person: str = Field(min_length=1, max_length=64, description="Personal id; stored only as a token.")
    purpose: str = Field(min_length=1)
    recipient: str = Field(min_length=1)
    state: Literal["given", "refused", "withdrawn"]
    at: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    method: str = ""
    identification: str = ""

    def given(self) -> ConsentGiven:
        return ConsentGiven(
            personal_id=self.person,
            purpose=self.purpose,
            recipient=self.recipient,
            state=_STATES[self.state],
            at=self.at,
            valid_until=self.valid_until,
            method=self.method,
            identification=self.identification,
        )


class ConsentImport(Body):
    answers: list[ConsentAnswer] = Field(max_length=1_000)


class PersonAsked(Body):
    person: str = Field(min_length=1, max_length=64)


class EventPublished(Body):
    type: str
    person: str = ""
    id: str = ""
    time: AwareDatetime | None = None


class EventsPublished(Body):
    events: list[EventPublished] = Field(min_length=1, max_length=1_000)


_STATES = {
    "given": ConsentState.GIVEN,
    "refused": ConsentState.REFUSED,
    "withdrawn": ConsentState.WITHDRAWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientServices:
    """What the client API stands on."""

    door: Door
    trust: TrustRegistry
    discovery: Discovery
    federated_catalog: FederatedCatalog
    access_requests: AccessRequests
    negotiations: Negotiations
    agreements: Agreements
    signatures: AgreementSignatures
    renewals: Renewals
    counter_offers: CounterOffers
    transfers: Transfers
    undelivered: Undelivered
    queries: Queries
    pulls: Pulls
    consents: ConsentRegister
    publishing: Publishing
    subscriptions: Subscriptions
    events_address: DataAddress
    status: dict[str, Any]


def client_router(services: ClientServices) -> APIRouter:
    # the framework reads a body before anybody is asked who they are
    router = APIRouter(prefix="/v1", max_body_size=MAX_BODY_BYTES)
    for add in (_about, add_contracts, add_transfers, add_outbox, add_queries, _consents, _events):
        add(router, services)
    return router


def _about(router: APIRouter, services: ClientServices) -> None:
    Viewer = Annotated[Person, Depends(needs(services.door, R.VIEWER, R.ANALYST, R.CASE_WORKER))]
    Operator = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]

    @router.get("/status", tags=["about"])
    async def status(_person: Viewer) -> dict[str, Any]:
        return services.status

    @router.get("/participants", tags=["about"])
    async def participants(_person: Viewer) -> dict[str, Any]:
        found = services.trust.current().participants.values()
        return {"participants": [render.participant(p) for p in found]}

    @router.get("/catalog", tags=["about"])
    async def catalog(_person: Viewer, participant: str = "") -> dict[str, Any]:
        """Everybody's catalogue, or one's, asked for now."""
        found = await services.discovery.look(participant)
        return {"participants": [render.seen(s) for s in found]}

    @router.get("/catalog/search", tags=["about"])
    async def search(
        _person: Viewer,
        q: Annotated[str, Query(max_length=500, description="Beginnings of words; all must be there.")] = "",
        theme: str = "",
        keyword: str = "",
        participant: str = "",
        format: str = "",
        access_rights: Annotated[str, Query(alias="accessRights")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str = "",
    ) -> dict[str, Any]:
        """Everybody's catalogue as last read, with how fresh each participant's part is."""
        found, sources = await services.federated_catalog.search(
            text=q,
            theme=theme,
            keyword=keyword,
            participant=participant,
            format=format,
            access_rights=access_rights,
            limit=limit,
            after=after,
        )
        return render.catalog_found(found, sources)

    @router.post("/catalog/refresh", tags=["about"], status_code=202)
    async def refresh(asked: RefreshAsked, _person: Operator) -> dict[str, Any]:
        """Has one participant's catalogue read anew; `nextAttempt` says when: politeness comes first."""
        return render.freshness(await services.federated_catalog.refresh(asked.participant))


def _consents(router: APIRouter, services: ClientServices) -> None:
    Desk = Annotated[Person, Depends(needs(services.door, R.CONSENT_DESK))]

    @router.post("/consents", tags=["consents"], status_code=201)
    async def record(answer: ConsentAnswer, _person: Desk) -> dict[str, Any]:
        return render.consent(await services.consents.record(answer.given()))

    @router.post("/consents/import", tags=["consents"])
    async def import_answers(asked: ConsentImport, _person: Desk) -> dict[str, Any]:
        return {"imported": await services.consents.import_answers(a.given() for a in asked.answers)}

    @router.post("/consents/search", tags=["consents"])
    async def search(asked: PersonAsked, _person: Desk) -> dict[str, Any]:
        """By body, not by URL: a personal id must not stand in access logs."""
        found = await services.consents.records_of(asked.person)
        return {"consents": [render.consent(r) for r in found]}

    @router.post("/consents/{record_id}/withdraw", tags=["consents"])
    async def withdraw(record_id: str, person: Desk) -> dict[str, Any]:
        """Holds when it answers: no further record of the person leaves under this consent."""
        return render.consent(await services.consents.withdraw(record_id, method=f"desk:{person.subject}"))


def _events(router: APIRouter, services: ClientServices) -> None:
    Producer = Annotated[Person, Depends(needs(services.door, R.PRODUCER))]
    Subscriber = Annotated[Person, Depends(needs(services.door, R.SUBSCRIBER))]

    @router.post("/datasets/{dataset_id}/events", tags=["events"], status_code=202)
    async def publish(dataset_id: str, asked: EventsPublished, _person: Producer) -> dict[str, Any]:
        events = [NewEvent(type=e.type, person=e.person, id=e.id, time=e.time) for e in asked.events]
        return {"accepted": await services.publishing.publish(dataset_id, events)}

    @router.get("/events", tags=["events"], response_class=StreamingResponse)
    async def subscribe(
        _person: Subscriber, group: str = "", start: Literal["latest", "earliest"] = "earliest"
    ) -> StreamingResponse:
        """What other participants pushed, as JSON lines. A `group` remembers where it was."""
        return json_lines(services.subscriptions.follow(group, from_latest=start == "latest"))
