"""Dense retrieval: the mean of the history's feature vectors against every item's, by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palate.errors import FeatureError, did_you_mean
from palate.retrieve import Retriever, positive
from palate.retrieve._history import history_matrix
from palate.schema import Bools, Features, Floats, Interactions, Ints

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
        parts = [self._table(features[m]) for m in chosen]
        vectors = np.concatenate([v for v, _ in parts], axis=1)
        self.present: Bools = np.any([p for _, p in parts], axis=0)
        self.vectors: Floats = _unit(vectors)

    def _table(self, table: Features) -> tuple[Floats, Bools]:
        """One modality in the catalogue's order: unit rows float32 [N, F] and present bool [N]."""
        at = {item_id: n for n, item_id in enumerate(table.item_ids)}
        rows = np.array([at.get(i, -1) for i in self.item_ids], dtype=np.int64)
        present = np.zeros(len(rows), dtype=bool)
        present[rows >= 0] = table.present[rows[rows >= 0]]
        vectors = np.zeros((len(rows), table.width), dtype=np.float32)
        vectors[present] = table.vectors[rows[present]]
        if self.centre and present.sum() > 1:
            vectors[present] -= vectors[present].mean(axis=0)
        return _unit(vectors), present

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
