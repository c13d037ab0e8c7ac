"""What was published before binds: a contract that breaks it needs a new major version, other terms a new
terms version.

Compared at every start with what the store remembers of the last one (`connector check --against` compares
with a folder). A contract is read by others: what they may build on are its columns, their types, units and
values, which of them say whose row it is, and the ways to have it. New columns break nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from connector.access.decision import IDENTIFIER
from connector.dsp.policy import render_policy
from connector.model.catalog import Dataset, DatasetStatus, Exposure, OfferTerms
from connector.model.json import JsonObject
from connector.ports import Store

KEY = "published:"
_MAJOR = re.compile(r"v?(\d{1,9})(\.|$)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """`where` is file:line."""

    where: str
    text: str
    mend: str


class Publications:
    """What this participant has published, as far as others may rely on it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def take(self, catalogue: Iterable[Dataset]) -> list[Breach]:
        """Remember the catalogue as published from now on, unless there are breaches: then nothing is."""
        async with self._store.transaction() as tx:
            held = await tx.values(KEY)
            published = {KEY + d.id: d for d in catalogue if is_published(d)}
            found = [b for key, d in published.items() for b in breaches(d, held.get(key))]
            for key, dataset in () if found else published.items():
                now = published_form(dataset, held.get(key))
                if now != held.get(key):
                    await tx.put_value(key, now)
        return found


def is_published(dataset: Dataset) -> bool:
    return dataset.status not in (DatasetStatus.DRAFT, DatasetStatus.PROPOSED)


def breaches(dataset: Dataset, held: JsonObject | None) -> list[Breach]:
    """`held`: its `published_form`, None where it is new. What is not published cannot break anything."""
    if held is None or not is_published(dataset):
        return []
    return [*_contract_breaches(dataset, held["contract"]), *_terms_breaches(dataset, held["terms"])]


def published_form(dataset: Dataset, held: JsonObject | None = None) -> JsonObject:
    """As it is remembered. Terms stay remembered: agreements under them may outlive their offer."""
    before = held["terms"] if held else {}
    return {"contract": contract_form(dataset), "terms": {**before, **_all_terms(dataset)}}


# --- contract ------------------------------------------------------------------------------------------


def contract_form(dataset: Dataset) -> JsonObject:
    """`source` of a column is ours alone: it tells a column that was renamed from one that is gone."""
    return {
        "version": dataset.version,
        "id": dataset.contract_id,
        "subjectKey": dataset.subject_key,
        "formats": sorted(dataset.formats),
        "events": sorted(dataset.event_types),
        "columns": {
            f.name: {
                "type": f.type,
                "required": f.required,
                "unique": f.unique,
                "identifier": f.classification == IDENTIFIER,
                "values": sorted(f.enum),
                "unit": f.unit,
                "source": f.physical_name or f.name,
            }
            for f in dataset.fields
        },
    }


def contract_changes(old: JsonObject, new: JsonObject) -> Iterator[tuple[str, str]]:
    """(place, what breaks a reader of `old`), in both `contract_form`s."""
    for name, column in old["columns"].items():
        if name in new["columns"]:
            place = f"column:{name}"
            for text in _column_changes(column, new["columns"][name]):
                yield place, f"column {name!r} {text}"
        elif renamed := _renamed(column, old, new):
            yield f"column:{renamed}", f"column {name!r} is now called {renamed!r}"
        else:
            yield "schema", f"column {name!r} is gone"
    for member in ("id", "subjectKey"):
        if old[member] != new[member]:
            yield member, f"{member} was {old[member] or 'none'!r} and is {new[member] or 'none'!r}"
    for member in ("formats", "events"):
        if gone := sorted(set(old[member]) - set(new[member])):
            yield member, f"{member} no longer has {', '.join(gone)}"


