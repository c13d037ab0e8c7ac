"""The runtime has no part under a licence that would bind who deploys it (no GPL, AGPL, BUSL or SSPL)."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

LOCK = Path(__file__).parents[2] / "requirements" / "server.lock"
PINNED = re.findall(r"^([A-Za-z0-9._-]+)==\S+(?: ; (.+?))? \\$", LOCK.read_text(encoding="utf-8"), re.M)
FORBIDDEN = re.compile(r"(?<!L)GPL|Affero|BUSL|Business Source|SSPL|Server Side Public|Elastic License", re.I)
LESSER = re.compile(r"LGPL|Lesser General Public", re.I)


def _licence(name: str) -> str:
    about = metadata.metadata(name)
    classifiers = [c for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    stated = about.get("License-Expression") or (about.get("License") or "").splitlines()[0:1]
    return " ".join([*classifiers, stated if isinstance(stated, str) else " ".join(stated)]).strip()


def test_the_lock_is_read() -> None:
    """Else nothing below could fail."""
    assert len(PINNED) > 40
    assert "fastapi" in {name for name, _ in PINNED}


@pytest.mark.parametrize("name", sorted({name for name, _ in PINNED}))
def test_a_runtime_package_is_under_a_permissive_licence(name: str) -> None:
    """Brief of the product: permissive licences in the runtime; each package says which it has."""
    try:
        licence = _licence(name)
    except metadata.PackageNotFoundError:
        pytest.skip("not for this platform")
    assert licence, f"{name} states no licence"
    assert not FORBIDDEN.search(LESSER.sub("", licence)), licence
