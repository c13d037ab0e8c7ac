"""The tree of purposes. ODRL has no "subclass of": who asks for a purpose asks, too, for all above it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connector.errors import ConfigurationError

_LANGUAGES = frozenset({"fi", "sv", "en"})


@dataclass(frozen=True, slots=True)
class PurposeTree:
    """Purpose -> its parent ("" at a root); `labels` purpose -> language -> what people read."""

    parents: Mapping[str, str]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __contains__(self, purpose: object) -> bool:
        return purpose in self.parents

    def ancestors(self, purpose: str) -> tuple[str, ...]:
        """`purpose` itself and all above it. One that is not in the tree has nothing above it."""
        found = [purpose]
        while (parent := self.parents.get(found[-1], "")) and parent not in found:
            found.append(parent)
        return tuple(found)

    def covers(self, wider: str, purpose: str) -> bool:
        return wider in self.ancestors(purpose)


def purpose_tree(document: Any, where: str) -> PurposeTree:
    """From `{purpose: {"parent": ..., "label": {"fi": ..., "sv": ..., "en": ...}}}`.

    `matches` may name the nearest term of the Data Privacy Vocabulary. Raises ConfigurationError.
    """
    if not isinstance(document, dict) or not document:
        raise ConfigurationError(
            "the purposes are not a JSON object", where=where, mend="See policies/purposes.json."
        )
    for purpose, entry in document.items():
        at = f"{where}: {purpose}"
        if not isinstance(entry, dict) or set(entry) - {"parent", "label", "matches"}:
            raise ConfigurationError("a purpose has `parent`, `label` and `matches` only", where=at)
        label = entry.get("label")
        if not isinstance(label, dict) or set(label) != _LANGUAGES:
            raise ConfigurationError("the label is missing in fi, sv or en", where=at)
        if (parent := entry.get("parent", "")) and parent not in document:
            raise ConfigurationError(f"there is no parent {parent!r}", where=at)
    tree = PurposeTree(
        parents={purpose: entry.get("parent", "") for purpose, entry in document.items()},
        labels={purpose: dict(entry["label"]) for purpose, entry in document.items()},
    )
    for purpose in tree.parents:
        if tree.parents[tree.ancestors(purpose)[-1]]:
            raise ConfigurationError("the purpose is above itself", where=f"{where}: {purpose}")
    return tree
