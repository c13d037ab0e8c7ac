"""A program of its own, started by rego_engine: try candidate policies where they can be killed.

Reads {"modules": {path: text}, "packages": [...], "inputs": [...]} and writes {"decisions": {package: [...]}}
or {"error": text}. An evaluation cannot be cancelled, and a panic may do anything. Imports nothing but the
engine, to start fast.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def decisions(asked: dict[str, Any]) -> dict[str, list[Any]]:
    """The decision of each package on each input; None where it is undefined."""
    import regorus

    engine = regorus.Engine()
    for path, text in asked["modules"].items():
        engine.add_policy(path, text)
    found: dict[str, list[Any]] = {package: [] for package in asked["packages"]}
    for document in asked["inputs"]:
        engine.set_input_json(json.dumps(document))
        for package, answers in found.items():
            text = engine.eval_rule_as_json(f"data.{package}.decision")
            answer = json.loads(text)
            answers.append(None if answer == "<undefined>" else answer)
    return found


def main() -> None:
    try:
        answer: dict[str, Any] = {"decisions": decisions(json.load(sys.stdin))}
    except BaseException as error:  # a panic of the engine is no Exception; the parent reads what it was
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
