"""One run of the official conformance kit, and what it says. Its exit status says nothing: its words do."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import script
from tests.conformance.connector import TOKEN, Running
from tests.parts import HOST, PartFailed, tail, tck
from tests.parts.maven import classpath, java_binary

ENTRY = Path(__file__).with_name("RunKit.java")
"""The kit's own entry point is not among the published jars."""

JVM_FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
STEP_SECONDS = 10
"""How long the kit waits for what the connector is to do next."""

RUN_SECONDS = 300.0
DISABLED = frozenset({"TP:02-04", "TP_C:02-04"})
"""Conversations that the kit's authors switched off; ours plays them."""

NAMES: tuple[str, ...] = (
    "MET:01-01",
    "CAT:01-01",
    "CAT:01-02",
    "CAT:01-03",
    *(
        name
        for name in (*script.NEGOTIATIONS, *script.TRANSFERS)
        if script.is_the_kits(name) and name not in DISABLED
    ),
)
"""The 65 tests that have to be there, and to pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`failed` maps a test's name to the kit's reason. The counts are the kit's own, if it told any."""

    passed: tuple[str, ...]
    failed: Mapping[str, str]
    titles: Mapping[str, str]
    counted_passed: int | None
    counted_failed: int | None
    seconds: float = 0.0

    @property
    def outcomes(self) -> dict[str, str]:
        """Of every test that ran: `passed` or `FAILED`."""
        return {**dict.fromkeys(self.passed, "passed"), **dict.fromkeys(self.failed, "FAILED")}

    def problems(self, expected: Iterable[str] = NAMES) -> list[str]:
        """What keeps this run from being a proof of conformance; empty when nothing does."""
        wanted = set(expected)
        found = [f"{name} failed: {reason}" for name, reason in sorted(self.failed.items())]
        found += [f"{name} did not run" for name in sorted(wanted - {*self.passed, *self.failed})]
        found += [f"{name} is not a test we know" for name in sorted({*self.passed, *self.failed} - wanted)]
        if len(self.passed) != len(set(self.passed)):
            found.append("a test ran more than once")
        counts = (self.counted_passed, self.counted_failed)
        if counts != (len(wanted), 0):
            found.append(
                f"the kit counted {counts[0]} passed and {counts[1]} failed, not {len(wanted)} and 0"
            )
        return found


async def run(
    connector: Running,
    folder: Path,
    port: int,
    *,
    names: Sequence[str] = (),
    step_seconds: int = STEP_SECONDS,
) -> Report:
    """Run the kit's tests of these names, or all, against `connector`. Raises PartUnavailable, PartFailed.

    The kit listens on `port`, where the connector takes its peer to be; `folder` is for its settings and log.
    """
    settings, log = folder / "kit.properties", folder / "kit.log"
    lines = _properties(connector, port, step_seconds).items()
    settings.write_text("".join(f"{name}={value}\n" for name, value in lines))
    command = [java_binary(), *JVM_FLAGS, "-cp", classpath(tck.kit_jars()), ENTRY, settings, *names]
    begun = asyncio.get_running_loop().time()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(),
        )
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await process.wait()
        except TimeoutError:
            raise PartFailed(f"the kit did not end within {RUN_SECONDS:.0f} s:\n{_end(log)}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    report = read(log.read_text(errors="replace"), seconds=asyncio.get_running_loop().time() - begun)
    if report.counted_passed is None:
        raise PartFailed(f"the kit broke off. Its last output:\n{_end(log)}")
    return report


def _environment() -> dict[str, str]:
    """Its settings may come from the environment too: nobody's own may change what is tested."""
    return {k: v for k, v in os.environ.items() if not k.startswith("DATASPACETCK")}


def _end(log: Path) -> str:
    return tail(log.read_text(errors="replace"))


def _properties(connector: Running, port: int, step_seconds: int) -> dict[str, str]:
    """dsp.md 3.2."""
    own = {
        "host": HOST,
        "port": str(port),
        "callback.address": f"http://{HOST}:{port}",
        "launcher": "org.eclipse.dataspacetck.dsp.system.DspSystemLauncher",
        "dsp.local.connector": "false",
        "dsp.connector.agent.id": script.OURS,
        "dsp.connector.http.url": connector.dsp_url,
        "dsp.connector.http.base.url": connector.base_url,
        "dsp.connector.http.headers.authorization": TOKEN,
        "dsp.connector.negotiation.initiate.url": connector.negotiate_url,
        "dsp.connector.transfer.initiate.url": connector.transfer_url,
        "dsp.default.wait": str(step_seconds),
    }
    return {**{f"dataspacetck.{k}": v for k, v in own.items()}, **_subjects()}


def _subjects() -> dict[str, str]:
    """Which dataset or agreement each test is about; the kit names its settings by the test's method."""
    about = (*script.PUBLISHED, script.UNKNOWN_DATASET)
    found = {f"CAT_01_0{number}_DATASETID": dataset_id for number, dataset_id in enumerate(about, 1)}
    for name in filter(script.is_the_kits, (*script.NEGOTIATIONS, *script.TRANSFERS)):
        method, subject = name.replace(":", "_").replace("-", "_"), script.subject(name)
        if name in script.TRANSFERS:
            found |= {f"{method}_AGREEMENTID": subject, f"{method}_FORMAT": script.FORMAT.value}
        else:  # as a consumer we get the offer's id from the kit
            found |= {f"{method}_DATASETID": subject, f"{method}_OFFERID": script.offer_id(subject)}
    return found


# --- what the kit prints ----------------------------------------------------------------------------------

_BEGUN = re.compile(r"^(?:\[[^]]*\] )?Started: (\S+): (.*)$", re.MULTILINE)
_ENDED = re.compile(r"^(?:\[[^]]*\] )?(SUCCESSFUL|FAILED|ABORTED): (\S+)$", re.MULTILINE)
_COUNT = re.compile(r"^(?:\[[^]]*\] )?(Passed|Failed) tests: (\d+)$", re.MULTILINE)
_REASON = re.compile(r"^(?:\[[^]]*\] )? +\[([^]:]+:[^]:]+):[^]]*\]\n(?:\[[^]]*\] )?(.*)", re.MULTILINE)


def read(output: str, *, seconds: float = 0.0) -> Report:
    """What the kit printed, as far as it got."""
    ended = _ENDED.findall(output)
    counts = {kind: int(number) for kind, number in _COUNT.findall(output)}
    reasons = {name: reason.strip() for name, reason in _REASON.findall(output)}
    return Report(
        passed=tuple(name for status, name in ended if status == "SUCCESSFUL"),
        failed={
            name: reasons.get(name) or f"{status.lower()}, no reason given"
            for status, name in ended
            if status != "SUCCESSFUL"
        },
        titles=dict(_BEGUN.findall(output)),
        counted_passed=counts.get("Passed"),
        counted_failed=counts.get("Failed"),
        seconds=seconds,
    )
