"""Text -> words to search by: the same folding for what is indexed and for what is asked.

Case and diacritics are dropped (`Työllisyys` and `tyollisyys` are one word), and a word that is asked for
matches every word it begins: most Finnish and Swedish endings fall away with that. It finds no word inside a
compound, and no stem that changes (`etuus`, `etuudet`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_WORD_CHARACTERS = 64

_MARKS = re.compile("[\u0300-\u036f]")
_WORD = re.compile(r"[^\W_]+")
_UNDECOMPOSED = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "ł": "l", "þ": "th"})


def words(texts: Iterable[str]) -> Sequence[str]:
    """In order, with repetitions."""
    return [word[:MAX_WORD_CHARACTERS] for text in texts for word in _WORD.findall(_folded(text))]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return _MARKS.sub("", decomposed).casefold().translate(_UNDECOMPOSED)
