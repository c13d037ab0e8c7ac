"""The Python client beside two real connectors: ask, explain, look, stop, ask for access (mission Q2, Q5)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.client import ApiProblem, AsyncClient, Client
from connector.errors import Unavailable
from connector.model.person import PersonRole
from tests.system.dataspace import CITY, KELA, PURPOSE, DataSpace, agreed_space, connector, until

ROWS = 4_000
NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebooks" / "federated_query.ipynb"
ENDLESS = (
    "SELECT count(*) AS n FROM kela.stations a, kela.stations b, kela.stations c "
    "WHERE a.name || b.name || c.name LIKE '%nowhere%'"
)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSpace]:
    with agreed_space(tmp_path_factory.mktemp("client"), ROWS) as space:
        yield space


@pytest.fixture(scope="module")
def key(space: DataSpace) -> str:
    """An application's key, as its administrator makes it."""
    return key_of(space, "notebook")


def key_of(space: DataSpace, name: str) -> str:
    with space.api(CITY, PersonRole.ADMIN) as api:
        asked = {"name": name, "roles": ["analyst", "operator", "viewer"], "purposes": [PURPOSE]}
        return str(api.post("/v1/api-keys", {**asked, "days": 1})["key"])


@pytest.fixture
def client(space: DataSpace, key: str) -> Iterator[Client]:
    with Client(space.url(CITY), key=key) as client:
        yield client


def test_an_answer_comes_as_arrow_pandas_and_polars_with_what_belongs_to_it(client: Client) -> None:
    """Mission Q2, Q5: rows, provenance and what was hidden are one thing."""
    answer = client.query(
        "SELECT name, bikes FROM kela.stations WHERE name = $name",
        purpose=PURPOSE,
        parameters={"name": "Asema 7"},
    )
    assert answer.rows() == [{"name": "Asema 7", "bikes": 1}]
    assert answer.arrow().column_names == ["name", "bikes"]
    assert answer.pandas().to_dict("records") == answer.rows()
    assert answer.polars().to_dicts() == answer.rows()
    (source,) = answer.provenance
    assert (source["participant"], source["dataset"], source["rows"]) == (KELA, "stations", 1)
    assert source["agreement"]
    assert source["policyRevision"]
    assert source["auditId"]
    assert not answer.identified
    assert "Asema 7" in answer._repr_html_()
    assert PURPOSE in answer._repr_html_()


def test_the_awaited_client_is_the_same(space: DataSpace, key: str) -> None:
    """Issue Query: sync and async."""

    async def ask() -> int:
        async with AsyncClient(space.url(CITY), key=key) as client:
            explained = await client.explain("SELECT name FROM kela.stations", purpose=PURPOSE)
            assert [f["participant"] for f in explained["fragments"]] == [KELA]
            answer = await client.query("SELECT count(*) AS n FROM kela.stations", purpose=PURPOSE)
            return int(answer.rows()[0]["n"])

    assert asyncio.run(ask()) == ROWS


def test_progress_is_told_by_source_and_remembered_without_rows(client: Client) -> None:
    """Mission Q5: what came of a query can be looked up for a while, its rows cannot."""
    client.query("SELECT name FROM kela.stations", purpose=PURPOSE, id="remembered-1")
    told = client.progress("remembered-1")
    assert told["state"] == "DONE"
    assert [(s["participant"], s["state"], s["rows"]) for s in told["sources"]] == [(KELA, "DONE", ROWS)]
    assert told["about"]["provenance"][0]["agreement"]
    assert "Asema" not in str(told)


def test_another_person_sees_no_query_of_mine(space: DataSpace, client: Client) -> None:
    """Identity: an id that is known is no right to look or to stop."""
    client.query("SELECT count(*) FROM kela.stations", purpose=PURPOSE, id="only-mine-1")
    with Client(space.url(CITY), key=key_of(space, "neighbour")) as neighbour:
        for look in (neighbour.progress, neighbour.cancel):
            with pytest.raises(ApiProblem) as refused:
                look("only-mine-1")
            assert refused.value.status == 404


def test_a_running_query_is_stopped_from_elsewhere(client: Client) -> None:
    """Issue Query: cancel; whoever waits is told why nothing came."""
    failed: list[ApiProblem] = []

    def ask() -> None:
        with pytest.raises(ApiProblem) as refused:
            client.query(ENDLESS, purpose=PURPOSE, id="endless-1")
        failed.append(refused.value)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: _state(client, "endless-1") == "RUNNING" and _all_read(client, "endless-1"))
    assert client.cancel("endless-1")["state"] == "CANCELLED"
    asking.join(10)
    assert [error.code for error in failed] == ["query_cancelled"]


