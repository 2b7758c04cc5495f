"""Decision-level fusion as a system: the scores of several, with weights learned on the protocol's validation part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from palate.errors import ConfigError
from palate.evaluate.protocol import EvalCase, Protocol
from palate.evaluate.run import System
from palate.recommender.fused import ADAPTER
from palate.retrieve.fuse import FUSE, Method, fit_likelihood, fit_weights, ndcg
from palate.schema import Floats, Interactions, Ints

TITLES: dict[Method, str] = {"zscore": "fused (z-scores)", "reciprocal_rank": "fused (reciprocal ranks)"}
CELLS = 100_000_000
"""Scores one system remembers (400 MB), and scores of all parts that learning holds at once."""


class Kept:
    """A system that remembers its scores, up to `CELLS` of them, so that fusing it costs nothing twice."""

    def __init__(self, system: System) -> None:
        self.system, self.name, self.batch = system, system.name, system.batch
        self._kept: dict[tuple[object, ...], Floats] = {}
        self._cells = 0

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Scores in the order of `case.items(N)`."""
        keys = [_key(case) for case in cases]
        fresh = [n for n, key in enumerate(keys) if key not in self._kept]
        made = dict(zip(fresh, self.system.score([cases[n] for n in fresh]), strict=True)) if fresh else {}
        for n, row in made.items():
            if self._cells + len(row) <= CELLS:
                self._kept[keys[n]] = row
                self._cells += len(row)
        return [made[n] if n in made else self._kept[key] for n, key in enumerate(keys)]


def kept(system: System) -> System:
    """The system, remembering its scores; itself where it does, or where mixing them anew costs nothing."""
    return system if isinstance(system, Kept | FusedSystem) else Kept(system)


def _key(case: EvalCase) -> tuple[object, ...]:
    listed = None if case.candidates is None else case.candidates.tobytes()
    return case.user, case.positive, case.history.tobytes(), listed


@dataclass(frozen=True)
class Learned:
    """Weights and what they were learned on: `value` is the mean of `metric` (NDCG@k) they reach on these `n` users."""

    method: Method
    parts: tuple[str, ...]
    weights: tuple[float, ...]
    metric: str
    value: float
    protocol: str
    n: int
    seed: int

    def decision(self, adapter: str, mode: str) -> dict[str, Any]:
        """What a bundle keeps (`recommender.fused.Decision`); adapter: the part that is the bundle itself."""
        parts = [ADAPTER if part == adapter else part for part in self.parts]
        return {**asdict(self), "parts": parts, "weights": list(self.weights), "mode": mode, "part": "valid"}

    def __str__(self) -> str:
        told = ", ".join(f"{w:.3f} {part}" for part, w in zip(self.parts, self.weights, strict=True))
        return f"{told}; learned on the validation items of {self.n:,} users ({self.metric} {self.value:.3f} there)"


class FusedSystem:
    """Weighted sum of its parts' scores, normalised over each case's candidates: z-scores or reciprocal ranks.

    name: that of a mixture which is a baseline; None for one that is asked about (`asked_about`).
    """

    def __init__(self, parts: Sequence[System], learned: Learned, name: str | None = None) -> None:
        self.parts, self.learned = parts, learned
        self.name = name or TITLES[learned.method]
        self.asked_about = name is None
        self.batch = min(part.batch for part in parts)
        weights = dict(zip(learned.parts, learned.weights, strict=True))
        note = f"{learned}; its seconds are those of mixing alone"
        self.about: dict[str, Any] = {"note": note, "weights": weights}
        if self.asked_about:
            self.about["validation"] = learned.value

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Scores in the order of `case.items(N)`; a candidate some part does not propose stays at -inf."""
        rows = [part.score(cases) for part in self.parts]
        mixed = FUSE[self.learned.method]([padded(r) for r in rows], self.learned.weights)
        return [row[: len(given)] for row, given in zip(mixed, rows[0], strict=True)]


def padded(rows: Sequence[Floats]) -> Floats:
    """Rows of any lengths as one table, -inf behind their ends: float32 [B, C]."""
    table = np.full((len(rows), max(map(len, rows))), -np.inf, dtype=np.float32)
    for out, row in zip(table, rows, strict=True):
        out[: len(row)] = row
    return table


def learn(
    parts: Sequence[System],
    protocol: Protocol,
    interactions: Interactions,
    methods: Sequence[Method],
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Learned]:
    """Weights of each method, learned on the validation part of `protocol` and nothing else.

    parts: systems fitted on the protocol's train split, each with a name of its own. The weights raise NDCG@k in full
    rankings, k that of the protocol's first metric, and the likelihood of the positives in drawn lists (a draw's NDCG@1
    is too coarse to learn from); over a seeded draw of as many users as their scores fit in memory. progress: as for
    `evaluate`.
    """
    names = tuple(part.name for part in parts)
    if len(set(names)) < len(names) or len(names) < 2:
        raise ConfigError(f"fusion mixes two systems or more, each once; got {', '.join(names) or 'none'}")
    items = len(interactions.item_ids)
    listed = items if protocol.negatives is None else protocol.negatives + 1
    cases = protocol.cases(interactions, seed, "valid", max(1, CELLS // (listed * len(parts))))
    tables = [_table(part, cases, progress) for part in parts]
    targets: Ints = np.array([int(np.flatnonzero(c.items(items) == c.positive)[0]) for c in cases], dtype=np.int64)
    k = int(protocol.metrics[0].partition("@")[2] or 10)
    found = []
    for method in methods:
        if protocol.negatives is None:
            weights = fit_weights(tables, targets, method=method, k=k)
        else:
            weights = fit_likelihood(tables, targets, method=method)
        value = ndcg(FUSE[method](tables, weights.tolist()), targets, k)
        told = tuple(float(f"{w:.6g}") for w in weights)
        found.append(Learned(method, names, told, f"NDCG@{k}", value, protocol.label, len(cases), seed))
    return found


def _table(part: System, cases: Sequence[EvalCase], progress: Callable[[str, int, int], None] | None) -> Floats:
    rows: list[Floats] = []
    for start in range(0, len(cases), part.batch):
        rows += part.score(cases[start : start + part.batch])
        if progress:
            progress(part.name, len(rows), len(cases))
    return padded(rows)
