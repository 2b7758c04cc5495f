"""Ratings encoder: how an item is rated, and by whom better than by others. Fitted on the train split only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from palate.config import Config
from palate.errors import FeatureError
from palate.features.encoders import CollaborativeEncoder, Encoded
from palate.ratingfit import Biases, Events, Factors, fit_biases, fit_factors, solved
from palate.schema import Floats, Ints, Item

FIXED = 3
"""Columns before the factors: bias, log count, spread."""
PRIOR = 5.0
"""Ratings that the mean squared residual of all items counts for in one item's."""


class RatingsOptions(Config):
    """factors: latent factors kept; ridge: of their fit; user_shrink, item_shrink: of the biases; folds: parts that
    users are cut into for vectors without their own ratings (see `without`); 0 for none."""

    factors: int = Field(16, ge=1)
    ridge: float = Field(12.0, gt=0)
    user_shrink: float = Field(4.0, gt=0)
    item_shrink: float = Field(3.0, gt=0)
    folds: int = Field(10, ge=0)


class Ratings(CollaborativeEncoder):
    """An item's shrunk bias, log count of ratings, spread of its residuals, and latent factors of them.

    The columns are in units of their spread over items; the factors share one unit (that of the first), so that
    small ones stay small. Biases are joint ridge estimates (Koren, 2008), factors alternating least squares on
    what they leave. Items without a rating in train are not present.

    A vector that holds a user's own rating of the item tells a model in training what it is to predict. So training
    shows each user vectors fitted without a tenth of the users, this one among them: `without(fold)`.
    """

    name = "ratings"
    Options = RatingsOptions
    options: RatingsOptions

    @property
    def width(self) -> int:
        return FIXED + self.options.factors

    @property
    def folds(self) -> int:
        return self.options.folds if self.options.folds > 1 else 0

    def fold(self, user_id: str) -> int:
        """The fold a user is in: a function of the id alone."""
        digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % max(1, self.folds)

    def identity(self, item: Item) -> bytes | None:
        """The item's id: with the fingerprint, which covers interactions and ratings, it stands for the vector."""
        at = self.fitted.item_index.get(item.item_id)
        return item.item_id.encode("utf-8", "surrogatepass") if at is not None and self._counts[at] else None

    def _facts(self) -> Mapping[str, str]:
        ratings = np.ascontiguousarray(self.fitted.ratings, dtype="<f4").tobytes()
        return {**super()._facts(), "ratings": hashlib.sha256(ratings).hexdigest()}

    def fit(self, interactions: Any) -> Any:
        for name in ("table", "_counts", "_events", "_fitted", "_units"):
            self.__dict__.pop(name, None)
        return super().fit(interactions)

    # --- what is fitted -----------------------------------------------------------------------------------

    @cached_property
    def _events(self) -> Events:
        """The rated train events."""
        train = self.fitted
        rated = np.isfinite(train.ratings)
        if not rated.any():
            raise FeatureError(
                f"encoder {self.name!r} learns from ratings: expected train events with a rating, found none; "
                f"leave out the modality {self.modality!r}"
            )
        ratings = train.ratings[rated].astype(np.float64)
        return Events(train.users[rated], train.items[rated], ratings, len(train), len(train.item_ids))

    @cached_property
    def _counts(self) -> Ints:
        return np.bincount(self._events.items, minlength=self._events.item_count)

    @cached_property
    def _fitted(self) -> tuple[Biases, Factors]:
        events, o = self._events, self.options
        biases = fit_biases(events, o.user_shrink, o.item_shrink)
        return biases, fit_factors(self._left(events, biases), o.factors, o.ridge)

    def _left(self, events: Events, biases: Biases) -> Events:
        """The events with what biases leave of their ratings."""
        left = events.ratings - biases.predict(events.users, events.items)
        return Events(events.users, events.items, left, events.user_count, events.item_count)

    def _columns(self, events: Events, biases: Biases, factors: np.ndarray) -> np.ndarray:
        """Raw columns of all items: float64 [N, 3 + factors]."""
        left = self._left(events, biases).ratings
        counts = np.bincount(events.items, minlength=events.item_count)
        squares = np.bincount(events.items, weights=left**2, minlength=events.item_count)
        spread = np.sqrt((squares + PRIOR * float(np.mean(left**2))) / (counts + PRIOR))
        return np.column_stack([biases.items, np.log1p(counts), spread, factors])

    @cached_property
    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and unit of each column over the rated items: float64 [F] each."""
        biases, factors = self._fitted
        columns = self._columns(self._events, biases, factors.items)[self._counts > 0]
        units = np.maximum(columns.std(axis=0), 1e-6)
        units[FIXED:] = units[FIXED]
        means = columns.mean(axis=0)
        means[FIXED:] = 0.0
        return means, units

    def _scaled(self, columns: np.ndarray, present: np.ndarray) -> Floats:
        means, units = self._units
        scaled: Floats = (((columns - means) / units) * present[:, None]).astype(np.float32)
        return scaled

    @cached_property
    def table(self) -> Floats:
        """Vectors of all items of the interactions: float32 [N, 3 + factors], zero where nobody rated."""
        biases, factors = self._fitted
        return self._scaled(self._columns(self._events, biases, factors.items), self._counts > 0)

    def without(self, fold: int) -> tuple[Floats, np.ndarray]:
        """Vectors and presence (bool [N]) of all items as if this fold's users had rated nothing.

        Item factors are regressions on the other users' factors, which keep their axes, so the columns mean what
        they mean in `table`; those factors had seen the fold's ratings, at second hand only.
        """
        events, o = self._events, self.options
        folds = np.array([self.fold(u) for u in self.fitted.user_ids], dtype=np.int64)
        others = events.only(folds[events.users] != fold)
        if not len(others.ratings):
            return np.zeros((events.item_count, self.width), dtype=np.float32), np.zeros(events.item_count, dtype=bool)
        biases = fit_biases(others, o.user_shrink, o.item_shrink)
        left = self._left(others, biases)
        users = self._fitted[1].users
        factors = solved(left.items, users[left.users], left.ratings, left.item_count, o.ridge)
        present = np.bincount(others.items, minlength=others.item_count) > 0
        return self._scaled(self._columns(others, biases, factors), present), present

    def encode(self, items: Sequence[Item]) -> Encoded:
        index = self.fitted.item_index
        rows = np.array([index.get(i.item_id, -1) for i in items], dtype=np.int64)
        present = (rows >= 0) & (self._counts[rows] > 0)
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        vectors[present] = self.table[rows[present]]
        return Encoded(vectors, present, [])
