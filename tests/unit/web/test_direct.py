"""Plain endpoints are found before the framework looks, and answer exactly as through it."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from connector.web.direct import DirectApp, DirectRoutes, plain


@plain
async def seen(request: Request) -> Response:
    body = (await request.body()).decode()
    return JSONResponse({"params": request.path_params, "body": body, "app": request.app.title})


@plain
async def gone(_request: Request) -> Response:
    raise ClientDisconnect


def router() -> APIRouter:
    router = APIRouter()
    for path in ("/things", "/things/{pid}", "/things/{pid}/parts/{part}", "/a.b/{pid}"):
        router.add_api_route(path, seen, methods=["GET"], response_model=None)
    router.add_api_route("/things/request", gone, methods=["POST"], response_model=None)
    router.add_api_route("/things/{pid}", seen, methods=["POST"], response_model=None)

    @router.get("/usual")
    async def usual() -> str:
        return "as ever"

    return router


def apps() -> list[FastAPI]:
    made = [DirectApp(title="x"), FastAPI(title="x")]
    for app in made:
        app.include_router(router())
        app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))
    direct = made[0]
    assert isinstance(direct, DirectApp)
    direct.direct = DirectRoutes([router()])
    return made


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/things"),
        ("GET", "/things/urn:x"),
        ("GET", "/things/a%20b"),
        ("GET", "/things/a%2Fb"),
        ("GET", "/things/1/parts/2"),
        ("GET", "/things/1/parts/2/3"),
        ("GET", "/things/"),
        ("GET", "/axb/1"),
        ("GET", "/a.b/1%0A"),
        ("POST", "/things/request"),
        ("POST", "/things/other"),
        ("PUT", "/things/other"),
        ("GET", "/usual"),
        ("GET", "/nowhere"),
    ],
)
async def test_the_answer_is_the_one_of_the_usual_way(method: str, path: str) -> None:
    """Paths with one, two and no parameters, encoded ones, other methods, and what is nobody's."""
    answers = []
    for app in apps():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            answers.append(await http.request(method, path, content=b"{}"))
    ours, usual = answers
    assert (ours.status_code, ours.content) == (usual.status_code, usual.content)


def test_only_plain_endpoints_are_taken() -> None:
    routes = DirectRoutes([router()])
    assert routes.match("GET", "/usual") is None
    assert routes.match("GET", "/things/1") == (seen, {"pid": "1"})
    assert routes.match("POST", "/things/request") == (gone, {})
    assert DirectRoutes([]).match("GET", "/things") is None
