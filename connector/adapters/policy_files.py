"""Rego modules as text: found, read, and held to the portable subset that both engines evaluate alike.

The project's own modules (`dataspace.odrl`, `dataspace.baseline`) and a participant's
(`dataspace.policies.*`) are loaded together; a participant's file cannot add rules to the project's packages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import connector
from connector.access.decision import OPERATORS
from connector.access.decision_document import DocumentInvalid, read_document
from connector.access.purposes import PurposeTree, purpose_tree
from connector.errors import ConfigurationError, PolicyInvalid

PURPOSES_FILE = "purposes.json"
MOST_BYTES = 1_000_000
OWN_FOLDER = "policies"
PROJECT_FOLDER = "connector"


# --- reading -----------------------------------------------------------------------------------------


def project_folder() -> Path:
    """Where the project's own policies are: beside the package in a checkout, inside it when installed."""
    package = Path(connector.__file__).resolve().parent
    for folder in (package / "_policies", package.parent / "policies"):
        if (folder / "odrl.rego").is_file():
            return folder
    raise ConfigurationError(
        "the project's own policies are not there",
        where=str(package / "_policies"),
        mend="Install the package again, or run it from a whole checkout.",
    )


def project_modules() -> Mapping[str, str]:
    """The modules that decide for every dataset: path -> text."""
    return _modules(project_folder(), PROJECT_FOLDER)


def project_purposes() -> PurposeTree:
    file = project_folder() / PURPOSES_FILE
    return purpose_tree(json.loads(file.read_text(encoding="utf-8")), str(file))


def own_modules(folder: Path) -> Mapping[str, str]:
    """A participant's modules, `_test.rego` apart. No folder is no policies. Raises PolicyInvalid."""
    if not folder.is_dir():
        return {}
    modules = _modules(folder, OWN_FOLDER)
    for path, text in modules.items():
        package, line = package_of(path, text)
        if not package.startswith(f"{OPERATORS}."):
            raise PolicyInvalid(
                f"a participant's policies are packages below {OPERATORS}, and this is {package}",
                where=f"{path}:{line}",
                mend=f"Write `package {OPERATORS}.{Path(path).stem}`.",
            )
    return modules


def all_modules(own_folder: Path) -> Mapping[str, str]:
    """What a connector loads into its policy engine."""
    return {**project_modules(), **own_modules(own_folder)}


def policy_names(modules: Mapping[str, str]) -> frozenset[str]:
    """The names by which descriptors may call a participant's policies."""
    deciding = deciding_packages(modules)
    return frozenset(p.removeprefix(f"{OPERATORS}.") for p in deciding if p.startswith(f"{OPERATORS}."))


def _modules(folder: Path, name: str) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*.rego") if not file.name.endswith("_test.rego"))
    return {f"{name}/{file.relative_to(folder).as_posix()}": _text(file) for file in files}


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise PolicyInvalid(f"the file is larger than {MOST_BYTES} bytes", where=str(file))
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyInvalid(
            f"the file cannot be read: {type(error).__name__}", where=str(file), mend="Save it as UTF-8 text."
        ) from None


# --- what both engines must agree on -----------------------------------------------------------------


def revision_of(modules: Mapping[str, str]) -> str:
    """The beginning of `digest_of`, the same on every engine and replica: what records name."""
    return digest_of(modules)[:16]


