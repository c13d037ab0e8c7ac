"""pytest plugin: the real parts as session fixtures, and a table of which of them this run exercised.

A part starts when the first test asks for it. One that can't be had skips its tests with the reason; in CI
(`CI=true`) it fails them, and a part that was never exercised although collected tests need it fails the run.
`PARTS=embedded` starts none, for a quick run on the embedded twins; CI does not honour it.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from tests.parts import PartUnavailable, edc, kafka, keycloak, opa, postgres, tck

Server = TypeVar(
    "Server",
    opa.OpaServer,
    kafka.KafkaServer,
    postgres.PostgresServer,
    edc.EdcServer,
    keycloak.KeycloakServer,
    tck.Kit,
)

PARTS = {
    "opa_server": "OPA",
    "kafka_server": "Kafka",
    "postgres_server": "PostgreSQL",
    "edc_server": "EDC",
    "keycloak_server": "Keycloak",
    "conformance_kit": "DSP TCK",
}


@dataclass(slots=True)
class Record:
    """What happened to one part in this run."""

    needed_by: set[str] = field(default_factory=set)
    used_by: set[str] = field(default_factory=set)
    version: str = ""
    why_not: str = ""

    def reason(self) -> str:
        """Why the part was not exercised; empty when it was."""
        if self.used_by:
            return ""
        return self.why_not or ("its tests did not run" if self.needed_by else "no collected test needs it")


RECORDS = pytest.StashKey[dict[str, Record]]()
REQUEST = pytest.StashKey[pytest.FixtureRequest]()


def in_ci() -> bool:
    """Whether missing parts are failures."""
    return os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def opa_server(pytestconfig: pytest.Config) -> Iterator[opa.OpaServer]:
    """A real OPA server, shared by the session: name policies and data so that tests don't meet."""
    yield from _serve(pytestconfig, "opa_server", opa.running_opa)


@pytest.fixture(scope="session")
def kafka_server(pytestconfig: pytest.Config) -> Iterator[kafka.KafkaServer]:
    """A real Kafka broker, shared by the session: take topics and groups of your own."""
    yield from _serve(pytestconfig, "kafka_server", kafka.running_kafka)


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[postgres.PostgresServer]:
    """A real PostgreSQL server, shared by the session: take a `fresh_database` per test."""
    yield from _serve(pytestconfig, "postgres_server", postgres.running_postgres)


@pytest.fixture(scope="package")  # it polls all the time: not for longer than its tests
def edc_server(pytestconfig: pytest.Config) -> Iterator[edc.EdcServer]:
    """A real Eclipse EDC control plane, shared by the session: take assets of your own."""
    yield from _serve(
        pytestconfig, "edc_server", lambda: edc.running_edc(settings=edc.quick_state_machines(wait_ms=50))
    )


@pytest.fixture(scope="module")  # for one module's tests
def keycloak_server(pytestconfig: pytest.Config) -> Iterator[keycloak.KeycloakServer]:
    """A real Keycloak: register a client of your own."""
    yield from _serve(pytestconfig, "keycloak_server", keycloak.running_keycloak)


@pytest.fixture(scope="session")
def conformance_kit(pytestconfig: pytest.Config) -> Iterator[tck.Kit]:
    """The Dataspace Protocol's official conformance kit, ready to be run."""
    yield from _serve(pytestconfig, "conformance_kit", tck.ready_kit)


@pytest.fixture(autouse=True)
def _parts_of_this_test(request: pytest.FixtureRequest) -> None:
    # A test may also take a part by `request.getfixturevalue`: only the request knows, after the test.
    request.node.stash[REQUEST] = request


def _serve(
    config: pytest.Config, fixture: str, running: Callable[[], AbstractContextManager[Server]]
) -> Iterator[Server]:
    record = config.stash[RECORDS][fixture]
    if os.environ.get("PARTS") == "embedded" and not in_ci():
        record.why_not = "PARTS=embedded"
        pytest.skip(f"{PARTS[fixture]} is not started: PARTS=embedded")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running())
        except PartUnavailable as error:
            record.why_not = str(error).splitlines()[0]
            message = f"{PARTS[fixture]} can't be had. {error}"
            unavailable = (
                pytest.fail.Exception(message, pytrace=False) if in_ci() else pytest.skip.Exception(message)
            )
            raise unavailable from None
        record.version = server.version
        yield server


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDS] = {fixture: Record() for fixture in PARTS}


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in PARTS:
                session.config.stash[RECORDS][fixture].needed_by.add(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when != "teardown" and REQUEST in item.stash:
        for fixture in PARTS.keys() & set(item.stash[REQUEST].fixturenames):
            record = item.config.stash[RECORDS][fixture]
            record.needed_by.add(item.nodeid)
            if call.when == "call" and not report.skipped and record.version:
                record.used_by.add(item.nodeid)
    return report


def _missed(config: pytest.Config) -> list[str]:
    records = config.stash[RECORDS]
    return [
        name for fixture, name in PARTS.items() if records[fixture].needed_by and not records[fixture].used_by
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if in_ci() and _missed(session.config) and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    records = config.stash[RECORDS]
    if config.option.collectonly or not (in_ci() or any(record.needed_by for record in records.values())):
        return
    terminalreporter.section("real parts")
    layout = "{:<11} {:<9} {:<10} {:>5}  {}"
    terminalreporter.line(layout.format("part", "version", "exercised", "tests", "why not"))
    for fixture, name in PARTS.items():
        record = records[fixture]
        exercised = "yes" if record.used_by else "no"
        cells = (name, record.version or "-", exercised, len(record.used_by), record.reason())
        terminalreporter.line(layout.format(*cells).rstrip())
    if in_ci() and (missed := _missed(config)):
        terminalreporter.line(
            f"FAILED: {', '.join(missed)} never exercised although collected tests need it (CI=true).",
            red=True,
        )
