"""JSON at the door, and the typed reading of messages, policies and catalogues."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.dsp import messages as m
from connector.dsp import policy
from connector.dsp.catalog import Publisher, parse_catalog, parse_dataset
from connector.dsp.wire import Fields, read_json
from connector.errors import MessageInvalid
from connector.model.catalog import DatasetStatus
from connector.model.policy import PROFILE, Constraint, Policy, Rule
from connector.model.transfer import EDC_ENDPOINT
from tests.pair import dataset, terms
from tests.spec.samples import AGREEMENT, MESSAGES, OFFER, PIDS, POLICY

HOSTILE = {
    "not UTF-8": b"\xff{}",
    "not JSON": b"{",
    "no object": b"[]",
    "nothing": b"",
    "deep arrays": b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
    "very deep": b"[" * 200_000,
    "very deep objects": b'{"a":' * 100_000,
    "a name twice": b'{"offer":1,"offer":2}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "too large": b'{"a":1e999}',
    "unsafe integer": b'{"a":9007199254740992}',
    "endless integer": b'{"a":' + b"9" * 10_000 + b"}",
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate in a name": b'{"\\udfff":1}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_refused(body: bytes) -> None:
    """Protocol, bad input: what is signed or compared must read the same everywhere (RFC 7493)."""
    with pytest.raises(MessageInvalid):
        read_json(body)


def test_sixty_four_levels_pass() -> None:
    """The limit itself is allowed, and brackets inside strings are no levels."""
    assert read_json(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")
    assert read_json(json.dumps({"a": "[" * 200, "b": "\u00e4\U0001f600"}).encode())["a"] == "[" * 200


@given(
    st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5)
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    """No input makes the reader fail in another way."""
    try:
        body = json.dumps({"v": value}).encode()
        assert read_json(body)["v"] == value
    except MessageInvalid:
        pass


CONTEXT_CASES = [
    ([m.CONTEXT], True),
    ([m.CONTEXT, "https://w3id.org/edc/dspace/v0.0.1"], True),
    (m.CONTEXT, False),
    ([], False),
    (["https://example.org/other"], False),
    ([m.CONTEXT, {"inline": "context"}], False),
]


@pytest.mark.parametrize(("context", "fine"), CONTEXT_CASES)
def test_foreign_contexts_are_tolerated_beside_ours(context: Any, fine: bool) -> None:
    """dsp.md 1.1: an array of strings with ours in it; others are accepted and never fetched."""
    document = {**m.ContractAgreementVerificationMessage(**PIDS).document(), "@context": context}
    if fine:
        assert m.parse_any(document).document()["@context"] == [m.CONTEXT]
    else:
        with pytest.raises(MessageInvalid, match="@context"):
            m.parse_any(document)


def test_unknown_members_are_kept_and_rendered_again() -> None:
    """dsp.md 1.1: extra properties are allowed everywhere."""
    document = {**m.TransferStartMessage(**PIDS).document(), "edc:foo": [1], "@id": "urn:m"}
    message = m.parse_any(document)
    assert message.extra == {"edc:foo": [1]}
    assert message.document() == document


PATHS = [
    ({"offer": None}, "offer"),
    ({"offer": {**OFFER.document, "permission": [{"constraint": []}]}}, "offer.permission[0].action"),
    ({"offer": {**OFFER.document, "permission": []}}, "offer.permission"),
    ({"offer": {**OFFER.document, "prohibition": [{"action": "x", "constraint": [{}]}]}},
     "offer.prohibition[0].constraint[0].rightOperand"),
    ({"consumerPid": 1}, "consumerPid"),
    ({"consumerPid": "a b"}, "consumerPid"),
    ({"consumerPid": ".."}, "consumerPid"),
    ({"consumerPid": "x" * 1025}, "consumerPid"),
    ({"providerPid": "urn:p"}, "callbackAddress"),
    ({"@type": "Nonsense"}, "@type"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "where"), PATHS)
def test_complaints_name_the_path(changes: dict[str, Any], where: str) -> None:
    """Skeleton, bad input: a clear typed error naming the field."""
    request = next(x for x in MESSAGES if isinstance(x, m.ContractRequestMessage))
    with pytest.raises(MessageInvalid) as refusal:
        m.parse_any({**request.document(), **changes})
    assert refusal.value.where == where


def test_pids_cannot_lead_out_of_their_path() -> None:
    """A peer's pid stands in the URL that we call: it stays one segment."""
    message = m.ContractAgreementVerificationMessage(**PIDS)
    assert message.path("urn:uuid:1") == "/negotiations/urn:uuid:1/agreement/verification"
    assert message.path("../x?y#z") == "/negotiations/..%2Fx%3Fy%23z/agreement/verification"
    opening = next(x for x in MESSAGES if isinstance(x, m.TransferRequestMessage))
    assert opening.path("") == "/transfers/request"


