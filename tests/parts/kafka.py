"""Apache Kafka: a single broker that is its own controller (KRaft), of the jars that Maven finds."""

import base64
import functools
import os
import re
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
    accepts_connections,
    maven,
    on_free_ports,
    output_of,
    run_apart,
    running,
    temporary_folder,
)
from tests.parts.maven import classpath, java_binary

VERSION = "4.3.1"
LOG4J_VERSION = "2.25.4"  # Kafka brings the core but no binding; without one a broker fails in silence
COORDINATES = [
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.logging.log4j:log4j-core:{LOG4J_VERSION}",
    f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}",
]
START_SECONDS = 60.0
# One compiler stage and one collector thread: ready in 3 s instead of 4 s on two cores.
JVM_FLAGS = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

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
def broker_jars() -> Path:
    """The broker's jars, a folder of KAFKA_HOME or the cache. Raises PartUnavailable."""
    home = os.environ.get("KAFKA_HOME")
    if home and _version_in(Path(home) / "libs"):
        return Path(home) / "libs"
    return maven.jars(f"kafka-{VERSION}", COORDINATES)


def version() -> str:
    """The version of the broker in `broker_jars()`."""
    return _version_in(broker_jars()) or "unknown"


@contextmanager
def running_kafka() -> Iterator[KafkaServer]:
    """A broker on a free loopback port. Raises PartUnavailable."""
    jars = broker_jars()
    java: list[str | Path] = [java_binary(), *JVM_FLAGS, "-cp", classpath(jars)]
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
