"""Content-kNN: each item by the few items of the history that it is most like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palate.retrieve import positive
from palate.retrieve.dense import MISSING, Dense
from palate.schema import Floats, Ints


class ContentKNN(Dense):
    """Item-kNN (Sarwar et al., 2001) with the cosine of feature vectors for a similarity.

    An item scores the mean cosine to the `neighbours` items of the history that are nearest to it (to all of a shorter
    one), so that a history of several tastes does not blur into one mean as in `dense`. It needs no interactions and
    proposes cold items too. modality, centre and items without a vector: as in `dense`. Each item of a history counts
    once.
    """

    name = "contentknn"

    def __init__(self, modality: str | None = None, neighbours: int = 10, centre: bool = True):
        super().__init__(modality, centre)
        positive("neighbours", neighbours)
        self.neighbours = int(neighbours)

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        out = np.empty((len(histories), len(self.item_ids)), dtype=np.float32)
        for row, history in zip(out, histories, strict=True):
            known = np.unique(history[self.present[history]])
            if not len(known):
                row[:] = self.prior()
                continue
            alike = self.vectors[known] @ self.vectors.T
            few = min(self.neighbours, len(known))
            row[:] = np.partition(alike, len(known) - few, axis=0)[-few:].mean(axis=0)
            row[~self.present] = MISSING
        return out
