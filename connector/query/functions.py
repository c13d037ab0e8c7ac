"""Functions of the join engine that a consumer's statement may not call.

The engine holds nothing but this query's rows and reaches no file; what is refused here would look at the
engine itself, run text as SQL, wait, or make a small statement grow without bound. The rule is read twice:
on the parsed statement, and by the engine's adapter on what the engine's own parser makes of it.
"""

from __future__ import annotations

import re

_REFUSED = re.compile(
    r"__.*"
    r"|(read|write|parquet|duckdb|pragma|pg|has|inet|icu|python|test|from_substrait|get_substrait)_.*"
    r"|json_(serialize|deserialize|execute)_.*"
    r"|current_(?!date$|time$|timestamp$|localtime$|localtimestamp$).*"
    r"|query(_table)?|glob|sniff_csv|getenv|getvariable|which_secret|nextval|currval|setval|setseed"
    r"|sleep_ms|version|user|session_user|txid_current|in_search_path|create_sort_key|get_block_size"
    r"|parse_duckdb_log_message|error|add_parquet_key|(col|obj|shobj)_description|format_type|index_key"
    r"|invoke|combine|finalize|to_aggregate_state|aggregate_state|cast_to_type|(arrow|pandas|seq)_scan.*"
    r"|(list|array)_resize|repeat_row|summary|checkpoint|force_checkpoint",
    re.IGNORECASE,
)

MAX_SIZE = 10_000
"""What REPEAT, LPAD, RPAD, RANGE and GENERATE_SERIES may be asked to make, as a number in the text."""


def refused(name: str) -> bool:
    return _REFUSED.fullmatch(name) is not None
