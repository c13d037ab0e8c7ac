"""What a provider says this consumer may see of a dataset: the data API's description, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from connector.access import jose
from connector.access.end_record import hidden_from_wire
from connector.errors import PeerProtocolError
from connector.model.catalog import LogicalType
from connector.model.fragment import HiddenPart

MAX_COLUMNS = 1_024
_TYPES = frozenset(get_args(LogicalType))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`exposure` is `clear`, `pseudonym` or `mask:<kind>`. `filterable`: a condition may travel with it."""

    name: str
    type: LogicalType
    exposure: str
    filterable: bool

    @property
    def comparable(self) -> bool:
        """Whether its values are values: a pseudonym and a keyed hash only stand for some."""
        return self.exposure not in ("pseudonym", "mask:hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """`columns` in the provider's order: that is the order of `*`."""

    participant: str
    dataset: str
    agreement: str
    purpose: str
    columns: Mapping[str, Column]
    aggregate_only: bool
    dimensions: frozenset[str]
    min_group_size: int
    subjects_named: bool
    key_exchange: bool
    identified: bool
    collaboration: str
    policy_revision: str
    hidden: tuple[HiddenPart, ...]

    @property
    def shows_rows(self) -> bool:
        """A row is a group of one: a minimum group size shows none either."""
        return not self.aggregate_only and self.min_group_size <= 1


def read_description(wire: Any, *, participant: str, dataset: str, agreement: str) -> Description:
    """Raises PeerProtocolError, naming the participant, when `wire` is no description of just this."""
    try:
        found = _read(wire)
    except (_Unusable, jose.Refusal) as error:
        raise PeerProtocolError(
            f"its description of {dataset} cannot be used ({error})", participant=participant
        ) from error
    if (found.participant, found.dataset, found.agreement) != (participant, dataset, agreement):
        raise PeerProtocolError(
            f"it described something else than {dataset} under {agreement}", participant=participant
        )
    return found


class _Unusable(Exception):
    """Which member is wrong."""


def _read(wire: Any) -> Description:
    columns = _of(wire, "columns", list)
    if not 0 < len(columns) <= MAX_COLUMNS:
        raise _Unusable("columns")
    read = [_column(column) for column in columns]
    if len({column.name.casefold() for column in read}) != len(read):
        raise _Unusable("a column twice")
    dimensions = _of(wire, "dimensions", list)
    if not all(isinstance(name, str) for name in dimensions):
        raise _Unusable("dimensions")
    return Description(
        participant=_of(wire, "participant", str),
        dataset=_of(wire, "dataset", str),
        agreement=_of(wire, "agreement", str),
        purpose=_of(wire, "purpose", str),
        columns={column.name: column for column in read},
        aggregate_only=_of(wire, "aggregateOnly", bool),
        dimensions=frozenset(dimensions),
        min_group_size=_of(wire, "minGroupSize", int),
        subjects_named=_of(wire, "subjectsNamed", bool),
        key_exchange=_of(wire, "keyExchange", bool),
        identified=_of(wire, "identified", bool),
        collaboration=_of(wire, "collaboration", str),
        policy_revision=_of(wire, "policyRevision", str),
        hidden=hidden_from_wire(_of(wire, "hidden", list)),
    )


def _column(wire: Any) -> Column:
    name, type_ = _of(wire, "name", str), _of(wire, "type", str)
    if not name or not name.isprintable() or len(name) > 128 or type_ not in _TYPES:
        raise _Unusable("columns")
    return Column(
        name=name,
        type=cast(LogicalType, type_),
        exposure=_of(wire, "exposure", str),
        filterable=_of(wire, "filterable", bool),
    )


def _of(wire: Any, name: str, kind: type) -> Any:
    value = wire.get(name) if isinstance(wire, Mapping) else None
    if type(value) is not kind:  # exactly: a bool is no number
        raise _Unusable(name)
    return value
