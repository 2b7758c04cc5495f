"""Item-kNN: cosine neighbours of the items in the history; sparse, for catalogues of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palate.retrieve import Retriever, positive
from palate.retrieve._history import history_matrix
from palate.schema import Features, Floats, Interactions, Ints

BLOCK = 1_024
"""Similarity rows computed at a time: the full product is never held."""


class ItemKNN(Retriever):
    """Item-based collaborative filtering (Deshpande and Karypis, 2004).

    Similarity of two items is the cosine of their binary user columns, with `shrink` added to the denominator
    so that pairs seen by few users count less; each item keeps its `neighbours` best. recency: as in `ease`.
    """

    name = "itemknn"

    def __init__(self, neighbours: int = 200, shrink: float = 10.0, recency: float | None = None):
        positive("neighbours", neighbours)
        if shrink != 0:
            positive("shrink", shrink)
        positive("recency", recency, optional=True)
        self.neighbours = int(neighbours)
        self.shrink = shrink
        self.recency = recency

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        from scipy import sparse

        from palate.itemitem import user_item_matrix

        matrix = user_item_matrix(interactions)
        norms = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
        columns = matrix.T.tocsr()
        blocks = [
            self._neighbours(columns[start : start + BLOCK] @ matrix, norms, start)
            for start in range(0, len(self.item_ids), BLOCK)
        ]
        self.similarity: Any = sparse.vstack(blocks, format="csr") if blocks else sparse.csr_matrix((0, 0))

    def _neighbours(self, counts: Any, norms: Floats, start: int) -> Any:
        """Sparse co-occurrence rows [b, N] of the items from `start` -> their k nearest as cosines [b, N]."""
        from scipy import sparse

        rows = counts.tocoo()
        keep = rows.col != rows.row + start
        row, col, data = rows.row[keep], rows.col[keep], rows.data[keep]
        cosine = data / (norms[row + start] * norms[col] + self.shrink)
        order = np.lexsort((col, -cosine, row))
        row, col, cosine = row[order], col[order], cosine[order]
        within = np.arange(len(row)) - np.searchsorted(row, row)
        near = within < self.neighbours
        return sparse.csr_matrix((cosine[near].astype(np.float32), (row[near], col[near])), shape=counts.shape)

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        out = history_matrix(histories, len(self.item_ids), self.recency) @ self.similarity
        return np.asarray(out.toarray(), dtype=np.float32)
