"""The client API's queries: ask, explain, look how far one is, stop it; rows of one dataset as they come."""

# no postponed annotations here: FastAPI reads the dependencies that each function names for itself

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from connector.model.person import Person, PersonRole
from connector.query import answers
from connector.query.federate import QueryAnswer
from connector.web.auth import needs
from connector.web.body import Body
from connector.web.leaving import while_connected
from connector.web.lines import json_lines

if TYPE_CHECKING:
    from connector.web.client_api import ClientServices

R = PersonRole
ID_HEADER = "Dataspace-Query"


class Statement(Body):
    sql: str = Field(max_length=64_000)
    purpose: str
    parameters: list[Any] | dict[str, Any] = Field(
        default_factory=list, description="Of `?` in their order, or of `$name` by name."
    )


class QueryAsked(Statement):
    format: Literal["json", "arrow", "csv"] = "json"
    id: str = Field(
        "", pattern=r"^([A-Za-z0-9_-]{8,64})?$", description="To look at and stop it by; none makes one."
    )


class StreamAsked(Body):
    dataset: str = Field(pattern=r"^[^.]+\.[^.]+$", description="participant.dataset")
    columns: list[str] = Field(min_length=1)
    purpose: str
    batch_rows: int = Field(100, ge=1, le=100_000)


def add_queries(router: APIRouter, services: "ClientServices") -> None:
    Asker = Annotated[Person, Depends(needs(services.door, R.ANALYST, R.CASE_WORKER))]

    @router.post("/queries", tags=["queries"], response_class=Response, responses=_ANSWERS)
    async def query(asked: QueryAsked, person: Asker, request: Request) -> Response:
        """The whole answer, with where it comes from and what was hidden: in JSON beside the rows, in Arrow
        in the schema's metadata (`dataspace.answer`), for CSV at the `Link` of relation `describedby`.

        Ends with the client's connection.
        """
        person.require_purpose(asked.purpose)
        query_id = asked.id or services.queries.new_id()
        work = services.queries.run(asked.sql, asked.purpose, asked.parameters, person, query_id)
        return _answered(await while_connected(request, work), asked.format, query_id)

    @router.post("/queries/explain", tags=["queries"])
    async def explain(asked: Statement, person: Asker) -> dict[str, Any]:
        person.require_purpose(asked.purpose)
        found = await services.queries.explain(asked.sql, asked.purpose, asked.parameters, person)
        return answers.explanation(found)

    @router.get("/queries/{query_id}", tags=["queries"])
    async def progress(query_id: str, person: Asker) -> dict[str, Any]:
        """How far each source of a query of one's own is; and for ten minutes what came of it."""
        return answers.progress(services.queries.running.get(query_id, person.subject))

    @router.delete("/queries/{query_id}", tags=["queries"])
    async def cancel(query_id: str, person: Asker) -> dict[str, Any]:
        """Ends it at every provider; whoever waits for its answer is told `query_cancelled`."""
        return answers.progress(services.queries.running.cancel(query_id, person.subject))

    @router.post("/streams", tags=["queries"], response_class=StreamingResponse)
    async def stream(asked: StreamAsked, person: Asker) -> StreamingResponse:
        person.require_purpose(asked.purpose)
        lines = await services.queries.stream(
            asked.dataset, asked.columns, asked.purpose, asked.batch_rows, person
        )
        return json_lines(lines)


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer",
        "content": {"application/json": {}, answers.ARROW_TYPE: {}, "text/csv": {}},
    }
}


def _answered(answer: QueryAnswer, format_: str, query_id: str) -> Response:
    headers = {
        "Cache-Control": "no-store",
        ID_HEADER: query_id,
        "Link": f'</v1/queries/{query_id}>; rel="describedby"',
    }
    match format_:
        case "arrow":
            return StreamingResponse(answers.as_arrow(answer), media_type=answers.ARROW_TYPE, headers=headers)
        case "csv":
            return StreamingResponse(answers.as_csv(answer), media_type=answers.CSV_TYPE, headers=headers)
        case _:
            return JSONResponse(answers.as_json(answer), headers=headers)