def digest_of(modules: Mapping[str, str]) -> str:
    """SHA-256 over names and texts together, as hex digits: nobody finds other modules with the same."""
    listed = json.dumps(sorted(modules.items()), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(listed.encode("utf-8")).hexdigest()


def relocated(text: str, root: str) -> str:
    """The module as a part of package `root`: its own package and every `data.dataspace` it refers to.

    Lines stay where they are, so that errors name the right one.
    """
    bare = _bare(text)
    for match in reversed(list(_OURS.finditer(bare))):
        text = f"{text[: match.end(1)]}{root}.{text[match.end(1) :]}"
    return text


_OURS = re.compile(r"((?:^package[ \t]+|(?<![\w.])data\.))(?=dataspace\b)", re.MULTILINE)
_FOREIGN_DATA = re.compile(r"(?<![\w.])data(?!\w|\.dataspace\b)")
_PACKAGE = re.compile(r"^package[ \t]+([A-Za-z_][\w.]*)[ \t]*$", re.MULTILINE | re.ASCII)
_HEAD = re.compile(r"^(?:default[ \t]+)?([a-z_A-Z]\w*)\(", re.MULTILINE | re.ASCII)
_CALL = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*)\(", re.ASCII)
_IMPORT = re.compile(r"^import[ \t]+([\w.]+)(?:[ \t]+as[ \t]+(\w+))?[ \t]*$", re.MULTILINE | re.ASCII)
_NOT = re.compile(r"(?<![\w.\"])not\s", re.ASCII)
_OPAQUE = re.compile(r'#[^\n]*|`[^`]*`|"(?:[^"\\\n]|\\.)*"')
_DECISION = re.compile(r"^(?:default[ \t]+)?decision\b", re.MULTILINE)
_DEFAULT = re.compile(r"^default[ \t]+decision\b", re.MULTILINE)
_IMPROVED_NOT = "future.keywords.not"
_WORDS_BEFORE_PARENTHESES = frozenset({"if", "in", "not", "some", "every", "contains", "with", "as", "else"})

PORTABLE_BUILTINS = frozenset(
    {
        *("abs", "array.concat", "array.reverse", "array.slice", "base64.decode", "base64.encode"),
        *("base64url.decode", "base64url.encode", "ceil", "concat", "contains", "count", "endswith"),
        *("floor", "format_int", "glob.match", "indexof", "intersection", "is_array", "is_boolean"),
        *("is_null", "is_number", "is_object", "is_set", "is_string", "json.filter", "json.remove"),
        *("lower", "max", "min", "net.cidr_contains", "numbers.range", "object.filter", "object.get"),
        *("object.keys", "object.remove", "object.subset", "object.union", "object.union_n", "product"),
        *("regex.is_valid", "regex.match", "replace", "round", "semver.compare", "semver.is_valid"),
        *("sort", "split", "sprintf", "startswith", "strings.any_prefix_match"),
        *("strings.any_suffix_match", "strings.reverse", "substring", "sum", "time.add_date"),
        *("time.clock", "time.date", "time.diff", "time.parse_duration_ns", "time.parse_rfc3339_ns"),
        *("time.weekday", "to_number", "trim", "trim_left", "trim_prefix", "trim_right", "trim_space"),
        *("trim_suffix", "type_name", "union", "upper"),
    }
)
"""Builtins that both engines have, that need no network, no clock and no chance, and that agree."""


def package_of(path: str, text: str) -> tuple[str, int]:
    """The module's package and its line. Raises PolicyInvalid."""
    found = _PACKAGE.search(_bare(text))
    if not found:
        raise PolicyInvalid(
            "there is no `package` line", where=f"{path}:1", mend=f"Start with `package {OPERATORS}.…`."
        )
    return found[1], _line(text, found.start())


def deciding_packages(modules: Mapping[str, str]) -> Mapping[str, str]:
    """Package -> path of the module with its `decision`. Packages without one are libraries of others."""
    found = {}
    for path, text in modules.items():
        if _DECISION.search(_bare(text)):
            found[package_of(path, text)[0]] = path
    return found


def require_answers(packages: Mapping[str, str], decisions: Mapping[str, Sequence[object]]) -> None:
    """Whether each package answered every input in a form that is understood. Raises PolicyInvalid."""
    for package, path in packages.items():
        for answer in decisions[package]:
            try:
                read_document(answer, package, None)
            except DocumentInvalid as error:
                raise PolicyInvalid(
                    f"{package}.decision: {error}", where=path, mend="See docs/schemas/decision-result.json."
                ) from None


def require_portable(modules: Mapping[str, str]) -> None:
    """Raises PolicyInvalid (file:line) for what the two engines could read differently.

    Undefined under a plain `not` permits on OPA and denies elsewhere; builtins that one engine lacks
    are found only when their rule is reached.
    """
    without_default = dict(deciding_packages(modules))
    for path, text in modules.items():
        if _DEFAULT.search(_bare(text)):
            without_default.pop(package_of(path, text)[0], None)
    for package, path in without_default.items():
        raise PolicyInvalid(
            f"{package} has no `default decision`: undecided would be no answer",
            where=path,
            mend='Add `default decision := {"allow": false, "reasons": []}`.',
        )
    functions: dict[str, set[str]] = {}
    for path, text in modules.items():
        functions.setdefault(package_of(path, text)[0], set()).update(_HEAD.findall(_bare(text)))
    for path, text in modules.items():
        for offset, problem, mend in _problems(_bare(text), functions[package_of(path, text)[0]]):
            raise PolicyInvalid(problem, where=f"{path}:{_line(text, offset)}", mend=mend)


def _problems(bare: str, functions: set[str]) -> Iterator[tuple[int, str, str]]:
    imports = {alias or name.rsplit(".", 1)[-1]: name for name, alias in _IMPORT.findall(bare)}
    negation = _NOT.search(bare)
    if negation and _IMPROVED_NOT not in imports.values():
        mend = f"Add `import {_IMPROVED_NOT}` below the package line."
        yield negation.start(), "`not` over something undefined would permit", mend
    if data := _FOREIGN_DATA.search(bare):
        yield (
            data.start(),
            "`data` outside data.dataspace is empty here",
            "What a policy needs is in its input.",
        )
    if (interpolation := bare.find("$")) >= 0:
        yield interpolation, "string interpolation is not portable", "Use sprintf or concat."
    for call in _CALL.finditer(bare):
        name = call[1]
        first = name.split(".", 1)[0]
        known = name in PORTABLE_BUILTINS or name in functions or name in _WORDS_BEFORE_PARENTHESES
        if not known and first != "data" and not imports.get(first, "").startswith("data."):
            mend = "Use the builtins that docs/policies.md lists; time, network and chance come in the input."
            yield call.start(1), f"no function {name} is in the portable subset", mend


def _bare(text: str) -> str:
    """The text with comments and strings blanked, every character where it was. `$"` keeps its mark."""
    return _OPAQUE.sub(
        lambda m: '"' + " " * (len(m[0]) - 1) if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text
    )


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
