"""Reading a descriptor member by member: what is wrong is collected with its line, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import TypeVar

from connector.adapters.yaml_tree import Node
from connector.errors import DescriptorInvalid
from connector.model.json import from_rfc3339

MOST_PROBLEMS = 20

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_Member = TypeVar("_Member")


@dataclass(frozen=True, slots=True)
class Problem:
    file: str
    line: int
    text: str
    mend: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Problems:
    """Collected over one file, so that its author mends it in one go."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, text: str, mend: str) -> None:
        self.found.append(Problem(self.file, line, text, mend))

    def extend(self, problems: Iterable[Problem]) -> None:
        self.found.extend(problems)

    def refuse(self) -> None:
        if self.found:
            raise DescriptorRefused(self.found)


class DescriptorRefused(DescriptorInvalid):
    """All problems of a file, or of a whole catalogue, in the order of its lines."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line)))
        first, *others = self.problems
        shown = others[: MOST_PROBLEMS - 1]
        lines = [f"{p.where}: {p.text} {p.mend}" for p in shown]
        if left_out := len(others) - len(shown):
            lines.append(f"... and {left_out} more")
        super().__init__(first.text, where=first.where, mend="\n".join([first.mend, *lines]))


class Members:
    """A mapping read member by member. What is wrong is collected, and a harmless value returned."""

    def __init__(
        self, node: Node, problems: Problems, known: Collection[str], what: str, home: int | None = None
    ) -> None:
        """`home`: the line where the mapping is named; what is missing in it is missing there."""
        self.node = node
        self._home = node.line if home is None else home
        self.problems = problems
        self.what = what
        self.members: dict[str, Node] = node.value if isinstance(node.value, dict) else {}
        if not isinstance(node.value, dict):
            problems.add(node.line, f"{what} is not a mapping", f"Give {', '.join(known)}.")
        for key in self.members.keys() - set(known):
            near = get_close_matches(key, known, 1)
            mend = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
            problems.add(node.keys[key], f"{what} has no {key!r}", mend)

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def line(self, name: str) -> int:
        return self.node.keys.get(name, self._home)

    def wrong(self, name: str, text: str, mend: str) -> None:
        self.problems.add(self.line(name), f"{self.what}: {name}: {text}", mend)

    def _value(self, name: str, kind: type[_Member], words: str, default: _Member | None) -> _Member | None:
        """`default` None: the member is required."""
        node = self.members.get(name)
        if node is None:
            if default is None:
                self.wrong(name, "is missing", f"Add it: {words}.")
            return default
        if type(node.value) is not kind:
            self.wrong(name, f"is not {words}", f"Write {words}.")
            return default
        return node.value

    def text(self, name: str, default: str | None = None, *, pattern: re.Pattern[str] | None = None) -> str:
        value = self._value(name, str, "text", default)
        if value is None:
            return ""
        if not value.strip() and name in self:
            self.wrong(name, "is empty", "Write something, or leave it out.")
        elif pattern and value != default and not pattern.fullmatch(value):
            self.wrong(name, f"{value!r} has not the right form", f"It has to match {pattern.pattern}.")
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self.text(name, default)
        if value and value not in allowed and value != default:
            self.wrong(name, f"{value!r} is not known", f"Use one of: {', '.join(allowed)}.")
            return allowed[0]
        return value or allowed[0]

    def flag(self, name: str, default: bool | None = None) -> bool:
        return bool(self._value(name, bool, "true or false", default))

    def whole(self, name: str, *, least: int) -> int | None:
        if name not in self:
            return None
        value = self._value(name, int, "a whole number", 0)
        if value is not None and value < least and type(self.members[name].value) is int:
            self.wrong(name, f"{value} is too small", f"Give at least {least}.")
        return value

    def instant(self, name: str) -> datetime | None:
        """A day, which begins at midnight UTC, or an RFC 3339 instant; None where it is not given."""
        if name not in self:
            return None
        text = self.text(name)
        try:
            return from_rfc3339(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text)
        except ValueError:
            self.wrong(name, f"{text!r} is no day", "Write 2027-01-31, or 2027-01-31T12:00:00Z.")
            return None

    def nodes(self, name: str) -> list[Node]:
        return self._value(name, list, "a list", []) or []

    def texts(self, name: str, *, allowed: Collection[str] | None = None) -> tuple[str, ...]:
        found: list[str] = []
        for node in self.nodes(name):
            if not isinstance(node.value, str) or not node.value.strip():
                self.problems.add(
                    node.line, f"{self.what}: {name}: not text", "Write text, in quotes if need be."
                )
            elif node.value in found:
                self.problems.add(
                    node.line, f"{self.what}: {name}: {node.value!r} twice", "Keep one of them."
                )
            elif allowed is not None and node.value not in allowed:
                known = f"Known are: {', '.join(sorted(allowed)) or 'none'}."
                self.problems.add(node.line, f"{self.what}: {name}: {node.value!r} is not known", known)
            else:
                found.append(node.value)
        return tuple(found)

    def object(self, name: str, known: Collection[str]) -> Members:
        node = self.members.get(name)
        if node is None:
            self.wrong(name, "is missing", f"Add it, with {', '.join(known)}.")
            return Members(Node(self.node.line, {}), Problems(self.problems.file), known, name)
        return Members(node, self.problems, known, f"{self.what}.{name}", self.line(name))

    def objects(self, name: str, known: Collection[str]) -> Iterator[Members]:
        for index, node in enumerate(self.nodes(name)):
            yield Members(node, self.problems, known, f"{self.what}.{name}[{index}]")
