"""A wheel carries the project's own policies inside the package; everything else is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class WithPolicies(build_py):
    """`policies/` stays at the top level, where people look for it; an installed connector finds a copy."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "connector" / "_policies"
        target.mkdir(parents=True, exist_ok=True)
        for file in (HERE / "policies").iterdir():
            if file.suffix in (".rego", ".json") and not file.name.endswith("_test.rego"):
                shutil.copyfile(file, target / file.name)


setup(cmdclass={"build_py": WithPolicies})
