"""Ranking and rating metrics per user, their means with bootstrap intervals, and paired comparisons.

One relevant item per list. A rank counts ties half: `1 + better + equal / 2`, `better` and `equal` over the
other candidates. So a scorer that gives every candidate the same number gets the middle rank and an AUC of
exactly 0.5, whatever the list's order, and a tie for the first place is not a hit at 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.errors import ConfigError, DataError, did_you_mean
from palate.schema import Bools, Ints

Reals = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95
KINDS = ("HR", "Recall", "Precision", "NDCG", "MRR", "MAP", "AUC")
_DRAWS = 4_000_000
"""Random draws held in memory at once by a bootstrap."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean (or ratio) over n users or rows, with its 95% percentile-bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean of `a - b` over the same n users, its 95% interval, and the two-sided bootstrap p."""

    diff: float
    low: float
    high: float
    p: float
    n: int


# --- ranks --------------------------------------------------------------------------------------------


def rank_of(scores: ArrayLike, positive: int) -> float:
    """Tie-fair rank, from 1, of candidate number `positive` in one list of scores [C]. NaN is a DataError."""
    row = np.asarray(scores)[None, :]
    return float(ranks_of(row, np.array([positive]))[0])


def ranks_of(scores: ArrayLike, positives: ArrayLike, allowed: Bools | None = None) -> Reals:
    """Tie-fair ranks: float64 [B], whole or half numbers from 1.

    scores [B, C], higher is better; -inf means "not proposed" and ranks last. positives: int [B], the column
    of the relevant candidate. allowed: bool [B, C], columns that take part (the positive always does).
    Raises DataError on NaN among the columns that take part, naming row and column.
    """
    table = np.asarray(scores)
    rows = np.arange(len(table))
    columns = np.asarray(positives, dtype=np.int64)
    if table.ndim != 2 or columns.shape != (len(table),):
        raise DataError(f"expected scores [B, C] and B positives, got shapes {table.shape} and {columns.shape}")
    if len(columns) and not (columns.min() >= 0 and columns.max() < table.shape[1]):
        raise DataError(f"a positive lies outside the list of {table.shape[1]} candidates")
    part = np.ones(table.shape, dtype=bool) if allowed is None else allowed.copy()
    part[rows, columns] = True
    wrong = np.isnan(table) & part
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        raise DataError(
            f"expected a number for every candidate, got NaN in list {row}, candidate {column} "
            f"({int(wrong.sum())} in all); a system that cannot score an item gives it -inf"
        )
    own = table[rows, columns][:, None]
    part[rows, columns] = False
    better = ((table > own) & part).sum(axis=1)
    equal = ((table == own) & part).sum(axis=1)
    return np.asarray(1.0 + better + equal / 2.0, dtype=np.float64)


# --- per-user values ----------------------------------------------------------------------------------


def hit(ranks: Reals, k: int) -> Reals:
    """1 where the relevant item is among the first k. With one relevant item HR@k is Recall@k."""
    return np.asarray(ranks <= k, dtype=np.float64)


def ndcg(ranks: Reals, k: int) -> Reals:
    """1 / log2(1 + rank) within the first k, else 0 (Jarvelin and Kekalainen, 2002; one relevant item)."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def reciprocal_rank(ranks: Reals, k: int | None = None) -> Reals:
    """1 / rank; 0 beyond k where k is given."""
    return np.where(ranks <= (np.inf if k is None else k), 1.0 / ranks, 0.0)


def auc(ranks: Reals, sizes: ArrayLike) -> Reals:
    """Share of a list's other candidates that the relevant one beats, ties half. A list of one counts 0.5."""
    others = np.asarray(sizes, dtype=np.float64) - 1.0
    return np.where(others > 0, (others - (ranks - 1.0)) / np.maximum(others, 1.0), 0.5)


def precision(ranks: Reals, k: int) -> Reals:
    """Share of the first k that is relevant. With one relevant item it is HR@k / k, so 1 / k at most."""
    return hit(ranks, k) / k


