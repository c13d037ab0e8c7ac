"""RDF documents from JSON-LD, by pyoxigraph. Imported on first use: most connectors are never asked."""

from __future__ import annotations

from collections.abc import Mapping


def from_jsonld(document: bytes, media_type: str, prefixes: Mapping[str, str]) -> bytes:
    """`media_type`: text/turtle or application/rdf+xml. The document's context must stand in it: nothing is
    fetched. Raises ValueError for what is no JSON-LD, or is not known here."""
    import pyoxigraph

    target = pyoxigraph.RdfFormat.from_media_type(media_type)
    if target is None:
        raise ValueError(f"no RDF format: {media_type}")
    quads = pyoxigraph.parse(document, pyoxigraph.RdfFormat.JSON_LD)
    written = pyoxigraph.serialize((quad.triple for quad in quads), format=target, prefixes=dict(prefixes))
    assert written is not None  # there is no output to write to
    return written
