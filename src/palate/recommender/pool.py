"""Which items are worth a slow mode's time: retrieved candidates, items added after training among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from palate import retrieve
from palate.errors import EmptyLegalSet
from palate.recommender.shelf import Shelf
from palate.schema import Bools, Features, Floats, Interactions, Ints

RECENCY = 20.0
"""Time constant, in items, with which the retriever forgets older choices."""


class Pool:
    """Proposes candidates from a data set's own interactions; fitted when first asked.

    EASE with recency up to the size of catalogue it can hold, item-kNN beyond; content vectors where there
    are no interactions at all.
    """

    def __init__(self, shelf: Shelf, interactions: Interactions, features: Mapping[str, Features]) -> None:
        self.shelf = shelf
        self.interactions = interactions
        self.features = features

    @cached_property
    def retriever(self) -> retrieve.Retriever:
        if not len(self.interactions.items):
            name = "dense" if self.features else "popularity"
            options = {"recency": RECENCY} if self.features else {}
            return retrieve.build(name, **options).fit(self.interactions, self.features)
        from palate.itemitem import DENSE_LIMIT

        name = "ease" if len(self.interactions.item_ids) <= DENSE_LIMIT else "itemknn"
        return retrieve.build(name, recency=RECENCY).fit(self.interactions, self.features)

    def scores(self, history: Sequence[str]) -> Floats:
        """The retriever's score of every shelf item, float32 [N]; added items take the mean, nothing is known
        of them.
        """
        index = self.interactions.item_index
        known = np.array([index[i] for i in history if i in index], dtype=np.int64)
        row = self.retriever.scores([known])[0]
        extra = np.full(len(self.shelf) - len(row), float(row.mean()) if len(row) else 0.0, dtype=np.float32)
        return np.concatenate([row, extra])

    def pick(self, history: Sequence[str], legal: Bools, size: int) -> tuple[str, ...]:
        """At most `size` legal items, best first; legal added items take up to half the places.

        Raises EmptyLegalSet where nothing is legal.
        """
        places: Ints = np.flatnonzero(legal)
        if not len(places):
            raise EmptyLegalSet("no item is left to recommend; allow more with the filters, or a shorter history")
        base = len(self.shelf) - len(self.shelf.added)
        added = places[places >= base][::-1]
        known = places[places < base]
        guests = added[: max(size - len(known), size // 2)]
        order = np.argsort(-self.scores(history)[known], kind="stable")[: size - len(guests)]
        ids = self.shelf.item_ids
        return tuple(ids[i] for i in [*known[order], *guests])
