"""The rating protocol: held-out ratings, predicted by simple models of ratings and by adapters, side by side.

Everything is fitted on train and validation ratings; what has to be chosen is chosen on the validation ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.data.rated import held_out_ratings
from palate.errors import ConfigError, DataError, did_you_mean
from palate.evaluate.cold import check_unseen
from palate.evaluate.metrics import RESAMPLES, Interval, Paired, Reals, difference_of, ratings
from palate.evaluate.protocol import Part, Protocol
from palate.evaluate.rating_cases import RatedCase, cases, learnable, split_of
from palate.evaluate.rating_models import (
    AdapterRatings,
    GlobalMean,
    Predictor,
    bias_only,
    factorised,
    regularised,
)
from palate.schema import Ints

if TYPE_CHECKING:
    from palate.data import Dataset
    from palate.recommender import Recommender


@dataclass(frozen=True)
class RatingSystem:
    """One system's predictions (float64 [n], clipped to the scale), its metrics, and what it says of itself."""

    name: str
    predicted: Reals
    metrics: Mapping[str, Interval]
    seconds: float
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RatingResult:
    """A run of the rating protocol, and everything another run needs to agree with it.

    truth: float64 [n]; users, items: int64 [n], numbers of `user_ids` and `item_ids`; levels: of the scale, in order;
    like: a rating from which on an item counts as liked.
    """

    dataset: str
    fingerprint: str
    protocol: Protocol
    part: Part
    seed: int
    like: float
    levels: tuple[float, ...]
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    users: Ints
    items: Ints
    truth: Reals
    learned_from: int
    systems: tuple[RatingSystem, ...]

    @property
    def n(self) -> int:
        return len(self.truth)

    @property
    def headline(self) -> RatingSystem:
        """The system whose errors a report shows: the last, which is the last adapter where there is one."""
        return self.systems[-1]

    def system(self, name: str) -> RatingSystem:
        """The system called `name`; a ConfigError lists the choices."""
        for system in self.systems:
            if system.name == name:
                return system
        raise ConfigError(f"no system is called {name!r}; {did_you_mean(name, [s.name for s in self.systems])}")

    def compare(self, a: str, b: str) -> Paired:
        """RMSE of system `a` minus that of `b`, with its interval (see `paired_rmse`)."""
        left, right = self.system(a).predicted, self.system(b).predicted
        return paired_rmse(self.truth, left, right, self.users, self.seed)


# --- the run --------------------------------------------------------------------------------------------


def rate(
    dataset: Dataset,
    protocol: Protocol,
    adapters: Mapping[str, Recommender],
    modes: Sequence[str] = (),
    *,
    part: Part = "test",
    users: int | None = None,
    seed: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> RatingResult:
    """Predict the held-out ratings with the baselines and with every adapter, and summarise.

    adapters: name -> loaded recommender. modes: of the adapters; none takes what each was trained for. users: a seeded
    draw of that many, all where None. Raises BundleError for an adapter trained under another protocol, DataError where
    a system gives no finite number.
    """
    interactions = dataset.histories.interactions
    split = split_of(protocol, interactions)
    wanted = held_out_ratings(split, protocol.options["share"], protocol.options["seed"])
    for name, recommender in adapters.items():
        check_unseen(recommender.meta, protocol, wanted, "ratings", name)
    asked = cases(split, part, users, seed)
    systems: list[Predictor] = [GlobalMean(split, part)]
    systems += [make(split, part) for make in (bias_only, regularised, factorised)]
    chosen: list[str | None] = [*modes] or [None]
    systems += [AdapterRatings(r, dataset, name, m) for name, r in adapters.items() for m in chosen]
    events = np.concatenate([c.asked for c in asked])
    truth = interactions.ratings[events].astype(np.float64)
    known = interactions.ratings[np.isfinite(interactions.ratings)].astype(np.float64)
    levels = tuple(np.unique(known).tolist())
    like = _liked_from(levels)
    report = progress or (lambda name, done, total: None)
    return RatingResult(
        dataset.name, dataset.fingerprint, protocol, part, seed, like, levels, tuple(interactions.user_ids),
        tuple(interactions.item_ids), tuple(dataset.catalog[i].title for i in interactions.item_ids),
        interactions.users[events], interactions.items[events], truth, len(learnable(split, part).ratings),
        tuple(_run(s, asked, truth, levels, like, seed, report) for s in systems),
    )  # fmt: skip


def _liked_from(levels: Sequence[float]) -> float:
    """The lowest level of the scale's upper two fifths: 4 of 1 to 5."""
    low, high = levels[0], levels[-1]
    return next(level for level in levels if level >= low + 0.75 * (high - low) - 1e-6)


def _run(
    system: Predictor,
    asked: Sequence[RatedCase],
    truth: Reals,
    levels: Sequence[float],
    like: float,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> RatingSystem:
    began = time.perf_counter()
    said = np.asarray(system.predict(asked, lambda done, total: progress(system.name, done, total)), dtype=np.float64)
    seconds = time.perf_counter() - began
    if said.shape != truth.shape or not np.isfinite(said).all():
        raise DataError(f"{system.name}: expected a finite rating for each of {len(truth)} events")
    predicted = np.clip(said, levels[0], levels[-1])
    return RatingSystem(system.name, predicted, ratings(truth, predicted, like, seed), seconds, dict(system.about))


def paired_rmse(truth: Reals, a: Reals, b: Reals, users: Ints, seed: int = 1, resamples: int = RESAMPLES) -> Paired:
    """RMSE of `a` minus RMSE of `b` on the same ratings, with its 95% bootstrap interval and two-sided p.

    truth, a, b: [n]; users: int64 [n], whose each rating is. Users are resampled, not ratings, since a user's errors
    go together; both systems see the same draws. p is counted as in `metrics.paired`.
    """
    _, owner = np.unique(users, return_inverse=True)
    count = int(owner.max()) + 1
    sums = np.stack([np.bincount(owner, weights=w, minlength=count) for w in ((a - truth) ** 2, (b - truth) ** 2)])
    sizes = np.bincount(owner, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)
    samples = np.empty(resamples)
    for n in range(resamples):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        left, right = np.sqrt(sums @ times / (sizes @ times))
        samples[n] = left - right
    left, right = np.sqrt(sums.sum(axis=1) / sizes.sum())
    return difference_of(float(left - right), samples, len(truth))
