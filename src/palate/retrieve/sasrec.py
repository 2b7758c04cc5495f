"""SASRec: what comes next, by a small transformer over item numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palate.retrieve import Retriever
from palate.schema import Features, Floats, Interactions, Ints

BATCH = 256
"""Histories read at once."""


class Sequential(Retriever):
    """SASRec (Kang and McAuley, 2018) with a softmax over the whole catalogue; see `palate.sequential.sasrec`.

    Options are those of `SasRecOptions`; the defaults suit 100,000 interactions.
    """

    name = "sasrec"

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.3,
        length: int = 100,
        epochs: int = 60,
        lr: float = 1e-3,
        seed: int = 1,
    ):
        self.options = {
            "width": width, "layers": layers, "heads": heads, "dropout": dropout,
            "length": length, "epochs": epochs, "lr": lr, "seed": seed,
        }  # fmt: skip

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        from palate.sequential import SasRecOptions
        from palate.sequential.kept import fitted

        self.network = fitted(interactions, SasRecOptions.parse(self.options, "retriever 'sasrec'"))

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        parts = [self.network.scores(histories[n : n + BATCH]) for n in range(0, len(histories), BATCH)]
        return np.concatenate(parts)
