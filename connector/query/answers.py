"""An answer as the asker wants it: JSON, an Arrow stream or CSV; what came with it always as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Any

from connector.errors import RequestInvalid
from connector.model.json import to_rfc3339
from connector.query.federate import Explanation, FragmentProvenance, QueryAnswer
from connector.query.running import RunningQuery

if TYPE_CHECKING:
    import pyarrow as pa

ARROW_TYPE = "application/vnd.apache.arrow.stream"
CSV_TYPE = "text/csv; charset=utf-8; header=present"
METADATA_KEY = "dataspace.answer"
"""In the Arrow schema's metadata: `about`, as JSON."""

BATCH_ROWS = 65_536


def about(answer: QueryAnswer) -> dict[str, Any]:
    """Where it comes from and what was hidden, without its rows."""
    return {
        "purpose": answer.purpose,
        "identified": answer.identified,
        "provenance": [_provenance(f) for f in answer.fragments],
        "hidden": [
            {
                "participant": h.participant,
                "dataset": h.dataset,
                "what": h.part.what,
                "why": h.part.why,
                "enforcedBy": h.part.enforced_by,
            }
            for h in answer.hidden
        ],
    }


def as_json(answer: QueryAnswer) -> dict[str, Any]:
    return {"columns": list(answer.table.column_names), "rows": rows(answer.table), **about(answer)}


def as_arrow(answer: QueryAnswer) -> Iterator[bytes]:
    """An Arrow IPC stream."""
    import pyarrow as pa

    metadata = {**(answer.table.schema.metadata or {}), METADATA_KEY: json.dumps(about(answer))}
    return _written(answer.table.replace_schema_metadata(metadata), pa.ipc.new_stream)


def as_csv(answer: QueryAnswer) -> Iterator[bytes]:
    """RFC 4180 with a header; an empty cell is NULL, `""` a text without letters. Raises RequestInvalid."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        _drained(_written(answer.table.schema.empty_table(), csv.CSVWriter))
    except pa.ArrowException:
        raise RequestInvalid(
            "The answer has a column that CSV cannot hold.",
            where="format",
            mend="Cast it in the statement, or ask for `arrow` or `json`.",
        ) from None
    return _written(answer.table, csv.CSVWriter)


def explanation(found: Explanation) -> dict[str, Any]:
    return {
        "purpose": found.purpose,
        "sql": found.sql,
        "fragments": [
            {
                "participant": f.participant,
                "dataset": f.dataset,
                "agreement": f.agreement_id,
                "sql": f.sql,
                "columns": {name: f.exposures.get(name, "computed") for name in f.columns},
                "identified": f.identified,
                "policyRevision": f.policy_revision,
            }
            for f in found.fragments
        ],
        "hidden": [
            {
                "participant": f.participant,
                "dataset": f.dataset,
                "what": h.what,
                "why": h.why,
                "enforcedBy": h.enforced_by,
            }
            for f in found.fragments
            for h in f.hidden
        ],
    }


def progress(query: RunningQuery) -> dict[str, Any]:
    return {
        "id": query.id,
        "state": query.state.value,
        "purpose": query.purpose,
        "startedAt": to_rfc3339(query.started_at),
        "endedAt": to_rfc3339(query.ended_at) if query.ended_at else None,
        "error": query.error or None,
        "sources": [
            {
                "participant": s.participant,
                "dataset": s.dataset,
                "agreement": s.agreement_id,
                "state": s.state.value,
                "rows": s.rows,
            }
            for s in query.sources
        ],
        "about": about(query.answer) if query.answer is not None else None,
    }


def rows(table: pa.Table | pa.RecordBatch) -> list[list[Any]]:
    """As JSON values: instants and dates as ISO 8601, durations in seconds, bytes in hexadecimal."""
    columns = [[_json(v) for v in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _provenance(part: FragmentProvenance) -> Mapping[str, Any]:
    return {
        "participant": part.participant,
        "dataset": part.dataset,
        "agreement": part.agreement_id,
        "sql": part.sql,
        "rows": part.end.rows,
        "policyRevision": part.end.policy_revision,
        "auditId": part.end.audit_id,
        "groupsHidden": part.end.groups_hidden,
    }


def _written(table: pa.Table, open_writer: Callable[[Any, pa.Schema], Any]) -> Iterator[bytes]:
    """In pieces of some rows each: an answer is not held twice."""
    sink = io.BytesIO()
    with open_writer(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch) if hasattr(writer, "write_batch") else writer.write(batch)
            yield _taken(sink)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    piece = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return piece


def _drained(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


def _json(value: Any) -> Any:
    match value:
        case datetime():
            return to_rfc3339(value) if value.tzinfo else value.isoformat()
        case date() | time():
            return value.isoformat()
        case float() if not isfinite(value):
            return str(value)  # JSON has no number for it
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case list():
            return [_json(v) for v in value]
        case dict():
            return {str(k): _json(v) for k, v in value.items()}
        case _:
            return value
