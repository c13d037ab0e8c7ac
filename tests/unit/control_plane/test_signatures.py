"""Both sides sign an agreement, over the same bytes; unsigned it gives nothing (Protocol, agreements; C4)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from connector.access import agreement_signature as signature
from connector.access.jose import parse_jws
from connector.access.validity import ABSENT, UNSIGNED, WRONG
from connector.dsp.policy import policy_hash
from connector.dsp.wire import canonical, sha256_hex
from connector.errors import MessageInvalid, NotFound, NotPermitted, PeerRefused
from connector.model.audit import AuditEvent
from connector.model.catalog import TransferFormat
from connector.model.json import JsonObject
from connector.model.negotiation import AgreementRecord
from connector.model.transfer import TransferState
from connector.ports import OutboxMessage
from tests.pair import (
    ConnectorPair,
    Side,
    connected,
    keys_of,
    participant,
    reading,
    receive_by_http,
    receive_directly,
)

QUERY = TransferFormat.FEDERATED_QUERY_PULL
PATH = "/dsp/2025-1/agreements/{}/signatures"


def held(side: Side, agreement_id: str) -> AgreementRecord:
    return side.store.state.agreements[agreement_id]


def signers(side: Side, agreement_id: str) -> set[str]:
    return {s.participant for s in held(side, agreement_id).signatures}


async def test_both_hold_the_same_bytes_and_both_signatures() -> None:
    """Protocol, agreements: hashes of contract, terms version and policy, signed by both over RFC 8785."""
    pair = connected(receive=receive_by_http)
    agreement_id = await pair.negotiated()
    ours, theirs = held(pair.provider, agreement_id), held(pair.consumer, agreement_id)
    assert canonical(ours.agreement.document) == canonical(theirs.agreement.document)
    assert ours.signed_by_both
    assert theirs.signed_by_both
    assert signature.statement(ours) == signature.statement(theirs)
    stated = signature.statement(theirs)
    assert stated["agreementHash"] == sha256_hex(ours.agreement.document)
    assert (stated["contractHash"], stated["termsVersion"]) == ("c0ffee", "1")
    assert stated["policyHash"] == policy_hash(ours.agreement.document)
    for side in (pair.provider, pair.consumer):
        record = held(side, agreement_id)
        payloads = {parse_jws(s.jws, typ={signature.TYP}).payload for s in record.signatures}
        assert payloads == {canonical(stated)}, "one text, signed twice"
        assert [(c.problem, c.listed) for c in side.signatures.check(record)] == [("", True)] * 2
        assert (side.agreements.why_not(record), side.agreements.waived(record)) == (None, False)


async def test_signing_costs_one_request_and_holds_up_no_message() -> None:
    """The provider's goes out beside FINALIZED, the answer brings the consumer's."""
    pair = connected()
    await pair.negotiated()
    kinds = [m["@type"] for m in pair.provider.sent]
    assert kinds[-2:] in (
        ["ContractNegotiationEventMessage", "AgreementSignatureMessage"],
        ["AgreementSignatureMessage", "ContractNegotiationEventMessage"],
    )
    assert "AgreementSignatureMessage" not in [m["@type"] for m in pair.consumer.sent]


async def test_only_the_two_parties_read_it() -> None:
    """At /agreements/{id}/signatures: for everybody else it does not exist."""
    pair = connected()
    agreement_id = await pair.negotiated()
    shown = await reading(pair.provider)("city", f"http://kela.example{PATH.format(agreement_id)}")
    assert (shown["inForce"], shown["state"]) == (True, "active")
    assert {s["participant"] for s in shown["signatures"]} == {"kela", "city"}
    for caller, agreement in (("youth", agreement_id), ("city", "urn:none")):
        with pytest.raises(PeerRefused) as refused:
            await reading(pair.provider)(caller, f"http://kela.example{PATH.format(agreement)}")
        assert refused.value.status == 404
    stranger = participant("youth")
    with pytest.raises(NotFound):
        await pair.provider.signatures.receive(stranger, agreement_id, {"signature": "x"})


async def test_the_other_side_reads_that_it_ended_though_no_transfer_ran() -> None:
    """DSP has no message for it: the signatures' address says so, and the next transfer is refused."""
    pair = connected()
    agreement_id = await pair.negotiated()
    await pair.provider.agreements.terminate(agreement_id, "The register is closed.")
    await pair.settle()
    shown = await reading(pair.provider)("city", f"http://kela.example{PATH.format(agreement_id)}")
    assert (shown["inForce"], shown["state"], shown["reason"]["code"]) == (
        False,
        "terminated",
        "agreement_terminated",
    )
    assert "endedAt" in shown
    assert held(pair.consumer, agreement_id).state == "active", "not told yet"
    asked = await pair.consumer.transfers.request(agreement_id, QUERY)
    await pair.settle()
    assert pair.consumer.transfer(asked.pid).reasons == ("The agreement has ended.",)
    assert held(pair.consumer, agreement_id).state == "terminated"