def test_reasons_are_text_for_people_whatever_their_type() -> None:
    """dsp.md 1.8: items of `reason` are of any type; a flood of them is cut."""
    message = m.TransferTerminationMessage(**PIDS, reason=({"@value": "a"}, "b", {"c": 1}, 4, "x" * 600))
    assert message.reasons[:4] == ("a", "b", '{"c":1}', "4")
    assert len(message.reasons[4]) == 500
    assert len(m.CatalogError(reason=("r",) * 50).reasons) == 20


# --- policies -------------------------------------------------------------------------------------------


def test_a_policy_survives_the_wire() -> None:
    """Rendering and reading are inverse; the wire object is kept as it came."""
    wire = policy.render_offer("o", POLICY, target="t")
    offer = policy.parse_offer(Fields(wire))
    assert (offer.policy, offer.document, offer.target) == (POLICY, wire, "t")


def test_our_profile_is_named_only_where_a_term_of_ours_is_used() -> None:
    """Foreign peers get plain ODRL."""
    plain = Policy(permissions=(Rule(action="use"),))
    in_duty = Policy(permissions=(Rule(action="use", duties=(Rule(action="dsc:log"),)),))
    assert "profile" not in policy.render_policy(plain)
    assert policy.render_policy(POLICY)["profile"] == policy.render_policy(in_duty)["profile"] == PROFILE


def test_an_agreement_echoes_its_offer() -> None:
    """dsp.md 7.10c: permissions, prohibitions, obligations, profile unchanged; same hash on both sides."""
    for name in policy.POLICY_PART:
        assert AGREEMENT.document[name] == OFFER.document[name]
    assert policy.same_rules(OFFER.document, AGREEMENT.document)
    assert policy.policy_hash(OFFER.document) == policy.policy_hash(AGREEMENT.document)
    assert AGREEMENT.document["timestamp"] == "2026-11-22T18:00:00.000Z"


DIFFERENCES: list[dict[str, Any]] = [
    {"permission": [{"action": "use"}]},
    {"prohibition": []},
    {"obligation": [*OFFER.document["obligation"], {"action": "inform"}]},
    {"profile": "https://example.org/other"},
    {"inheritFrom": "urn:other"},
]


@pytest.mark.parametrize("change", DIFFERENCES)
def test_what_says_something_else_is_a_difference(change: dict[str, Any]) -> None:
    """Unknown members as well: they could mean anything."""
    changed = {**OFFER.document, **change}
    assert not policy.same_rules(OFFER.document, changed)
    assert not policy.same_rules(changed, OFFER.document)


def test_the_order_of_rules_says_nothing() -> None:
    """Peers that go through JSON-LD may sort sets anew."""
    turned = {**OFFER.document, "prohibition": OFFER.document["prohibition"][::-1], "profile": [PROFILE]}
    assert policy.same_rules(OFFER.document, turned)


@pytest.mark.parametrize("prefix", policy.ODRL_PREFIXES)
def test_a_term_of_odrl_may_carry_its_prefix(prefix: str) -> None:
    """A peer that reads our offer as JSON-LD may write its terms out: it is the same offer, and it is
    read so; what it wrote stays as it is."""

    def offer(prefix: str, purpose: str = "odrl:care") -> dict[str, Any]:
        constraint = {"leftOperand": f"{prefix}purpose", "operator": "eq", "rightOperand": purpose}
        rules = [{"action": f"{prefix}use", "constraint": [{"and": [constraint]}]}]
        return {"@id": "o", "@type": "Offer", "permission": rules}

    written = policy.parse_offer(Fields(offer(prefix)))
    assert written.policy == policy.parse_offer(Fields(offer(""))).policy
    assert written.document == offer(prefix)
    assert policy.same_rules(offer(""), offer(prefix))
    assert policy.narrows(offer(""), offer(prefix))
    assert not policy.same_rules(offer(""), offer("dsc:"))
    assert not policy.same_rules(offer(""), offer(prefix, purpose="care"))  # a value is no term


@pytest.mark.parametrize(
    "timestamp", ["2026-11-22", "2026-11-22T10:00:00", "20261122T100000Z", "2026-13-01T10:00:00Z", ""]
)
def test_an_agreement_needs_an_instant(timestamp: str) -> None:
    """dsp.md 1.5: xsd:dateTime; without an offset it names no instant."""
    with pytest.raises(MessageInvalid, match="timestamp"):
        policy.parse_agreement(Fields({**AGREEMENT.document, "timestamp": timestamp}))


