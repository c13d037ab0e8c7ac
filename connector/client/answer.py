"""An answer in the form an analyst works with, and what came with it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connector.errors import PeerProtocolError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

METADATA_KEY = b"dataspace.answer"
SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`provenance`: one entry per fragment (participant, dataset, agreement, policy revision, audit id).

    `hidden`: what was held back, by whom and why. `identified`: this is an identified disclosure.
    """

    id: str
    table: pa.Table
    purpose: str
    identified: bool
    provenance: tuple[Mapping[str, Any], ...]
    hidden: tuple[Mapping[str, Any], ...]

    def arrow(self) -> pa.Table:
        return self.table

    def pandas(self) -> pd.DataFrame:
        """Needs pandas."""
        return self.table.to_pandas()

    def polars(self) -> pl.DataFrame:
        """Needs polars."""
        import polars

        frame = polars.from_arrow(self.table)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found

    def what_was_hidden(self) -> list[str]:
        """One line for each."""
        return [
            f"{h['participant']}.{h['dataset']}: {h['what']}: {h['why']} (enforced by {h['enforcedBy']})"
            for h in self.hidden
        ]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def _repr_html_(self) -> str:
        """For notebooks: the first rows, where they come from, what was hidden."""
        head = self.table.slice(0, SHOWN_ROWS)
        names = "".join(f"<th>{html.escape(name)}</th>" for name in head.column_names)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) + "</tr>"
            for row in head.to_pylist()
        )
        came = sorted({f"{p['participant']}.{p['dataset']} ({p['agreement']})" for p in self.provenance})
        notes = [f"{len(self)} rows for {self.purpose}, from {', '.join(came)}", *self.what_was_hidden()]
        if self.identified:
            notes.append("This is an identified disclosure.")
        said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table><ul>{said}</ul>"


def read_answer(body: bytes, query_id: str) -> Answer:
    """From an Arrow IPC stream of `POST /v1/queries`. Raises PeerProtocolError."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(body).read_all()
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
        return Answer(
            id=query_id,
            table=table.replace_schema_metadata(None),
            purpose=about["purpose"],
            identified=about["identified"],
            provenance=tuple(about["provenance"]),
            hidden=tuple(about["hidden"]),
        )
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise PeerProtocolError(
            "the connector's answer is not one of a query", mend="Is the URL that of a connector?"
        ) from error
