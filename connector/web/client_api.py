"""The client API `/v1`: for the organisation's own people and apps. Every route names the role it needs."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.responses import StreamingResponse

from connector.access.people import ApiTokens
from connector.control_plane.agreements import Agreements
from connector.control_plane.consent import ConsentGiven, ConsentRegister
from connector.control_plane.discovery import Discovery
from connector.control_plane.negotiation import Negotiations
from connector.control_plane.publishing import NewEvent, Publishing
from connector.control_plane.transfer import Transfers
from connector.model.catalog import TransferFormat
from connector.model.consent import ConsentState
from connector.model.person import Person, PersonRole
from connector.model.transfer import DataAddress
from connector.ports import TrustRegistry
from connector.query.service import Queries
from connector.web import render
from connector.web.auth import needs
from connector.web.lines import Subscriptions, json_lines

R = PersonRole
OPERATOR_SAID = "operator"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class NegotiationAsked(Body):
    provider: str
    dataset: str
    offer: str = Field(description="The offer's id as the provider's catalogue shows it.")


class Refusal(Body):
    reason: str = Field(min_length=1, max_length=500, description="Told to the other side: no personal data.")


class TransferAsked(Body):
    agreement: str
    format: TransferFormat


class QueryAsked(Body):
    sql: str = Field(max_length=64_000)
    purpose: str
    parameters: list[Any] = Field(default_factory=list)


class StreamAsked(Body):
    dataset: str = Field(pattern=r"^[^.]+\.[^.]+$", description="participant.dataset")
    columns: list[str] = Field(min_length=1)
    purpose: str
    batch_rows: int = Field(100, ge=1, le=100_000)


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

    tokens: ApiTokens
    trust: TrustRegistry
    discovery: Discovery
    negotiations: Negotiations
    agreements: Agreements
    transfers: Transfers
    queries: Queries
    consents: ConsentRegister
    publishing: Publishing
    subscriptions: Subscriptions
    events_address: DataAddress
    status: dict[str, Any]


def client_router(services: ClientServices) -> APIRouter:
    router = APIRouter(prefix="/v1")
    for add in (_about, _contracts, _transfers, _queries, _consents, _events):
        add(router, services)
    return router


def _about(router: APIRouter, services: ClientServices) -> None:
    Viewer = Annotated[Person, Depends(needs(services.tokens, R.VIEWER, R.ANALYST, R.CASE_WORKER))]

    @router.get("/status", tags=["about"])
    async def status(_person: Viewer) -> dict[str, Any]:
        return services.status

    @router.get("/participants", tags=["about"])
    async def participants(_person: Viewer) -> dict[str, Any]:
        found = services.trust.current().participants.values()
        return {"participants": [render.participant(p) for p in found]}

    @router.get("/catalog", tags=["about"])
    async def catalog(_person: Viewer, participant: str = "") -> dict[str, Any]:
        found = await services.discovery.look(participant)
        return {"participants": [render.seen(s) for s in found]}


def _contracts(router: APIRouter, services: ClientServices) -> None:
    Viewer = Annotated[Person, Depends(needs(services.tokens, R.VIEWER))]
    Operator = Annotated[Person, Depends(needs(services.tokens, R.OPERATOR))]
    Approver = Annotated[Person, Depends(needs(services.tokens, R.APPROVER))]

    @router.post("/negotiations", tags=["contracts"], status_code=201)
    async def negotiate(asked: NegotiationAsked, person: Operator) -> dict[str, Any]:
        provider = services.discovery.provider(asked.provider)
        offer = await services.discovery.offer(provider, asked.dataset, asked.offer)
        made = await services.negotiations.request(provider, asked.dataset, offer, by=person.subject)
        return render.negotiation(made)

    @router.get("/negotiations", tags=["contracts"])
    async def negotiations(
        _person: Viewer, waiting: bool | None = None, limit: int = 100, after: str = ""
    ) -> dict[str, Any]:
        found = await services.negotiations.list(
            waiting=waiting, limit=min(max(limit, 1), 1_000), after=after
        )
        return {"negotiations": [render.negotiation(n) for n in found]}

    @router.get("/negotiations/{pid}", tags=["contracts"])
    async def negotiation(pid: str, _person: Viewer) -> dict[str, Any]:
        return render.negotiation(await services.negotiations.get(pid))

    @router.post("/negotiations/{pid}/approve", tags=["contracts"])
    async def approve(pid: str, person: Approver) -> dict[str, Any]:
        return render.negotiation(await services.negotiations.approve(pid, by=person.subject))

    @router.post("/negotiations/{pid}/refuse", tags=["contracts"])
    async def refuse(pid: str, refusal: Refusal, person: Approver) -> dict[str, Any]:
        ended = await services.negotiations.refuse(pid, [refusal.reason], by=person.subject)
        return render.negotiation(ended)

    @router.get("/agreements", tags=["contracts"])
    async def agreements(_person: Viewer) -> dict[str, Any]:
        return {"agreements": [render.agreement(a) for a in await services.agreements.list()]}

    @router.get("/agreements/{agreement_id}", tags=["contracts"])
    async def agreement(agreement_id: str, _person: Viewer) -> dict[str, Any]:
        record = await services.agreements.get(agreement_id)
        return {**render.agreement(record), "document": dict(record.agreement.document)}

    @router.post("/agreements/{agreement_id}/terminate", tags=["contracts"])
    async def terminate(agreement_id: str, refusal: Refusal, person: Operator) -> dict[str, Any]:
        ended = await services.agreements.terminate(agreement_id, refusal.reason, by=person.subject)
        return render.agreement(ended)


def _transfers(router: APIRouter, services: ClientServices) -> None:
    Viewer = Annotated[Person, Depends(needs(services.tokens, R.VIEWER))]
    Operator = Annotated[Person, Depends(needs(services.tokens, R.OPERATOR))]

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

    @router.get("/transfers/{pid}", tags=["transfers"])
    async def transfer(pid: str, _person: Viewer) -> dict[str, Any]:
        return render.transfer(await services.transfers.get(pid))

    @router.post("/transfers/{pid}/suspend", tags=["transfers"])
    async def suspend(pid: str, refusal: Refusal, person: Operator) -> dict[str, Any]:
        return render.transfer(
            await services.transfers.suspend(pid, OPERATOR_SAID, [refusal.reason], by=person.subject)
        )

    @router.post("/transfers/{pid}/terminate", tags=["transfers"])
    async def terminate(pid: str, refusal: Refusal, person: Operator) -> dict[str, Any]:
        return render.transfer(
            await services.transfers.terminate(pid, OPERATOR_SAID, [refusal.reason], by=person.subject)
        )


def _queries(router: APIRouter, services: ClientServices) -> None:
    Asker = Annotated[Person, Depends(needs(services.tokens, R.ANALYST, R.CASE_WORKER))]

    @router.post("/queries", tags=["queries"])
    async def query(asked: QueryAsked, person: Asker) -> dict[str, Any]:
        person.require_purpose(asked.purpose)
        return await services.queries.run(asked.sql, asked.purpose, asked.parameters, person)

    @router.post("/queries/explain", tags=["queries"])
    async def explain(asked: QueryAsked, person: Asker) -> dict[str, Any]:
        person.require_purpose(asked.purpose)
        return await services.queries.explain(asked.sql, asked.purpose, asked.parameters, person)

    @router.post("/streams", tags=["queries"], response_class=StreamingResponse)
    async def stream(asked: StreamAsked, person: Asker) -> StreamingResponse:
        person.require_purpose(asked.purpose)
        lines = await services.queries.stream(
            asked.dataset, asked.columns, asked.purpose, asked.batch_rows, person
        )
        return json_lines(lines)


def _consents(router: APIRouter, services: ClientServices) -> None:
    Desk = Annotated[Person, Depends(needs(services.tokens, R.CONSENT_DESK))]

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
    Producer = Annotated[Person, Depends(needs(services.tokens, R.PRODUCER))]
    Subscriber = Annotated[Person, Depends(needs(services.tokens, R.SUBSCRIBER))]

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
