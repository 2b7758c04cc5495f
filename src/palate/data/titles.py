"""Titles as people type them, for a whole catalogue at once: compared forms, exact look-up, and titles that look alike.

Nothing here is a Python object an item: forms are Arrow columns, look-up is a binary search over a sorted one, and
likeness counts shared letter triples from an inverted index, so that a million titles cost a few hundred megabytes less
and milliseconds a question.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.data import columns as col
from palate.schema import Ints

YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
BRACKETS = re.compile(r"\s*\([^()]*\)")
ARTICLE_LAST = re.compile(rf"^([^()]*), ({col.ARTICLE[1:-1]})\b(.*)$", re.IGNORECASE)
ARTICLE_FIRST = re.compile(r"^(the|an|a) ")
PLAIN = r"^[\x20-\x7e]*$"
"""Texts that Arrow's expressions and Python's read alike: the others are read by Python, one by one."""
BLOCK = 65_536
"""Titles cut into triples at a time."""
DIRECT = 1 << 26
"""Most triples that are numbered through a table of all there could be."""


def key(title: str) -> str:
    """A title as titles are compared: one case, one spelling of accents, article first, no year, single
    spaces."""
    name = YEAR.sub("", unicodedata.normalize("NFKC", title).casefold())
    name = ARTICLE_LAST.sub(r"\2 \1\3", name)
    return " ".join(name.split())


def keys(titles: pa.Array) -> pa.Array:
    """`key` of each title: large_string [N]."""
    name = pc.replace_substring_regex(pc.utf8_lower(titles), YEAR.pattern, "")
    name = pc.replace_substring_regex(name, f"(?i){ARTICLE_LAST.pattern}", r"\2 \1\3")
    return by_hand(titles, spaced(name), key)


def loose(name: str) -> str:
    """A compared title without parts in brackets and without a leading article."""
    bare = " ".join(BRACKETS.sub("", name).split())
    return ARTICLE_FIRST.sub("", bare) or name


def looses(names: pa.Array) -> pa.Array:
    """`loose` of each compared title: large_string [N]."""
    bare = spaced(pc.replace_substring_regex(names, BRACKETS.pattern, ""))
    bare = pc.replace_substring_regex(bare, ARTICLE_FIRST.pattern, "")
    return by_hand(names, pc.if_else(pc.equal(bare, ""), names, bare), loose)


def spaced(texts: pa.Array) -> pa.Array:
    """Single spaces, none around."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"\s+", " "))


def by_hand(texts: pa.Array, made: pa.Array, form: Any) -> pa.Array:
    """`made`, with `form(text)` where a text is not plain."""
    odd = pc.invert(pc.match_substring_regex(texts, PLAIN))
    if not pc.any(odd).as_py():
        return made
    return pc.replace_with_mask(made, odd, pa.array([form(t) for t in texts.filter(odd).to_pylist()], made.type))


class Lookup:
    """Rows by their exact text. texts: large_string [n]; rows: int64 [n], None where text n is row n's."""

    def __init__(self, texts: pa.Array, rows: Ints | None = None) -> None:
        order = pc.sort_indices(texts).to_numpy()
        self._texts = texts.take(pa.array(order))
        self._rows = (order if rows is None else rows[order]).astype(np.int32)

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, text: str) -> list[int]:
        """The rows with this text, rising, each once."""
        low = bisect_left(self, text)
        high = bisect_right(self, text, low)
        return sorted(set(self._rows[low:high].tolist()))

    def __getitem__(self, place: int) -> str:
        """The text at a place in sorted order."""
        text: str = self._texts[place].as_py()
        return text

    def distinct(self) -> list[str]:
        """All texts, sorted, each once."""
        return list(dict.fromkeys(self._texts.to_pylist()))


class Triples:
    """Which rows of a text column hold a letter triple, each text with a space around it.

    rows: int32, the rows of every triple end to end, rising; a row that holds a triple twice is there twice.
    """

    def __init__(self, texts: pa.Array) -> None:
        from scipy import sparse

        self.count = len(texts)
        space = pa.scalar(" ", texts.type)
        blocks = [
            pc.binary_join_element_wise(space, texts.slice(start, BLOCK), space, pa.scalar("", texts.type))
            for start in range(0, self.count, BLOCK)
        ]
        seen = np.zeros(0x110000, dtype=bool)
        for block in blocks:
            seen[_letters(block)] = True
        self._alphabet = np.flatnonzero(seen)
        self._number = (np.cumsum(seen) - 1).astype(np.int64)
        self._number[~seen] = -1
        found = [self._codes(block) for block in blocks]
        sizes = np.concatenate([[0], *(n for _, n in found)]).astype(np.int64)
        self._known, numbered = self._numbered([c for c, _ in found])
        del found
        matrix = sparse.csr_matrix(
            (np.ones(len(numbered), dtype=np.int8), numbered, np.cumsum(sizes)), shape=(self.count, len(self._known))
        ).tocsc()
        self.rows, self._starts = matrix.indices, matrix.indptr

    def _codes(self, block: pa.Array) -> tuple[Ints, Ints]:
        """A number for each triple, and how many each text has."""
        letters = self._number[_letters(block)]
        lengths = pc.utf8_length(block).to_numpy().astype(np.int64)
        ends = np.cumsum(lengths)
        inside = np.ones(len(letters), dtype=bool)
        inside[ends - 1] = False
        inside[ends - 2] = False
        codes = self._code(letters[:-2], letters[1:-1], letters[2:])
        return codes[inside[:-2]], lengths - 2

    def _code(self, first: Any, second: Any, third: Any) -> Any:
        size = len(self._alphabet)
        return (first * size + second) * size + third

    def _numbered(self, codes: list[Ints]) -> tuple[Ints, Any]:
        """The triples that occur, rising, and every occurrence as its place among them: int32."""
        size = len(self._alphabet) ** 3
        if not codes:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
        if size > DIRECT:
            known = np.unique(np.concatenate([np.unique(c) for c in codes]))
            return known, np.concatenate([np.searchsorted(known, c).astype(np.int32) for c in codes])
        there = np.zeros(size, dtype=bool)
        for part in codes:
            there[part] = True
        number = (np.cumsum(there, dtype=np.int32) - 1).astype(np.int32)
        return np.flatnonzero(there), np.concatenate([number[c] for c in codes])

    def nearest(self, text: str, most: int) -> Ints:
        """The rows that share the most triples with a text, most first, equal ones rising; none that shares none."""
        padded = f" {text} "
        shared = np.zeros(self.count, dtype=np.int32)
        for triple in {padded[i : i + 3] for i in range(len(padded) - 2)}:
            numbers = [int(self._number[ord(c)]) for c in triple]
            code = self._code(*numbers)
            at = int(np.searchsorted(self._known, code))
            if min(numbers) >= 0 and at < len(self._known) and self._known[at] == code:
                # each row once: fancy assignment adds one however often a row is named
                shared[self.rows[self._starts[at] : self._starts[at + 1]]] += 1
        per = np.bincount(shared)
        better = np.cumsum(per[::-1])[::-1]  # rows that share so many triples or more
        enough = np.flatnonzero(better >= most)
        least = max(1, int(enough[-1]) if len(enough) else 1)
        rows = np.flatnonzero(shared >= least)
        nearest: Ints = rows[np.argsort(-shared[rows], kind="stable")][:most]
        return nearest


def _letters(block: pa.Array) -> Any:
    """The code points of all texts, end to end: uint32."""
    joined = "".join(block.to_pylist())
    return np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
