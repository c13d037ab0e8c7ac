"""1: the consumer finds the others' datasets by DSP catalogue request."""

from __future__ import annotations

from connector.demo.stage import CONTRACTS, Stage
from connector.model.person import PersonRole


def run(stage: Stage) -> None:
    with stage.ecosystem.api("city", PersonRole.VIEWER) as city:
        participants = city.get("/v1/catalog")["participants"]
    found = {(p["id"], d["id"]): d for p in participants for d in p["datasets"]}
    rows = [
        (p, d, entry["title"], ", ".join(o["id"] for o in entry["offers"])) for (p, d), entry in found.items()
    ]
    stage.narrator.table("What the city sees", ("participant", "dataset", "title", "offers"), rows)
    wanted = {(c.provider, c.dataset) for c in CONTRACTS if c.consumer == "city"}
    stage.narrator.check(wanted <= found.keys(), "the city finds the datasets it came for", sorted(found))