def average_precision(ranks: Reals, k: int | None = None) -> Reals:
    """Precision at each relevant item's place, averaged over the relevant items; those beyond k count 0.

    With one relevant item that is the precision at its rank, 1 / rank: MAP is MRR, and MAP@k is MRR@k.
    """
    return reciprocal_rank(ranks, k)


def per_user(metric: str, ranks: ArrayLike, sizes: ArrayLike) -> Reals:
    """Values of a named metric: float64 [n]. Names: HR@k, Recall@k, Precision@k, NDCG@k, MRR, MRR@k, MAP, MAP@k,
    AUC.

    ranks [n] from `ranks_of`; sizes [n], how many candidates each list had (AUC needs it). An unknown name
    is a ConfigError that suggests the right one.
    """
    r = np.asarray(ranks, dtype=np.float64)
    if len(r) and not r.min() >= 1:  # also true for NaN
        raise DataError(f"expected ranks from 1, got {r.min()}")
    found = re.fullmatch(r"([A-Za-z]+)(?:@([1-9][0-9]*))?", metric)
    kind, k = (found[1], int(found[2]) if found[2] else None) if found else (metric, None)
    if kind in ("HR", "Recall") and k:
        return hit(r, k)
    if kind == "Precision" and k:
        return precision(r, k)
    if kind == "NDCG" and k:
        return ndcg(r, k)
    if kind == "MRR":
        return reciprocal_rank(r, k)
    if kind == "MAP":
        return average_precision(r, k)
    if metric == "AUC":
        return auc(r, sizes)
    known = ["HR@1", "HR@10", "Recall@10", "Precision@10", "NDCG@10", "MRR", "MRR@10", "MAP", "MAP@10", "AUC"]
    raise ConfigError(f"no ranking metric is called {metric!r}; {did_you_mean(metric, known)}")


def at_random(metric: str, sizes: ArrayLike) -> float:
    """Mean of a metric under a uniformly random order of each list, exact: sizes [n], candidates per list."""
    counts = np.asarray(sizes, dtype=np.int64)
    if metric == "AUC":
        return 0.5
    values = per_user(metric, np.arange(1, counts.max() + 1), np.zeros(counts.max()))
    return float((np.cumsum(values)[counts - 1] / counts).mean())


# --- bootstrap ----------------------------------------------------------------------------------------


def _draws(n: int, seed: int, resamples: int) -> Iterator[tuple[int, Ints]]:
    """The rows of every bootstrap sample, a chunk at a time: (number of the first, int64 [chunk, n])."""
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS // n)
    for start in range(0, resamples, step):
        yield start, rng.integers(0, n, size=(min(step, resamples - start), n))


def _resampled(values: Reals, seed: int, resamples: int) -> Reals:
    """Means of `resamples` bootstrap samples of the columns: values [M, n] -> [resamples, M].

    Every row sees the same resamples, so differences between rows are paired.
    """
    means = np.empty((resamples, len(values)))
    for start, chosen in _draws(values.shape[1], seed, resamples):
        for m, row in enumerate(values):
            means[start : start + len(chosen), m] = row[chosen].mean(axis=1)
    return means


def _checked(values: Sequence[ArrayLike]) -> Reals:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise DataError(f"expected one value or more per metric, got shape {table.shape}; are there any cases?")
    if not np.isfinite(table).all():
        raise DataError("expected finite per-user values, got NaN or infinity")
    return table


def _limits(samples: Reals) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return float(low), float(high)


