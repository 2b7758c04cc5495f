"""What predicts ratings under the rating protocol: means, biases, latent factors, and adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from typing import Protocol as Shape

import numpy as np

from palate.data.rated import RatedSplit
from palate.errors import BundleError, ConfigError
from palate.evaluate.environment import bundle_fingerprints
from palate.evaluate.metrics import Reals
from palate.evaluate.protocol import Part
from palate.evaluate.rating_cases import RatedCase, learnable
from palate.ratingfit import Biases, Events, fit_biases, fit_factors, plain_means
from palate.schema import Ints

if TYPE_CHECKING:
    from palate.data import Dataset
    from palate.recommender import Recommender

SHRINKS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
"""Ridge terms tried for user and for item biases, in ratings."""
RIDGES = (8.0, 10.0, 12.0, 15.0, 20.0, 30.0)
"""Ridge terms tried for latent factors."""
RANK = 16
"""Latent factors of the factorisation that stands beside the biases."""
BIAS_ONLY = "bias only"
"""The name of the reference: global + user + item means."""
MODES = ("rated", "rating")
"""Modes that give expected ratings; an adapter is asked in the first one it was trained for."""
CASES = 64
"""Users an adapter is asked about at a time."""


class Predictor(Shape):
    """Anything that predicts ratings: `predict(cases)` gives float64 [n], the asked events of all cases in order.

    about: JSON-able facts for the report (`note`: a sentence at its foot).
    """

    name: str
    about: Mapping[str, Any]

    def predict(self, cases: Sequence[RatedCase], progress: Callable[[int, int], None]) -> Reals: ...


class GlobalMean:
    """The mean of all ratings, for everyone."""

    name = "global mean"

    def __init__(self, split: RatedSplit, part: Part) -> None:
        self.about: Mapping[str, Any] = {}
        self._mean = float(learnable(split, part).ratings.mean())

    def predict(self, cases: Sequence[RatedCase], progress: Callable[[int, int], None]) -> Reals:
        return np.full(sum(len(c.asked) for c in cases), self._mean)


class Fitted:
    """Biases, with or without latent factors, over user and item numbers."""

    def __init__(
        self, name: str, split: RatedSplit, predict: Callable[[Ints, Ints], Reals], about: Mapping[str, Any]
    ) -> None:
        assert split.whole is not None
        self.name, self.about = name, about
        self._owners, self._items, self._predict = split.whole.users, split.whole.items, predict

    def predict(self, cases: Sequence[RatedCase], progress: Callable[[int, int], None]) -> Reals:
        asked = np.concatenate([c.asked for c in cases])
        return self._predict(self._owners[asked], self._items[asked])


def bias_only(split: RatedSplit, part: Part) -> Fitted:
    """Global + user + item means."""
    return Fitted(BIAS_ONLY, split, plain_means(learnable(split, part)).predict, {})


def regularised(split: RatedSplit, part: Part) -> Fitted:
    """Ridge biases, their two shrinkages chosen on the validation ratings."""
    user, item = tuned_shrinks(split)
    about = {"user_shrink": user, "item_shrink": item}
    found = fit_biases(learnable(split, part), user, item)
    note = f"shrinkage {user:g} of users and {item:g} of items, chosen on validation ratings"
    return Fitted("regularised biases", split, found.predict, {**about, "note": note})


def factorised(split: RatedSplit, part: Part) -> Fitted:
    """Regularised biases and RANK latent factors of what they leave, all ridge terms chosen on validation ratings."""
    shrinks = tuned_shrinks(split)
    asked = _asked(split)
    train = learnable(split, "valid")
    ridge = min(RIDGES, key=lambda r: _rmse(asked, _factor_model(train, shrinks, r)))
    about = {"factors": RANK, "ridge": ridge}
    note = f"{RANK} factors by alternating least squares, ridge {ridge:g}, chosen on validation ratings"
    predict = _factor_model(learnable(split, part), shrinks, ridge)
    return Fitted("matrix factorisation", split, predict, {**about, "note": note})


def tuned_shrinks(split: RatedSplit) -> tuple[float, float]:
    """The user and the item shrinkage of SHRINKS with the least RMSE on the validation ratings."""
    train, asked = learnable(split, "valid"), _asked(split)
    pairs = [(u, i) for u in SHRINKS for i in SHRINKS]
    return min(pairs, key=lambda p: _rmse(asked, fit_biases(train, *p).predict))


def _factor_model(train: Events, shrinks: tuple[float, float], ridge: float) -> Callable[[Ints, Ints], Reals]:
    biases: Biases = fit_biases(train, *shrinks)
    left = replace(train, ratings=train.ratings - biases.predict(train.users, train.items))
    factors = fit_factors(left, RANK, ridge)
    return lambda users, items: biases.predict(users, items) + factors.predict(users, items)


def _asked(split: RatedSplit) -> tuple[Ints, Ints, Reals]:
    """Users, items and ratings of the validation part."""
    whole = split.whole
    assert whole is not None
    events = split.valid_events
    return whole.users[events], whole.items[events], whole.ratings[events].astype(np.float64)


def _rmse(asked: tuple[Ints, Ints, Reals], predict: Callable[[Ints, Ints], Reals]) -> float:
    users, items, truth = asked
    said = np.clip(predict(users, items), truth.min(), truth.max())
    return float(np.sqrt(np.mean((said - truth) ** 2)))


class AdapterRatings:
    """An adapter's expected ratings in one mode, from requests that carry the case's own history."""

    def __init__(self, recommender: Recommender, dataset: Dataset, name: str, mode: str | None) -> None:
        self.mode = mode or _mode_of(recommender.meta, name)
        if self.mode not in MODES:
            raise ConfigError(f"the rating protocol reads expected ratings: expected a mode of {MODES}, got {mode!r}")
        self.name = f"{name} ({self.mode})"
        self.about: Mapping[str, Any] = {"adapter": bundle_fingerprints(recommender.meta)}
        self._recommender, self._dataset = recommender, dataset

    def predict(self, cases: Sequence[RatedCase], progress: Callable[[int, int], None]) -> Reals:
        events = self._dataset.histories.interactions
        found = []
        for start in range(0, len(cases), CASES):
            chunk = cases[start : start + CASES]
            requests = [c.request(events, self._dataset.users.get(c.user_id)) for c in chunk]
            for case, scores in zip(chunk, self._recommender.score(requests, mode=self.mode), strict=True):
                said = dict(zip(scores.item_ids, scores.scores.tolist(), strict=True))
                found += [said[events.item_ids[int(i)]] for i in events.items[case.asked]]
            progress(min(start + CASES, len(cases)), len(cases))
        return np.array(found, dtype=np.float64)


def _mode_of(meta: Mapping[str, Any], name: str) -> str:
    """The first mode of MODES that an adapter was trained for."""
    tasks = meta.get("config", {}).get("train", {}).get("tasks", {})
    for mode in MODES:
        if tasks.get(mode):
            return mode
    raise BundleError(f"{name} has learned no ratings; train one with train.tasks.rated or train.tasks.rating above 0")
