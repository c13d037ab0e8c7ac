"""What a connector does next: asked after each persisted transition, answered with an Action.

The protocol code carries actions out and knows no reasons; the product's hooks are in product_hooks.py,
tests script theirs. A hook that raises decides nothing: it is asked again later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from connector.model.json import JsonObject
from connector.model.negotiation import ContractNegotiation
from connector.model.transfer import DataAddress, TransferProcess

APPROVAL = "approval"


# --- negotiation --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Agree:
    """The provider signs: an Agreement that echoes the last offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Counter with this Offer: a ContractOfferMessage or a ContractRequestMessage, by our role."""

    document: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The consumer takes the provider's offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """The consumer has checked the agreement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize:
    """The provider puts the agreement into force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """`reasons` are sent to the peer and kept for our operator: no personal data in them."""

    code: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Do nothing. `why` "" waits for the peer; `approval` for a person, who may carry out `proposed`."""

    why: str = ""
    proposed: Agree | Accept | None = None


NegotiationAction = Hold | Agree | Offer | Accept | Verify | Finalize | Terminate


class NegotiationHook(Protocol):
    async def decide(self, negotiation: ContractNegotiation) -> NegotiationAction: ...


# --- transfer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start or resume; `address` where the consumer is to pull from."""

    address: DataAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    code: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    pass


TransferAction = Hold | Start | Suspend | Complete | Terminate


class TransferHook(Protocol):
    async def decide(self, transfer: TransferProcess) -> TransferAction: ...
