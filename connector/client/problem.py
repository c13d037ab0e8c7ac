"""The connector's answer when it refuses (RFC 9457), as an error with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from connector.errors import ConnectorError, Reason


class ApiProblem(ConnectorError):
    """The connector's answer was a problem (RFC 9457); `problem` is its body."""

    code = "api_problem"

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        text = str(problem.get("detail") or f"the connector answered {status}")
        super().__init__(
            text, mend=str(problem.get("mend") or ""), code=str(problem.get("code") or self.code)
        )
        self.status = status
        self.problem = dict(problem)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(
            Reason(code=r.get("code", ""), text=r.get("text", ""), source=r.get("source", ""))
            for r in self.problem.get("deniedBy", ())
        )


def problem_of(answer: httpx.Response) -> ApiProblem:
    """`answer` has been read."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    return ApiProblem(answer.status_code, body if isinstance(body, dict) else {})
