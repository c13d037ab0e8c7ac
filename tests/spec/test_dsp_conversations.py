"""The conformance kit's conversations, by its ids (dsp.md 3.5), through the real routes.

The kit itself and a counter-party of ours over HTTP are in tests/conformance; these hold the same in a
second, in process, and say where it breaks.
"""

from __future__ import annotations

from typing import Any

import pytest

from connector.model.negotiation import Role
from tests.spec.conversations import (
    CONSUMER_NEGOTIATES,
    CONSUMER_TRANSFERS,
    PROVIDER_NEGOTIATES,
    PROVIDER_TRANSFERS,
)
from tests.spec.driver import Driver

CASES = [
    pytest.param(role, script, conversation, id=name)
    for role, cases in (
        (Role.PROVIDER, PROVIDER_NEGOTIATES),
        (Role.CONSUMER, CONSUMER_NEGOTIATES),
        (Role.PROVIDER, PROVIDER_TRANSFERS),
        (Role.CONSUMER, CONSUMER_TRANSFERS),
    )
    for name, (script, conversation) in cases.items()
]


@pytest.mark.parametrize(("role", "script", "conversation"), CASES)
async def test_conversation(role: Role, script: dict[str, Any], conversation: str) -> None:
    """DSP 2025-1 §7 and §9; the test's id is the conformance kit's."""
    # each list is played once: a script must not keep what an earlier run took out
    copied = {state: list(a) if isinstance(a, list) else a for state, a in script.items()}
    await Driver(role, copied).play(conversation)
