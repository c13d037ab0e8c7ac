"""PolicyEngine, embedded: Rego in this process by regorus' interpreter. Nothing to install, nothing to reach.

The engine belongs to the thread that loaded it and answers inline: a decision takes about a fifth of a
millisecond. Candidates run in a process of their own first, because an evaluation cannot be cancelled.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import regorus

from connector.access.decision_fixtures import fixture_inputs
from connector.adapters import rego_check
from connector.adapters.policy_files import (
    deciding_packages,
    require_answers,
    require_portable,
    revision_of,
)
from connector.errors import PolicyInvalid, PolicyUnavailable
from connector.model.json import JsonObject

_log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
_NOT_OURS = (KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit)
_PLACE = re.compile(r"--> ([^\n]+?):(\d+):\d+")
_MESSAGE = re.compile(r"^error: (.+)$", re.MULTILINE)
_BACKTRACE = "Stack backtrace"


class RegoEngine:
    """The twin of OpaEngine. Not for use from another thread: that is PolicyUnavailable."""

    def __init__(self, *, check_seconds: float = CHECK_SECONDS) -> None:
        self._check_seconds = check_seconds
        self._engine: regorus.Engine | None = None
        self._revision = ""

    @property
    def revision(self) -> str:
        return self._revision

    async def load(self, modules: Mapping[str, str]) -> None:
        require_portable(modules)
        packages = deciding_packages(modules)
        inputs = fixture_inputs()
        asked = {"modules": dict(modules), "packages": list(packages), "inputs": inputs}
        require_answers(packages, await _tried(asked, self._check_seconds))
        engine = _built(modules, list(packages), inputs[0])
        # both together, and nothing awaited between: no decision sees one without the other
        self._engine, self._revision = engine, revision_of(modules)

    async def evaluate(self, packages: Sequence[str], request: JsonObject) -> Mapping[str, JsonObject]:
        if self._engine is None:
            raise PolicyUnavailable("no policies are loaded")
        decided: dict[str, JsonObject] = {}
        failure = _evaluate(self._engine, packages, request, decided)
        if failure:
            # the engine's words can hold parts of the input: they stay in the debug log
            _log.debug("an evaluation failed: %s", failure)
            raise PolicyUnavailable("a policy failed while it was evaluated")
        for package in packages:
            if not isinstance(decided[package], dict):
                raise PolicyUnavailable(f"{package} gives no decision")
        return decided

    async def close(self) -> None:
        self._engine = None


# The functions that hold an engine return what failed instead of raising: an exception would keep their
# frames, and with them the engine, alive until the garbage collector runs, perhaps on another thread.


def _evaluate(
    engine: regorus.Engine, packages: Sequence[str], request: JsonObject, decided: dict[str, JsonObject]
) -> str:
    """Fill `decided`; what failed, or ""."""
    try:
        engine.set_input_json(json.dumps(request))
        for package in packages:
            decided[package] = json.loads(engine.eval_rule_as_json(f"data.{package}.decision"))
    except _NOT_OURS:
        raise
    except BaseException as error:  # the engine's panics are no Exception
        return _text_of(error) or type(error).__name__
    return ""


def _built(modules: Mapping[str, str], packages: Sequence[str], sample: JsonObject) -> regorus.Engine:
    """An engine that has compiled everything: one bad module would break all of it at the first decision."""
    engine = regorus.Engine()
    failure = _parsed(engine, modules) or _evaluate(engine, packages, sample, {})
    if failure:
        del engine
        raise _invalid(failure)
    return engine


def _parsed(engine: regorus.Engine, modules: Mapping[str, str]) -> str:
    try:
        for path, text in modules.items():
            engine.add_policy(path, text)
    except _NOT_OURS:
        raise
    except BaseException as error:
        return _text_of(error) or type(error).__name__
    return ""


async def _tried(asked: Mapping[str, Any], seconds: float) -> Mapping[str, Sequence[object]]:
    """What the candidates decide, in a process that is killed when it takes longer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", rego_check.__file__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "RUST_BACKTRACE": "0"},  # nobody reads it, and it takes longer than all the rest
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await process.communicate(json.dumps(asked).encode("utf-8"))
    except TimeoutError:
        raise PolicyInvalid(
            f"the policies did not decide the trial inputs within {seconds:g} s",
            mend="Look for a rule that walks or multiplies large sets.",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _answered(out)


def _answered(out: bytes) -> Mapping[str, Sequence[object]]:
    try:
        answer = json.loads(out)
    except ValueError:
        raise PolicyInvalid("the policies brought the engine down on the trial inputs") from None
    if "error" in answer:
        raise _invalid(str(answer["error"]))
    decisions: Mapping[str, Sequence[object]] = answer["decisions"]
    return decisions


def _text_of(error: BaseException) -> str:
    return str(error).split(_BACKTRACE, 1)[0].strip()


def _invalid(text: str) -> PolicyInvalid:
    text = text.split(_BACKTRACE, 1)[0].strip()
    place, message = _PLACE.search(text), _MESSAGE.search(text)
    return PolicyInvalid(
        message[1] if message else text or "the policies cannot be evaluated",
        where=f"{place[1]}:{place[2]}" if place else "",
        mend="Mend the policy; the ones in force stay.",
    )
