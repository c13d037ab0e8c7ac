"""Exception -> RFC 9457 problem, for the client API and the data API; DSP and OAuth2 render their own."""

from __future__ import annotations

import logging
import traceback
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from connector import errors

_log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"

# Looked up along the class hierarchy, nearest first.
STATUS: dict[type[errors.ConnectorError], int] = {
    errors.RequestInvalid: 400,
    errors.NotAuthenticated: 401,
    errors.NotPermitted: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.GrantStopped: 409,
    errors.PeerError: 502,
    errors.PeerUnreachable: 504,
    errors.Unavailable: 503,
}
TITLES = {
    400: "The request is not valid",
    401: "Who asks could not be proved",
    403: "Not permitted",
    404: "Not found",
    409: "Does not fit the present state",
    500: "An error of ours",
    502: "The other participant refused or answered wrongly",
    503: "A part of this connector does not answer",
    504: "The other participant does not answer",
}


def status_of(error: errors.ConnectorError) -> int:
    return next((STATUS[c] for c in type(error).__mro__ if c in STATUS), 500)


def problem(error: errors.ConnectorError, scheme: str = "DPoP") -> Response:
    """Our own errors carry texts made for the caller; anything unforeseen never gets here."""
    status = status_of(error)
    body: dict[str, object] = {
        "type": f"urn:connector:problem:{error.code}",
        "title": TITLES[status],
        "status": status,
        "detail": error.message if status != 500 else "The details are in this connector's log.",
        "code": error.code,
    }
    if error.mend:
        body["mend"] = error.mend
    reasons = getattr(error, "reasons", ())
    if reasons:
        body["deniedBy"] = [{"code": r.code, "text": r.text, "source": r.source} for r in reasons]
    if audit_id := getattr(error, "audit_id", ""):
        body["auditId"] = audit_id
    if participant := getattr(error, "participant", ""):
        body["participant"] = participant
    if getattr(error, "retryable", False):
        body["retryable"] = True
    headers = challenge(error, scheme) if status == 401 else None
    return JSONResponse(body, status_code=status, media_type=PROBLEM, headers=headers)


def challenge(error: errors.ConnectorError, scheme: str = "DPoP") -> dict[str, str]:
    """What a 401 carries: RFC 6750 §3, RFC 9449 §7.1 and 9."""
    algorithms = {"DPoP": ', algs="ES256"'}
    named = [f'{name} error="{error.code}"{algorithms.get(name, "")}' for name in scheme.split()]
    headers = {"WWW-Authenticate": ", ".join(named)}
    if isinstance(error, errors.DpopNonceWanted):
        headers["DPoP-Nonce"] = error.nonce
    return headers


async def on_connector_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ConnectorError)
    if isinstance(error, errors.NotAuthenticated):
        _log.info("refused: %s", getattr(error.__cause__, "code", error.code))  # the caller learns less
    if status_of(error) == 500:
        _log.error("%s: %s", error.code, error.message)
    return problem(error, _schemes(request.url.path))


def _schemes(path: str) -> str:
    """By which a request to this path may prove itself."""
    if path.startswith("/v1/"):
        return "Bearer"
    return "DPoP Bearer" if path.startswith("/data/v1/http/") else "DPoP"


async def on_unforeseen(_request: Request, error: Exception) -> Response:
    """Nothing of it goes out; the log gets type and place, not the text: a driver's text can hold values."""
    reference = uuid.uuid4().hex
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("unforeseen error %s: %s\n%s", reference, type(error).__name__, place)
    body = {
        "type": "urn:connector:problem:internal",
        "title": TITLES[500],
        "status": 500,
        "detail": f"The details are in this connector's log under {reference}.",
        "code": "internal",
    }
    return JSONResponse(body, status_code=500, media_type=PROBLEM)
