"""1: the consumer finds the others' datasets by DSP catalogue request; 2b: by search, asking nobody."""

from __future__ import annotations

from typing import Any

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


def search(stage: Stage) -> None:
    wanted = {c.provider for c in CONTRACTS if c.consumer == "city"}

    def read(found: dict[str, Any]) -> bool:
        return wanted <= {p["id"] for p in found["participants"] if p.get("lastSuccess")}

    with stage.ecosystem.api("city", PersonRole.VIEWER) as city:
        found = stage.until(lambda: city.get("/v1/catalog/search", q="tyolli"), read)
    hits = [(d["participant"], d["id"], d["titles"]["fi"], d["seenAt"]) for d in found["datasets"]]
    stage.narrator.table("“tyolli” in the city's index", ("participant", "dataset", "title", "seen at"), hits)
    clients = [hit[:2] for hit in hits] == [("employment", "clients")]
    stage.narrator.check(clients, "the beginning of a word finds it, diacritics or not", hits)
    stage.narrator.check(read(found), "the answer says when each catalogue was last read", found)
