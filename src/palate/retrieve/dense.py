"""Dense retrieval: the mean of the history's feature vectors against every item's, by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palate.errors import FeatureError, did_you_mean
from palate.retrieve import Retriever, positive
from palate.retrieve._history import history_matrix
from palate.schema import Bools, Features, Floats, Interactions, Ints

BLOCK = 16_384
"""Rows copied or scaled at a time."""
MISSING = -1.0
"""Score of an item without a vector: the lowest cosine, so that it never borrows another item's."""


class Dense(Retriever):
    """Content retrieval over any feature tables; needs no interactions, so it proposes cold items too.

    modality: which table; None takes all that were given, each normalised, side by side. centre: subtract
    the mean vector first (encoders that end in a ReLU put all items into one narrow cone otherwise).
    recency: as in `ease`. A history none of whose items has a vector scores by popularity, like an empty
    one.
    """

    name = "dense"
    reads_features = True

    def __init__(self, modality: str | None = None, centre: bool = True, recency: float | None = None):
        positive("recency", recency, optional=True)
        self.modality = modality
        self.centre = centre
        self.recency = recency

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        if not features:
            raise FeatureError("retriever 'dense' needs at least one feature table; pass fit(interactions, features)")
        if self.modality is not None and self.modality not in features:
            raise FeatureError(f"no features of modality {self.modality!r}; {did_you_mean(self.modality, features)}")
        chosen = sorted(features) if self.modality is None else [self.modality]
        shape = (len(self.item_ids), sum(features[m].width for m in chosen))
        # the only array of that size: it is filled and scaled in its place, side by side
        self.vectors: Floats = np.zeros(shape, dtype=np.float32)
        self.present: Bools = np.zeros(len(self.item_ids), dtype=bool)
        start = 0
        for m in chosen:
            stop = start + features[m].width
            self.present |= self._fill(self.vectors[:, start:stop], features[m])
            start = stop
        _scale(self.vectors)

    def _fill(self, out: Floats, table: Features) -> Bools:
        """One modality in the catalogue's order as unit rows, into `out` (zeros float32 [N, F]); present bool [N]."""
        at = {item_id: n for n, item_id in enumerate(table.item_ids)}
        rows = np.array([at.get(i, -1) for i in self.item_ids], dtype=np.int64)
        present = np.zeros(len(rows), dtype=bool)
        present[rows >= 0] = table.present[rows[rows >= 0]]
        places = np.flatnonzero(present)
        for start in range(0, len(places), BLOCK):
            some = places[start : start + BLOCK]
            out[some] = table.vectors[rows[some]]
        if self.centre and len(places) > 1:
            mean = out.sum(axis=0) / np.float32(len(places))  # rows that are not present are zero
            np.subtract(out, mean, out=out, where=present[:, None])
        _scale(out)
        return present

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        weights = history_matrix(histories, len(self.item_ids), self.recency)
        known = np.asarray(weights @ self.present.astype(np.float32)) > 0
        queries = _unit(np.asarray(weights @ self.vectors, dtype=np.float32))
        out: Floats = queries @ self.vectors.T
        out[:, ~self.present] = MISSING
        out[~known] = self.prior()
        return out


def _unit(rows: Floats) -> Floats:
    """Rows scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return unit


def _scale(rows: Floats) -> None:
    """`_unit` in place."""
    for start in range(0, len(rows), BLOCK):
        rows[start : start + BLOCK] = _unit(rows[start : start + BLOCK])
