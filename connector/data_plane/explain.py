"""What this consumer may see of a dataset, and what was hidden, why, and who enforced it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connector.data_plane.columns import aggregates_only, exposed_columns, filterable
from connector.model.catalog import Dataset
from connector.model.decision import EVERY_ROW, Bucket, Constant, Hash, Mask, Permit, Truncate
from connector.model.fragment import HiddenPart
from connector.model.transfer import Grant


def hidden_parts(dataset: Dataset, permit: Permit, provider: str) -> tuple[HiddenPart, ...]:
    """One line per obligation. The catalogue names hidden columns too, so naming them tells nothing new."""
    by = permit.enforced_by
    return tuple(
        HiddenPart(what=what, why=why, enforced_by=f"{provider} ({by.get(key, 'offer')})")
        for key, what, why in _parts(dataset, permit)
    )


def _parts(dataset: Dataset, permit: Permit) -> Iterator[tuple[str, str, str]]:
    for field in dataset.fields:
        key = f"column:{field.name}"
        if field.name not in permit.exposed:
            yield key, f"column {field.name}", "the agreement does not open it for this purpose"
        elif field.name in permit.pseudonyms:
            domain = permit.pseudonyms[field.name].domain
            yield key, f"column {field.name}", f"left as a pseudonym of {domain}"
        elif field.name in permit.column_masks:
            yield key, f"column {field.name}", mask_in_words(permit.column_masks[field.name])
    for consent in permit.consent:
        yield "consent", "rows of persons", f"no valid consent to {consent.purpose} by {consent.recipient}"
    if permit.row_filter != EVERY_ROW:
        yield "rows", "rows", "outside the policy's row filter"
    if aggregates_only(permit):
        yield "group", "single rows", "only groups may be shown"
    if permit.min_group_size > 1:
        yield "group", f"groups under {permit.min_group_size} persons", "minimum group size"
    if permit.subjects_named:
        yield "subjects", "every person not named", "only persons named one by one, who consented"


def mask_in_words(mask: Mask) -> str:
    match mask:
        case Truncate(unit="", length=length):
            return f"cut to its first {length} characters"
        case Truncate(unit=unit):
            return f"cut to the {unit}"
        case Bucket(size=size):
            return f"rounded down to steps of {size}"
        case Constant():
            return "replaced by a fixed value"
        case Hash():
            return "replaced by a keyed hash"
        case _:
            return "replaced by nothing"


def describe(
    dataset: Dataset, permit: Permit, grant: Grant, provider: str, policy_revision: str
) -> dict[str, Any]:
    """The data API's description of a dataset under one grant."""
    hidden = hidden_parts(dataset, permit, provider)
    return {
        "dataset": dataset.id,
        "participant": provider,
        "agreement": grant.agreement_id,
        "purpose": grant.purpose,
        "columns": [
            {"name": c.name, "type": c.type, "exposure": c.exposure, "filterable": filterable(c, permit)}
            for c in exposed_columns(dataset, permit).values()
        ],
        "aggregateOnly": permit.aggregate_only,
        "dimensions": sorted(permit.dimensions),
        "minGroupSize": permit.min_group_size,
        "subjectsNamed": permit.subjects_named,
        "keyExchange": permit.key_exchange,
        "identified": permit.identified,
        "collaboration": next((p.domain for p in permit.pseudonyms.values()), ""),
        "policyRevision": policy_revision,
        "hidden": [{"what": h.what, "why": h.why, "enforcedBy": h.enforced_by} for h in hidden],
    }
