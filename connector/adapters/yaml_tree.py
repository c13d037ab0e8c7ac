"""YAML with the place of everything in it, read strictly: what two readers could read differently is refused.

No anchors, aliases, merge keys, tags, duplicate keys, `yes`/`no`, octal or sexagesimal numbers. Dates
stay text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

# libyaml's loader is as safe and sixty times as fast; not every build of PyYAML has it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_DEPTH = 30

Scalar = str | int | float | bool | None
_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FRACTION = re.compile(r"[-+]?[0-9]{1,17}\.[0-9]{1,17}")


class YamlInvalid(Exception):
    """`line` counts from 1."""

    def __init__(self, line: int, text: str, mend: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its line. In a mapping `keys` has the line of each key."""

    line: int
    value: Scalar | list[Node] | dict[str, Node]
    keys: dict[str, int] = field(default_factory=dict)

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value

    def line_at(self, path: Sequence[str | int]) -> int:
        """The line of what `path` leads to, or of the last step that is there."""
        node, line = self, self.line
        for step in path:
            if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
                node, line = node.value[step], node.keys[step]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.line
            else:
                break
        return line


def read_yaml(text: str) -> Node:
    """The one document in `text`. Raises YamlInvalid."""
    try:
        _require_shallow(text)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text) from None
    except yaml.YAMLError as error:
        raise YamlInvalid(1, f"this is not YAML: {error}", "Save it as UTF-8 text.") from None
    if root is None:
        raise YamlInvalid(1, "the file is empty", "Start from the example in docs/descriptors.md.")
    return _Reader().read(root)


def _require_shallow(text: str) -> None:
    """Composing is recursive, in C: depth is counted on events, which are not."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MOST_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise YamlInvalid(line, f"nested more than {_MOST_DEPTH} deep", "Write it flatter.")


def _syntax(error: yaml.MarkedYAMLError, text: str) -> YamlInvalid:
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    here = [*text.splitlines(), ""][line]
    tabs = "\t" in here[: len(here) - len(here.lstrip())]
    mend = "Indent with spaces, not tabs." if tabs else "Mend the YAML at this line."
    return YamlInvalid(line + 1, error.problem or "this is not YAML", mend)


class _Reader:
    def __init__(self) -> None:
        self._seen: set[int] = set()

    def read(self, node: yaml.Node) -> Node:
        line = node.start_mark.line + 1
        if id(node) in self._seen:
            raise YamlInvalid(line, "an alias (*name) stands here", "Write the value out.")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, line)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return Node(line, [self.read(item) for item in node.value])
        if isinstance(node, yaml.ScalarNode):
            return Node(line, _scalar(node, line))
        raise YamlInvalid(line, f"the tag {node.tag!r} is not allowed", "Write a plain value.")

    def _mapping(self, node: yaml.MappingNode, line: int) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, int] = {}
        for key_node, value_node in node.value:
            at = key_node.start_mark.line + 1
            key = key_node.value
            if key_node.tag == f"{_TAG}merge":
                raise YamlInvalid(at, "a merge key (<<) stands here", "Write the values out.")
            if not isinstance(key, str) or key_node.tag != f"{_TAG}str":
                raise YamlInvalid(at, "a key that is not text", "Put the key in quotes.")
            if key in values:
                raise YamlInvalid(
                    at, f"the key {key!r} stands here twice (before in line {keys[key]})", "Keep one of them."
                )
            values[key], keys[key] = self.read(value_node), at
        return Node(line, values, keys)


def _scalar(node: yaml.ScalarNode, line: int) -> Scalar:
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "str" | "timestamp":
            return text
        case "null":
            return None
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int" if _DECIMAL.fullmatch(text):
            return int(text)
        case "float" if _FRACTION.fullmatch(text):
            return float(text)
        case "bool" | "int" | "float" as kind:
            raise YamlInvalid(
                line, f"{text[:40]!r} reads as a {_KINDS[kind]}", "Put it in quotes, or write it plainly."
            )
        case _:
            raise YamlInvalid(line, f"the tag {node.tag!r} is not allowed", "Write a plain value.")


_KINDS = {"bool": "truth value", "int": "number", "float": "number"}
