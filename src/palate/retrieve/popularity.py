"""Popularity: the same ranking for everyone; the floor every recommender must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palate.errors import ConfigError
from palate.retrieve import Retriever, positive
from palate.schema import Features, Floats, Interactions, Ints

DAY = 86_400.0


class Popularity(Retriever):
    """Train interactions per item over the maximum, in 0..1.

    half_life: days after which an interaction counts half, measured back from the newest timestamp (seconds
    since 1970) of the train split; None counts all alike.
    """

    name = "popularity"

    def __init__(self, half_life: float | None = None):
        positive("half_life", half_life, optional=True)
        self.half_life = half_life

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        if self.half_life is None or not len(interactions.items):
            return
        unknown = int(np.isnan(interactions.timestamps).sum())
        if unknown:
            raise ConfigError(
                f"popularity with half_life needs a timestamp for every interaction, but {unknown} of "
                f"{len(interactions.items)} have none; leave half_life out"
            )
        age = (interactions.timestamps.max() - interactions.timestamps) / (self.half_life * DAY)
        counts = np.bincount(interactions.items, weights=0.5**age, minlength=len(self.item_ids))
        self.popularity = counts.astype(np.float32)

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        return np.tile(self.prior(), (len(histories), 1))
