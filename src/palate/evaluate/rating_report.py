"""What predicted ratings get wrong: the confusion of rating levels, a report per level, and the worst errors.

Pure functions on arrays. truth, predicted: [n], in rating units; a prediction may lie between two levels, such as an
expected rating of 3.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from palate.errors import DataError
from palate.evaluate.metrics import Reals
from palate.schema import Ints

_CLOSE = 1e-4
"""A rating this near a level is that level: tables keep ratings in float32."""


@dataclass(frozen=True, slots=True)
class LevelRow:
    """How well one rating level is told from the others. support: how many rows have it in truth."""

    level: float
    precision: float
    recall: float
    f1: float
    support: int


def nearest(values: ArrayLike, levels: Sequence[float]) -> Ints:
    """The place in `levels` (strictly increasing) of the level nearest to each value: int64 [n]. Halfway goes up."""
    steps = _levels(levels)
    return np.searchsorted((steps[1:] + steps[:-1]) / 2, np.asarray(values, dtype=np.float64), side="right").astype(
        np.int64
    )


def confusion(truth: ArrayLike, predicted: ArrayLike, levels: Sequence[float]) -> Ints:
    """How often each level was predicted for each: int64 [L, L], rows are truth, columns the level nearest to the
    prediction (halfway goes up).

    levels: all rating levels, strictly increasing. Raises DataError for a rating that is no level, NaN, and lists of
    different length.
    """
    t, p = _pair(truth, predicted)
    steps = _levels(levels)
    rows = nearest(t, levels)
    strange = np.abs(steps[rows] - t) > _CLOSE
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise DataError(
            f"expected every rating to be one of the levels {', '.join(f'{x:g}' for x in steps)}, got {t[row]:g} in "
            f"row {row} ({int(strange.sum())} in all); give the levels of this data set"
        )
    size = len(steps)
    counts = np.bincount(rows * size + nearest(p, levels), minlength=size * size)
    return counts.reshape(size, size).astype(np.int64)


def classification(truth: ArrayLike, predicted: ArrayLike, levels: Sequence[float]) -> tuple[LevelRow, ...]:
    """Precision, recall, F1 and support of every level, in order; 0 where there is nothing to divide by.

    Arguments and errors as for `confusion`.
    """
    table = confusion(truth, predicted, levels)
    right, said, support = np.diag(table), table.sum(axis=0), table.sum(axis=1)
    return tuple(
        LevelRow(
            float(level),
            _share(right[n], said[n]),
            _share(right[n], support[n]),
            _share(2 * right[n], said[n] + support[n]),
            int(support[n]),
        )
        for n, level in enumerate(levels)
    )


def averages(rows: Sequence[LevelRow], weighted: bool = False) -> dict[str, float]:
    """Mean precision, recall and F1 over the levels that occur in truth: each once (macro), or by support (weighted).

    A level nobody gave has no recall, so it does not count. Raises DataError where no level occurs.
    """
    seen = [row for row in rows if row.support]
    if not seen:
        raise DataError("expected one rating or more to average over, got none")
    weights = [row.support if weighted else 1 for row in seen]
    return {
        name: float(np.average([getattr(row, name) for row in seen], weights=weights))
        for name in ("precision", "recall", "f1")
    }


def worst(truth: ArrayLike, predicted: ArrayLike, n: int) -> Ints:
    """Rows of the n largest absolute errors, largest first, equal ones in row order: int64 [n or fewer]."""
    t, p = _pair(truth, predicted)
    return np.argsort(-np.abs(t - p), kind="stable")[: max(0, n)].astype(np.int64)


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def _levels(levels: Sequence[float]) -> Reals:
    steps = np.asarray(levels, dtype=np.float64)
    if steps.ndim != 1 or not len(steps) or not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
        raise DataError(f"expected rating levels in increasing order, each once, got {list(levels)}")
    return steps


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[Reals, Reals]:
    t, p = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if t.ndim != 1 or t.shape != p.shape:
        raise DataError(f"expected a prediction for every rating, got {t.shape} ratings and {p.shape} predictions")
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise DataError("expected finite ratings and predictions, got NaN or infinity")
    return t, p
