"""Java parts: which `java` runs them, and their jars with all these need, copied by Maven into the cache."""

import functools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.parts import Command, PartUnavailable, cache, output_of, temporary_folder

JAVA_MINIMUM = 17
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
FETCH_SECONDS = 900.0

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>connector</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""
DEPENDENCY = """\
    <dependency>
      <groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
      <exclusions>{exclusions}</exclusions>
    </dependency>"""
EXCLUSION = "<exclusion><groupId>{group}</groupId><artifactId>{artifact}</artifactId></exclusion>"


@functools.cache
def java_binary() -> Path:
    """`java` of JAVA_HOME or PATH, 17 or newer. Raises PartUnavailable."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java") if home else None, shutil.which("java")]
    tried = []
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            found = re.search(r'version "(\d+)', output_of([candidate, "-version"], timeout_seconds=30))
            if found and int(found[1]) >= JAVA_MINIMUM:
                return Path(candidate)
            tried.append(f"{candidate} is Java {found[1] if found else 'of unknown version'}")
    raise PartUnavailable(
        f"Java {JAVA_MINIMUM} or newer is needed ({'; '.join(tried) or 'none on PATH or in JAVA_HOME'})."
        " Install one, on Debian `apt-get install default-jdk-headless maven`."
    )


def jars(name: str, coordinates: Sequence[str], *, without: Sequence[str] = ()) -> Path:
    """The folder `name` of the cache, with the jars of `coordinates` and of all that these need at run time.

    `coordinates`: group:artifact:version, nothing but exact versions; `name` tells one set of them from
    another; `without`: group:artifact that are not to be copied, whoever needs them. Raises PartUnavailable.
    """
    return cache.installed(name, lambda folder: _copy(name, coordinates, without, folder))


def classpath(folder: Path) -> str:
    """What `java -cp` takes for all jars in `folder`."""
    return f"{folder}/*"


def archive(coordinate: str, folder: Path) -> Path:
    """One file from Maven's repositories, without what it needs, copied to `folder`.

    `coordinate`: group:artifact:version:type. Raises PartUnavailable.
    """
    goal = [f"{PLUGIN}:copy", f"-Dartifact={coordinate}", f"-DoutputDirectory={folder}"]
    _maven(coordinate, ["--strict-checksums", *goal], folder)
    _group, artifact, version, kind = coordinate.split(":")
    return folder / f"{artifact}-{version}.{kind}"


def _copy(name: str, coordinates: Sequence[str], without: Sequence[str], folder: Path) -> None:
    with temporary_folder("maven") as work:
        (work / "pom.xml").write_text(_pom(name, coordinates, without))
        goal = [f"{PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        _maven(name, ["--strict-checksums", "-f", work / "pom.xml", *goal], work)


def _maven(name: str, arguments: Command, work: Path) -> None:
    java_binary()  # the first thing to install when both are missing
    maven = shutil.which("mvn")
    if not maven:
        raise PartUnavailable(
            f"Java is there, but Maven is not, and {cache.root()} holds no {name}."
            " Install Maven, on Debian `apt-get install maven`."
        )
    try:
        output_of([maven, "--batch-mode", "--quiet", *arguments], timeout_seconds=FETCH_SECONDS, cwd=work)
    except PartUnavailable as error:
        raise PartUnavailable(f"Maven could not fetch {name}:\n{error}") from error


def _pom(name: str, coordinates: Sequence[str], without: Sequence[str]) -> str:
    keys = ("group", "artifact", "version")
    found = [dict(zip(keys, each.split(":"), strict=True)) for each in coordinates]
    left_out = [dict(zip(keys, each.split(":"), strict=False)) for each in without]
    exclusions = "".join(EXCLUSION.format(**each) for each in left_out)
    dependencies = (DEPENDENCY.format(**each, exclusions=exclusions) for each in found)
    return POM.format(name=name, dependencies="\n".join(dependencies))
