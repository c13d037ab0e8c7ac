"""An agreement's statement, signed by both parties: a compact JWS (ES256) over its RFC 8785 form.

Both sign the same bytes, so that neither can show another contract, terms version or policy later. What both
hold is computed from our own copy, never taken from the other's word; of the contract and its terms version
a consumer knows only what the provider signs, and countersigns that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from connector.access import jose
from connector.access.jose import Refusal
from connector.dsp.policy import policy_hash
from connector.dsp.wire import canonical, sha256_hex
from connector.model.json import JsonObject, from_rfc3339, to_rfc3339
from connector.model.negotiation import AgreementRecord, AgreementSignature, Role
from connector.ports import Keys

TYP = "agreement-signature+jwt"
VERSION = 1


def statement(record: AgreementRecord) -> JsonObject:
    """What is signed."""
    agreement = record.agreement
    return {
        "type": "AgreementStatement",
        "version": VERSION,
        "agreement": agreement.id,
        "agreementHash": sha256_hex(agreement.document),
        "assigner": agreement.assigner,
        "assignee": agreement.assignee,
        "target": agreement.target,
        "timestamp": to_rfc3339(agreement.timestamp),
        "contractHash": record.contract_hash,
        "termsVersion": record.terms_version,
        "policyHash": record.policy_hash,
    }


def signed_by_us(record: AgreementRecord, keys: Keys, at: datetime) -> AgreementRecord:
    """`record` with our signature; one that we gave before stays."""
    if record.signature_of(keys.participant_id):
        return record
    jws = keys.sign_jws(canonical(statement(record)), typ=TYP)
    signed_with = jose.parse_jws(jws, typ={TYP}).header["kid"]  # there are others while keys are changed
    (jwk,) = [k for k in keys.public_jwks() if k["kid"] == signed_with]
    ours = AgreementSignature(participant=keys.participant_id, jws=jws, jwk=jwk, at=at)
    return replace(record, signatures=(*record.signatures, ours))


def signed_by_peer(
    record: AgreementRecord, unverified: object, jwks: Iterable[Mapping[str, Any]], at: datetime
) -> AgreementRecord:
    """`record` with the counter-party's signature; one that we took before stays.

    `jwks`: the counter-party's, from the trust list. Raises Refusal with the code of what is wrong:
    `signature`, `key_unknown`, ... or the name of the member that is not as we hold it.
    """
    peer = record.counter_party
    if record.signature_of(peer):
        return record
    if not isinstance(unverified, str):
        raise Refusal("malformed")
    jws = jose.parse_jws(unverified, typ={TYP})
    jwk = _key(jwks, jws.header.get("kid"))
    claims = jws.verified(jose.public_key(jwk))
    known = _told_by_provider(record, claims) if record.role is Role.CONSUMER else record
    expected = statement(known)
    for name, value in expected.items():
        if claims.get(name) != value:
            raise Refusal(name)
    if jws.payload != canonical(expected):
        raise Refusal("not_canonical")
    theirs = AgreementSignature(participant=peer, jws=unverified, jwk=jwk, at=at)
    return replace(known, signatures=(*known.signatures, theirs), signature_problem=None)


def _key(jwks: Iterable[Mapping[str, Any]], kid: object) -> Mapping[str, Any]:
    named = [k for k in jwks if k.get("use") == "sig" and kid is not None and k.get("kid") == kid]
    if len(named) != 1:
        raise Refusal("key_unknown")
    return named[0]


def _told_by_provider(record: AgreementRecord, claims: JsonObject) -> AgreementRecord:
    told = {name: claims.get(name) for name in ("contractHash", "termsVersion")}
    for name, value in told.items():
        if not isinstance(value, str) or len(value) > jose.MAX_ID_CHARS or not value.isprintable():
            raise Refusal(name)
    return replace(record, contract_hash=str(told["contractHash"]), terms_version=str(told["termsVersion"]))


# --- looking at it later -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A signature looked at anew. `problem` is "" or the code of what is wrong; `listed`: whether the key
    is still one of the participant's."""

    participant: str
    problem: str
    kid: str
    listed: bool
    at: datetime
    jws: str


def check(
    record: AgreementRecord, signature: AgreementSignature, jwks: Iterable[Mapping[str, Any]]
) -> Checked:
    """`jwks`: the signer's present ones. Verified with the key that was the signer's when we took it."""
    kid = str(signature.jwk.get("kid", ""))
    return Checked(
        participant=signature.participant,
        problem=problem_of(signature.jws, signature.jwk, statement(record)),
        kid=kid,
        listed=any(k.get("kid") == kid and k.get("use") == "sig" for k in jwks),
        at=signature.at,
        jws=signature.jws,
    )


def problem_of(unverified: str, jwk: Mapping[str, Any], expected: JsonObject) -> str:
    """ "" where it is a signature by `jwk` over exactly `expected`, else the code of what is wrong."""
    try:
        jws = jose.parse_jws(unverified, typ={TYP})
        jws.verified(jose.public_key(jwk))
    except Refusal as refusal:
        return refusal.code
    return "" if jws.payload == canonical(expected) else "statement"


def problem_offline(exported: JsonObject, keys: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[str]:
    """What is wrong with an agreement as `GET /v1/agreements/{id}/signatures` shows it; nothing where both
    parties signed exactly its document.

    `keys`: JWKs by participant; without them those in the file are taken, which proves nothing about whose
    they are. Raises KeyError, TypeError, ValueError, AttributeError where it is no such document.
    """
    document, stated = exported["document"], exported["statement"]
    expected = {
        **stated,
        "agreement": document["@id"],
        "agreementHash": sha256_hex(document),
        "assigner": document["assigner"],
        "assignee": document["assignee"],
        "target": document["target"],
        "timestamp": to_rfc3339(from_rfc3339(document["timestamp"])),
        "policyHash": policy_hash(document),
    }
    found = [f"{name} is not that of the document" for name in expected if expected[name] != stated[name]]
    signed = {s["participant"]: s for s in exported["signatures"]}
    for party in (document["assigner"], document["assignee"]):
        if party not in signed:
            found.append(f"{party} has not signed")
        elif problem := _offline(signed[party], keys.get(party), expected):
            found.append(f"{party}: {problem}")
    return found


def _offline(signed: JsonObject, jwks: Iterable[Mapping[str, Any]] | None, expected: JsonObject) -> str:
    kid = signed["jwk"].get("kid")
    listed = [signed["jwk"]] if jwks is None else [k for k in jwks if k.get("kid") == kid]
    return problem_of(signed["jws"], listed[0], expected) if listed else "its key is not among those given"