def test_a_constraint_has_one_operator() -> None:
    """contract-schema: logical or atomic, never both."""
    oddities: list[dict[str, Any]] = [
        {"and": [{}], "or": [{}]},
        {"and": [{}], "leftOperand": "x"},
        {"and": []},
    ]
    for odd in oddities:
        with pytest.raises(MessageInvalid):
            policy.parse_policy(Fields({"permission": [{"action": "use", "constraint": [odd]}]}))


# --- catalogues -----------------------------------------------------------------------------------------

PUBLISHER = Publisher(participant_id="kela", dsp_url="http://kela.example/dsp/2025-1")


def test_a_catalogue_survives_the_wire() -> None:
    """What the consumer reads is what the provider published: offers, formats, titles."""
    catalog = parse_catalog(json.loads(json.dumps(PUBLISHER.catalog([dataset()], lambda _: True))))
    assert catalog.participant_id == "kela"
    found = catalog.dataset("benefits")
    assert found is not None
    assert found.title == {"fi": "Etuudet", "en": "Benefits"}
    assert found.formats == {"FederatedQuery-PULL", "CloudEvents-PUSH"}
    offer = found.offer("benefits:planning:1")
    assert offer is not None
    assert offer.policy == terms().policy
    assert offer.target is None


@pytest.mark.parametrize("status", DatasetStatus)
def test_the_status_decides_whether_a_catalogue_shows_it(status: DatasetStatus) -> None:
    """C2, Protocol: drafts are hidden, deprecated ones shown, retired ones gone."""
    shown = "dataset" in PUBLISHER.catalog([dataset(status=status)], lambda _: True)
    assert shown is (status in (DatasetStatus.ACTIVE, DatasetStatus.DEPRECATED))


def test_visibility_is_the_callers_to_decide() -> None:
    """Only what policy lets this peer see."""
    two = [dataset(), dataset(id="secret")]
    catalog = PUBLISHER.catalog(two, lambda d: d.id != "secret")
    assert [d["@id"] for d in catalog["dataset"]] == ["benefits"]


def test_nested_catalogues_and_both_kinds_of_service_are_read() -> None:
    """dsp.md 1.4, 7.10i: brokers nest; accessService is an id or an object."""
    inner = PUBLISHER.dataset(dataset())
    by_id = {**inner, "distribution": [{"format": "HttpData-PULL", "accessService": "urn:service"}]}
    document = {
        "@type": "Catalog", "@id": "c", "participantId": "p",
        "catalog": [{"@type": "Catalog", "@id": "n", "dataset": [by_id]}],
    }  # fmt: skip
    assert parse_catalog(document).datasets[0].formats == {"HttpData-PULL"}


@pytest.mark.parametrize(
    "change", [{"hasPolicy": "x"}, {"distribution": [{}]}, {"distribution": None}, {"@id": 1}]
)
def test_a_broken_dataset_is_refused(change: dict[str, Any]) -> None:
    """Peers that answer garbage: typed error, naming the path."""
    with pytest.raises(MessageInvalid):
        parse_dataset({**PUBLISHER.dataset(dataset()), **change})


def test_an_offer_in_a_catalogue_names_no_target() -> None:
    """dsp.md 1.4: `target` is forbidden there."""
    wire = PUBLISHER.dataset(dataset())
    wire["hasPolicy"][0]["target"] = "benefits"
    with pytest.raises(MessageInvalid, match="target"):
        parse_dataset(wire)


def test_a_constraint_keeps_its_right_operand() -> None:
    """Strings, objects and arrays; no bare numbers on the wire."""
    with pytest.raises(MessageInvalid, match="rightOperand"):
        policy.parse_policy(
            Fields({"permission": [{"action": "use", "constraint": [{"leftOperand": "count", "operator": "lt",
                                                                     "rightOperand": 5}]}]})
        )  # fmt: skip
    kept = policy.render_policy(
        Policy(permissions=(Rule(action="use", constraints=(Constraint(left_operand="count", operator="lt",
                                                                       right_operand="5"),)),))
    )  # fmt: skip
    assert kept["permission"][0]["constraint"][0]["rightOperand"] == "5"


def test_edcs_endpoint_is_a_property() -> None:
    """dsp.md 7.10h, as EDC does it: no `endpoint` beside the properties, but one among them."""
    endpoint = {"@type": "EndpointProperty", "name": EDC_ENDPOINT, "value": "https://data.example/1"}
    wire = {"@type": "DataAddress", "endpointType": "HTTP", "endpointProperties": [endpoint]}
    assert m.parse_data_address(Fields(wire)).endpoint == "https://data.example/1"
    both = m.parse_data_address(Fields({**wire, "endpoint": "https://data.example/2"}))
    assert both.endpoint == "https://data.example/2"
