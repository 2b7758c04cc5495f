"""Item-kNN: cosine neighbours of the items in the history; sparse, for catalogues of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.retrieve import Retriever, positive
from palate.retrieve._history import history_matrix
from palate.schema import Features, Floats, Interactions, Ints

PAIRS = 8_000_000
"""Pairs of an item and one of a user's other items that are counted at a time: the full product is never held."""


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
        parts = [
            self._neighbours(columns[start:stop] @ matrix, norms, start)
            for start, stop in _parts(columns, np.diff(matrix.indptr))
        ]
        total = len(self.item_ids)
        counts, near, cosine = ([part[n] for part in parts] for n in range(3))
        parts.clear()
        indptr = np.concatenate([[0], *counts]).cumsum()
        # one kind at a time, so that parts and whole are never all in memory together
        indices = np.concatenate([np.empty(0, dtype=np.int32), *near])
        near.clear()
        data = np.concatenate([np.empty(0, dtype=np.float32), *cosine])
        self.similarity: Any = sparse.csr_matrix((data, indices, indptr), shape=(total, total))

    def _neighbours(self, counts: Any, norms: Floats, start: int) -> tuple[Ints, NDArray[np.int32], Floats]:
        """Of sparse co-occurrence rows [b, N] of the items from `start`: how many neighbours each keeps, int64 [b],
        and, row after row, which, int32, and their cosines.
        """
        counts.sort_indices()  # so that equal cosines keep the catalogue's order
        lengths, near, cosine = [], [], []
        for row in range(counts.shape[0]):
            where = slice(counts.indptr[row], counts.indptr[row + 1])
            others, values = counts.indices[where], counts.data[where]
            keep = others != row + start
            others, values = others[keep], values[keep]
            alike = (values / (norms[row + start] * norms[others] + self.shrink)).astype(np.float32)
            if len(others) > self.neighbours:
                cut = np.partition(alike, len(alike) - self.neighbours)[len(alike) - self.neighbours]
                best = np.flatnonzero(alike >= cut)
                best = np.sort(best[np.argsort(-alike[best], kind="stable")[: self.neighbours]])
                others, alike = others[best], alike[best]
            lengths.append(len(others))
            near.append(others.astype(np.int32))
            cosine.append(alike)
        return np.array(lengths, dtype=np.int64), np.concatenate(near), np.concatenate(cosine)

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        out = history_matrix(histories, len(self.item_ids), self.recency) @ self.similarity
        return np.asarray(out.toarray(), dtype=np.float32)


def _parts(columns: Any, lengths: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of items, each of about `PAIRS` pairs.

    A product costs the work of its pairs and some for every column there is: ranges of so many items each would cost
    N^2 in all. columns: sparse [N, U]; lengths: items of each user.
    """
    work = np.concatenate([[0], np.cumsum(lengths[columns.indices])])[columns.indptr]
    start, total = 0, columns.shape[0]
    while start < total:
        stop = int(np.searchsorted(work, work[start] + PAIRS, side="right")) - 1
        stop = min(max(stop, start + 1), total)
        yield start, stop
        start = stop
