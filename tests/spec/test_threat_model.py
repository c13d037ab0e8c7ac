"""Issue Identity: `THREATMODEL.md` names which test holds each claim, and each of those is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "THREATMODEL.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::([\w*]+)`", PAGE)))


def test_the_page_names_tests() -> None:
    """A claim without a test is a wish."""
    assert len(NAMED) >= 30


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_test_it_names_is_there(file: str, test: str) -> None:
    """`*` stands for a whole file."""
    found = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
    assert found if test == "*" else test in found
