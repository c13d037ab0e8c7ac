"""The client API's negotiations and agreements: ask, look, decide, counter, renew, end."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from connector.model.negotiation import ContractNegotiation
from connector.model.person import Person, PersonRole
from connector.web import render
from connector.web.auth import needs
from connector.web.body import Body, Refusal

if TYPE_CHECKING:
    from connector.web.client_api import ClientServices

R = PersonRole


class Rules(Body):
    permission: list[dict[str, Any]] | None = None
    prohibition: list[dict[str, Any]] | None = None
    obligation: list[dict[str, Any]] | None = None

    @property
    def rules(self) -> dict[str, list[Any]]:
        named = {
            "permission": self.permission,
            "prohibition": self.prohibition,
            "obligation": self.obligation,
        }
        return {name: rules for name, rules in named.items() if rules is not None}


class OfferSeen(Rules):
    """An offer as `GET /v1/catalog` shows it: of use where a provider gives its offers new ids at each look,
    as Eclipse EDC does. Then the offer with these rules is meant."""

    id: str


class NegotiationAsked(Body):
    provider: str
    dataset: str
    offer: str | OfferSeen = Field(description="The offer's id as the catalogue shows it, or all of it.")


class CounterOffer(Rules):
    """As provider: `offer`, another one of the descriptor. As consumer: another one of the provider's, other
    rules for the last one, or both."""

    offer: str = Field("", description="An offer's id; none keeps the last one's.")


class AccessAsked(Body):
    dataset: str = Field(pattern=r"^[^.]+\.[^.]+$", description="participant.dataset")
    purpose: str = Field(min_length=1)
    offer: str = Field("", description="Its id or its name, where several are for this purpose.")


def add_contracts(router: APIRouter, services: "ClientServices") -> None:
    _access(router, services)
    _negotiations(router, services)
    _decisions(router, services)
    _agreements(router, services)


def _access(router: APIRouter, services: "ClientServices") -> None:
    Operator = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]

    @router.post("/access-requests", tags=["contracts"])
    async def request_access(asked: AccessAsked, person: Operator) -> dict[str, Any]:
        """From a dataset and a purpose to an agreement in use, as far as it goes by itself: said again, it
        goes on from where it stands. `READY` when queries for this purpose are answered."""
        found = await services.access_requests.ask(
            asked.dataset, asked.purpose, asked.offer, by=person.subject
        )
        return {
            "state": found.state.value,
            "offer": found.offer,
            "negotiation": found.negotiation.pid if found.negotiation else None,
            "agreement": found.agreement.agreement.id if found.agreement else None,
            "transfer": found.transfer.pid if found.transfer else None,
            "nextStep": found.next_step or None,
        }


def _negotiations(router: APIRouter, services: "ClientServices") -> None:
    Viewer = Annotated[Person, Depends(needs(services.door, R.VIEWER))]
    Operator = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]

    @router.post("/negotiations", tags=["contracts"], status_code=201)
    async def negotiate(asked: NegotiationAsked, person: Operator) -> dict[str, Any]:
        provider = services.discovery.provider(asked.provider)
        seen = asked.offer
        offer_id, rules = (seen, None) if isinstance(seen, str) else (seen.id, seen.rules)
        offer = await services.discovery.offer(provider, asked.dataset, offer_id, rules)
        made = await services.negotiations.request(provider, asked.dataset, offer, by=person.subject)
        return _shown(services, made)

    @router.get("/negotiations", tags=["contracts"])
    async def negotiations(
        _person: Viewer, waiting: bool | None = None, limit: int = 100, after: str = ""
    ) -> dict[str, Any]:
        """`waiting=true`: what waits for a person, with whose decision it is (`approver`, if only one's)."""
        found = await services.negotiations.list(
            waiting=waiting, limit=min(max(limit, 1), 1_000), after=after
        )
        return {"negotiations": [_shown(services, n) for n in found]}

    @router.get("/negotiations/{pid}", tags=["contracts"])
    async def negotiation(pid: str, _person: Viewer) -> dict[str, Any]:
        found = await services.negotiations.get(pid)
        return {**_shown(services, found), **render.offers(found)}


def _decisions(router: APIRouter, services: "ClientServices") -> None:
    Approver = Annotated[Person, Depends(needs(services.door, R.APPROVER))]
    Either = Annotated[Person, Depends(needs(services.door, R.APPROVER, R.OPERATOR))]

    @router.post("/negotiations/{pid}/approve", tags=["contracts"])
    async def approve(pid: str, person: Approver) -> dict[str, Any]:
        return _shown(services, await services.negotiations.approve(pid, by=person.subject))

    @router.post("/negotiations/{pid}/refuse", tags=["contracts"])
    async def refuse(pid: str, refusal: Refusal, person: Approver) -> dict[str, Any]:
        ended = await services.negotiations.refuse(pid, [refusal.reason], by=person.subject)
        return _shown(services, ended)

    @router.post("/negotiations/{pid}/counter", tags=["contracts"])
    async def counter(pid: str, asked: CounterOffer, person: Either) -> dict[str, Any]:
        """Answers what waits with another offer. As provider this is the approver's."""
        return _shown(services, await services.counter_offers.make(pid, asked.offer, asked.rules, person))


def _agreements(router: APIRouter, services: "ClientServices") -> None:
    Viewer = Annotated[Person, Depends(needs(services.door, R.VIEWER))]
    Operator = Annotated[Person, Depends(needs(services.door, R.OPERATOR))]

    @router.get("/agreements", tags=["contracts"])
    async def agreements(_person: Viewer) -> dict[str, Any]:
        found = await services.agreements.list()
        return {"agreements": [render.agreement(a, services.agreements) for a in found]}

    @router.get("/agreements/{agreement_id}", tags=["contracts"])
    async def agreement(agreement_id: str, _person: Viewer) -> dict[str, Any]:
        record = await services.agreements.get(agreement_id)
        shown = render.agreement(record, services.agreements)
        return {**shown, "document": dict(record.agreement.document)}

    @router.get("/agreements/{agreement_id}/signatures", tags=["contracts"])
    async def signatures(agreement_id: str, _person: Viewer) -> dict[str, Any]:
        """What both sides signed, verified anew: all that `connector verify-agreement` needs."""
        record = await services.agreements.get(agreement_id)
        return render.signatures(record, services.signatures.check(record))

    @router.post("/agreements/{agreement_id}/signatures", tags=["contracts"])
    async def exchange(agreement_id: str, _person: Operator) -> dict[str, Any]:
        """Exchanges the signatures once more."""
        record = await services.signatures.exchange(agreement_id)
        return render.signatures(record, services.signatures.check(record))

    @router.post("/agreements/{agreement_id}/renew", tags=["contracts"], status_code=201)
    async def renew(agreement_id: str, person: Operator) -> dict[str, Any]:
        """Accepts the newest terms of the same offer: a negotiation, whose agreement follows this one."""
        return _shown(services, await services.renewals.renew(agreement_id, by=person.subject))

    @router.post("/agreements/{agreement_id}/terminate", tags=["contracts"])
    async def terminate(agreement_id: str, refusal: Refusal, person: Operator) -> dict[str, Any]:
        ended = await services.agreements.terminate(agreement_id, refusal.reason, by=person.subject)
        return render.agreement(ended, services.agreements)


def _shown(services: "ClientServices", found: ContractNegotiation) -> dict[str, Any]:
    return render.negotiation(found, services.negotiations.approver(found))
