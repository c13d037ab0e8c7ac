"""A counter-party made of raw messages: drives one connector over HTTP as the conformance kit does.

A conversation is a line of words: `request` sends that message and wants a 2xx; `verify!` sends it and
wants a 4xx that is not 404, and no change; `<offer` wants the connector to have sent that message by
itself; `=AGREED` reads the public state.
"""

from __future__ import annotations

import itertools
from typing import Any

import httpx

from connector.dsp import messages as m
from connector.dsp import policy
from connector.dsp.wire import Fields
from connector.model.catalog import TransferFormat
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord, Role
from connector.model.policy import Agreement, AgreementState
from connector.ports import OutboxMessage
from tests.clocks import ManualClock
from tests.pair import Scripted, Side, dataset, first_offer, participant
from tests.spec.samples import ADDRESS

PEER = participant("tck")
SENT = {
    "<request": ("ContractRequestMessage", "TransferRequestMessage"),
    "<counter": ("ContractRequestMessage",),
    "<offer": ("ContractOfferMessage",),
    "<agree": ("ContractAgreementMessage",),
    "<accept": ("ContractNegotiationEventMessage",),
    "<verify": ("ContractAgreementVerificationMessage",),
    "<finalize": ("ContractNegotiationEventMessage",),
    "<terminate": ("ContractNegotiationTerminationMessage", "TransferTerminationMessage"),
    "<start": ("TransferStartMessage",),
    "<suspend": ("TransferSuspensionMessage",),
    "<complete": ("TransferCompletionMessage",),
}


class Driver:
    """`role` is the connector's; `script` its hook's actions by state, for either protocol."""

    def __init__(self, role: Role, script: dict[str, Any]) -> None:
        clock = ManualClock()
        hook = Scripted(script)
        self.role = role
        self.side = Side(
            "kela",
            clock,
            datasets={"benefits": dataset()},
            negotiation_hook=hook,
            transfer_hook=hook,
            unsigned_peers=frozenset({PEER.id}),
        )
        self.side.outside = self._take
        self.received: list[JsonObject] = []
        self._read = 0
        self._ids = itertools.count(1)
        self.mine, self.theirs = "urn:tck:process", ""
        self.root = "negotiations"
        transport = httpx.ASGITransport(app=self.side.app(participant))
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://kela.example", headers={"authorization": PEER.id}
        )

    async def _take(self, message: OutboxMessage) -> JsonObject | None:
        """Acknowledge as the kit does: an ACK for requests, an empty body else."""
        self.received.append(message.body)
        if message.body["@type"] in SENT["<request"]:
            self.theirs = message.body[f"{self.role}Pid"]
            return {f"{self.role}Pid": self.theirs, f"{self.role.other}Pid": self.mine}
        return None

    async def play(self, conversation: str) -> None:
        async with self.http:
            for word in conversation.split():
                if word.startswith("<"):
                    self._expect_sent(word)
                elif word.startswith("="):
                    assert await self.state() == word[1:]
                elif word.endswith("!"):
                    await self._refused(word[:-1])
                else:
                    answer = await self.say(word)
                    assert answer is None or answer.is_success, answer.text
                await self.idle()
            assert self._read == len(self.received), f"unexpected: {self.received[self._read :]}"

    async def idle(self) -> None:
        while await self.side.worker.step():
            pass

    def _expect_sent(self, word: str) -> None:
        assert self._read < len(self.received), f"nothing sent, {word} expected"
        message = self.received[self._read]
        self._read += 1
        assert message["@type"] in SENT[word], (word, message)

    async def state(self) -> str:
        answer = await self.http.get(f"/dsp/2025-1/{self.root}/{self.theirs}")
        assert answer.status_code == 200
        return str(answer.json()["state"])

    async def _refused(self, word: str) -> None:
        before = self.side.store.state.copied()
        answer = await self.say(word)
        assert answer is not None
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.status_code != 404
        assert answer.json()["@type"] in ("ContractNegotiationError", "TransferError")
        after = self.side.store.state
        assert (before.negotiations, before.transfers) == (after.negotiations, after.transfers)

    async def say(self, word: str) -> httpx.Response | None:
        """`begin` makes the connector start; every other word is a message of ours."""
        match word:
            case "begin":
                await self.side.negotiations.request(PEER, "benefits", first_offer(self.side))
                return None
            case "begin-transfer":
                self.root = "transfers"
                await self._sign(Role.CONSUMER)
                await self.side.transfers.request(
                    "urn:agreement", TransferFormat.FEDERATED_QUERY_PULL, dsp_url=PEER.dsp_url
                )
                return None
            case "request-transfer":
                self.root = "transfers"
                await self._sign(Role.PROVIDER)
        message = self._message(word)
        path = message.path(self.theirs)
        answer = await self.http.post(f"/dsp/2025-1{path}", json=message.document())
        if answer.status_code == 201:
            self.theirs = answer.json()[f"{self.role}Pid"]
        return answer

    def _message(self, word: str) -> m.ProcessMessage:
        head: dict[str, Any] = {
            "id": f"urn:tck:{next(self._ids)}",
            f"{self.role}_pid": self.theirs,
            f"{self.role.other}_pid": self.mine,
        }
        offer = policy.parse_offer(Fields(policy.offer_for(first_offer(self.side), "benefits")))
        match word:
            case "request":
                return m.ContractRequestMessage(**head, offer=offer, callback_address=PEER.dsp_url)
            case "counter":
                return m.ContractRequestMessage(**head, offer=offer)
            case "offer":
                return m.ContractOfferMessage(**head, offer=offer)
            case "agree":
                return m.ContractAgreementMessage(**head, agreement=self._agreement(PEER.id, "kela"))
            case "verify":
                return m.ContractAgreementVerificationMessage(**head)
            case "accept" | "finalize":
                event = m.NegotiationEvent.ACCEPTED if word == "accept" else m.NegotiationEvent.FINALIZED
                return m.ContractNegotiationEventMessage(**head, event_type=event)
            case "request-transfer":
                return m.TransferRequestMessage(
                    **head,
                    agreement_id="urn:agreement",
                    format="FederatedQuery-PULL",
                    callback_address=PEER.dsp_url,
                )
            case "start":
                return m.TransferStartMessage(**head, data_address=ADDRESS)
            case "suspend":
                return m.TransferSuspensionMessage(**head)
            case "complete":
                return m.TransferCompletionMessage(**head)
            case "terminate" if self.root == "transfers":
                return m.TransferTerminationMessage(**head, code="1")
            case "terminate":
                return m.ContractNegotiationTerminationMessage(**head, code="1", reason=("because",))
        raise AssertionError(word)

    def _agreement(self, assigner: str, assignee: str) -> Agreement:
        wire = policy.render_agreement(
            first_offer(self.side),
            agreement_id="urn:agreement",
            target="benefits",
            assigner=assigner,
            assignee=assignee,
            timestamp=self.side.clock.now(),
        )
        return policy.parse_agreement(Fields(wire))

    async def _sign(self, role: Role) -> None:
        """An agreement that is there already, as in the kit's seed."""
        parties = ("kela", PEER.id) if role is Role.PROVIDER else (PEER.id, "kela")
        record = AgreementRecord(
            agreement=self._agreement(*parties),
            role=role,
            negotiation_pid="",
            state=AgreementState.ACTIVE,
            offer_id="",
        )
        async with self.side.store.transaction() as tx:
            await tx.save_agreement(record)
