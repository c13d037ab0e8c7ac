"""Plain endpoints (a request in, a response out), found by one pattern before the framework looks at it.

FastAPI tries the routes one by one and prepares dependencies, validation and clean-up for each request; the
protocol's endpoints use none of that, and a negotiation is a dozen requests. What is not found here (another
method, an unknown path) goes the usual way.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)

_PARAMETER = re.compile(r"\{(\w+)\}")
_PLAIN = "__plain__"


def plain(endpoint: E) -> E:
    """Marks an endpoint that needs nothing of the framework and answers every error itself."""
    setattr(endpoint, _PLAIN, True)
    return endpoint


class DirectRoutes:
    """The plain endpoints among the routes of `routers`."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._found: dict[str, tuple[re.Pattern[str], list[tuple[Endpoint, tuple[str, ...]]]]] = {}
        patterns: dict[str, list[str]] = {}
        targets: dict[str, list[tuple[Endpoint, tuple[str, ...]]]] = {}
        for router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute) and getattr(route.endpoint, _PLAIN, False):
                    for method in route.methods or ():
                        patterns.setdefault(method, []).append(_pattern(route.path))
                        names = tuple(_PARAMETER.findall(route.path))
                        targets.setdefault(method, []).append((route.endpoint, names))
        for method, found in patterns.items():
            self._found[method] = (re.compile("|".join(found)), targets[method])

    def match(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        if method not in self._found:
            return None
        pattern, targets = self._found[method]
        match = pattern.fullmatch(path)
        if match is None:
            return None
        groups = match.groups()
        first = 0  # every route is one group, followed by those of its parameters
        for endpoint, names in targets:
            if groups[first] is not None:
                return endpoint, dict(zip(names, groups[first + 1 :], strict=False))
            first += 1 + len(names)
        return None


class DirectApp(FastAPI):
    """A FastAPI application that serves its plain endpoints itself."""

    direct: DirectRoutes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if self.direct is not None and scope["type"] == "http":
            found = self.direct.match(scope["method"], scope["path"])
        if found is None:
            await super().__call__(scope, receive, send)
            return
        endpoint, scope["path_params"] = found
        scope["app"] = self
        try:
            response = await endpoint(Request(scope, receive, send))
        except ClientDisconnect:  # nobody reads an answer
            response = Response(status_code=400)
        await response(scope, receive, send)


def _pattern(path: str) -> str:
    parts = _PARAMETER.split(path)  # texts and names in turn
    return "(" + "".join("([^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)) + ")"
