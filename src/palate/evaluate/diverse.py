"""A system whose lists are reordered for diversity: what that costs in accuracy, and what it buys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from palate.errors import ConfigError
from palate.evaluate.beyond import LikenessOf
from palate.evaluate.protocol import EvalCase
from palate.evaluate.run import System, best
from palate.recommender.ranking import POOL
from palate.recommender.rerank import Method, check, rerank
from palate.schema import Floats, Ints


class DiverseSystem:
    """The best `pool` items of a system's list, reordered by `rerank`; the others stay behind them as they were.

    Ties within the pool are in catalogue order. Raises ConfigError, when asked to score, where nothing tells how alike
    items are.
    """

    def __init__(
        self, system: System, items: int, likeness: LikenessOf, diversity: float, method: Method, pool: int = POOL
    ) -> None:
        """items: N of the catalogue; likeness: of catalogue indices."""
        check(diversity, method)
        self.system, self.items, self.likeness = system, items, likeness
        self.diversity, self.method, self.pool = diversity, method, pool
        self.name, self.batch = f"{system.name}, {method} {diversity:g}", system.batch
        self.about: dict[str, Any] = {"diversity": diversity, "rerank": method, "pool": pool}

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Whole numbers in the order of `case.items(N)`: higher comes first. Not proposed stays -inf."""
        rows = [np.asarray(row) for row in self.system.score(cases)]
        listed = [case.items(self.items) for case in cases]
        heads = [best(row, items, self.pool) for row, items in zip(rows, listed, strict=True)]
        return [self._reordered(*given) for given in zip(rows, listed, heads, strict=True)]

    def _reordered(self, row: Floats, items: Ints, head: Ints) -> Floats:
        if not len(head):
            return row
        alike = self.likeness(head)
        if alike is None:
            raise ConfigError(
                "nothing tells how alike items are: the data set has no labels (such as genres) and the adapter no "
                "content vectors; evaluate without --diversity"
            )
        place = np.zeros(self.items, dtype=np.int64)
        place[items] = np.arange(len(items))
        first = place[head]  # where in the row the best ones stand
        order = first[rerank(row[first], alike, self.diversity, len(first), self.method)]
        behind = np.setdiff1d(np.flatnonzero(row > -np.inf), first)
        out = np.full(len(row), -np.inf, dtype=np.float32)
        out[behind] = np.unique(row[behind], return_inverse=True)[1] - len(row)  # equal ones stay equal
        out[order] = np.arange(len(order), 0, -1)
        return out
