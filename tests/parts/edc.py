"""Eclipse EDC: a control plane as others run it, of the jars that Maven finds; it holds everything in memory.

`iam-mock` stands for identity: the Authorization header is a bare JSON object that names the sender.
"""

import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts import HOST, Command, maven, on_free_ports, running, temporary_folder
from tests.parts.maven import classpath, java_binary

# The newest release of which both the BOM and iam-mock are published as plain jars where we get ours.
VERSION = "0.15.1"
COORDINATES = [
    f"org.eclipse.edc:controlplane-base-bom:{VERSION}",
    f"org.eclipse.edc:iam-mock:{VERSION}",
]
# The first is no jar, though EDC's POMs ask for one; the second is not published with the others.
WITHOUT = ["org.eclipse.jetty.websocket:jetty-websocket", "org.eclipse.edc:edr-cache-api"]
MAIN = "org.eclipse.edc.boot.system.runtime.BaseRuntime"
START_SECONDS = 60.0
MEMORY = "-Xmx512m"
# Quick to start, for tests: one compiler stage, one collector thread.
QUICK_JVM = (MEMORY, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
CONTEXTS = ("default", "management", "protocol", "control", "signaling", "version")

STATE_MACHINES = ("edc.negotiation", "edc.negotiation.consumer", "edc.negotiation.provider", "edc.transfer")
"""Their prefixes in every version: before 0.16 the negotiation had two, since then it has one."""

SETTINGS = """\
edc.participant.id={participant}
edc.participant.context.id={participant}
edc.hostname={host}
edc.dsp.callback.address=http://{host}:{protocol}/dsp
web.http.port={default}
web.http.path=/api
web.http.management.port={management}
web.http.management.path=/management
web.http.protocol.port={protocol}
web.http.protocol.path=/dsp
web.http.control.port={control}
web.http.control.path=/control
web.http.signaling.port={signaling}
web.http.signaling.path=/signaling
web.http.version.port={version}
web.http.version.path=/version
"""


@dataclass(frozen=True, slots=True)
class EdcServer:
    """A running control plane; its DSP is where a participant's of ours is, below its base URL."""

    participant_id: str
    base_url: str
    management_url: str
    control_url: str
    pid: int
    version: str

    @property
    def dsp_url(self) -> str:
        return f"{self.base_url}/dsp/2025-1"


def edc_jars() -> Path:
    """EDC's jars, the folder EDC_HOME or the cache's. Raises PartUnavailable."""
    home = os.environ.get("EDC_HOME")
    if home and _version_in(Path(home)):
        return Path(home)
    return maven.jars(f"edc-{VERSION}", COORDINATES, without=WITHOUT)


def version() -> str:
    """The version of the jars in `edc_jars()`."""
    return _version_in(edc_jars()) or "unknown"


def quick_state_machines(wait_ms: int = 10, batch_size: int = 200) -> dict[str, str]:
    """Settings for state machines that look for work oftener than each second and take more than 20."""
    return {
        f"{machine}.state-machine.{name}": str(value)
        for machine in STATE_MACHINES
        for name, value in (("iteration-wait-millis", wait_ms), ("batch-size", batch_size))
    }


@contextmanager
def running_edc(
    participant_id: str = "eclipse",
    settings: Mapping[str, str] | None = None,
    jvm: Sequence[str] = QUICK_JVM,
) -> Iterator[EdcServer]:
    """A control plane on free loopback ports; `settings` are added to ours. Raises PartUnavailable."""
    java: Command = [java_binary(), *jvm]
    jars = edc_jars()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("edc"))

        def serve(ports: list[int]) -> EdcServer:
            return stack.enter_context(_serving(java, jars, folder, participant_id, settings or {}, ports))

        yield on_free_ports(len(CONTEXTS), serve)


@contextmanager
def _serving(
    java: Command,
    jars: Path,
    folder: Path,
    participant_id: str,
    settings: Mapping[str, str],
    ports: list[int],
) -> Iterator[EdcServer]:
    port = dict(zip(CONTEXTS, ports, strict=True))
    file = folder / "edc.properties"
    file.write_text(
        SETTINGS.format(participant=participant_id, host=HOST, **port)
        + "".join(f"{name}={value}\n" for name, value in settings.items())
    )
    base = {name: f"http://{HOST}:{port[name]}" for name in CONTEXTS}
    # its HTTP contexts come up one after the other, the health check among the first
    answering = [
        f"{base['default']}/api/check/readiness",
        f"{base['management']}/management/v3/dataplanes",
        f"{base['control']}/control/v1/dataplanes",
        f"{base['protocol']}/dsp/.well-known/dspace-version",
    ]
    with running(
        [*java, f"-Dedc.fs.config={file}", "-cp", classpath(jars), MAIN],
        folder=folder,
        ready=lambda: all(_answers(url) for url in answering),
        timeout_seconds=START_SECONDS,
        stop_signal=signal.SIGKILL,  # it holds everything in memory: nothing to put in order
    ) as pid:
        yield EdcServer(
            participant_id=participant_id,
            base_url=base["protocol"],
            management_url=f"{base['management']}/management",
            control_url=f"{base['control']}/control",
            pid=pid,
            version=_version_in(jars) or "unknown",
        )


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _version_in(jars: Path) -> str | None:
    for jar in jars.glob("boot-*.jar"):
        if found := re.fullmatch(r"boot-(\d+\.\d+\.\d+)\.jar", jar.name):
            return found[1]
    return None
