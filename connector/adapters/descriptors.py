"""Dataset descriptors: `catalog/*.odcs.yaml` -> connector.model.catalog.Dataset (docs/descriptors.md).

1 YAML       strict, every node with its line                    adapters/yaml_tree.py
2 ODCS       the published JSON Schema of ODCS v3.2.0
3 dataspace  our one customProperties entry, member by member
4 together   what only shows across members: exposure, policies, purposes

A file is taken whole or not at all; the error names every problem as file:line, what is wrong, and the mend.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from connector.access.purposes import PurposeTree
from connector.adapters.descriptor_members import DescriptorRefused, Members, Problem, Problems
from connector.adapters.descriptor_offers import OFFER_MEMBERS, OfferReader
from connector.adapters.yaml_tree import Node, YamlInvalid, read_yaml
from connector.model.catalog import (
    Dataset,
    DatasetStatus,
    Field,
    Gdpr,
    LogicalType,
    OfferTerms,
    SourceKind,
    SourceRef,
    TransferFormat,
)

if TYPE_CHECKING:
    import jsonschema_rs
    from jsonschema.protocols import Validator

SUFFIX = ".odcs.yaml"
PROPERTY = "dataspace"
API_VERSION = "v3.2.0"
MOST_BYTES = 1_000_000
LANGUAGES = ("fi", "sv", "en")

_LOGICAL_TYPES = ("string", "integer", "number", "boolean", "date", "timestamp")
_SOURCE_KINDS = get_args(SourceKind)
_DATABASES = frozenset({"sqlite", "duckdb", "postgresql"})
_ACCESS_RIGHTS = ("PUBLIC", "RESTRICTED", "NON_PUBLIC")
_THEMES = (
    *("AGRI", "ECON", "EDUC", "ENER", "ENVI", "GOVE", "HEAL", "INTR", "JUST", "OP_DATPRO"),
    *("REGI", "SOCI", "TECH", "TRAN"),
)
_LEGAL_BASES = (
    *(f"eu-gdpr:A6-1-{letter}" for letter in "abcdef"),
    *("eu-gdpr:A6-1-e-public-interest", "eu-gdpr:A6-1-e-official-authority"),
    *(f"eu-gdpr:A9-2-{letter}" for letter in "abcdefghij"),
)
_GROUNDS = ("consent", "statute", "permit", "public")
_DATASET_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
_EVENT = re.compile(r"[a-z][a-z0-9]*(\.[a-z0-9_-]+)+")
_KEPT_FOR_CATALOGUES = ("domain", "tags", "support", "team", "slaProperties", "authoritativeDefinitions")


# --- the door ----------------------------------------------------------------------------------------


def load_catalog(folder: Path, *, policies: Collection[str], purposes: PurposeTree) -> Mapping[str, Dataset]:
    """Every dataset that `folder` describes, by id; no folder is no datasets.

    `policies`: the names that descriptors may call (`policy_files.policy_names`). Raises
    DescriptorInvalid over all files together.
    """
    found: dict[str, Dataset] = {}
    contracts: dict[str, str] = {}
    problems: list[Problem] = []
    for file in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
        try:
            dataset, root = _load(file, policies, purposes)
        except DescriptorRefused as refused:
            problems.extend(refused.problems)
            continue
        before = found[dataset.id].where if dataset.id in found else ""
        for member, value, other in (
            ("name", dataset.id, before),
            ("id", dataset.contract_id, contracts.get(dataset.contract_id, "")),
        ):
            if other:
                text = f"the {member} {value!r} is that of {other} too"
                problems.append(
                    Problem(str(file), root.line_at([member]), text, "Every dataset needs its own.")
                )
        found.setdefault(dataset.id, dataset)
        contracts.setdefault(dataset.contract_id, str(file))
    if problems:
        raise DescriptorRefused(problems)
    return found


def refused(found: Iterable[tuple[str, str, str]]) -> DescriptorRefused:
    """What showed only beside other descriptors, as (file:line, what is wrong, the mend)."""
    problems = []
    for where, text, mend in found:
        file, _, line = where.rpartition(":")
        problems.append(Problem(file, int(line), text, mend))
    return DescriptorRefused(problems)


def load_descriptor(file: Path, *, policies: Collection[str], purposes: PurposeTree) -> Dataset:
    """One file. Raises DescriptorInvalid naming every problem in it."""
    return _load(file, policies, purposes)[0]


def _load(file: Path, policies: Collection[str], purposes: PurposeTree) -> tuple[Dataset, Node]:
    content = _bytes(file)
    problems = Problems(str(file))
    try:
        root = read_yaml(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise DescriptorRefused([Problem(str(file), 1, "this is not UTF-8", "Save it as UTF-8.")]) from None
    except YamlInvalid as error:
        raise DescriptorRefused([Problem(str(file), error.line, error.text, error.mend)]) from None
    problems.extend(_odcs_problems(root, str(file)))
    problems.refuse()
    reader = _DescriptorReader(root, problems, frozenset(policies), purposes)
    dataset = reader.dataset(hashlib.sha256(content).hexdigest())
    problems.refuse()
    return dataset, root


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DescriptorRefused(
                [Problem(str(file), 1, f"larger than {MOST_BYTES} bytes", "Split the file.")]
            )
        return file.read_bytes()
    except OSError as error:
        text = f"cannot be read ({type(error).__name__})"
        raise DescriptorRefused([Problem(str(file), 1, text, "Mend the file's permissions.")]) from None


# --- 2: the published schema ---------------------------------------------------------------------------


@functools.cache
def _odcs_schema() -> Any:
    package = importlib.resources.files("open_data_contract_standard")
    return json.loads(package.joinpath("schema.json").read_text(encoding="utf-8"))


@functools.cache
def _compiled() -> jsonschema_rs.Draft201909Validator:
    import jsonschema_rs

    return jsonschema_rs.Draft201909Validator(_odcs_schema())


@functools.cache
def _explaining() -> Validator:
    import jsonschema

    return jsonschema.Draft201909Validator(_odcs_schema())


def _odcs_problems(root: Node, file: str) -> Iterator[Problem]:
    """What is valid passes the compiled schema, a hundred times as fast; only what is not is explained."""
    plain = root.plain
    if not _compiled().is_valid(plain):
        explained = list(_explained(root, plain, file))
        text = "this is not a contract by the standard's schema"
        yield from explained or [Problem(file, root.line, text, "See the standard's examples.")]


def _explained(root: Node, plain: Any, file: str) -> Iterator[Problem]:
    from jsonschema.exceptions import best_match

    for error in _explaining().iter_errors(plain):
        nearest = best_match([error])
        path = list(nearest.absolute_path)
        line = root.line_at(path)
        if nearest.validator in ("additionalProperties", "unevaluatedProperties"):
            line = _line_of_surplus(root, path, nearest.schema) or line
        at = ".".join(map(str, path)) or "the file"
        yield Problem(file, line, f"{at}: {nearest.message}", "See the Open Data Contract Standard v3.2.0.")


def _line_of_surplus(root: Node, path: Sequence[str | int], schema: Any) -> int | None:
    node = root
    for step in path:
        node = cast("Any", node.value)[step]
    known = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return next((line for key, line in node.keys.items() if key not in known), None)


# --- 3 and 4: our entry --------------------------------------------------------------------------------

_DATASPACE = (
    *("title", "accessRights", "themes", "keywords", "formats", "events", "gdpr", "source"),
    *("subjectKey", "policies", "offers", "retiredOn"),
)
_GDPR = (
    *("personalData", "controller", "jointControllers", "legalBasis", "disclosureBasis"),
    *("purposes", "dpia"),
)


class _DescriptorReader:
    """One valid ODCS document -> Dataset; problems are collected on the way."""

    def __init__(
        self, root: Node, problems: Problems, policies: frozenset[str], purposes: PurposeTree
    ) -> None:
        self._root = root
        self._problems = problems
        self._policies = policies
        self._purposes = purposes
        self._column_lines: dict[str, int] = {}
        document = cast("dict[str, Node]", root.value)
        self._top = Members(root, problems, tuple(document), "the contract")
        self._ours = Members(self._entry(), problems, _DATASPACE, PROPERTY)

    def dataset(self, contract_hash: str) -> Dataset:
        top, ours = self._top, self._ours
        fields = tuple(self._fields())
        gdpr = self._gdpr()
        subject_key = self._subject_key(fields, gdpr)
        offers = OfferReader(fields, gdpr, subject_key, self._problems, self._policies, self._purposes)
        terms = tuple(offers.read(item) for item in ours.objects("offers", OFFER_MEMBERS))
        self._require_one("offers", [(o.id, o.terms_version) for o in terms])
        self._require_past(terms)
        formats = self._formats(terms)
        if top.text("apiVersion") != API_VERSION:
            top.wrong("apiVersion", "another version of the standard", f"Write {API_VERSION}.")
        return Dataset(
            id=top.text("name", pattern=_DATASET_ID),
            contract_id=top.text("id"),
            version=top.text("version"),
            status=DatasetStatus(top.choice("status", tuple(DatasetStatus))),
            title=self._title(),
            description=self._description(),
            fields=fields,
            source=self._source(),
            gdpr=gdpr,
            offers=terms,
            policies=ours.texts("policies", allowed=self._policies),
            subject_key=subject_key,
            formats=formats,
            event_types=self._events(formats),
            access_rights=self._access_rights(gdpr),
            themes=ours.texts("themes", allowed=_THEMES),
            keywords=ours.texts("keywords"),
            contract_hash=contract_hash,
            where=self._problems.file,
            extra=self._extra(),
            retired_on=self._retired_on(),
            places=self._places(terms),
        )

    def _retired_on(self) -> datetime | None:
        date = self._ours.instant("retiredOn")
        if date is not None and self._top.text("status", "") in ("draft", "proposed"):
            self._ours.wrong("retiredOn", "it is not even published", "Leave it out, or set another status.")
        return date

    def _places(self, terms: Sequence[OfferTerms]) -> Mapping[str, str]:
        """Where to look when a part breaks with what was published before."""
        lines = {name: self._top.line(name) for name in ("version", "id", "schema")}
        lines |= {name: self._ours.line(name) for name in ("subjectKey", "formats", "events", "offers")}
        lines |= {f"column:{name}": line for name, line in self._column_lines.items()}
        for offer, node in zip(terms, self._ours.nodes("offers"), strict=True):
            lines[f"offer:{offer.id}:{offer.terms_version}"] = node.keys.get("termsVersion", node.line)
        return {name: f"{self._problems.file}:{line}" for name, line in lines.items()}

    def _entry(self) -> Node:
        for item in self._top.nodes("customProperties"):
            members = item.value if isinstance(item.value, dict) else {}
            name = members.get("property")
            if name is not None and name.value == PROPERTY:
                return members.get("value", item)
        self._problems.add(
            self._top.line("customProperties"),
            f"there is no customProperties entry `property: {PROPERTY}`",
            "Add one; docs/descriptors.md shows it whole.",
        )
        self._problems.refuse()
        raise AssertionError("refused above")

    # schema

    def _fields(self) -> Iterator[Field]:
        schemas = self._top.nodes("schema")
        if len(schemas) != 1:
            self._top.wrong("schema", f"{len(schemas)} objects", "Describe exactly one: a file is a dataset.")
            return
        members = cast("dict[str, Node]", schemas[0].value)
        schema = Members(schemas[0], self._problems, tuple(members), "schema")
        names: set[str] = set()
        if not schema.nodes("properties"):
            self._problems.add(schemas[0].line, "the schema has no properties", "Name the columns.")
        for node in schema.nodes("properties"):
            item = Members(node, self._problems, tuple(cast("dict[str, Node]", node.value)), "a property")
            name = item.text("name", pattern=_COLUMN)
            if name.lower() in names:
                item.wrong("name", f"{name!r} stands here twice", "Column names differ in more than case.")
            names.add(name.lower())
            self._column_lines[name] = node.line
            yield self._field(item, name)

    def _field(self, item: Members, name: str) -> Field:
        return Field(
            name=name,
            type=cast("LogicalType", item.choice("logicalType", _LOGICAL_TYPES)),
            physical_name=item.text("physicalName", name),
            required=item.flag("required", False),
            unique=item.flag("unique", False),
            classification=item.text("classification", ""),
            enum=tuple(_enum_values(item)),
            description=item.text("description", ""),
            unit=_unit(item),
        )

    # members

    def _title(self) -> Mapping[str, str]:
        title = self._ours.object("title", LANGUAGES)
        return {language: title.text(language) for language in LANGUAGES}

    def _description(self) -> str:
        if "description" not in self._top:
            return ""
        node = self._top.members["description"]
        known = tuple(cast("dict[str, Node]", node.value))
        return Members(node, self._problems, known, "description").text("purpose", "")

    def _gdpr(self) -> Gdpr:
        gdpr = self._ours.object("gdpr", _GDPR)
        personal = gdpr.flag("personalData")
        required = None if personal else ""
        ground = gdpr.text("disclosureBasis", required)
        kind, _, reference = ground.partition(":")
        if ground and (kind not in _GROUNDS or (kind in ("statute", "permit") and not reference.strip())):
            gdpr.wrong(
                "disclosureBasis",
                f"{ground!r} is no ground that is known here",
                "Write consent, public, `statute: <which>` or `permit: <which>`.",
            )
        basis = gdpr.text("legalBasis", required)
        if basis and basis not in _LEGAL_BASES:
            gdpr.wrong("legalBasis", f"{basis!r} is not known", f"Use one of: {', '.join(_LEGAL_BASES)}.")
        purposes = gdpr.texts("purposes", allowed=self._purposes.parents)
        if personal and not purposes and not gdpr.nodes("purposes"):
            gdpr.wrong("purposes", "personal data without a purpose", "Name the purposes it may be used for.")
        return Gdpr(
            personal_data=personal,
            controller=gdpr.text("controller", required),
            joint_controllers=gdpr.texts("jointControllers"),
            legal_basis=basis,
            disclosure_basis=ground,
            purposes=purposes,
            dpia=gdpr.text("dpia", required),
        )

    def _subject_key(self, fields: Sequence[Field], gdpr: Gdpr) -> str:
        key = self._ours.text("subjectKey", None if gdpr.personal_data else "")
        named = next((f for f in fields if f.name == key), None)
        if key and named is None:
            self._ours.wrong("subjectKey", f"there is no column {key!r}", "Name a column of the schema.")
        elif named is not None and named.type != "string":
            self._ours.wrong("subjectKey", f"{key!r} is no text", "Persons are known by a text column.")
        return key

    def _source(self) -> SourceRef:
        source = self._ours.object("source", ("kind", "location", "table"))
        kind = source.choice("kind", _SOURCE_KINDS)
        location = source.text("location")
        if kind == "postgresql":
            if location and not _SETTING.fullmatch(location):
                mend = "Name the entry of source_dsns in the settings; a DSN holds a password."
                source.wrong("location", "is no name of a setting", mend)
        elif location and (Path(location).is_absolute() or ".." in Path(location).parts):
            source.wrong("location", "leaves the participant's folder", "Give a path inside it.")
        table = source.text("table", None if kind in _DATABASES else "")
        if table and not _TABLE.fullmatch(table):
            source.wrong("table", f"{table!r} is no table name", "Write table, or schema.table.")
        if table and kind not in _DATABASES:
            source.wrong("table", f"a {kind} file has no tables", "Leave it out.")
        return SourceRef(kind=cast("SourceKind", kind), location=location, table=table)

    def _formats(self, terms: Sequence[OfferTerms]) -> tuple[TransferFormat, ...]:
        if "formats" not in self._ours:
            return (TransferFormat.FEDERATED_QUERY_PULL,)
        named = self._ours.texts("formats", allowed=tuple(f.value for f in TransferFormat))
        formats = tuple(TransferFormat(name) for name in named)
        if TransferFormat.HTTP_DATA_PULL in formats and terms and not any(t.lists_rows for t in terms):
            mend = "Leave it out, or offer rows: FederatedQuery-PULL asks for groups and for named persons."
            self._ours.wrong("formats", "HttpData-PULL gives rows, and no offer does", mend)
        return formats

    def _events(self, formats: Sequence[TransferFormat]) -> tuple[str, ...]:
        events = self._ours.texts("events")
        for event in events:
            if not _EVENT.fullmatch(event):
                self._ours.wrong(
                    "events", f"{event!r} is no event type", "Write it as fi.example.thing.changed.v1."
                )
        if bool(events) != bool(set(formats) & _EVENT_FORMATS):
            mend = "Name both the events and the format CloudEvents-PUSH or Kafka-PULL, or neither."
            self._ours.wrong("events", "events and formats do not fit together", mend)
        return events

    def _access_rights(self, gdpr: Gdpr) -> str:
        rights = self._ours.choice("accessRights", _ACCESS_RIGHTS, "RESTRICTED")
        if rights == "PUBLIC" and gdpr.personal_data:
            self._ours.wrong("accessRights", "personal data is not public", "Write RESTRICTED or NON_PUBLIC.")
        return rights

    def _require_one(self, name: str, ids: Sequence[tuple[str, str]]) -> None:
        if not ids:
            self._ours.wrong(name, "there is none", "Without an offer nobody can ask for the dataset.")
        for repeated in sorted({i for i in ids if ids.count(i) > 1}):
            text = f"{repeated[0]!r} with terms {repeated[1]!r} stands here twice"
            self._ours.wrong(name, text, "Give one of them another id or termsVersion.")

    def _require_past(self, terms: Sequence[OfferTerms]) -> None:
        offered = {(o.id, o.terms_version) for o in terms}
        for offer in terms:
            for previous in offer.previous:
                if (offer.id, previous.terms_version) in offered:
                    text = f"version {previous.terms_version!r} of {offer.id!r} ends, and is offered still"
                    self._ours.wrong("offers", text, "Take the offer out, or leave it out of previousTerms.")

    def _extra(self) -> Mapping[str, Any]:
        """What a catalogue may show beyond our own members."""
        return {n: self._top.members[n].plain for n in _KEPT_FOR_CATALOGUES if n in self._top}


_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_SETTING = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_EVENT_FORMATS = frozenset({TransferFormat.CLOUD_EVENTS_PUSH, TransferFormat.KAFKA_PULL})


def _unit(item: Members) -> str:
    """ODCS has no place for it: the column's `customProperties: [{property: unit, value: EUR}]`."""
    for node in item.nodes("customProperties"):
        members = node.value if isinstance(node.value, dict) else {}
        if (name := members.get("property")) is not None and name.value == "unit" and "value" in members:
            return str(members["value"].value)
    return ""


def _enum_values(item: Members) -> Iterator[str]:
    for entry in item.nodes("enum"):
        value = entry.value.get("value") if isinstance(entry.value, dict) else None
        if value is not None and value.value is not None:
            yield str(value.value)
