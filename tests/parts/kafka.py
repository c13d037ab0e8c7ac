"""Apache Kafka: a single broker that is its own controller (KRaft), of the jars that Maven finds."""

import base64
import functools
import os
import re
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from tests.parts import (
    HOST,
    Command,
    PartUnavailable,
    accepts_connections,
    cache,
    on_free_ports,
    output_of,
    run_apart,
    running,
    temporary_folder,
)

VERSION = "4.3.1"
LOG4J_VERSION = "2.25.4"  # Kafka brings the core but no binding; without one a broker fails in silence
MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
JAVA_MINIMUM = 17
FETCH_SECONDS = 900.0
START_SECONDS = 60.0
# One compiler stage and one collector thread: ready in 3 s instead of 4 s on two cores.
JVM_FLAGS = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>connector</groupId><artifactId>kafka-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>{LOG4J_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c: %m%n
"""

# Replication 1 because there is one broker, one partition because it makes internal topics quick to create.
SETTINGS = """\
process.roles=broker,controller
node.id=1
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers={host}:{controller_port}
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
"""


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """A running broker, PLAINTEXT. `bootstrap_servers` is host:port; topics are made on first use."""

    bootstrap_servers: str
    pid: int
    version: str


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
        f"Kafka needs Java {JAVA_MINIMUM} or newer ({'; '.join(tried) or 'none on PATH or in JAVA_HOME'})."
        " Install one, on Debian `apt-get install default-jdk-headless maven`."
    )


@functools.cache
def broker_jars() -> Path:
    """The broker's jars, a folder of KAFKA_HOME or the cache. Raises PartUnavailable."""
    home = os.environ.get("KAFKA_HOME")
    if home and _version_in(Path(home) / "libs"):
        return Path(home) / "libs"
    return cache.installed(f"kafka-{VERSION}", _fetch)


def version() -> str:
    """The version of the broker in `broker_jars()`."""
    return _version_in(broker_jars()) or "unknown"


@contextmanager
def running_kafka() -> Iterator[KafkaServer]:
    """A broker on a free loopback port. Raises PartUnavailable."""
    jars = broker_jars()
    java: list[str | Path] = [java_binary(), *JVM_FLAGS, "-cp", f"{jars}/*"]
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("kafka"))
        (folder / "log4j2.properties").write_text(LOG4J)
        java.insert(1, f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}")
        yield on_free_ports(2, lambda ports: stack.enter_context(_serving(java, folder, ports)))


@contextmanager
def _serving(java: Command, folder: Path, ports: list[int]) -> Iterator[KafkaServer]:
    port, controller_port = ports
    # A folder of its own for each try: the format writes the controller's port into the data.
    data, settings = folder / f"data-{port}", folder / f"server-{port}.properties"
    settings.write_text(SETTINGS.format(host=HOST, port=port, controller_port=controller_port, data=data))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    storage: Command = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", settings]
    output_of([*java, *storage], timeout_seconds=START_SECONDS, cwd=folder)
    servers = f"{HOST}:{port}"
    with running(
        [*java, "kafka.Kafka", settings],
        folder=folder,
        ready=lambda: accepts_connections(port) and run_apart(lambda: _answers(servers)),
        timeout_seconds=START_SECONDS,
        stop_signal=signal.SIGKILL,  # its data are thrown away; a controlled shutdown takes seconds
    ) as pid:
        yield KafkaServer(bootstrap_servers=servers, pid=pid, version=version())


async def _answers(bootstrap_servers: str) -> bool:
    client = AIOKafkaClient(bootstrap_servers=bootstrap_servers, client_id="parts")
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    except KafkaError:
        return False
    finally:
        await client.close()


def _version_in(jars: Path) -> str | None:
    for jar in jars.glob("kafka_2.13-4.*.jar"):
        if found := re.fullmatch(r"kafka_2\.13-(4\.\d+\.\d+)\.jar", jar.name):
            return found[1]
    return None


def _fetch(folder: Path) -> None:
    java_binary()  # the first thing to install when both are missing
    maven = shutil.which("mvn")
    if not maven:
        raise PartUnavailable(
            f"Java is there, but Maven is not, and no Kafka is in {cache.root()} or KAFKA_HOME."
            " Install Maven (on Debian `apt-get install maven`) or set KAFKA_HOME to an unpacked Kafka 4."
        )
    with temporary_folder("maven") as work:
        (work / "pom.xml").write_text(POM)
        flags: Command = ["--batch-mode", "--quiet", "--strict-checksums", "-f", work / "pom.xml"]
        goal = [f"{MAVEN_PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        try:
            output_of([maven, *flags, *goal], timeout_seconds=FETCH_SECONDS, cwd=work)
        except PartUnavailable as error:
            raise PartUnavailable(f"Maven could not fetch Kafka {VERSION}:\n{error}") from error
