"""Beyond accuracy: what kind of items a system recommends. Coverage, exposure, diversity, novelty, popularity.

All of it is read off the best items of each case. So it says little under a protocol with short lists: of 20
candidates, ten are among the best whatever the system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from palate.evaluate.metrics import Interval, Reals, intervals
from palate.evaluate.protocol import EvalCase
from palate.recommender.likeness import Alike
from palate.schema import Bools, Interactions, Ints

LikenessOf = Callable[[Ints], Alike | None]
"""Catalogue indices of m different items -> how alike they are, rows in that order; None where nothing tells."""
MEASURES = ("coverage", "Gini", "diversity", "novelty", "popularity", "lift")
_CELLS = 32_000_000
"""Likeness cells and vectors of lists held at once."""


@dataclass(frozen=True)
class Beyond:
    """What one system recommends.

    coverage: share of the items it could have recommended that it did, to anyone. gini: inequality of how often each
    of those is shown, 0 for all alike, 1 for one item alone. Both are of all lists together, so without an interval.
    per_user: means over users, each over those it can be told of; one that can be told of nobody is not there:
      diversity   mean distance of two items of a list (intra-list distance, Smyth and McClave, 2001)
      novelty     mean self-information of an item, bits: -log2 of the share of train users who chose it (Zhou et
                  al., 2010), every item counted one user more, so that it is finite for new ones
      popularity  mean percentile of an item by train events, ties half: 0 to 1, and 0.5 over the catalogue
      lift        that percentile less the mean one of the user's own history (popularity lift, Abdollahpouri et al.,
                  2020, in percentiles: a blockbuster alone cannot make it)
    distance: what diversity measures; "" where nothing tells items apart.
    """

    coverage: float
    gini: float
    per_user: dict[str, Interval]
    distance: str

    def value(self, measure: str) -> float | Interval | None:
        """One of `MEASURES`; None where it can be told of nobody."""
        return {"coverage": self.coverage, "Gini": self.gini}.get(measure, self.per_user.get(measure))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        rows = {n: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for n, i in self.per_user.items()}
        return {"coverage": self.coverage, "gini": self.gini, **rows, "distance": self.distance}


class Observer:
    """Measures the lists of every system of one run.

    cases: what was asked. train: what popularity is counted on. likeness: what `diversity` is measured by.
    """

    def __init__(
        self, cases: Sequence[EvalCase], train: Interactions, likeness: LikenessOf | None = None, seed: int = 1
    ) -> None:
        self.cases, self.train, self.likeness, self.seed = cases, train, likeness, seed

    @cached_property
    def _eligible(self) -> Bools:
        return eligible(self.cases, len(self.train.item_ids))

    @cached_property
    def _information(self) -> Reals:
        return self_information(self.train)

    @cached_property
    def _percentiles(self) -> Reals:
        return percentiles(np.bincount(self.train.items, minlength=len(self.train.item_ids)))

    @cached_property
    def _before(self) -> Reals:
        """Mean percentile of each case's history, float64 [n]; NaN without one."""
        return np.array([self._percentiles[c.history].mean() if len(c.history) else np.nan for c in self.cases])

    def measure(self, top: Ints) -> Beyond:
        """top: int64 [n, K], catalogue indices of each case's best items, -1 where there are fewer."""
        shown = np.bincount(top[top >= 0], minlength=len(self._eligible))[self._eligible]
        distance, diversity = self._diversity(top)
        popularity = list_means(self._percentiles, top)
        values = {
            "diversity": diversity,
            "novelty": list_means(self._information, top),
            "popularity": popularity,
            "lift": popularity - self._before,
        }
        per_user: dict[str, Interval] = {}
        for name, row in values.items():
            told = row[~np.isnan(row)]
            if len(told):
                per_user |= intervals({name: told}, self.seed)
        return Beyond(float((shown > 0).mean()), gini(shown), per_user, distance)

    def _diversity(self, top: Ints) -> tuple[str, Reals]:
        items = np.unique(top[top >= 0])
        alike = self.likeness(items) if self.likeness is not None and len(items) else None
        if alike is None:
            return "", np.full(len(top), np.nan)
        place = np.zeros(len(self._eligible), dtype=np.int64)
        place[items] = np.arange(len(items))
        kind = "Jaccard distance of" if alike.labels else "cosine distance of"
        return f"{kind} {alike.name}", distances(alike, np.where(top >= 0, place[top], -1))


def distances(alike: Alike, places: Ints) -> Reals:
    """Mean distance (1 - likeness) over pairs of a list: float64 [n]; NaN where no pair of known items is in it.

    places: int64 [n, K], rows of `alike`, -1 where a list is shorter.
    """
    size = places.shape[1]
    pairs = np.triu(np.ones((size, size), dtype=bool), 1)
    found = np.full(len(places), np.nan)
    step = max(1, _CELLS // (size * max(size, alike.rows.shape[1])))
    for start in range(0, len(places), step):
        part = places[start : start + step]
        there = part >= 0
        likeness = alike.similarity(part)
        told = pairs & there[:, :, None] & there[:, None, :] & ~np.isnan(likeness)
        total = np.where(told, 1.0 - likeness, 0.0).sum(axis=(1, 2), dtype=np.float64)
        count = told.sum(axis=(1, 2))
        found[start : start + step] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def list_means(values: Reals, top: Ints) -> Reals:
    """Mean of an item's value over each list: values float64 [N], top int64 [n, K] -> float64 [n]; NaN if empty."""
    there = top >= 0
    count = there.sum(axis=1)
    total = np.where(there, values[top], 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def eligible(cases: Sequence[EvalCase], items: int) -> Bools:
    """Items that somebody could be recommended: bool [N]."""
    found = np.zeros(items, dtype=bool)
    for case in cases:
        found |= case.allowed(items)
        if found.all():
            break
    return found


def gini(counts: Ints) -> float:
    """Gini coefficient of counts [m]: mean difference of two of them over twice their mean; 0 where all are 0."""
    ordered = np.sort(counts).astype(np.float64)
    m, total = len(ordered), ordered.sum()
    if not total:
        return 0.0
    return float((2 * np.arange(1, m + 1) - m - 1) @ ordered / (m * total))


def self_information(train: Interactions) -> Reals:
    """Bits in the news that a user chose each item: -log2 of the share of train users who did; float64 [N].

    Items and users are counted once more than they are, so an item nobody chose has log2(U + 1) bits.
    """
    chosen = np.unique(np.stack([train.users, train.items]), axis=1)[1]
    counts = np.bincount(chosen, minlength=len(train.item_ids))
    return np.asarray(-np.log2((counts + 1.0) / (len(train) + 1.0)), dtype=np.float64)


def percentiles(counts: Ints) -> Reals:
    """Share of the items with fewer events, ties (and itself) half: float64 [N], mean 0.5."""
    ordered = np.sort(counts)
    below = np.searchsorted(ordered, counts, side="left")
    through = np.searchsorted(ordered, counts, side="right")
    return np.asarray((below + through) / 2.0 / len(counts), dtype=np.float64)
