"""The transition tables are the specification's, and the diagrams in the docs are drawn from them."""

from __future__ import annotations

from pathlib import Path

from connector.dsp import negotiation, transfer
from connector.dsp.diagrams import document
from connector.model.negotiation import NegotiationState, Role
from connector.model.transfer import TransferState

C, P = Role.CONSUMER, Role.PROVIDER

# DSP 2025-1 §7.3.1 with the termination message's own text (either side, any state that is not final)
NEGOTIATION = """
-          ContractRequestMessage                      C   REQUESTED
-          ContractOfferMessage                        P   OFFERED
REQUESTED  ContractOfferMessage                        P   OFFERED
REQUESTED  ContractAgreementMessage                    P   AGREED
REQUESTED  ContractNegotiationTerminationMessage       CP  TERMINATED
OFFERED    ContractRequestMessage                      C   REQUESTED
OFFERED    ContractNegotiationEventMessage:ACCEPTED    C   ACCEPTED
OFFERED    ContractNegotiationTerminationMessage       CP  TERMINATED
ACCEPTED   ContractAgreementMessage                    P   AGREED
ACCEPTED   ContractNegotiationTerminationMessage       CP  TERMINATED
AGREED     ContractAgreementVerificationMessage        C   VERIFIED
AGREED     ContractNegotiationTerminationMessage       CP  TERMINATED
VERIFIED   ContractNegotiationEventMessage:FINALIZED   P   FINALIZED
VERIFIED   ContractNegotiationTerminationMessage       CP  TERMINATED
"""

# DSP 2025-1 §9.3.1
TRANSFER = """
-          TransferRequestMessage      C   REQUESTED
REQUESTED  TransferStartMessage        P   STARTED
REQUESTED  TransferTerminationMessage  CP  TERMINATED
STARTED    TransferCompletionMessage   CP  COMPLETED
STARTED    TransferSuspensionMessage   CP  SUSPENDED
STARTED    TransferTerminationMessage  CP  TERMINATED
SUSPENDED  TransferStartMessage        CP  STARTED
SUSPENDED  TransferTerminationMessage  CP  TERMINATED
"""


def rows(text: str) -> set[tuple[str, str, Role, str]]:
    split = [line.split() for line in text.strip().splitlines()]
    return {(state, kind, {"C": C, "P": P}[one], to) for state, kind, by, to in split for one in by}


def test_the_negotiation_table_is_the_specifications() -> None:
    """DSP 2025-1 §7.3.1; Protocol: the table equals the specification's diagram."""
    table = {
        (str(state or "-"), kind, by, str(to))
        for state, moves in negotiation.TABLE.items()
        for (by, kind), to in moves.items()
    }
    assert table == rows(NEGOTIATION)
    assert set(negotiation.TABLE) == {None, *NegotiationState}


def test_the_transfer_table_is_the_specifications() -> None:
    """DSP 2025-1 §9.3.1."""
    table = {
        (str(state or "-"), kind, by, str(to))
        for state, moves in transfer.TABLE.items()
        for (by, kind), to in moves.items()
    }
    assert table == rows(TRANSFER)
    assert set(transfer.TABLE) == {None, *TransferState}


def test_final_states_are_those_without_a_way_out() -> None:
    """DSP 2025-1: FINALIZED, COMPLETED and TERMINATED accept nothing, termination included."""
    assert {s for s, moves in negotiation.TABLE.items() if s and not moves} == {
        s for s in NegotiationState if s.final
    }
    assert {s for s, moves in transfer.TABLE.items() if s and not moves} == {
        s for s in TransferState if s.final
    }


def test_the_docs_show_these_tables() -> None:
    """Protocol: state diagrams in the docs are drawn from the tables."""
    shown = Path(__file__).parents[2] / "docs" / "state-machines.md"
    assert shown.read_text() == document(), "run: python -m connector.dsp.diagrams > docs/state-machines.md"
