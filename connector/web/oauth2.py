"""OAuth2 over HTTP: token endpoint, revocation, introspection, JWKS, metadata. Bodies and errors are those of
the authorization server."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from connector.access.authorization_server import AuthorizationServer
from connector.access.rfc6749 import MAX_FORM_BYTES, Answer
from connector.access.token_status import TokenStatus

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_PUBLIC = {"Cache-Control": "public, max-age=60"}


def oauth2_router(server: AuthorizationServer, status: TokenStatus) -> APIRouter:
    router = APIRouter(tags=["oauth2"])

    @router.post("/oauth2/token", summary="Token endpoint (RFC 6749 §3.2)")
    async def post_token(request: Request) -> Response:
        return _json(
            await server.token(
                await _read_capped(request, MAX_FORM_BYTES),
                content_type=request.headers.get("content-type", ""),
                dpop_headers=request.headers.getlist("dpop"),
            )
        )

    @router.post("/oauth2/revoke", summary="Token revocation (RFC 7009)")
    async def post_revoke(request: Request) -> Response:
        return _json(await status.revoke(*await _form(request)))

    @router.post("/oauth2/introspect", summary="Token introspection (RFC 7662)")
    async def post_introspect(request: Request) -> Response:
        return _json(await status.introspect(*await _form(request)))

    @router.get("/oauth2/jwks", summary="Our public keys (RFC 7517 §5)")
    async def get_jwks() -> Response:
        return JSONResponse(server.jwks(), headers=_PUBLIC)

    @router.get("/.well-known/oauth-authorization-server", summary="Metadata (RFC 8414)")
    async def get_metadata() -> Response:
        return JSONResponse(server.metadata(), headers=_PUBLIC)

    return router


def _json(answer: Answer) -> Response:
    status, headers, body = answer
    return JSONResponse(dict(body), status_code=status, headers={**headers, **NO_STORE})


async def _form(request: Request) -> tuple[bytes, str]:
    return await _read_capped(request, MAX_FORM_BYTES), request.headers.get("content-type", "")


async def _read_capped(request: Request, limit: int) -> bytes:
    """The body, or as much of it as shows that it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body[: limit + 1])
