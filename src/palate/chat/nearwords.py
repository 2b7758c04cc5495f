"""Words no rule knows: typos of tags are repaired, and what comes near a tag in meaning becomes a hint at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from palate.schema import Floats, Item

if TYPE_CHECKING:
    from palate.chat.textmatch import TextMatch

TYPO = 0.8
"""Likeness (of difflib, 0 to 1) from which a word is taken for a tag's."""
LEAST = 5
"""Letters a word has at least to be taken for another's typo."""
SIMILAR, MARGIN = 0.74, 0.05
"""Cosine from which a word hints at a tag, and by how much it must be nearer to it than to the next; chosen on the
messages of tests/test_chat_dev.py.
"""
KEPT = 10_000
"""Words whose vectors are kept."""


class NearWords:
    """Repairs and hints for one catalogue's broad tags. tags: folded tag -> (field, tag as written).

    noun: what an item is called: words are compared as "a spooky movie" and "a horror movie".
    """

    def __init__(self, tags: Mapping[str, tuple[str, str]], text: TextMatch | None, noun: str) -> None:
        self.tags, self._text, self._noun = dict(tags), text, noun
        self._kept: dict[str, Floats] = {}

    def typo(self, word: str, known: Sequence[str]) -> str | None:
        """The known word that an unknown one is a typo of. Words that items' texts hold are no typos."""
        low = word.casefold()
        if len(low) < LEAST or not low.isalpha() or (self._text is not None and self._text.holds(low)):
            return None
        found = get_close_matches(low, [k for k in known if k[0] == low[0]], n=1, cutoff=TYPO)
        return found[0] if found else None

    def meant(self, words: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Word -> (field, tag) for the words that come near a tag in meaning."""
        encoder = self._text.encoder if self._text is not None else None
        if encoder is None or not words or len(self.tags) < 2:
            return {}
        names = list(self.tags)
        near = self._vectors([w.casefold() for w in words]) @ self._tag_vectors.T
        found = {}
        for word, row in zip(words, near, strict=True):
            best, second = np.argsort(-row)[:2]
            if row[best] >= SIMILAR and row[best] - row[second] >= MARGIN:
                found[word] = self.tags[names[best]]
        return found

    @cached_property
    def _tag_vectors(self) -> Floats:
        return self._vectors(list(self.tags))

    def _vectors(self, words: Sequence[str]) -> Floats:
        """Unit vectors of words as an item's attribute, float32 [n, F]."""
        if new := [w for w in dict.fromkeys(words) if w not in self._kept]:
            if len(self._kept) > KEPT:
                self._kept = {w: v for w, v in self._kept.items() if w in self.tags}
                return self._vectors(words)
            assert self._text is not None
            assert self._text.encoder is not None
            texts = [Item(w, f"a {w} {self._noun}") for w in new]
            self._kept |= zip(new, self._text.encoder.encode(texts).vectors, strict=True)
        return np.stack([self._kept[w] for w in words])