def _column_changes(old: JsonObject, new: JsonObject) -> Iterator[str]:
    if old["type"] != new["type"]:
        yield f"was of type {old['type']} and is {new['type']}"
    if old["unit"] != new["unit"]:
        yield f"was in {old['unit'] or 'no unit'} and is in {new['unit'] or 'none'}"
    if old["required"] and not new["required"]:
        yield "was always there and may now be absent"
    if old["unique"] and not new["unique"]:
        yield "was unique and may now repeat"
    if old["identifier"] != new["identifier"]:
        yield f"{'no longer names' if old['identifier'] else 'now names'} a person by itself"
    yield from _value_changes(frozenset(old["values"]), frozenset(new["values"]))


def _value_changes(old: frozenset[str], new: frozenset[str]) -> Iterator[str]:
    """None listed means any value."""
    if old == new:
        return
    if not old or not new:
        yield "now has listed values only" if new else "no longer lists its values"
        return
    if gone := sorted(old - new):
        yield f"can no longer be {', '.join(gone)}"
    if more := sorted(new - old):
        yield f"can now be {', '.join(more)}, which its readers do not know"


def _renamed(column: JsonObject, old: JsonObject, new: JsonObject) -> str:
    added = {n: c for n, c in new["columns"].items() if n not in old["columns"]}
    same = [n for n, c in added.items() if c["source"] == column["source"] and c["type"] == column["type"]]
    return same[0] if same else ""


def _contract_breaches(dataset: Dataset, old: JsonObject) -> Iterator[Breach]:
    new = contract_form(dataset)
    if is_new_major(old["version"], new["version"]):
        return
    for place, text in contract_changes(old, new):
        yield Breach(
            where=dataset.places.get(place, dataset.where),
            text=f"{text}; version {old['version']} is published, and this is {new['version']}.",
            mend=f"Give the contract the version {_next_major(old['version'])}, or take the change back.",
        )


def is_new_major(old: str, new: str) -> bool:
    """Versions that do not begin with a number are never known to be newer."""
    numbers = [_MAJOR.match(v) for v in (old, new)]
    if numbers[0] is None or numbers[1] is None:
        return False
    return int(numbers[1][1]) > int(numbers[0][1])


def _next_major(version: str) -> str:
    found = _MAJOR.match(version)
    return f"{int(found[1]) + 1 if found else 2}.0.0"


# --- terms ---------------------------------------------------------------------------------------------


def terms_form(terms: OfferTerms) -> JsonObject:
    """What an agreement on the offer fixes: not who approves it, nor what came before it."""
    return {
        **render_policy(terms.policy),
        "columns": {name: _exposure(e) for name, e in sorted(terms.columns.items())},
        "collaboration": terms.collaboration,
        "keyExchange": terms.key_exchange,
        "subjectsNamed": terms.subjects_named,
        "aggregateOnly": terms.aggregate_only,
        "dimensions": sorted(terms.dimensions),
        "minGroupSize": terms.min_group_size,
        "trustsConsumer": terms.trusts_consumer,
        "maxRows": terms.max_rows,
        "policies": sorted(terms.policies),
    }


def _exposure(exposure: Exposure) -> Any:
    return exposure if isinstance(exposure, str) else asdict(exposure)


def _all_terms(dataset: Dataset) -> Mapping[str, JsonObject]:
    return {f"{o.id}:{o.terms_version}": terms_form(o) for o in dataset.offers}


def _terms_breaches(dataset: Dataset, old: Mapping[str, JsonObject]) -> Iterator[Breach]:
    for offer in dataset.offers:
        name = f"{offer.id}:{offer.terms_version}"
        before, now = old.get(name), terms_form(offer)
        if before is None or before == now:
            continue
        changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        yield Breach(
            where=dataset.places.get(f"offer:{name}", dataset.where),
            text=f"the terms of offer {offer.id!r} have changed ({', '.join(changed)}), and termsVersion is "
            f"{offer.terms_version!r} still; agreements hold under it.",
            mend=f"Give it a new termsVersion; with {offer.terms_version!r} in previousTerms, they end.",
        )
