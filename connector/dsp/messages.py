"""Every DSP 2025-1 message as a typed value: `parse(Kind, document)` in, `message.document()` out.

A class lists its members in the protocol's words; a member's type says how it is read and written, a
default that it may be absent. Validation is strict about what the schemas require; what they do not
know is kept in `extra` and never acted on. A repeated message carries the same `@id`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints
from urllib.parse import quote

from connector.dsp import policy
from connector.dsp.wire import Fields, canonical, sha256_hex
from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation, NegotiationState, Role
from connector.model.policy import Agreement, Offer
from connector.model.transfer import EDC_ENDPOINT, DataAddress, TransferProcess, TransferState

CONTEXT = "https://w3id.org/dspace/2025/1/context.jsonld"
VERSION = "2025-1"
BASE_PATH = "/dsp/2025-1"

MAX_REASONS = 20
MAX_REASON_CHARACTERS = 500

_ABSENT: tuple[Any, ...] = ("", None, [], ())
_HEAD = frozenset({"@context", "@type", "@id"})
_PATH_SAFE = ":@!$&'()*+,;=-._~"  # what RFC 3986 lets stand in a path segment


# --- members: how each kind is read and written --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec:
    read: Callable[[Fields, str], Any]
    write: Callable[[Any], Any] = lambda value: value


def _read_data_address(fields: Fields, name: str) -> DataAddress:
    return parse_data_address(fields.object(name))


def parse_data_address(fields: Fields) -> DataAddress:
    fields.constant("@type", "DataAddress")
    properties: dict[str, str] = {}
    for item in fields.objects("endpointProperties"):
        item.constant("@type", "EndpointProperty")
        if (name := item.text("name")) in properties:
            item.invalid("name", "must not be repeated")
        properties[name] = item.text("value")
    return DataAddress(
        endpoint_type=fields.text("endpointType"),
        endpoint=fields.optional_text("endpoint") or properties.get(EDC_ENDPOINT, ""),
        properties=properties,
    )


def render_data_address(address: DataAddress) -> JsonObject:
    properties = [
        {"@type": "EndpointProperty", "name": name, "value": value}
        for name, value in address.properties.items()
    ]
    wire = {"@type": "DataAddress", "endpointType": address.endpoint_type, "endpoint": address.endpoint}
    return _present({**wire, "endpointProperties": properties})


def _one_of(states: type[StrEnum]) -> Codec:
    return Codec(lambda fields, name: states(fields.one_of(name, list(states))), str)


def _any_items(at_least: int) -> Codec:
    return Codec(lambda fields, name: fields.items(name, at_least=at_least), list)


class NegotiationEvent(StrEnum):
    ACCEPTED = "ACCEPTED"
    FINALIZED = "FINALIZED"


Identifier = Annotated[str, Codec(Fields.identifier)]
Text = Annotated[str, Codec(Fields.text)]
AnyText = Annotated[str, Codec(Fields.any_text)]
Reasons = Annotated[tuple[Any, ...], _any_items(1)]
Filter = Annotated[tuple[Any, ...], _any_items(0)]
AnOffer = Annotated[Offer, Codec(lambda f, n: policy.parse_offer(f.object(n)), lambda o: o.document)]
ATargetedOffer = Annotated[
    Offer, Codec(lambda f, n: policy.parse_offer(f.object(n), needs_target=True), lambda o: o.document)
]
AnAgreement = Annotated[
    Agreement, Codec(lambda f, n: policy.parse_agreement(f.object(n)), lambda a: a.document)
]
ADataAddress = Annotated[DataAddress, Codec(_read_data_address, render_data_address)]
ANegotiationState = Annotated[NegotiationState, _one_of(NegotiationState)]
ATransferState = Annotated[TransferState, _one_of(TransferState)]
ANegotiationEvent = Annotated[NegotiationEvent, _one_of(NegotiationEvent)]


@dataclass(frozen=True, slots=True)
class _Member:
    attribute: str
    wire: str
    codec: Codec
    required: bool


@cache
def _members(kind: type[Message]) -> tuple[_Member, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        _Member(f.name, _camel_case(f.name), _codec(hints[f.name]), f.default is dataclasses.MISSING)
        for f in dataclasses.fields(kind)
        if f.name not in ("id", "extra")
    )


def _codec(hint: Any) -> Codec:
    codec = getattr(hint, "__metadata__", None) or next(
        a.__metadata__ for a in hint.__args__ if hasattr(a, "__metadata__")
    )
    return codec[0]  # type: ignore[no-any-return]


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


# --- messages ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Message:
    """`id` is the message's own `@id`, "" where the sender gave none."""

    TYPE: ClassVar[str]
    id: str = ""
    extra: JsonObject = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the transition tables are keyed by."""
        return self.TYPE

    @property
    def key(self) -> str:
        """Names this message among those of its process."""
        return self.id or f"sha256:{sha256_hex(self.document())}"

    def document(self) -> JsonObject:
        """The wire form, in our context."""
        document: dict[str, Any] = {"@context": [CONTEXT], "@type": self.TYPE, **_present({"@id": self.id})}
        for member in _members(type(self)):  # type: ignore[arg-type]  # a class is hashable
            value = getattr(self, member.attribute)
            if member.required or value not in _ABSENT:
                document[member.wire] = member.codec.write(value)
        return {**document, **self.extra}

    @classmethod
    def check(cls, fields: Fields) -> None:
        """What members alone cannot say. Raises MessageInvalid."""


M = TypeVar("M", bound=Message)


def parse(kind: type[M], document: object) -> M:
    """Raises MessageInvalid naming the path of what is wrong."""
    fields = Fields(document)
    fields.constant("@type", kind.TYPE)
    contexts = fields.items("@context")
    if CONTEXT not in contexts or not all(isinstance(c, str) for c in contexts):
        fields.invalid("@context", f"must be an array of strings that holds {CONTEXT}")
    kind.check(fields)
    members = _members(kind)  # type: ignore[arg-type]  # a class is hashable
    values = {m.attribute: m.codec.read(fields, m.wire) for m in members if m.required or m.wire in fields}
    extra = fields.besides(_HEAD.union(m.wire for m in members))
    return kind(id=fields.optional_identifier("@id"), extra=extra, **values)


def _present(members: JsonObject) -> JsonObject:
    """Without what is absent: the schemas have no null and no empty array."""
    return {name: value for name, value in members.items() if value not in _ABSENT}


def _exactly_one(fields: Fields, one: str, other: str) -> None:
    if (one in fields) == (other in fields):
        fields.invalid(one, f"or {other} must be given, and not both")


@dataclass(frozen=True, kw_only=True)
class Coded(Message):
    """`reason` items may be of any JSON type; `reasons` reads them as text."""

    code: Text = ""
    reason: Reasons = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """For people: at most 20, each cut at 500 characters."""
        return tuple(_as_text(item)[:MAX_REASON_CHARACTERS] for item in self.reason[:MAX_REASONS])


def _as_text(item: Any) -> str:
    if isinstance(item, Mapping) and isinstance(item.get("@value"), str):
        return str(item["@value"])
    return item if isinstance(item, str) else canonical(item).decode()


@dataclass(frozen=True, kw_only=True)
class ProcessMessage(Message):
    """A message of one process; a pid that is not known yet is "".

    `ROOT` and `STEP` place it in the paths of the HTTPS binding.
    """

    ROOT: ClassVar[str]
    STEP: ClassVar[str]
    provider_pid: Identifier
    consumer_pid: Identifier

    def pid_of(self, role: Role) -> str:
        return self.consumer_pid if role is Role.CONSUMER else self.provider_pid

    def path(self, peer_pid: str) -> str:
        """Below the peer's base. A first message knows no pid of the peer: it goes to the collection."""
        steps = [self.ROOT, quote(peer_pid, safe=_PATH_SAFE), self.STEP]
        return "".join(f"/{step}" for step in steps if step)


