"""EASE: a linear item-item autoencoder in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palate.errors import ConfigError
from palate.retrieve import Retriever, positive
from palate.retrieve._history import history_matrix
from palate.schema import Features, Floats, Interactions, Ints


class Ease(Retriever):
    """EASE (Steck, 2019): scores = history x B, with B the closed-form item-item weights of the binary
    train matrix.

    penalty: the ridge term; a few hundred suits 100,000 interactions, more suits more. recency: time
    constant in items; at test time the j-th newest item of the history weighs exp(-j / recency); None
    weighs all alike. A dense N x N matrix: catalogues over 20,000 items raise ConfigError and name
    `itemknn`.
    """

    name = "ease"

    def __init__(self, penalty: float = 300.0, recency: float | None = None):
        positive("penalty", penalty)
        positive("recency", recency, optional=True)
        self.penalty = penalty
        self.recency = recency

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        from palate.itemitem import DENSE_LIMIT, ease, user_item_matrix

        total = len(self.item_ids)
        if total > DENSE_LIMIT:
            raise ConfigError(
                f"retriever 'ease' holds a dense matrix for at most {DENSE_LIMIT} items, "
                f"the catalogue has {total}; use 'itemknn', which stays sparse"
            )
        self.weights: Floats = ease(user_item_matrix(interactions), self.penalty)

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        out = history_matrix(histories, len(self.item_ids), self.recency) @ self.weights
        return np.asarray(out, dtype=np.float32)
