"""Slices of a result: the users whose test item few others had chosen, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palate.evaluate.metrics import Interval, Paired, intervals, paired
from palate.evaluate.protocol import EvalCase
from palate.evaluate.run import Result
from palate.schema import Bools, Interactions

COLD = 5
"""An item with at most this many train events is cold."""


@dataclass(frozen=True)
class Slice:
    """Some of a result's users. mask: bool [n], in the result's order."""

    name: str
    mask: Bools

    @property
    def n(self) -> int:
        return int(self.mask.sum())

    def value(self, result: Result, system: str, metric: str) -> Interval:
        """Mean of a metric with its interval over the slice's users."""
        return intervals({metric: result.values(system, metric)[self.mask]}, result.seed)[metric]

    def compare(self, result: Result, a: str, b: str, metric: str) -> Paired:
        """System `a` minus system `b` over the slice's users."""
        left, right = (result.values(name, metric)[self.mask] for name in (a, b))
        return paired(left, right, result.seed)


def by_train_count(cases: Sequence[EvalCase], train: Interactions) -> list[Slice]:
    """All users, those asked about a cold item, and those asked about a warm one; slices of nobody or of all are left
    out.
    """
    counts = np.bincount(train.items, minlength=len(train.item_ids))
    cold = np.array([counts[case.positive] <= COLD for case in cases], dtype=bool)
    every = Slice("all", np.ones(len(cases), dtype=bool))
    parts = [Slice(f"cold items (<= {COLD} train events)", cold), Slice(f"warm items (> {COLD})", ~cold)]
    return [every, *(part for part in parts if 0 < part.n < len(cases))]
