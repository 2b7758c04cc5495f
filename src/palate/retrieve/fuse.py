"""Decision-level fusion: several score tables into one, with weights given or learned on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from palate.errors import ConfigError, FeatureError, did_you_mean
from palate.retrieve import Retriever, build
from palate.schema import Features, Floats, Interactions, Ints, Times

Method = Literal["zscore", "reciprocal_rank"]
METHODS: tuple[Method, ...] = get_args(Method)
GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5)


def normalised_zscore(scores: Floats) -> Floats:
    """Each row to mean 0 and deviation 1 over its finite entries; a constant row becomes 0; -inf stays
    -inf.
    """
    scores = np.asarray(scores, dtype=np.float32)
    finite = np.isfinite(scores)
    count = np.maximum(finite.sum(axis=1, keepdims=True), 1)
    filled = np.where(finite, scores, 0.0).astype(np.float64)
    mean = filled.sum(axis=1, keepdims=True) / count
    centred = np.where(finite, filled - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    # float noise around a constant row must not be blown up to unit size
    flat = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
    out = np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))
    return np.where(finite, out, scores).astype(np.float32)


def reciprocal(scores: Floats, constant: float = 60.0) -> Floats:
    """1 / (constant + rank) of each entry in its row (rank 1 the best, equal scores the mean of their ranks, so that a
    table that knows nothing says nothing); -inf stays -inf.
    """
    scores = np.asarray(scores, dtype=np.float32)
    ranks = np.empty(scores.shape)
    for row, out in zip(scores, ranks, strict=True):
        _, place, counts = np.unique(-row, return_inverse=True, return_counts=True)
        out[:] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return np.where(np.isneginf(scores), scores, 1.0 / (constant + ranks)).astype(np.float32)


def zscore(scores: Sequence[Floats], weights: Sequence[float] | None = None) -> Floats:
    """Weighted sum of row-wise z-scores: tables [B, C] each -> float32 [B, C]. Entries of -inf stay
    excluded.
    """
    return _weighted([normalised_zscore(s) for s in _same_shape(scores)], _weights(weights, len(scores)))


def reciprocal_rank(scores: Sequence[Floats], weights: Sequence[float] | None = None, constant: float = 60.0) -> Floats:
    """Reciprocal rank fusion (Cormack et al., 2009): sum of weight / (constant + rank), float32 [B, C]."""
    return _weighted([reciprocal(s, constant) for s in _same_shape(scores)], _weights(weights, len(scores)))


NORMALISE: Mapping[str, Callable[[Floats], Floats]] = {
    "zscore": normalised_zscore,
    "reciprocal_rank": reciprocal,
}


FUSE: Mapping[str, Callable[[Sequence[Floats], Sequence[float]], Floats]] = {
    "zscore": zscore,
    "reciprocal_rank": reciprocal_rank,
}


def target_ranks(scores: Floats, targets: Ints) -> NDArray[np.float64]:
    """Rank from 1 of each row's target column, ties half: scores [B, C], targets int64 [B] -> float64 [B]."""
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    ranks: NDArray[np.float64] = 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2
    return ranks


def ndcg(scores: Floats, targets: Ints, k: int = 10) -> float:
    """Mean NDCG@k with one relevant column a row; rows whose target is -1 are left out."""
    rows = np.flatnonzero(targets >= 0)
    if not len(rows):
        return 0.0
    ranks = target_ranks(scores[rows], targets[rows])
    return float(np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0).mean())


def fit_weights(
    scores: Sequence[Floats], targets: Ints, *, method: Method = "zscore", k: int = 10, rounds: int = 4
) -> Floats:
    """Weights [M] that sum to 1 and raise NDCG@k on validation, by coordinate ascent over a fixed grid.

    scores: M tables [B, C] of the same requests (set seen items to -inf first); targets: int64 [B], the
    relevant column, -1 for none. Starts from equal weights and from each table alone, and keeps the best;
    deterministic.
    """
    _known_method(method)
    targets = np.asarray(targets, dtype=np.int64)
    tables = [NORMALISE[method](s) for s in _same_shape(scores)]
    if not (targets >= 0).any():
        raise ConfigError("fit_weights needs at least one validation target; all targets are -1")

    def quality(weights: Floats) -> float:
        return ndcg(_weighted(tables, weights), targets, k)

    count = len(tables)
    starts = [np.full(count, 1.0 / count, dtype=np.float32), *np.eye(count, dtype=np.float32)]
    best: Floats = max(starts, key=quality)
    best_quality = quality(best)
    for _ in range(rounds):
        before = best_quality
        for at in range(count):
            for value in GRID:
                trial = best.copy()
                trial[at] = value
                if trial.sum() <= 0:
                    continue
                trial /= trial.sum()
                reached = quality(trial)
                if reached > best_quality:
                    best, best_quality = trial, reached
        if best_quality <= before:
            break
    return best


