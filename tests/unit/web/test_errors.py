"""Errors as RFC 9457 problems: every class has a status, and what is not foreseen says nothing."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.requests import Request

from connector import errors
from connector.errors import (
    AuditBroken,
    ConfigurationError,
    Conflict,
    ConnectorError,
    GrantStopped,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    PolicyUnavailable,
    Reason,
    RequestInvalid,
    SourceUnavailable,
    SqlInvalid,
    TokenRejected,
)
from connector.web.errors import PROBLEM, TITLES, on_connector_error, on_unforeseen, problem, status_of

REQUEST = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
SECRET = "010190-123A"


def body(error: ConnectorError) -> dict[str, Any]:
    answer = problem(error)
    assert answer.media_type == PROBLEM
    document: dict[str, Any] = json.loads(bytes(answer.body))
    assert document["status"] == answer.status_code
    return document


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestInvalid("x"), 400),
        (SqlInvalid("x"), 400),
        (NotAuthenticated("x"), 401),
        (TokenRejected("x"), 401),
        (NotPermitted([]), 403),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (errors.IllegalTransition("x"), 409),
        (GrantStopped("x"), 409),
        (PeerRefused("x"), 502),
        (PeerProtocolError("x"), 502),
        (PeerUnreachable("x"), 504),
        (PolicyUnavailable("x"), 503),
        (SourceUnavailable("x"), 503),
        (ConfigurationError("x"), 500),
        (AuditBroken("x"), 500),
        (ConnectorError("x"), 500),
    ],
)
def test_every_class_has_its_status(error: ConnectorError, status: int) -> None:
    """The caller's mistakes are 4xx, a peer's are 502 and 504, ours 500 and 503."""
    assert status_of(error) == status
    document = body(error)
    assert document["title"] == TITLES[status]
    assert document["type"] == f"urn:connector:problem:{error.code}"


def test_no_class_is_forgotten() -> None:
    """A new error gets the status of the class it belongs to."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, ConnectorError)]
    for kind in classes:
        if kind is not NotPermitted:
            assert status_of(kind("x")) in TITLES


def test_a_refusal_says_why_and_under_which_leaf() -> None:
    """People read the reasons; the audit id lets both sides talk about the same decision."""
    reasons = [Reason(code="purpose", text="Not for this purpose.", source="odrl")]
    document = body(NotPermitted(reasons, mend="Ask for another.", audit_id="leaf-1"))
    assert document == {
        "type": "urn:connector:problem:not_permitted",
        "title": "Not permitted",
        "status": 403,
        "detail": "Not for this purpose.",
        "code": "not_permitted",
        "mend": "Ask for another.",
        "deniedBy": [{"code": "purpose", "text": "Not for this purpose.", "source": "odrl"}],
        "auditId": "leaf-1",
    }


def test_a_peers_error_names_the_peer() -> None:
    """And whether asking again can help."""
    assert body(PeerUnreachable("no answer", participant="city"))["participant"] == "city"
    assert body(GrantStopped("a consent has changed", code="consent_changed", retryable=True))["retryable"]
    assert "retryable" not in body(GrantStopped("it has ended"))


def test_who_is_not_proved_is_told_how_to_prove() -> None:
    """RFC 9449 §7.1."""
    answer = problem(TokenRejected("no"))
    assert answer.headers["www-authenticate"] == 'DPoP error="invalid_token", algs="ES256"'


async def test_our_own_mistakes_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    """The caller of a 500 gets a pointer to the log, and the log has it."""
    error = AuditBroken(f"leaf 7 of {SECRET} fails")
    with caplog.at_level(logging.ERROR):
        answer = await on_connector_error(REQUEST, error)
    assert SECRET not in bytes(answer.body).decode()
    assert "audit_broken: leaf 7" in caplog.text


async def test_what_is_not_foreseen_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it goes out; the log has type and place. A driver's text can hold values."""
    try:
        raise ValueError(f"duplicate key: {SECRET}")
    except ValueError as error:
        with caplog.at_level(logging.ERROR):
            answer = await on_unforeseen(REQUEST, error)
    document = json.loads(bytes(answer.body))
    assert (answer.status_code, document["code"]) == (500, "internal")
    reference = document["detail"].split()[-1].rstrip(".")
    assert reference in caplog.text
    assert "ValueError" in caplog.text
    assert "test_errors.py" in caplog.text
    assert SECRET not in bytes(answer.body).decode() + caplog.text