def test_a_query_ends_with_the_client_that_asked(space: DataSpace, key: str, client: Client) -> None:
    """Issue Query: cancel within a second of the client leaving; the target is measured in benchmarks."""

    async def ask_and_leave() -> None:
        async with AsyncClient(space.url(CITY), key=key) as leaving:
            asking = asyncio.create_task(leaving.query(ENDLESS, purpose=PURPOSE, id="deserted-1"))
            await asyncio.to_thread(until, lambda: _state(client, "deserted-1") == "RUNNING")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(ask_and_leave())
    until(lambda: _state(client, "deserted-1") == "CANCELLED")


def test_csv_and_json_say_the_same(space: DataSpace, key: str) -> None:
    """Issue Query: format `arrow`, `json`, `csv`."""
    sql = "SELECT name, bikes FROM kela.stations ORDER BY name LIMIT 2"
    folder = ["--folder", space.of(CITY), "--purpose", PURPOSE]
    rows = connector("query", sql, *folder)["rows"]
    written = space.folder / "answer.csv"
    connector("query", sql, *folder, "--format", "csv", "--output", written)
    lines = [line.replace('"', "").split(",") for line in written.read_text(encoding="utf-8").splitlines()]
    assert lines == [["name", "bikes"], *[[name, str(bikes)] for name, bikes in rows]]


def test_access_is_asked_for_once_and_said_again_goes_on(space: DataSpace, client: Client) -> None:
    """Mission C2: from a dataset and a purpose to an agreement in use; nothing is begun twice."""
    ready = client.request_access("kela.stations", purpose=PURPOSE)
    assert ready["state"] == "READY"
    with space.api(CITY) as api:
        assert len(api.get("/v1/negotiations")["negotiations"]) == 1
    with pytest.raises(ApiProblem) as refused:
        client.request_access("kela.stations", purpose="statistics")
    assert refused.value.code == "no_such_offer"
    assert PURPOSE in refused.value.mend


def test_from_no_agreement_to_an_answer_by_one_command(tmp_path: Path) -> None:
    """Mission C2: `connector request`, as the refusal of a query says."""
    space = DataSpace(tmp_path)
    space.make_registry()
    try:
        space.serve("registry")
        for name in (KELA, CITY):
            space.init(name)
            space.approve(space.apply(name))
        space.offer_stations(KELA, 3)
        space.serve(KELA, CITY)
        with Client(space.url(CITY), key=key_of(space, "first")) as client:
            with pytest.raises(ApiProblem) as refused:
                client.query("SELECT * FROM kela.stations", purpose=PURPOSE)
            assert f"connector request kela.stations --purpose {PURPOSE}" in refused.value.mend
            done = connector("request", "kela.stations", "--purpose", PURPOSE, "--folder", space.of(CITY))
            assert done["state"] == "READY"
            assert len(client.query("SELECT * FROM kela.stations", purpose=PURPOSE)) == 3
    finally:
        space.stop()


def test_nobody_there_is_an_error_with_a_way_out() -> None:
    """Bad input: a typed error that says what to do."""
    with Client("http://127.0.0.1:9", key="none") as client, pytest.raises(Unavailable) as failed:
        client.query("SELECT 1", purpose=PURPOSE)
    assert failed.value.mend


def test_the_client_carries_none_of_the_servers_weight() -> None:
    """Issue Query: `pip install connector[client]`."""
    heavy = (
        "fastapi pydantic duckdb sqlglot aiokafka asyncpg authlib cryptography uvicorn typer yaml jwt joserfc"
    )
    script = f"import sys, connector.client; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _state(client: Client, query_id: str) -> str:
    try:
        return str(client.progress(query_id)["state"])
    except ApiProblem as problem:
        return str(problem.status)


def _all_read(client: Client, query_id: str) -> bool:
    sources = client.progress(query_id)["sources"]
    return bool(sources) and all(source["state"] == "DONE" for source in sources)


def test_the_notebook_runs(space: DataSpace, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue Query: a notebook in `examples/`, cell by cell."""
    monkeypatch.setenv("CONNECTOR_URL", space.url(CITY))
    monkeypatch.setenv("CONNECTOR_KEY", key)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    try:
        assert len(names["answer"]) == 1  # type: ignore[arg-type]
    finally:
        names["client"].close()  # type: ignore[attr-defined]
