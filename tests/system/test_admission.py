"""Coming in, being suspended, leaving: by the registry alone; nobody else changes or restarts anything."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from connector.errors import ConnectorError
from connector.model.person import PersonRole
from tests.system.dataspace import (
    CITY,
    KELA,
    ROWS,
    WAIT_SECONDS,
    CommandFailed,
    DataSpace,
    connector,
    reading,
    until,
)

ACTS_WITHIN_SECONDS = 3.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSpace]:
    """kela is served and offers its stations; city is made, and has not applied yet."""
    made = DataSpace(tmp_path_factory.mktemp("space"))
    made.make_registry()
    made.serve("registry")
    try:
        made.init(KELA)
        made.offer_stations(KELA)
        made.approve(made.apply(KELA))
        made.serve(KELA)
        made.init(CITY)
        yield made
    finally:
        made.stop()


def known_to(space: DataSpace, name: str) -> list[str]:
    with space.api(name) as api:
        return [p["id"] for p in api.get("/v1/participants")["participants"]]


def catalogue_of_kela(space: DataSpace) -> list[Any]:
    with space.api(CITY, PersonRole.OPERATOR) as api:
        (shown,) = api.get("/v1/catalog", participant=KELA)["participants"]
        return [d["id"] for d in shown.get("datasets", ())]


def set_status(space: DataSpace, status: str) -> None:
    connector("registry", "set-status", CITY, status, "--folder", space.of("registry"))


def refused(space: DataSpace) -> bool:
    try:
        space.count(CITY)
    except ConnectorError:
        return True
    return False


def test_an_applicant_is_nobody_until_a_person_approves(space: DataSpace) -> None:
    """Mission: admission by signed application; the others need no change, and act within seconds."""
    application = space.apply(CITY)
    registry = space.of("registry")
    (waiting,) = connector("registry", "applications", "--folder", registry)["applications"]
    assert (waiting["id"], waiting["participant"], waiting["state"]) == (application, CITY, "waiting")
    space.serve(CITY)
    time.sleep(1.5)  # longer than between two looks at the list
    assert known_to(space, KELA) == [KELA]
    began = time.monotonic()
    space.approve(application)
    until(lambda: CITY in known_to(space, KELA) and CITY in known_to(space, CITY))
    assert time.monotonic() - began < ACTS_WITHIN_SECONDS
    assert catalogue_of_kela(space) == ["stations"]
    space.agree(CITY, KELA)
    assert space.count(CITY) == ROWS
    with pytest.raises(CommandFailed) as again:
        connector("registry", "approve", application, "--by", "x", "--folder", registry)
    assert again.value.error == "application_decided"


def test_a_suspension_ends_what_runs_and_a_return_needs_no_restart(space: DataSpace) -> None:
    """Mission: acted on within 3 s: a running stream ends, nothing opens; readmitted, all goes on."""
    with reading(space, CITY, KELA) as stream:
        set_status(space, "suspended")
        began = time.time()
        assert stream.over.wait(WAIT_SECONDS)
    assert not stream.whole
    assert stream.written_at - began < ACTS_WITHIN_SECONDS
    assert refused(space)
    with pytest.raises(AssertionError):
        assert catalogue_of_kela(space)
    set_status(space, "active")
    assert until(lambda: not refused(space)) < ACTS_WITHIN_SECONDS
    assert catalogue_of_kela(space) == ["stations"]


def test_who_left_gets_nothing(space: DataSpace) -> None:
    set_status(space, "left")
    began = time.monotonic()
    until(lambda: refused(space))
    assert time.monotonic() - began < ACTS_WITHIN_SECONDS


def test_a_refused_applicant_reads_why_and_stays_outside(space: DataSpace) -> None:
    space.init("mallory")
    application = space.apply("mallory")
    registry = space.of("registry")
    decided = connector(
        *("registry", "refuse", application, "--by", "orchestrator", "--reason", "Not a public body."),
        *("--folder", registry),
    )
    assert (decided["state"], decided["reason"]) == ("refused", "Not a public body.")
    with pytest.raises(CommandFailed):
        space.approve(application)
    assert "mallory" not in connector("registry", "show", "--folder", registry)["participants"]


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A plain one: it knows nothing of registries."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        running = threading.Thread(target=server.serve_forever, daemon=True)
        running.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            running.join()


def test_a_signed_file_behind_any_web_server_will_do(tmp_path: Path) -> None:
    """`connector registry sign`: the service is a convenience; what counts is the signature."""
    space = DataSpace(tmp_path)
    (tmp_path / "www").mkdir()

    def publish() -> None:
        made = connector("registry", "sign", "--folder", space.of("registry"))
        new = tmp_path / "www" / "new"
        new.write_bytes(Path(made["file"]).read_bytes())
        new.rename(tmp_path / "www" / "trust-list")

    with web_server(tmp_path / "www") as url:
        space.make_registry(url)
        try:
            for name in (KELA, CITY):
                space.init(name, registry_url=url)
                application = space.of(name) / "participant.json"
                about = ["--name", name.title(), "--folder", space.of("registry")]
                connector("registry", "add", application, *about)
            space.offer_stations(KELA)
            publish()
            space.serve(KELA, CITY)
            assert catalogue_of_kela(space) == ["stations"]
            space.agree(CITY, KELA)
            assert space.count(CITY) == ROWS
            set_status(space, "suspended")
            publish()
            assert until(lambda: refused(space)) < ACTS_WITHIN_SECONDS
        finally:
            space.stop()