# --- version metadata (§4) and catalogue (§5, §6) ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VersionsError(Coded):
    TYPE: ClassVar[str] = "VersionsError"


def version_document(service_id: str) -> JsonObject:
    """What `/.well-known/dspace-version` answers: unversioned, without `@context`, open to everybody."""
    auth = {"protocol": "OAuth", "version": "2", "profile": ["client_credentials", "private_key_jwt", "DPoP"]}
    entry = {"version": VERSION, "path": BASE_PATH, "binding": "HTTPS", "serviceId": service_id, "auth": auth}
    return {"protocolVersions": [entry]}


@dataclass(frozen=True, kw_only=True)
class CatalogRequestMessage(Message):
    TYPE: ClassVar[str] = "CatalogRequestMessage"
    filter: Filter = ()


@dataclass(frozen=True, kw_only=True)
class DatasetRequestMessage(Message):
    """Abstract in the HTTPS binding, where the dataset's id stands in the path."""

    TYPE: ClassVar[str] = "DatasetRequestMessage"
    dataset: Identifier


@dataclass(frozen=True, kw_only=True)
class CatalogError(Coded):
    TYPE: ClassVar[str] = "CatalogError"


# --- contract negotiation (§7, §8) ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NegotiationMessage(ProcessMessage):
    ROOT: ClassVar[str] = "negotiations"