def fit_likelihood(scores: Sequence[Floats], targets: Ints, *, method: Method = "zscore") -> Floats:
    """Weights [M] that sum to 1 and make the targets likeliest in a soft-max over each row (McFadden, 1974,
    "Conditional logit analysis of qualitative choice behavior").

    For short lists of drawn candidates: their NDCG@1 moves in steps of one user, and coordinate ascent on it learns the
    draw. Arguments as for `fit_weights`.
    """
    from scipy.optimize import minimize

    _known_method(method)
    targets = np.asarray(targets, dtype=np.int64)
    tables = np.stack([NORMALISE[method](s) for s in _same_shape(scores)]).astype(np.float64)
    possible = np.isfinite(tables.sum(axis=0))  # what one table does not propose, the sum does not either
    rows = np.flatnonzero((targets >= 0) & possible[np.arange(len(targets)), targets])
    if not len(rows):
        raise ConfigError("fit_likelihood needs a validation target that every table has a score for; there is none")
    tables, possible = tables[:, rows], possible[rows]
    tables = np.where(possible, tables, 0.0)
    scale = tables.std(axis=(1, 2))
    scale[scale == 0] = 1.0
    tables /= scale[:, None, None]
    own = tables[:, np.arange(len(rows)), targets[rows]]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed = np.where(possible, np.tensordot(weights, tables, 1), -np.inf)
        top = mixed.max(axis=1, keepdims=True)
        shares = np.exp(mixed - top)
        total = shares.sum(axis=1, keepdims=True)
        value = (np.log(total[:, 0]) + top[:, 0] - weights @ own).mean()
        slope = ((tables * (shares / total)).sum(axis=2) - own).mean(axis=1)
        return float(value), slope

    found = minimize(loss, np.ones(len(tables)), jac=True, bounds=[(0.0, None)] * len(tables)).x
    weights = found / scale if found.any() else np.ones(len(found))
    out: Floats = (weights / weights.sum()).astype(np.float32)
    return out


class Fused(Retriever):
    """Several retrievers, fused. retrievers: name -> options; weights: name -> weight, equal where absent.

    `learn` sets the weights on validation; without it the given ones are used. Scores of the parts are
    normalised per request, so their scales need not agree.
    """

    name = "fused"

    def __init__(
        self,
        retrievers: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, float] | None = None,
        method: Method = "zscore",
    ):
        _known_method(method)
        chosen = {"popularity": {}, "itemknn": {}} if retrievers is None else retrievers
        if not chosen:
            raise ConfigError("retriever 'fused' needs at least one retriever to fuse, got none")
        for name in weights or {}:
            if name not in chosen:
                raise ConfigError(f"weight for {name!r}, which is not fused; {did_you_mean(name, chosen)}")
        self.method: Method = method
        self.parts = {name: build(name, **options) for name, options in chosen.items()}
        self.weights = _weights([(weights or {}).get(name, 1.0) for name in self.parts], len(self.parts))

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        for part in self.parts.values():
            part.fit(interactions, features)

    def learn(
        self, histories: Sequence[Ints], targets: Ints, k: int = 10, exclude_seen: bool = True
    ) -> dict[str, float]:
        """Set the weights by `fit_weights` on validation histories and targets (item indices, -1: none)."""
        tables = [part.scores(histories) for part in self.parts.values()]
        if exclude_seen:
            for table in tables:
                for row, history in enumerate(histories):
                    table[row, np.setdiff1d(history, targets[row])] = -np.inf
        self.weights = fit_weights(tables, targets, method=self.method, k=k)
        return {name: float(w) for name, w in zip(self.parts, self.weights, strict=True)}

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        return self._mixed(histories, None)

    def _timed(self, histories: Sequence[Ints], times: Sequence[Times]) -> Floats:
        return self._mixed(histories, times)

    def _mixed(self, histories: Sequence[Ints], times: Sequence[Times] | None) -> Floats:
        tables = [NORMALISE[self.method](part.scores(histories, times)) for part in self.parts.values()]
        return _weighted(tables, self.weights)


def _known_method(method: str) -> None:
    if method not in NORMALISE:
        raise ConfigError(f"no fusion method is called {method!r}; {did_you_mean(method, NORMALISE)}")


def _weights(weights: Sequence[float] | None, count: int) -> Floats:
    """Weights scaled to sum 1, float32 [M]."""
    values = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ConfigError(f"expected {count} weights, none negative and not all 0, got {weights!r}")
    scaled: Floats = (values / values.sum()).astype(np.float32)
    return scaled


def _same_shape(scores: Sequence[Floats]) -> Sequence[Floats]:
    shapes = {np.shape(s) for s in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise FeatureError(f"expected score tables of one shape [B, C], got {sorted(map(str, shapes)) or 'none'}")
    return scores


def _weighted(tables: Sequence[Floats], weights: Floats) -> Floats:
    """Weighted sum; an entry that is -inf in any table is -inf, whatever its weight."""
    out = np.zeros(np.shape(tables[0]), dtype=np.float32)
    excluded = np.zeros(out.shape, dtype=bool)
    for table, weight in zip(tables, weights, strict=True):
        gone = np.isneginf(table)
        excluded |= gone
        out += np.where(gone, 0.0, table) * weight
    out[excluded] = -np.inf
    return out


__all__ = [
    "Fused",
    "Method",
    "fit_weights",
    "ndcg",
    "normalised_zscore",
    "reciprocal",
    "reciprocal_rank",
    "zscore",
]
