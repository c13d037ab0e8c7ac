"""A participant's folder checked without starting anything: what `serve` would refuse of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from connector.adapters import descriptors, policy_files
from connector.control_plane.publications import breaches, is_published, published_form
from connector.errors import ConfigurationError
from connector.model.catalog import Dataset
from connector.settings import load_settings


def checked_catalogue(folder: Path, against: Path | None = None) -> Mapping[str, Dataset]:
    """The datasets by id. `against`: a catalogue folder that was published before; what a connector remembers
    in its store is compared when it starts. Raises ConfigurationError."""
    settings = load_settings(folder)
    modules = policy_files.all_modules(settings.path(settings.policy_dir))
    names, purposes = policy_files.policy_names(modules), policy_files.project_purposes()
    now = descriptors.load_catalog(settings.path(settings.catalog_dir), policies=names, purposes=purposes)
    if against is None:
        return now
    if not against.is_dir():
        raise ConfigurationError("there is no such folder", where=str(against), mend="Name a catalogue's.")
    before = descriptors.load_catalog(against, policies=names, purposes=purposes)
    published = {d.id: published_form(d) for d in before.values() if is_published(d)}
    found = [b for d in now.values() for b in breaches(d, published.get(d.id))]
    if found:
        raise descriptors.refused((b.where, b.text, b.mend) for b in found)
    return now
