"""Everybody's catalogue at once: one that is dead, hostile or slow costs only itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from connector.access.peers import Peers
from connector.control_plane import discovery
from connector.control_plane.discovery import Discovery
from connector.control_plane.peer_catalogs import PeerCatalogs
from connector.dsp.catalog import Publisher
from connector.errors import NotFound, PeerProtocolError, PeerRefused, PeerUnreachable, Reason
from connector.model.participant import Participant, ParticipantStatus
from connector.ports import PeerResponse
from tests.agreed import Agreed
from tests.pair import dataset

CATALOG = Publisher(participant_id="kela", dsp_url="https://kela.example/dsp/2025-1").catalog(
    [dataset()], lambda _: True
)
OFFERS = CATALOG["dataset"][0]


def nested(depth: int) -> bytes:
    opening = b'{"@type":"Catalog","@id":"c","participantId":"city"'
    return (opening + b',"catalog":[') * depth + opening + b"}" + b"]}" * depth


class StubPeers:
    """Answers by participant: a document, an error, or nothing at all."""

    def __init__(self, agreed: Agreed) -> None:
        self._peers = Peers(agreed.registry, cast("Any", None), cast("Any", None))
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    def participant(self, participant_id: str) -> Participant:
        return self._peers.participant(participant_id)

    async def call(self, participant: Participant, method: str, url: str, **_: Any) -> Any:
        self.asked.append(f"{method} {url}")
        answer = self.answers[participant.id]
        if isinstance(answer, Exception):
            raise answer
        if answer is Ellipsis:
            await asyncio.Event().wait()
        return answer

    async def ask(self, participant: Participant, method: str, url: str, **about: Any) -> PeerResponse:
        answer = await self.call(participant, method, url, **about)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return PeerResponse(status=200, headers={}, body=body)


@pytest.fixture
def stub() -> StubPeers:
    return StubPeers(Agreed())


def looking(stub: StubPeers) -> Discovery:
    agreed = Agreed()
    stub._peers = Peers(agreed.registry, cast("Any", None), cast("Any", None))
    peers = cast("Any", stub)
    return Discovery(
        participant_id="youth",
        trust=agreed.registry,
        peers=peers,
        catalogs=PeerCatalogs(peers, agreed.clock),
    )


DEAD = {
    "unreachable": (PeerUnreachable("no connection", participant="city"), "no connection"),
    "refusing": (PeerRefused("not for you", participant="city", reasons=[Reason(code="x", text="y")]), "not"),
    "no object": ([], "catalogue cannot be read"),
    "nothing": (None, "catalogue cannot be read"),
    "another message": ({"@type": "Dataset"}, "catalogue cannot be read"),
    "too deep": (nested(2_000), "deeper than 64 levels"),
    "half a catalogue": (nested(3)[:-1], "catalogue cannot be read"),
    "silent": (..., "in time"),
}


@pytest.mark.parametrize(("answer", "text"), DEAD.values(), ids=DEAD)
async def test_one_bad_peer_spoils_no_others_catalogue(
    stub: StubPeers, answer: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead or hostile participant is shown with what is wrong; the others are seen."""
    monkeypatch.setattr(discovery, "PEER_SECONDS", 0.05)
    stub.answers = {"kela": CATALOG, "city": answer}
    seen = {s.participant.id: s for s in await looking(stub).look()}
    assert [d.id for d in seen["kela"].datasets] == ["benefits"]
    assert seen["kela"].error == ""
    assert seen["city"].datasets == ()
    assert text in seen["city"].error


async def test_one_bad_dataset_costs_only_itself(stub: StubPeers) -> None:
    """It is named; the others are seen."""
    stub.answers = {"kela": {**CATALOG, "dataset": [{"@id": "broken"}, *CATALOG["dataset"]]}}
    (seen,) = await looking(stub).look("kela")
    assert ([d.id for d in seen.datasets], seen.error) == (["benefits"], "")
    assert [(p.dataset, p.code) for p in seen.problems] == [("broken", "dataset_invalid")]


async def test_nobody_asks_the_suspended_or_oneself(stub: StubPeers) -> None:
    """Only active participants of the trust list, and not ourselves."""
    look = looking(stub)
    stub.answers = {"kela": CATALOG}
    registry: Any = look._trust
    registry.set_status("city", ParticipantStatus.SUSPENDED)
    assert [s.participant.id for s in await look.look()] == ["kela"]
    with pytest.raises(PeerRefused) as refused:
        await look.look("city")
    assert refused.value.code == "participant_inactive"
    assert [s.participant.id for s in await look.look("kela")] == ["kela"]


async def test_an_offer_is_the_one_that_is_shown_now(stub: StubPeers) -> None:
    """Negotiations begin from the provider's live catalogue, and name what there is instead."""
    look = looking(stub)
    stub.answers = {"kela": OFFERS}
    offer = OFFERS["hasPolicy"][0]
    assert await look.offer(look.provider("kela"), "benefits", offer["@id"]) == offer
    assert stub.asked == ["GET https://kela.example/dsp/2025-1/catalog/datasets/benefits"]
    with pytest.raises(NotFound, match="benefits:planning:1"):
        await look.offer(look.provider("kela"), "benefits", "no-such-offer")


@pytest.mark.parametrize("answer", [None, [], {"@type": "Dataset"}, {"@id": "benefits", "hasPolicy": 7}])
async def test_a_dataset_that_cannot_be_read_is_the_peers_fault(stub: StubPeers, answer: Any) -> None:
    """Not a 400 for the person who asked us."""
    look = looking(stub)
    stub.answers = {"kela": answer}
    with pytest.raises(PeerProtocolError) as failed:
        await look.offer(look.provider("kela"), "benefits", "x")
    assert failed.value.participant == "kela"


async def test_an_offer_with_a_new_id_is_known_by_its_rules(stub: StubPeers) -> None:
    """dsp.md 7.10d: EDC gives its offers new ids at each look; the rules say which one is meant."""
    (offer,) = OFFERS["hasPolicy"]
    stub.answers["kela"] = OFFERS
    found = looking(stub)
    rules = {name: offer[name] for name in ("permission", "prohibition", "obligation")}
    kela = found.provider("kela")
    assert await found.offer(kela, "benefits", "of yesterday", rules) == offer
    for other in (None, {}, {"permission": [{"action": "use"}]}):
        with pytest.raises(NotFound):
            await found.offer(kela, "benefits", "of yesterday", other)
