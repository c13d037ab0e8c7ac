"""Policies changed under a running connector, and not without a second person, with real processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from connector.errors import ConnectorError
from connector.local_api import ApiProblem
from tests.system.dataspace import (
    CITY,
    KELA,
    STATIONS,
    WAIT_SECONDS,
    CommandFailed,
    DataSpace,
    connector,
    reading,
    until,
)

ROWS = 60_000
NAMED = STATIONS.replace("approval: automatic", "approval: automatic\n          policies: [open]")
OPEN = """\
package dataspace.policies.open

default decision := {"allow": false, "reasons": []}

decision := {"allow": true, "reasons": []} if input.stage != "closed"
"""
CLOSED = """\
package dataspace.policies.open

default decision := {"allow": false, "reasons": [{"code": "closed", "text": "closed for now"}]}
"""

pytestmark = pytest.mark.slow


def write(space: DataSpace, text: str) -> None:
    (space.of(KELA) / "policies" / "open.rego").write_text(text, encoding="utf-8")


def policy(space: DataSpace, *words: str) -> Any:
    return connector("policy", *words, "--folder", space.of(KELA))


def refusal(space: DataSpace) -> list[str]:
    """Why a query is refused; nothing where it is not."""
    try:
        space.count(CITY)
    except ApiProblem as problem:
        return [r.code for r in problem.reasons] or [problem.code]
    except ConnectorError as error:
        return [error.code]
    return []


def made(folder: Path, *settings: str) -> DataSpace:
    space = DataSpace(folder)
    space.make_registry()
    space.serve("registry")
    for name in (KELA, CITY):
        space.init(name, *(settings if name == KELA else ()))
        space.approve(space.apply(name))
    space.offer_stations(KELA, ROWS)
    (space.of(KELA) / "catalog" / "stations.odcs.yaml").write_text(NAMED, encoding="utf-8")
    write(space, OPEN)
    space.serve(KELA, CITY)
    return space


def test_a_change_in_the_folder_reaches_running_streams(tmp_path: Path) -> None:
    """No restart; a bad file is named in the log by file and line, and changes nothing."""
    space = made(tmp_path)
    try:
        space.agree(CITY, KELA)
        with reading(space, CITY, KELA) as stream:
            write(space, OPEN + "\nbroken := \n")
            log = space.processes[KELA].log
            until(lambda: "policies/open.rego:8" in log.read_text())
            assert policy(space, "status")["problem"]
            assert not stream.over.is_set()
            changed = time.time()
            write(space, CLOSED)
            assert stream.over.wait(WAIT_SECONDS)
        assert not stream.whole
        assert stream.written_at - changed < 5.0
        assert refusal(space) == ["closed"]
        write(space, OPEN)
        until(lambda: not refusal(space))
    finally:
        space.stop()


def test_nothing_is_in_force_that_two_others_have_not_approved(tmp_path: Path) -> None:
    """Four eyes, and two more: fail closed before, the last approved one over a restart, audited."""
    space = made(tmp_path, "policy_approvals = 2")
    try:
        with space.api(CITY) as api:
            (shown,) = api.get("/v1/catalog", participant=KELA)["participants"]
        assert not shown.get("datasets")
        waiting = policy(space, "status")["waiting"]["revision"]
        assert OPEN in policy(space, "show", waiting)["modules"].values()
        policy(space, "submit", waiting, "--as", "anna")
        with pytest.raises(CommandFailed) as own:
            policy(space, "approve", waiting, "--as", "anna")
        assert own.value.error == "not_permitted"
        assert policy(space, "approve", waiting, "--as", "bea")["active"] is None
        assert policy(space, "approve", waiting, "--as", "bea")["active"] is None
        assert policy(space, "approve", waiting, "--as", "carl")["active"]["revision"] == waiting
        space.agree(CITY, KELA)
        assert not refusal(space)
        write(space, CLOSED)
        until(lambda: policy(space, "status")["waiting"] is not None)
        space.stop(KELA)
        space.serve(KELA)
        found = policy(space, "status")
        assert found["active"]["revision"] == waiting
        assert not refusal(space)
        closed = found["waiting"]["revision"]
        for who in ("anna", "bea"):
            policy(space, "approve", closed, "--as", who)
        assert refusal(space) == ["closed"]
        space.stop(KELA)
        assert connector("audit", "verify", "--folder", space.of(KELA))["size"] > 0
    finally:
        space.stop()
