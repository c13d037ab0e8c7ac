"""One ASGI application: routers, error handlers, lifespan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

import connector
from connector.errors import ConnectorError, RequestInvalid
from connector.web.direct import DirectApp, DirectRoutes
from connector.web.dsp import error_beside_routes
from connector.web.errors import PROBLEM, on_connector_error, on_unforeseen, problem

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Health = Callable[[], Awaitable[dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """`public` is what peers and people call. `health` answers part -> "" or what is wrong."""

    routers: Sequence[APIRouter]
    health: Health
    lifespan: Lifespan | None = None
    title: str = field(default="Connector")


def create_app(about: App) -> FastAPI:
    app = DirectApp(
        title=about.title,
        version=connector.__version__,
        lifespan=about.lifespan,
        openapi_url="/v1/openapi.json",
        docs_url="/v1/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(ConnectorError, on_connector_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(HTTPException, _on_refused)
    app.add_exception_handler(Exception, on_unforeseen)
    for router in about.routers:
        app.include_router(router)
    app.include_router(_health_router(about.health))
    app.direct = DirectRoutes(about.routers)
    return app


def _health_router(health: Health) -> APIRouter:
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/ready")
    async def ready() -> Response:
        """Ready means that every part answers; otherwise 503, saying which does not."""
        found = await health()
        wrong = {part: what for part, what in found.items() if what}
        body = {
            "status": "not ready" if wrong else "ready",
            "parts": {p: w or "ok" for p, w in found.items()},
        }
        return JSONResponse(body, status_code=503 if wrong else 200)

    return router


async def _on_refused(request: Request, error: Exception) -> Response:
    """What the framework refuses (no such path, not this method, too long) in the words of the protocol that
    the path belongs to."""
    assert isinstance(error, HTTPException)  # its details are the framework's: they quote no input
    path: str = request.scope["path"]
    if (typed := error_beside_routes(path, error.status_code, error.detail)) is not None:
        return JSONResponse(typed, status_code=error.status_code, headers=error.headers)
    body = {"type": "about:blank", "title": error.detail, "status": error.status_code}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers, media_type=PROBLEM)


async def _on_gone(_request: Request, _error: Exception) -> Response:
    """Whoever asked has left in the middle of the request: nobody reads this, and nothing is wrong."""
    return Response(status_code=400)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    """FastAPI's own report would quote the input; ours names the field and the rule."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return problem(RequestInvalid(str(first["msg"]), where=where))
