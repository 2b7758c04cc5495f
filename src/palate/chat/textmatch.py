"""How near items come to free text: sentence embeddings where there is an encoder, else shared rare words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from palate import features, sources
from palate.chat.terms import Terms, terms
from palate.chat.words import stem
from palate.config import EncoderConfig
from palate.errors import FeatureError, SourceError
from palate.features.encoders import Encoder, build
from palate.recommender.shelf import Shelf
from palate.schema import Features, Floats, Item

ENCODER = "all-minilm-l6-v2"


_LATIN = re.compile(r"[A-Za-z]{2}")


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
        self._index: Terms | None = None

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
        return stem(word) in self._terms

    def _vectors(self) -> Floats:
        """Unit vectors of all items, float32 [N, F]: those at hand, and the rest from the feature cache."""
        if self._kept is None or len(self._kept) != len(self.shelf):
            assert self.encoder is not None
            known = self._at_hand(self.encoder.fingerprint)
            ids = self.shelf.item_ids
            have = np.zeros(len(ids), dtype=bool)
            vectors: Floats | None = None
            if known is not None:
                vectors = np.zeros((len(ids), known.width), dtype=np.float32)
                rows = [n for n, i in enumerate(known.item_ids) if known.present[n] and i in self.shelf]
                places = np.array([self.shelf.index(known.item_ids[n]) for n in rows], dtype=np.int64)
                vectors[places] = known.vectors[rows]
                have[places] = True
            missing = np.flatnonzero(~have)
            if len(missing):
                items = list(self.shelf.rows(missing))
                computed = features.compute(items, None, {"text": EncoderConfig()}).tables["text"].vectors
                if vectors is None:
                    vectors = np.zeros((len(ids), computed.shape[1]), dtype=np.float32)
                vectors[missing] = computed
            assert vectors is not None
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
            self._kept = vectors
        return self._kept

    def _at_hand(self, fingerprint: str) -> Features | None:
        """The adapter's own table of texts, where the same encoder made it."""
        known = self._tables().get("text") if self._tables is not None else None
        return known if known is not None and known.fingerprint == fingerprint else None

    @property
    def _terms(self) -> Terms:
        if self._index is None:
            self._index = Terms(_text(item) for item in self.shelf.values())
        if self._index.count < len(self.shelf):
            for item_id in self.shelf.item_ids[self._index.count :]:
                self._index.add(_text(self.shelf[item_id]))
        return self._index

    def _lexical(self, query: str) -> Floats:
        """Sum of the inverse document frequencies of shared word stems, over the query's own: 0..1."""
        total = len(self.shelf)
        out = np.zeros(total, dtype=np.float32)
        weight = 0.0
        for word in Counter(terms(query)):
            rows = self._terms.rows(word)
            idf = math.log((1 + total) / (1 + len(rows)))
            out[rows] += idf
            weight += idf
        return out / weight if weight else out


def _text(item: Item) -> str:
    return " ".join([item.title, *item.text.values()])
