"""Which items' texts hold a term: word stems, and of Chinese every pair of neighbouring characters."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable

import numpy as np

from palate.chat.words import WORD, stem
from palate.schema import Ints

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")


def terms(text: str) -> list[str]:
    """Word stems; of Chinese, which sets no spaces, every pair of neighbouring characters."""
    return [stem(w) for w in WORD.findall(text)] + _pairs(text)


def _pairs(text: str) -> list[str]:
    return [run[n : n + 2] for run in _HAN.findall(text) for n in range(max(1, len(run) - 1))]


class Terms:
    """An inverted index of texts, added in order: term -> the texts that hold it.

    A term is a number and a text's terms are four bytes each, so that the words of a million items take some hundred
    megabytes; texts that are added later are held apart, and nothing is built anew for them.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        from scipy import sparse

        self._code: dict[str, int] = {}
        word_codes: dict[str, int] = {}  # of words as they are written: each is stemmed once
        flat, ends = array("i"), array("q", [0])
        for text in texts:
            found = set()
            for word in WORD.findall(text):
                code = word_codes.get(word)
                if code is None:
                    code = word_codes[word] = self._code.setdefault(stem(word), len(self._code))
                found.add(code)
            found.update(self._code.setdefault(pair, len(self._code)) for pair in _pairs(text))
            flat.extend(found)
            ends.append(len(flat))
        self.count = len(ends) - 1
        codes = np.frombuffer(flat, dtype=np.int32) if flat else np.empty(0, dtype=np.int32)
        held = np.ones(len(codes), dtype=np.int8)
        by_term = sparse.csr_matrix(
            (held, codes, np.frombuffer(ends, dtype=np.int64)), shape=(self.count, len(self._code))
        ).tocsc()
        self._rows, self._starts = by_term.indices, by_term.indptr
        self._later: dict[str, list[int]] = {}

    def add(self, text: str) -> None:
        """One more text, behind all others."""
        for term in set(terms(text)):
            self._later.setdefault(term, []).append(self.count)
        self.count += 1

    def __contains__(self, term: str) -> bool:
        return term in self._code or term in self._later

    def rows(self, term: str) -> Ints:
        """The texts that hold a term, rising: int64."""
        code = self._code.get(term)
        known = [] if code is None else self._rows[self._starts[code] : self._starts[code + 1]]
        return np.concatenate([known, self._later.get(term, [])]).astype(np.int64)