@dataclass(frozen=True, kw_only=True)
class ContractRequestMessage(NegotiationMessage):
    """Opens a negotiation (`callback_address`) or answers an offer (`provider_pid`)."""

    TYPE: ClassVar[str] = "ContractRequestMessage"
    STEP: ClassVar[str] = "request"
    provider_pid: Identifier = ""
    offer: AnOffer
    callback_address: Text = ""

    @classmethod
    def check(cls, fields: Fields) -> None:
        _exactly_one(fields, "callbackAddress", "providerPid")


@dataclass(frozen=True, kw_only=True)
class ContractOfferMessage(NegotiationMessage):
    """Opens a negotiation (`callback_address`) or answers a request (`consumer_pid`)."""

    TYPE: ClassVar[str] = "ContractOfferMessage"
    STEP: ClassVar[str] = "offers"
    consumer_pid: Identifier = ""
    offer: ATargetedOffer
    callback_address: Text = ""

    @classmethod
    def check(cls, fields: Fields) -> None:
        _exactly_one(fields, "callbackAddress", "consumerPid")


@dataclass(frozen=True, kw_only=True)
class ContractAgreementMessage(NegotiationMessage):
    TYPE: ClassVar[str] = "ContractAgreementMessage"
    STEP: ClassVar[str] = "agreement"
    agreement: AnAgreement


@dataclass(frozen=True, kw_only=True)
class ContractAgreementVerificationMessage(NegotiationMessage):
    TYPE: ClassVar[str] = "ContractAgreementVerificationMessage"
    STEP: ClassVar[str] = "agreement/verification"


@dataclass(frozen=True, kw_only=True)
class ContractNegotiationEventMessage(NegotiationMessage):
    TYPE: ClassVar[str] = "ContractNegotiationEventMessage"
    STEP: ClassVar[str] = "events"
    event_type: ANegotiationEvent

    @property
    def kind(self) -> str:
        return f"{self.TYPE}:{self.event_type}"


@dataclass(frozen=True, kw_only=True)
class ContractNegotiationTerminationMessage(Coded, NegotiationMessage):
    TYPE: ClassVar[str] = "ContractNegotiationTerminationMessage"
    STEP: ClassVar[str] = "termination"


