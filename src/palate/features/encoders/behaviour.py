"""Behaviour encoder: what an item is like, judged by who chose it. Fitted on the train split only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from palate.config import Config
from palate.features.encoders import CollaborativeEncoder, Encoded
from palate.schema import Floats, Item


class BehaviourOptions(Config):
    """dims: singular vectors kept on each side. penalty: EASE's ridge term. recency: time constant in
    items.
    """

    dims: int = Field(128, ge=1)
    penalty: float = Field(300.0, gt=0)
    recency: float | None = Field(None, gt=0)


class Behaviour(CollaborativeEncoder):
    """Singular vectors of EASE's item-item matrix, left and right, each scaled by the root of the singular
    values.

    2 x dims wide (256). The binary train matrix (or, with recency, exp(-age / recency) for the item that is
    `age` items older than the user's newest) gives EASE's weights B (Steck, 2019); B = L S R', and an
    item's vector is [L sqrt(S), R sqrt(S)]: how it acts as evidence and as a target, so that left of one
    times right of another is the rank-`dims` EASE weight. Items without a train interaction are not
    present.

    Above 20,000 items B would not fit in memory. There the matrix is the cosine-normalised item-item
    co-occurrence with an empty diagonal, never formed: scipy's svds applies it as a product of sparse
    matrices.
    """

    name = "behaviour"
    parts = 2
    Options = BehaviourOptions
    options: BehaviourOptions

    @cached_property
    def width(self) -> int:
        return 2 * self.options.dims

    @cached_property
    def _counts(self) -> Any:
        return np.bincount(self.fitted.items, minlength=len(self.fitted.item_ids))

    def identity(self, item: Item) -> bytes | None:
        """The item's id: with the fingerprint, which covers the interactions, it stands for the vector."""
        at = self.fitted.item_index.get(item.item_id)
        return item.item_id.encode("utf-8", "surrogatepass") if at is not None and self._counts[at] else None

    @cached_property
    def table(self) -> Floats:
        """Vectors of all items of the interactions: float32 [N, 2 x dims]."""
        from palate.itemitem import DENSE_LIMIT, ease, singular_pairs, user_item_matrix

        matrix = user_item_matrix(self.fitted, self.options.recency)
        dense = matrix.shape[1] <= DENSE_LIMIT
        weights = ease(matrix, self.options.penalty) if dense else _cooccurrence(matrix)
        return np.concatenate(singular_pairs(weights, self.options.dims), axis=1)

    def fit(self, interactions: Any) -> Any:
        for name in ("table", "_counts"):
            self.__dict__.pop(name, None)
        return super().fit(interactions)

    def encode(self, items: Sequence[Item]) -> Encoded:
        index = self.fitted.item_index
        rows = np.array([index.get(i.item_id, -1) for i in items], dtype=np.int64)
        present = (rows >= 0) & (self._counts[rows] > 0)
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        vectors[present] = self.table[rows[present]]
        return Encoded(vectors, present, [])


def _cooccurrence(matrix: Any) -> Any:
    """Cosine-normalised co-occurrence without its diagonal, as a LinearOperator [N, N] that is never
    formed.
    """
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator

    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    scaled = matrix @ sparse.diags_array(1.0 / np.where(norms > 0, norms, 1.0))
    scaled, back = scaled.tocsr(), scaled.T.tocsr()
    diagonal = (norms > 0).astype(np.float64)

    def apply(vectors: Any) -> Any:
        return back @ (scaled @ vectors) - (diagonal * vectors.T).T

    items = matrix.shape[1]
    return LinearOperator((items, items), matvec=apply, rmatvec=apply, matmat=apply, rmatmat=apply, dtype=np.float64)
