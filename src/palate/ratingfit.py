"""Simple models of ratings: means, regularised biases, and a few latent factors of what the biases leave.

Shared by the `ratings` encoder and the baselines of the rating protocol. Events are three arrays of one length:
users, items (int64 numbers) and ratings (float64, rating units).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.schema import Ints

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Events:
    """Rated events of `user_count` users and `item_count` items. Raises nothing: it holds what it is given."""

    users: Ints
    items: Ints
    ratings: Reals
    user_count: int
    item_count: int

    def only(self, chosen: NDArray[np.bool_] | Ints) -> Events:
        """These events alone; users and items keep their numbers."""
        return Events(self.users[chosen], self.items[chosen], self.ratings[chosen], self.user_count, self.item_count)


@dataclass(frozen=True, slots=True)
class Biases:
    """A rating as `mean + users[u] + items[i]`: float64 [U] and [N], in rating units; 0 where nothing is known."""

    mean: float
    users: Reals
    items: Reals

    def predict(self, users: Ints, items: Ints) -> Reals:
        """Predicted ratings of user-item pairs, float64 [n]; not clipped to the scale."""
        return np.asarray(self.mean + self.users[users] + self.items[items], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Factors:
    """Latent factors of what biases leave: users [U, K], items [N, K]; their product is in rating units.

    Columns are in order of their share in the predictions, and the users' have a mean square of 1, so that an item's
    numbers say how many rating units one standard deviation of taste is worth.
    """

    users: Reals
    items: Reals

    def predict(self, users: Ints, items: Ints) -> Reals:
        """What the factors add to the biases for user-item pairs, float64 [n]."""
        return np.asarray(np.einsum("nk,nk->n", self.users[users], self.items[items]), dtype=np.float64)


def plain_means(events: Events) -> Biases:
    """Global mean, and how far each user's and each item's own mean lies from it: nothing is regularised."""
    mean = float(events.ratings.mean())
    above = events.ratings - mean
    return Biases(
        mean,
        _shrunk(events.users, above, events.user_count, 0.0),
        _shrunk(events.items, above, events.item_count, 0.0),
    )


def fit_biases(events: Events, user_shrink: float, item_shrink: float, sweeps: int = 20) -> Biases:
    """Ridge regression of ratings on user and item biases, by alternating exact steps (Koren, 2008).

    shrink: the ridge term, in ratings: a bias seen in so many ratings is halved.
    """
    mean = float(events.ratings.mean())
    users, items = np.zeros(events.user_count), np.zeros(events.item_count)
    for _ in range(sweeps):
        items = _shrunk(events.items, events.ratings - mean - users[events.users], events.item_count, item_shrink)
        users = _shrunk(events.users, events.ratings - mean - items[events.items], events.user_count, user_shrink)
    return Biases(mean, users, items)


def _shrunk(groups: Ints, values: Reals, count: int, shrink: float) -> Reals:
    """Sum of each group's values over its size plus `shrink`: float64 [count], 0 for an empty group."""
    sizes = np.bincount(groups, minlength=count) + shrink
    sums = np.bincount(groups, weights=values, minlength=count)
    return np.where(sizes > 0, sums / np.where(sizes > 0, sizes, 1.0), 0.0)


def fit_factors(events: Events, rank: int, ridge: float, sweeps: int = 15, seed: int = 1) -> Factors:
    """Alternating least squares on residuals (`events.ratings` are those), every user and item with one ridge term.

    (Zhou et al., 2008, without their weighting by counts.) A user or item without events has zeros.
    """
    rng = np.random.default_rng(seed)
    items = rng.normal(0.0, 0.1, (events.item_count, rank))
    users = np.zeros((events.user_count, rank))
    for _ in range(sweeps):
        users = solved(events.users, items[events.items], events.ratings, events.user_count, ridge)
        items = solved(events.items, users[events.users], events.ratings, events.item_count, ridge)
    return _principal(users, items)


def solved(groups: Ints, inputs: Reals, targets: Reals, count: int, ridge: float) -> Reals:
    """One ridge regression a group, of `targets` [n] on `inputs` [n, K]: coefficients float64 [count, K]."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=count))
    found = np.zeros((count, inputs.shape[1]))
    penalty = ridge * np.eye(inputs.shape[1])
    start = 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            chosen = order[start:end]
            mine = inputs[chosen]
            found[group] = np.linalg.solve(mine.T @ mine + penalty, mine.T @ targets[chosen])
        start = end
    return found


def _principal(users: Reals, items: Reals) -> Factors:
    """The same products in principal axes, users' columns of mean square 1, signs fixed."""
    left, core_left = np.linalg.qr(users)
    right, core_right = np.linalg.qr(items)
    u, sizes, vt = np.linalg.svd(core_left @ core_right.T)
    scale = np.sqrt(len(users))
    turned, weighted = left @ u * scale, right @ vt.T * sizes / scale
    signs = np.sign(weighted[np.abs(weighted).argmax(axis=0), np.arange(weighted.shape[1])])
    signs = np.where(signs == 0, 1.0, signs)
    return Factors(turned * signs, weighted * signs)