def intervals(values: Mapping[str, ArrayLike], seed: int = 1, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Mean and 95% percentile-bootstrap interval (Efron, 1979) over users, per named row of values [n]."""
    table = _checked(list(values.values()))
    samples = _resampled(table, seed, resamples)
    return {
        name: Interval(float(row.mean()), *_limits(samples[:, m]), table.shape[1])
        for m, (name, row) in enumerate(zip(values, table, strict=True))
    }


def paired(a: ArrayLike, b: ArrayLike, seed: int = 1, resamples: int = RESAMPLES) -> Paired:
    """Compare two systems on the same users: values [n] each, `diff` is mean(a) - mean(b).

    p is two-sided: twice the smaller share of resampled differences on the other side of zero, counted with
    one extra (so never 0: Davison and Hinkley, 1997). Lists of different length are a DataError.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise DataError(f"a paired comparison needs the same users twice, got {left.shape} and {right.shape} values")
    table = _checked([left - right])
    return difference_of(float(table.mean()), _resampled(table, seed, resamples)[:, 0], table.shape[1])


def difference_of(value: float, samples: Reals, n: int) -> Paired:
    """A difference with its interval and p (see `paired`) from its bootstrap samples."""
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    p = min(1.0, 2.0 * (tail + 1) / (len(samples) + 1))
    return Paired(value, *_limits(samples), p, n)


# --- ratings ------------------------------------------------------------------------------------------


def _share(part: Reals, whole: Reals) -> Reals:
    """part / whole, and 0 where there is nothing to divide by (as scikit-learn's zero_division=0)."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


_RATING: dict[str, Callable[[Reals], Reals]] = {
    # columns: absolute error, squared error, true positives, false positives, false negatives, right answers
    "MAE": lambda m: m[:, 0],
    "RMSE": lambda m: np.sqrt(m[:, 1]),
    "accuracy": lambda m: m[:, 5],
    "precision": lambda m: _share(m[:, 2], m[:, 2] + m[:, 3]),
    "recall": lambda m: _share(m[:, 2], m[:, 2] + m[:, 4]),
    "F1": lambda m: _share(2 * m[:, 2], 2 * m[:, 2] + m[:, 3] + m[:, 4]),
}


def _liked_auc(liked: Bools, predicted: Reals, counts: ArrayLike) -> Reals:
    """Chance that a liked row is predicted above one that is not, ties half: float64 [S].

    counts: [S, n], how often each of S samples holds each row. A sample without both kinds has 0.5: there is nothing
    to tell apart.
    """
    order = np.argsort(predicted, kind="stable")
    starts = np.flatnonzero(np.diff(predicted[order], prepend=np.nan) != 0)  # where a new predicted value begins
    times = np.asarray(counts, dtype=np.float64)[:, order]
    positives = np.add.reduceat(times * liked[order], starts, axis=1)
    negatives = np.add.reduceat(times * ~liked[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    won = (positives * (below + negatives / 2)).sum(axis=1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), 0.5)


def _auc_of_liked(liked: Bools, predicted: Reals, seed: int, resamples: int) -> Interval:
    n = len(liked)
    value = float(_liked_auc(liked, predicted, np.ones((1, n)))[0])
    samples = np.empty(resamples)
    for start, chosen in _draws(n, seed, resamples):
        places = chosen + n * np.arange(len(chosen))[:, None]
        counts = np.bincount(places.ravel(), minlength=len(chosen) * n).reshape(len(chosen), n)
        samples[start : start + len(chosen)] = _liked_auc(liked, predicted, counts)
    return Interval(value, *_limits(samples), n)


def ratings(
    truth: ArrayLike, predicted: ArrayLike, like: float = 4.0, seed: int = 1, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """MAE, RMSE (in rating units), and accuracy, precision, recall, F1 and AUC of "rated `like` or more".

    AUC: how often a liked row is predicted above another one, ties half; 0.5 where all or none are liked.
    truth, predicted: [n] ratings. Resampled over rows. NaN and lists of different length are DataErrors.
    """
    t, p = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if t.shape != p.shape:
        raise DataError(f"expected a prediction for every rating, got {t.shape} ratings and {p.shape} predictions")
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise DataError("expected finite ratings and predictions, got NaN or infinity")
    liked, said = t >= like, p >= like
    columns = [np.abs(t - p), (t - p) ** 2, liked & said, ~liked & said, liked & ~said, liked == said]
    table = _checked(columns)
    samples = _resampled(table, seed, resamples)
    whole = table.mean(axis=1)[None, :]
    found = {name: Interval(float(f(whole)[0]), *_limits(f(samples)), len(t)) for name, f in _RATING.items()}
    return {**found, "AUC": _auc_of_liked(liked, p, seed, resamples)}