# --- what goes wrong ------------------------------------------------------------------------------------


def _tampered(change: JsonObject) -> Any:
    """The provider signs something else than it agreed."""

    def sign(record: AgreementRecord) -> str:
        return keys_of("kela").sign_jws(
            canonical({**signature.statement(record), **change}), typ=signature.TYP
        )

    return sign


def _other_key(record: AgreementRecord) -> str:
    return keys_of("mallory").sign_jws(canonical(signature.statement(record)), typ=signature.TYP)


def _other_typ(record: AgreementRecord) -> str:
    return keys_of("kela").sign_jws(canonical(signature.statement(record)), typ="JWT")


def _not_canonical(record: AgreementRecord) -> str:
    text = json.dumps(dict(signature.statement(record)), indent=1).encode()
    return keys_of("kela").sign_jws(text, typ=signature.TYP)


WRONGLY = {
    "another policy": (_tampered({"policyHash": "00"}), "policyHash"),
    "another document": (_tampered({"agreementHash": "00"}), "agreementHash"),
    "another party": (_tampered({"assignee": "youth"}), "assignee"),
    "something more": (_tampered({"also": "this"}), "not_canonical"),
    "no contract": (_tampered({"contractHash": None}), "contractHash"),
    "a control sign in the terms version": (_tampered({"termsVersion": "1\n"}), "termsVersion"),
    "somebody else's key": (_other_key, "key_unknown"),
    "another kind of token": (_other_typ, "typ"),
    "another spelling": (_not_canonical, "not_canonical"),
    "nothing": (lambda _: "", "malformed"),
}


@pytest.mark.parametrize(("sign", "code"), WRONGLY.values(), ids=WRONGLY)
async def test_a_signature_over_anything_else_is_refused(sign: Any, code: str) -> None:
    """Fail closed: the consumer computes what must be signed; what is not gives nothing, with the reason."""
    pair = connected()
    honest = pair.provider.outside

    async def signing(message: OutboxMessage) -> JsonObject | None:
        if message.kind == "signature":
            forged = sign(held(pair.provider, str(message.body["agreement"])))
            message = replace(message, body={**message.body, "signature": forged})
        return await honest(message)

    pair.provider.outside = signing
    agreement_id = await pair.negotiated()
    record = held(pair.consumer, agreement_id)
    assert record.signatures == ()
    assert record.signature_problem is not None
    assert record.signature_problem[0] == WRONG
    assert code in record.signature_problem[1]
    assert AuditEvent.SIGNATURE_REFUSED in pair.consumer.facts
    with pytest.raises(NotPermitted) as refused:
        await pair.consumer.transfers.request(agreement_id, QUERY)
    assert refused.value.reasons[0].code == UNSIGNED
    # the provider learns that it was refused, and gives nothing either
    assert held(pair.provider, agreement_id).signature_problem is not None
    with pytest.raises(NotPermitted):
        await pair.provider.agreements.valid(agreement_id)


async def test_an_answer_with_a_wrong_signature_is_refused_by_the_provider() -> None:
    """The consumer's countersignature is held against the provider's own copy."""
    pair = connected()

    async def answering(message: OutboxMessage) -> JsonObject | None:
        answer = await receive_directly(pair.consumer, pair.provider.participant, message)
        if message.kind != "signature" or answer is None:
            return answer
        forged = keys_of("city").sign_jws(b"{}", typ=signature.TYP)
        return {**answer, "signatures": [{"participant": "city", "jws": forged}, "x", {}]}

    pair.provider.outside = answering
    agreement_id = await pair.negotiated()
    record = held(pair.provider, agreement_id)
    assert signers(pair.provider, agreement_id) == {"kela"}
    assert record.signature_problem is not None
    assert record.signature_problem[0] == WRONG
    reason = pair.provider.agreements.why_not(record)
    assert reason is not None
    assert reason.code == UNSIGNED