@dataclass(frozen=True, kw_only=True)
class ContractNegotiationAck(NegotiationMessage):
    """The answer `ContractNegotiation`: the public state."""

    TYPE: ClassVar[str] = "ContractNegotiation"
    STEP: ClassVar[str] = ""
    provider_pid: AnyText
    consumer_pid: AnyText
    state: ANegotiationState

    @classmethod
    def of(cls, negotiation: ContractNegotiation) -> ContractNegotiationAck:
        return cls(
            provider_pid=negotiation.provider_pid,
            consumer_pid=negotiation.consumer_pid,
            state=negotiation.state,
        )


@dataclass(frozen=True, kw_only=True)
class ContractNegotiationError(Coded, NegotiationMessage):
    TYPE: ClassVar[str] = "ContractNegotiationError"
    STEP: ClassVar[str] = ""
    provider_pid: AnyText
    consumer_pid: AnyText


# --- transfer process (§9, §10) ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TransferMessage(ProcessMessage):
    ROOT: ClassVar[str] = "transfers"


@dataclass(frozen=True, kw_only=True)
class TransferRequestMessage(TransferMessage):
    """`data_address` only where the provider pushes."""

    TYPE: ClassVar[str] = "TransferRequestMessage"
    STEP: ClassVar[str] = "request"
    provider_pid: Identifier = ""
    agreement_id: Identifier
    format: Text
    callback_address: Text
    data_address: ADataAddress | None = None


@dataclass(frozen=True, kw_only=True)
class TransferStartMessage(TransferMessage):
    TYPE: ClassVar[str] = "TransferStartMessage"
    STEP: ClassVar[str] = "start"
    data_address: ADataAddress | None = None


@dataclass(frozen=True, kw_only=True)
class TransferSuspensionMessage(Coded, TransferMessage):
    TYPE: ClassVar[str] = "TransferSuspensionMessage"
    STEP: ClassVar[str] = "suspension"


@dataclass(frozen=True, kw_only=True)
class TransferCompletionMessage(TransferMessage):
    TYPE: ClassVar[str] = "TransferCompletionMessage"
    STEP: ClassVar[str] = "completion"


@dataclass(frozen=True, kw_only=True)
class TransferTerminationMessage(Coded, TransferMessage):
    TYPE: ClassVar[str] = "TransferTerminationMessage"
    STEP: ClassVar[str] = "termination"


@dataclass(frozen=True, kw_only=True)
class TransferProcessAck(TransferMessage):
    """The answer `TransferProcess`: the public state."""

    TYPE: ClassVar[str] = "TransferProcess"
    STEP: ClassVar[str] = ""
    provider_pid: AnyText
    consumer_pid: AnyText
    state: ATransferState

    @classmethod
    def of(cls, transfer: TransferProcess) -> TransferProcessAck:
        return cls(
            provider_pid=transfer.provider_pid, consumer_pid=transfer.consumer_pid, state=transfer.state
        )


@dataclass(frozen=True, kw_only=True)
class TransferError(Coded, TransferMessage):
    TYPE: ClassVar[str] = "TransferError"
    STEP: ClassVar[str] = ""
    provider_pid: AnyText
    consumer_pid: AnyText


MESSAGES: Mapping[str, type[Message]] = {
    kind.TYPE: kind
    for kind in (
        VersionsError,
        CatalogRequestMessage,
        DatasetRequestMessage,
        CatalogError,
        ContractRequestMessage,
        ContractOfferMessage,
        ContractAgreementMessage,
        ContractAgreementVerificationMessage,
        ContractNegotiationEventMessage,
        ContractNegotiationTerminationMessage,
        ContractNegotiationAck,
        ContractNegotiationError,
        TransferRequestMessage,
        TransferStartMessage,
        TransferSuspensionMessage,
        TransferCompletionMessage,
        TransferTerminationMessage,
        TransferProcessAck,
        TransferError,
    )
}
"""By `@type`. Catalog and Dataset are answers of many parts: connector.dsp.catalog."""


def parse_any(document: object) -> Message:
    """A message of whatever type it says it is."""
    return parse(MESSAGES[Fields(document).one_of("@type", MESSAGES)], document)
