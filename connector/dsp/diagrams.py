"""The state machines as people see them, drawn from the tables: `python -m connector.dsp.diagrams`."""

from __future__ import annotations

import sys

from connector.dsp import negotiation, transfer
from connector.dsp.machine import mermaid

_INTRODUCTION = """\
# State machines of the Dataspace Protocol 2025-1

Drawn from the tables in `connector/dsp/negotiation.py` and `connector/dsp/transfer.py` by
`python -m connector.dsp.diagrams > docs/state-machines.md`; a test holds that they agree.
Each arrow names who sends which message. What has no arrow is refused and changes nothing.

A state is public: it moves when the other participant has acknowledged our message, or has sent its own.
Messages can cross; where both sides spoke at once the stronger message stands on both
(termination, then completion, then suspension).
"""


def document() -> str:
    """The whole of docs/state-machines.md."""
    return (
        f"{_INTRODUCTION}\n## Contract negotiation\n\n```mermaid\n{mermaid(negotiation.MACHINE)}```\n"
        f"\n## Transfer process\n\n```mermaid\n{mermaid(transfer.MACHINE)}```\n"
        "\nOne rule is not in the picture: a consumer cannot resume what the provider suspended.\n"
    )


if __name__ == "__main__":
    sys.stdout.write(document())
