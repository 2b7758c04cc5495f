"""Slices of a result: users by how known their test item is in training, and by how long their history is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from palate.evaluate.metrics import Interval, Paired, intervals, paired
from palate.evaluate.protocol import EvalCase
from palate.evaluate.run import Result
from palate.schema import Bools, Interactions

COLD = 5
"""An item with at most this many train events is cold."""
HEAD = 0.2
"""This share of the items, those with most train events, is the head."""


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


def by_popularity(cases: Sequence[EvalCase], train: Interactions) -> list[Slice]:
    """Cold, mid and head items asked about: at most COLD train events, the HEAD share of items with most, the rest.

    Items that tie with the last of the head belong to it. Slices of nobody are left out.
    """
    counts = np.bincount(train.items, minlength=len(train.item_ids))
    most = max(1, round(HEAD * len(counts)))
    head = max(COLD + 1, int(np.sort(counts)[-most]))
    asked = counts[[case.positive for case in cases]]
    parts = [
        Slice(f"cold (<= {COLD} train events)", asked <= COLD),
        Slice(f"mid ({COLD + 1} to {head - 1})", (asked > COLD) & (asked < head)),
        Slice(f"head (>= {head})", asked >= head),
    ]
    return [part for part in parts if part.n]


def by_history_length(cases: Sequence[EvalCase], parts: int = 4) -> list[Slice]:
    """Users by how many events their history has: `parts` slices of about as many users each, fewer where many tie."""
    lengths = np.array([len(case.history) for case in cases], dtype=np.int64)
    edges = np.quantile(lengths, np.linspace(0, 1, parts + 1)[1:-1], method="inverted_cdf")
    bounds = [-1, *sorted(set(edges.tolist())), int(lengths.max())]
    found = []
    for below, upto in pairwise(bounds):
        mask = (lengths > below) & (lengths <= upto)
        if mask.any():
            least, most = int(lengths[mask].min()), int(lengths[mask].max())
            found.append(Slice(f"{least}" if least == most else f"{least} to {most}", mask))
    return found
