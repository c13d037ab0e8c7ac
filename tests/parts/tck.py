"""The Dataspace Protocol's conformance kit (Eclipse Dataspace TCK), of the jars that Maven finds."""

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts import PartUnavailable, maven
from tests.parts.maven import java_binary

# The newest version that is published where we get ours. Its tests are those of 1.0.1, name for name and line
# for line; only the classes around them moved to other artifacts.
VERSION = "1.0.0-RC6"
OKHTTP_VERSION = "5.3.0"
GROUP = "org.eclipse.dataspacetck.dsp"
MODULES = (
    "dsp-metadata",
    "dsp-catalog",
    "dsp-contract-negotiation",
    "dsp-transfer-process",
    "dsp-system",
    "tck-runtime",
)
COORDINATES = [
    *(f"{GROUP}:{module}:{VERSION}" for module in MODULES),
    # The kit asks for `okhttp`, whose jar holds nothing for Maven: its classes are in this one.
    f"com.squareup.okhttp3:okhttp-jvm:{OKHTTP_VERSION}",
]


@dataclass(frozen=True, slots=True)
class Kit:
    """The kit, ready to be run from its jars."""

    jars: Path
    version: str


@functools.cache
def kit_jars() -> Path:
    """The folder DSP_TCK_HOME, else one of the cache. Raises PartUnavailable."""
    home = os.environ.get("DSP_TCK_HOME")
    if home is None:
        return maven.jars(f"dsp-tck-{VERSION}", COORDINATES)
    if not _version_in(Path(home)):
        raise PartUnavailable(f"DSP_TCK_HOME names {home}, and the kit's jars are not there.")
    return Path(home).absolute()


def version() -> str:
    """The version of the kit in `kit_jars()`."""
    return _version_in(kit_jars()) or "unknown"


@contextmanager
def ready_kit() -> Iterator[Kit]:
    """Raises PartUnavailable where there is no kit or no Java to run it."""
    java_binary()
    yield Kit(jars=kit_jars(), version=version())


def _version_in(jars: Path) -> str | None:
    for jar in jars.glob("dsp-*.jar"):
        if found := re.fullmatch(r"dsp-(?:tck|metadata)-(\d.*)\.jar", jar.name):
            return found[1]
    return None
