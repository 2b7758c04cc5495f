"""SASRec encoder: what an item is like, judged by what people chose before and after it. Fitted on the train split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from palate.features.encoders import CollaborativeEncoder, Encoded
from palate.schema import Floats, Item
from palate.sequential import SasRecOptions


class SasRecEncoder(CollaborativeEncoder):
    """Item embeddings of a SASRec (see `palate.sequential.sasrec`), float32 [width].

    They stand on both sides of that network, as evidence in a history and as what comes next. Items without a train
    interaction are not present.
    """

    name = "sasrec"
    Options = SasRecOptions
    options: SasRecOptions

    @property
    def width(self) -> int:
        return self.options.width

    @cached_property
    def _counts(self) -> Any:
        return np.bincount(self.fitted.items, minlength=len(self.fitted.item_ids))

    def identity(self, item: Item) -> bytes | None:
        """The item's id: with the fingerprint, which covers the interactions, it stands for the vector."""
        at = self.fitted.item_index.get(item.item_id)
        return item.item_id.encode("utf-8", "surrogatepass") if at is not None and self._counts[at] else None

    @cached_property
    def table(self) -> Floats:
        """Embeddings of all items of the interactions: float32 [N, width]."""
        from palate.sequential.kept import fitted

        network = fitted(self.fitted, self.options)
        vectors: Floats = network.item.weight.detach().numpy().copy()
        return vectors

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
