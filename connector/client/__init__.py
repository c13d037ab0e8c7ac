"""Ask one's own connector from Python: `pip install connector[client]`, with none of the server's weight.

    from connector.client import Client

    with Client("https://data.helsinki.example", key="...") as client:
        answer = client.query("SELECT ... FROM kela.benefits b JOIN school.pupils p USING (person)",
                              purpose="service-planning")
        answer.pandas()

`AsyncClient` is the same with `await`. Errors are `connector.errors.ConnectorError`.
"""

from connector.client.answer import Answer
from connector.client.clients import AsyncClient, Client
from connector.client.problem import ApiProblem

__all__ = ["Answer", "ApiProblem", "AsyncClient", "Client"]
