"""People at the connector: signing in and out, who I am, API keys, and the operator's stop."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from connector.access.api_keys import ApiKey, ApiKeys
from connector.access.front_door import FrontDoor
from connector.access.oidc import SIGN_IN_SECONDS, OidcSignIn
from connector.access.sessions import LIFE, Sessions
from connector.access.stopping import Stopping
from connector.errors import NotAuthenticated, NotFound
from connector.model.audit import AuditEvent
from connector.model.json import to_rfc3339
from connector.model.person import Person, PersonRole
from connector.web.auth import needs, session_cookie
from connector.web.body import Body

R = PersonRole
OPEN_TO_ALL = frozenset({"/v1/sign-in", "/v1/sign-in/callback", "/v1/sign-out", "/v1/bootstrap"})
"""The only routes here that ask for no role: they are how people come by one, or leave."""

_NO_STORE = {"Cache-Control": "no-store"}


class KeyAsked(Body):
    name: str = Field(min_length=1, max_length=64)
    roles: list[PersonRole] = Field(min_length=1)
    purposes: list[str] = Field(default_factory=list)
    days: int = Field(90, ge=1, le=366)


class BootstrapAsked(Body):
    token: str = Field(min_length=1, max_length=128)
    name: str = Field(min_length=1, max_length=64)


class StopAsked(Body):
    reason: str = Field(min_length=1, max_length=500, description="For our own records.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleServices:
    """`sign_in` is None where no provider is set. `public_url`: ours."""

    door: FrontDoor
    keys: ApiKeys
    sessions: Sessions
    sign_in: OidcSignIn | None
    stopping: Stopping
    record: Any
    public_url: str


def people_router(services: PeopleServices) -> APIRouter:
    router = APIRouter(prefix="/v1")
    for add in (_sign_in, _me, _keys, _stop):
        add(router, services)
    return router


def _sign_in(router: APIRouter, services: PeopleServices) -> None:
    secure = services.public_url.startswith("https://")
    names = session_cookie(services.public_url), "__Host-sign-in" if secure else "sign-in"

    def set_cookie(response: Response, name: str, value: str, seconds: int) -> None:
        # lax: the provider's redirect must bring it along
        response.set_cookie(
            name, value, max_age=seconds, secure=secure, httponly=True, samesite="lax", path="/"
        )

    def provider() -> OidcSignIn:
        if services.sign_in is None:
            raise NotFound("No sign-in provider is set.", mend="Set oidc_issuer, or use `connector token`.")
        return services.sign_in

    @router.get("/sign-in", tags=["people"], response_class=RedirectResponse)
    async def sign_in(return_to: str = "/") -> Response:
        """To the organisation's own sign-in."""
        url, cookie = await provider().start(return_to)
        response = RedirectResponse(url, status_code=303, headers=_NO_STORE)
        set_cookie(response, names[1], cookie, SIGN_IN_SECONDS)
        return response

    @router.get("/sign-in/callback", tags=["people"], response_class=RedirectResponse)
    async def callback(request: Request, state: str = "", code: str = "", iss: str = "") -> Response:
        """Where the provider sends the browser back to."""
        cookie = request.cookies.get(names[1], "")
        if not code:
            raise NotAuthenticated("The sign-in was not completed.", mend="Sign in again.")
        person, return_to = await provider().finish(code=code, state=state, issuer=iss, cookie=cookie)
        session = await services.sessions.open(person)
        await services.record(
            AuditEvent.PERSON_SIGNED_IN, actor=person.subject, reasons=tuple(sorted(person.roles))
        )
        response = RedirectResponse(return_to, status_code=303, headers=_NO_STORE)
        response.delete_cookie(names[1], path="/", secure=secure, httponly=True, samesite="lax")
        set_cookie(response, names[0], session, int(LIFE.total_seconds()))
        return response

    @router.post("/sign-out", tags=["people"], status_code=204)
    async def sign_out(request: Request) -> Response:
        """Ends the session, here and for whoever copied the cookie."""
        origin = request.headers.get("origin")
        if origin is not None and origin != origin_of(services.public_url):
            raise NotAuthenticated("Another site asked.")
        if cookie := request.cookies.get(names[0]):
            await services.sessions.close(cookie)
        response = Response(status_code=204)
        response.delete_cookie(names[0], path="/", secure=secure, httponly=True, samesite="lax")
        return response

    @router.post("/bootstrap", tags=["people"], status_code=201)
    async def bootstrap(asked: BootstrapAsked) -> JSONResponse:
        """A key that administers for a day, once, for the token that the first start left behind."""
        key, text = await services.keys.bootstrap(asked.token, asked.name)
        return JSONResponse({**_key(key), "key": text}, status_code=201, headers=_NO_STORE)


def _me(router: APIRouter, services: PeopleServices) -> None:
    Anybody = Annotated[Person, Depends(needs(services.door, *PersonRole))]

    @router.get("/me", tags=["people"])
    async def me(person: Anybody) -> dict[str, Any]:
        """Who asks, by whatever way they proved it."""
        return {
            "subject": person.subject,
            "roles": sorted(person.roles),
            "purposes": sorted(person.purposes),
        }


def _keys(router: APIRouter, services: PeopleServices) -> None:
    Admin = Annotated[Person, Depends(needs(services.door, R.ADMIN))]

    @router.post("/api-keys", tags=["people"], status_code=201)
    async def create(asked: KeyAsked, person: Admin) -> JSONResponse:
        """The key is in this answer and nowhere else."""
        key, text = await services.keys.create(
            asked.name,
            roles=asked.roles,
            purposes=asked.purposes,
            life=timedelta(days=asked.days),
            by=person.subject,
        )
        return JSONResponse({**_key(key), "key": text}, status_code=201, headers=_NO_STORE)

    @router.get("/api-keys", tags=["people"])
    async def keys(_person: Admin) -> dict[str, Any]:
        return {"keys": [_key(k) for k in await services.keys.list()]}

    @router.delete("/api-keys/{key_id}", tags=["people"], status_code=204)
    async def revoke(key_id: str, person: Admin) -> Response:
        await services.keys.revoke(key_id, by=person.subject)
        return Response(status_code=204)


def _stop(router: APIRouter, services: PeopleServices) -> None:
    Stopper = Annotated[Person, Depends(needs(services.door, R.ADMIN, R.DPO, R.OPERATOR))]
    Viewer = Annotated[Person, Depends(needs(services.door, R.VIEWER))]
    Admin = Annotated[Person, Depends(needs(services.door, R.ADMIN))]

    @router.post("/stop", tags=["stop"])
    async def stop(asked: StopAsked, person: Stopper) -> dict[str, Any]:
        """Every grant ends now and none opens until it is lifted. Holds when it answers."""
        return {"ended": await services.stopping.stop_all(asked.reason, by=person.subject)}

    @router.get("/stop", tags=["stop"])
    async def stopped(_person: Viewer) -> dict[str, Any]:
        current = await services.stopping.current()
        if current is None:
            return {"stopped": False}
        return {"stopped": True, "by": current.by, "reason": current.reason, "at": to_rfc3339(current.at)}

    @router.delete("/stop", tags=["stop"], status_code=204)
    async def lift(person: Admin) -> Response:
        """Peers may come back, with new grants."""
        await services.stopping.lift(by=person.subject)
        return Response(status_code=204)


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "roles": sorted(key.roles),
        "purposes": sorted(key.purposes),
        "created": to_rfc3339(key.created_at),
        "expires": to_rfc3339(key.expires_at),
        "createdBy": key.created_by,
    }
