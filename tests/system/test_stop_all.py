"""`connector stop --all` with real processes: all that runs ends at once, nothing opens until `resume`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from connector.errors import ConnectorError
from connector.local_api import ApiProblem
from tests.system.dataspace import (
    CITY,
    KELA,
    ROWS,
    WAIT_SECONDS,
    CommandFailed,
    DataSpace,
    agreed_space,
    connector,
    reading,
    until,
)


@pytest.mark.slow
def test_one_command_ends_every_stream_and_one_lifts_it(tmp_path: Path) -> None:
    """Mission: the stop holds when the command answers, and outlives a restart."""
    with agreed_space(tmp_path) as space:
        folder = ("--folder", space.of(KELA))
        with reading(space, CITY, KELA) as stream:
            began = time.time()
            stopped = connector("stop", "--all", "--reason", "An incident.", "--as", "anna", *folder)
            answered = time.time()
            assert stopped == {"ended": 1}
            assert stream.over.wait(WAIT_SECONDS)
        assert not stream.whole
        assert answered - began < 1.0
        assert stream.written_at <= answered
        space.stop(KELA)
        space.serve(KELA)
        with pytest.raises(ApiProblem) as refused:
            space.count(CITY)
        assert [r.code for r in refused.value.reasons] == ["connector_stopped"]
        connector("resume", *folder)
        until(lambda: counted(space))
        with pytest.raises(CommandFailed) as again:
            connector("resume", *folder)
        assert again.value.error == "not_stopped"


def counted(space: DataSpace) -> bool:
    try:
        return space.count(CITY) == ROWS
    except ConnectorError:
        return False
