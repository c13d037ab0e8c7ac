"""One EDC, one data plane for it and one connector of ours, which know each other, for all these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.data_plane import DataPlane, running_data_plane
from tests.interop.listening import Listener, running_listener
from tests.interop.management import ODRL, Edc, managing
from tests.interop.ours import Ours, running_ours
from tests.parts.edc import EdcServer

ASSET = "timetables"
ASSET_BYTES = bytes(range(256)) * 512
WARM_UPS = 3


@pytest.fixture(scope="package")
def data_plane() -> Iterator[DataPlane]:
    with running_data_plane({ASSET: ASSET_BYTES}) as plane:
        yield plane


@pytest.fixture(scope="package")
def edc(edc_server: EdcServer, data_plane: DataPlane) -> Iterator[Edc]:
    """With one asset on offer to everybody. EDC's own policies know no constraint that is not programmed.

    Warm: in its first conversations it takes longer to digest an answer than we wait for it.
    """
    with managing(edc_server) as edc:
        edc.register(data_plane)
        edc.offer(ASSET, {"@context": ODRL, "@type": "Set", "permission": [{"action": "use"}]})
        for _ in range(WARM_UPS):
            _talk_to_itself(edc)
        yield edc


def _talk_to_itself(edc: Edc) -> None:
    (dataset,) = edc.catalog(edc.id, edc.server.dsp_url)["dataset"]
    asked = edc.negotiate(edc.id, edc.server.dsp_url, ASSET, dataset["hasPolicy"][0])
    ended = edc.negotiation(asked, "FINALIZED", "TERMINATED")
    if ended["state"] == "FINALIZED":
        transfer = edc.transfer(edc.id, edc.server.dsp_url, ended["contractAgreementId"])
        edc.transfer_process(transfer, "STARTED", "TERMINATED")


@pytest.fixture(scope="package")
def ours(
    edc_server: EdcServer, data_plane: DataPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ours]:
    data_host = data_plane.base_url.removeprefix("http://")
    with running_ours(tmp_path_factory.mktemp("interop"), edc_server, data_host) as ours:
        yield ours


@pytest.fixture(scope="package")
def events() -> Iterator[Listener]:
    """Where EDC tells of its transfers: the only place where it shows a data address."""
    with running_listener() as listener:
        yield listener
