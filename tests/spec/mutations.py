"""Valid messages made invalid, or odd, in every way that a Hypothesis strategy can think of."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

MARKER = "s3cr3t-marker"
"""Stands where a secret could: it must come back in no answer and stand in no log."""

HOSTILE: tuple[Any, ...] = (
    *(
        "",
        " ",
        ".",
        "..",
        "../../etc/passwd",
        "%2e%2e%2f",
        "a" * 3_000,
        "\x00",
        "\ud800",
        "\udc00\ud800",
        "ä",
    ),
    *("{{7*7}}", "' OR 1=1 --", "<script>", "${jndi:ldap://x}", "urn:uuid:x\r\nX-A: b", "\u202e\u0000\ufeff"),
    *(0, -1, 2**53, 2**64, -(2**70), 1e308, 1e-320, 0.1, True, False, None, [], {}, [[]], [None], {"": ""}),
    *("2026-11-22", "9999-99-99T99:99:99Z", "0000-01-01T00:00:00Z", {"@value": None}, {"@id": []}),
    *("http://169.254.169.254/latest/meta-data", "http://[::1]/", "file:///etc/passwd", f"http://x/{MARKER}"),
    {"@type": "DataAddress", "endpointType": "x", "endpointProperties": [{"name": MARKER, "value": MARKER}]},
)

_HOSTILE = st.sampled_from(HOSTILE).map(copy.deepcopy)  # a later change must not reach the original

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)

_ODD_TEXTS = (
    b"",
    b"null",
    b"[]",
    b'"',
    b"{",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"{}{}",
    b"{}\x00",
    b"[" * 9_000,
)


@st.composite
def bodies(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """Bytes of `document` after up to four changes of structure, and perhaps one of encoding."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 4)))):
        _mutate(draw, changed)
    return draw(_encoded(changed))


def _mutate(draw: st.DrawFn, document: dict[str, Any]) -> None:
    holder, key = draw(st.sampled_from(list(_places(document)))) if document else (document, "@type")
    match draw(st.sampled_from(("drop", "hostile", "any", "wrap", "nest", "extend", "rename", "double"))):
        case "drop":
            holder.pop(key) if isinstance(holder, list) else holder.pop(key, None)
        case "hostile":
            holder[key] = draw(_HOSTILE)
        case "any":
            holder[key] = draw(JSON)
        case "wrap" if key in holder or isinstance(holder, list):
            holder[key] = [holder[key]] if draw(st.booleans()) else {"@value": holder[key]}
        case "nest":
            holder[key] = _nested(draw(st.sampled_from((3, 60, 70, 500))))
        case "extend":
            document[draw(st.text(max_size=12))] = draw(JSON)
        case "rename" if isinstance(holder, dict) and key in holder:
            holder[draw(st.sampled_from((key.upper(), f"dspace:{key}", f" {key}", "")))] = holder.pop(key)
        case "double" if isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[:1]) * draw(st.sampled_from((1, 40))))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@st.composite
def _encoded(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    text = json.dumps(document)
    match draw(
        st.sampled_from(("plain",) * 8 + ("raw", "twice", "nan", "utf16", "cut", "gzip", "odd", "huge"))
    ):
        case "raw":  # lone surrogates as bytes that are no UTF-8
            return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
        case "twice":
            return text.replace("{", '{"@type": "x", "@type": "y", ', 1).encode()
        case "nan":
            return text.replace("{", '{"x": NaN, "y": -Infinity, ', 1).encode()
        case "utf16":
            return text.encode("utf-16")
        case "cut":
            return text.encode()[: draw(st.integers(0, len(text)))]
        case "gzip":
            return gzip.compress(text.encode())
        case "odd":
            return draw(st.sampled_from(_ODD_TEXTS))
        case "huge":
            return text.replace("{", '{"x": 1' + "0" * 5_000 + ", ", 1).encode()
    return text.encode()
