"""How near items come to free text: sentence embeddings where there is an encoder, else shared rare words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from palate import features, sources
from palate.chat.words import WORD, stem
from palate.config import EncoderConfig
from palate.errors import FeatureError, SourceError
from palate.features.encoders import Encoder, build
from palate.recommender.shelf import Shelf
from palate.schema import Features, Floats, Item

ENCODER = "all-minilm-l6-v2"


_LATIN = re.compile(r"[A-Za-z]{2}")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")


def _terms(text: str) -> list[str]:
    """Word stems; of Chinese, which sets no spaces, every pair of neighbouring characters."""
    terms = [stem(w) for w in WORD.findall(text)]
    return terms + [run[n : n + 2] for run in _HAN.findall(text) for n in range(max(1, len(run) - 1))]


class TextMatch:
    """Similarity of every item's title and text fields to a query.

    dense: None tries the default text encoder where it is in the cache (nothing is downloaded in the middle
    of a conversation); False uses words alone. tables: item vectors that are there already, by modality; those of the
    same encoder are not computed again.
    """

    def __init__(
        self, shelf: Shelf, dense: bool | None = None, tables: Callable[[], Mapping[str, Features]] | None = None
    ) -> None:
        self.shelf = shelf
        self._dense = dense
        self._tables = tables
        self._kept: Floats | None = None
        self._index: dict[str, list[int]] = {}
        self._indexed = -1

    @cached_property
    def encoder(self) -> Encoder | None:
        if self._dense is False:
            return None
        try:
            if self._dense is None and sources.cached(ENCODER) is None:
                return None
            return build({"text": EncoderConfig()})["text"]
        except (SourceError, FeatureError):
            return None

    def similarity(self, query: str) -> Floats:
        """float32 [N] in shelf order; higher is nearer."""
        words = self._lexical(query)
        # the encoder knows no Chinese: its vectors of it would be noise
        if self.encoder is None or not _LATIN.search(query):
            return words
        encoded = self.encoder.encode([Item("query", query)])
        cosine = self._vectors() @ encoded.vectors[0]
        # words decide names and rare terms that sentence vectors blur
        return np.asarray(cosine + 0.2 * words, dtype=np.float32)

    def holds(self, word: str) -> bool:
        """Does any item's text hold a word of this stem?"""
        return stem(word) in self._postings

    def _vectors(self) -> Floats:
        """Unit vectors of all items, float32 [N, F]: those at hand, and the rest from the feature cache."""
        if self._kept is None or len(self._kept) != len(self.shelf):
            assert self.encoder is not None
            found = self._at_hand(self.encoder.fingerprint)
            if missing := [item for item in self.shelf.values() if item.item_id not in found]:
                computed = features.compute(missing, None, {"text": EncoderConfig()}).tables["text"]
                found |= zip(computed.item_ids, computed.vectors, strict=True)
            vectors = np.stack([found[i] for i in self.shelf]).astype(np.float32)
            self._kept = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return self._kept

    def _at_hand(self, fingerprint: str) -> dict[str, Floats]:
        known = self._tables().get("text") if self._tables is not None else None
        if known is None or known.fingerprint != fingerprint:
            return {}
        rows = zip(known.item_ids, known.vectors, known.present, strict=True)
        return {i: row for i, row, present in rows if present and i in self.shelf}

    @property
    def _postings(self) -> dict[str, list[int]]:
        if self._indexed != len(self.shelf):
            self._index = {}
            for n, item in enumerate(self.shelf.values()):
                text = " ".join([item.title, *item.text.values()])
                for word in set(_terms(text)):
                    self._index.setdefault(word, []).append(n)
            self._indexed = len(self.shelf)
        return self._index

    def _lexical(self, query: str) -> Floats:
        """Sum of the inverse document frequencies of shared word stems, over the query's own: 0..1."""
        total = len(self.shelf)
        out = np.zeros(total, dtype=np.float32)
        weight = 0.0
        for word in Counter(_terms(query)):
            rows = self._postings.get(word, [])
            idf = math.log((1 + total) / (1 + len(rows)))
            out[rows] += idf
            weight += idf
        return out / weight if weight else out
