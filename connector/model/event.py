"""Events: CloudEvents 1.0.2, and where a subscriber stands in a topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """`subject` is a pseudonym or an internal subject key inside the provider; never a raw personal id.

    Extension attributes are lower-case letters and digits (CloudEvents 1.0.2 §3.1).
    """

    id: str
    source: str
    type: str
    time: datetime
    subject: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    dataschema: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What a receiver dedupes on."""
        return (self.source, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An event with the offset to commit once it is handled."""

    offset: int
    event: CloudEvent