async def test_nothing_is_signed_before_it_is_verified() -> None:
    """The consumer signs when it has verified; a provider that comes earlier is sent away."""
    pair = connected(consumer_script={})
    await pair.ask()
    await pair.settle()
    (record,) = pair.consumer.store.state.agreements.values()
    early = signature.signed_by_us(
        replace(record, contract_hash="c0ffee", terms_version="1"), keys_of("kela"), pair.clock.now()
    )
    body = {"signature": early.signatures[0].jws}
    http = httpx.ASGITransport(app=pair.consumer.app(participant))
    async with httpx.AsyncClient(transport=http, headers={"authorization": "kela"}) as client:
        answer = await client.post(f"http://city.example{PATH.format(record.agreement.id)}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "not_to_be_signed")
    assert held(pair.consumer, record.agreement.id) == record


async def test_a_repeat_is_answered_alike() -> None:
    """Idempotent: the first signature stays."""
    pair = connected()
    agreement_id = await pair.negotiated()
    before = held(pair.consumer, agreement_id)
    for jws in ("", before.signatures[0].jws, None):
        answer = await pair.consumer.signatures.receive(
            pair.provider.participant, agreement_id, {"signature": jws}
        )
        assert {s["participant"] for s in answer["signatures"]} == {"kela", "city"}
    assert held(pair.consumer, agreement_id) == before


# --- peers without it, and the operator's exception -----------------------------------------------------


def without_endpoint(**about: Any) -> ConnectorPair:
    """A consumer that knows nothing of signatures, as other connectors."""
    pair = connected(**about)
    honest = pair.provider.outside

    async def deaf(message: OutboxMessage) -> JsonObject | None:
        if message.kind == "signature":
            raise PeerRefused("answered 404", participant="city", status=404)
        return await honest(message)

    pair.provider.outside = deaf
    return pair


async def test_a_peer_without_signatures_needs_the_operators_exception() -> None:
    """Architecture, EDC coexistence: without it the provider says why, and sends no data."""
    pair = without_endpoint(unsigned_peers=frozenset({"kela"}))  # the consumer asks for none
    agreement_id = await pair.negotiated()
    record = held(pair.provider, agreement_id)
    assert record.signature_problem is not None
    assert record.signature_problem[0] == ABSENT
    asked = await pair.consumer.transfers.request(agreement_id, QUERY)
    await pair.settle()
    ended = pair.consumer.transfer(asked.pid)
    assert ended.state is TransferState.TERMINATED
    assert "not signed by both sides" in ended.reasons[0]


async def test_with_the_exception_the_agreement_holds() -> None:
    """The setting unsigned_peers, on both sides: no signature is sent, none is missed, and this is shown."""
    pair = without_endpoint(unsigned_peers=frozenset({"city", "kela"}))
    agreement_id = await pair.negotiated()
    assert "AgreementSignatureMessage" not in [m["@type"] for m in pair.provider.sent]
    assert pair.provider.agreements.waived(held(pair.provider, agreement_id))
    started = await pair.started(agreement_id)
    assert started.state is TransferState.STARTED


async def test_no_exception_covers_a_signature_that_is_wrong() -> None:
    """Worse than none: somebody signed something else."""
    pair = connected(unsigned_peers=frozenset({"kela"}))
    agreement_id = await pair.negotiated()
    wrong = replace(held(pair.consumer, agreement_id), signatures=(), signature_problem=(WRONG, "No."))
    assert not pair.consumer.agreements.waived(wrong)
    reason = pair.consumer.agreements.why_not(wrong)
    assert reason is not None
    assert reason.code == UNSIGNED


# --- in time --------------------------------------------------------------------------------------------


async def test_a_transfer_waits_for_signatures_that_are_on_their_way() -> None:
    """FINALIZED came first: nobody is turned away, nobody starts without them."""
    pair = without_endpoint()
    agreement_id = await pair.negotiated()
    waiting = asyncio.create_task(pair.consumer.transfers.request(agreement_id, QUERY))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    ours = held(pair.provider, agreement_id).signatures[0].jws
    await pair.consumer.signatures.receive(pair.provider.participant, agreement_id, {"signature": ours})
    await pair.clock.advance(0.02)
    assert (await waiting).agreement_id == agreement_id


async def test_nobody_waits_for_long() -> None:
    """After three seconds the reason is told."""
    pair = without_endpoint()
    agreement_id = await pair.negotiated()
    waiting = asyncio.create_task(pair.consumer.transfers.request(agreement_id, QUERY))
    await asyncio.sleep(0)
    while not waiting.done():
        await pair.clock.advance(0.5)
        await asyncio.sleep(0)
    with pytest.raises(NotPermitted, match="not signed by both sides"):
        await waiting
    assert pair.consumer.store.state.transfers == {}


async def test_the_provider_asks_itself_again_until_the_consumers_has_come() -> None:
    """The consumer's answer may be slower than its transfer request; after half a minute the request ends."""
    pair = connected()
    agreement_id = await pair.negotiated()
    record = held(pair.provider, agreement_id)
    unsigned = replace(record, signatures=record.signatures[:1])
    pair.provider.store.state.agreements[agreement_id] = unsigned
    asked = await pair.consumer.transfers.request(agreement_id, QUERY)
    await pair.settle()
    assert pair.provider.only_transfer.state is TransferState.REQUESTED
    pair.provider.store.state.agreements[agreement_id] = record
    await pair.clock.advance(2)
    await pair.settle()
    assert pair.consumer.transfer(asked.pid).state is TransferState.STARTED

    pair.provider.store.state.agreements[agreement_id] = unsigned
    again = await pair.consumer.transfers.request(agreement_id, QUERY)
    await pair.clock.advance(40)
    await pair.settle()
    assert pair.consumer.transfer(again.pid).state is TransferState.TERMINATED


@pytest.mark.parametrize("who", ["provider", "consumer"])
async def test_an_operator_exchanges_them_once_more(who: str) -> None:
    """Whoever missed it asks again: POST /v1/agreements/{id}/signatures, from either side."""
    pair = without_endpoint()
    agreement_id = await pair.negotiated()
    assert signers(pair.consumer, agreement_id) == set()
    pair.connect()
    side: Side = getattr(pair, who)
    await side.signatures.exchange(agreement_id)
    await pair.settle()
    for each in (pair.provider, pair.consumer):
        assert signers(each, agreement_id) == {"kela", "city"}
        assert held(each, agreement_id).signature_problem is None
        await each.agreements.valid(agreement_id)


async def test_a_key_that_was_replaced_still_proves_what_it_signed() -> None:
    """The key is kept beside the signature; that it is no longer the participant's is said."""
    pair = connected()
    agreement_id = await pair.negotiated()
    pair.provider.trust.names.discard("city")
    checked = pair.provider.signatures.check(held(pair.provider, agreement_id))
    assert {(c.participant, c.problem, c.listed) for c in checked} == {
        ("kela", "", True),
        ("city", "", False),
    }


async def test_a_message_that_is_none_is_refused() -> None:
    """Bad input: typed errors; the agreement is marked, and a right one mends it."""
    pair = without_endpoint()
    agreement_id = await pair.negotiated()
    for body in ({}, {"signature": 5}, {"signature": "a.b.c"}, {"signature": "x" * 9_000}):
        with pytest.raises(MessageInvalid):
            await pair.consumer.signatures.receive(pair.provider.participant, agreement_id, body)
    pair.connect()
    await pair.provider.signatures.exchange(agreement_id)
    await pair.settle()
    await pair.consumer.agreements.valid(agreement_id)


async def test_offline_the_export_proves_itself() -> None:
    """`connector verify-agreement`: from what the client API shows, with nothing running."""
    from connector.web import render

    pair = connected()
    agreement_id = await pair.negotiated()
    record = held(pair.provider, agreement_id)
    shown = json.loads(json.dumps(render.signatures(record, pair.provider.signatures.check(record))))
    keys = {name: list(keys_of(name).public_jwks()) for name in ("kela", "city")}
    assert signature.problem_offline(shown, keys) == []
    assert signature.problem_offline(shown, {}) == []
    stolen = {**keys, "city": list(keys_of("youth").public_jwks())}
    assert signature.problem_offline(shown, stolen) == ["city: its key is not among those given"]
    forged = {**shown, "document": {**shown["document"], "permission": [{"action": "distribute"}]}}
    assert "agreementHash is not that of the document" in signature.problem_offline(forged, keys)
    other = {**shown, "statement": {**shown["statement"], "contractHash": "00"}}
    assert signature.problem_offline(other, keys) == ["kela: statement", "city: statement"]
    alone = {**shown, "signatures": shown["signatures"][:1]}
    assert signature.problem_offline(alone, keys) == ["city has not signed"]
