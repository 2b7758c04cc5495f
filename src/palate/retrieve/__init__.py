"""Retrievers: from a history to scores over the whole catalogue. One file each; a new file is found.

The way they are used:

    ease = build("ease", penalty=300).fit(train)
    ease.scores([history])          float32 [1, N]
    ease.top(history, k=100)        schema.Candidates, best first, seen items left out
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from palate import registry
from palate.errors import ConfigError, EmptyLegalSet, RequestError, did_you_mean
from palate.schema import Bools, Candidates, Features, Floats, Interactions, Ints, Times

PACKAGE = "palate.retrieve"


class Retriever(ABC):
    """Scores every catalogue item for a history. Subclasses give `name`, `_fit` and `_scores`.

    A fitted retriever has `item_ids` (the catalogue's order, the index space of histories and columns) and
    `popularity` (float32 [N], train interactions per item). An empty history scores by popularity, in 0..1.
    reads_features: whether it scores by what items are, and so knows an item without interactions. One that looks at
    when things happened gives `_timed` too.
    """

    name: ClassVar[str]
    reads_features: ClassVar[bool] = False
    item_ids: tuple[str, ...]
    popularity: Floats

    def fit(self, interactions: Interactions, features: Mapping[str, Features] | None = None) -> Self:
        """Learn from `interactions` (pass the train split only) and, where the method reads them,
        `features`.
        """
        self.item_ids = interactions.item_ids
        self._index = interactions.item_index
        counts = np.bincount(interactions.items, minlength=len(self.item_ids))
        self.popularity = counts.astype(np.float32)
        self._fit(interactions, features or {})
        return self

    @abstractmethod
    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        """Learn; `item_ids` and `popularity` are set already."""

    @abstractmethod
    def _scores(self, histories: Sequence[Ints]) -> Floats:
        """float32 [B, N] for histories that each hold at least one item."""

    def _timed(self, histories: Sequence[Ints], times: Sequence[Times]) -> Floats:
        """`_scores` where the times of events are known: float64 [H] a history. Most methods do not look at them."""
        return self._scores(histories)

    def prior(self) -> Floats:
        """The score row of an empty history: popularity over its maximum, float32 [N] in 0..1."""
        row: Floats = self.popularity / max(float(self.popularity.max(initial=0.0)), 1.0)
        return row

    def scores(self, histories: Sequence[Ints], times: Sequence[Times] | None = None) -> Floats:
        """Scores of all items for each history (item indices, oldest first): finite float32 [B, N], higher
        is better.

        times: seconds of each event, float64 [H] a history, NaN where unknown; None where nothing is known of any.
        Raises RequestError where the retriever is not fitted or an index lies outside the catalogue.
        """
        checked = [self._checked(h) for h in histories]
        out = np.empty((len(checked), len(self.item_ids)), dtype=np.float32)
        empty = np.array([len(h) == 0 for h in checked], dtype=bool)
        out[empty] = self.prior()
        if not empty.all():
            known = [h for h in checked if len(h)]
            out[~empty] = self._scores(known) if times is None else self._timed(known, _aligned(checked, times))
        return out

    def top(
        self,
        history: Sequence[int] | Ints,
        k: int,
        *,
        exclude_seen: bool = True,
        allowed: Bools | Collection[str] | None = None,
    ) -> Candidates:
        """The k best items for one history, best first; equal scores keep the catalogue's order.

        allowed: a bool [N] mask or the item ids that may be proposed; None means all. Fewer than k come
        back where fewer are legal. Raises EmptyLegalSet where none is, RequestError for k below 1 or an
        unknown id.
        """
        if k < 1:
            raise RequestError(f"expected k of at least 1, got {k}")
        row = self.scores([np.asarray(history, dtype=np.int64)])[0]
        legal = self._legal(allowed)
        if exclude_seen:
            legal[np.asarray(history, dtype=np.int64)] = False
        if not legal.any():
            raise EmptyLegalSet(
                "the filters and the history leave no item to propose; allow more items or pass exclude_seen=False"
            )
        best = best_indices(row, legal, k)
        return Candidates(tuple(self.item_ids[i] for i in best), row[best], self.name)

    def _checked(self, history: Ints) -> Ints:
        if not hasattr(self, "item_ids"):
            raise RequestError(f"the retriever {self.name!r} is not fitted; call fit(interactions) first")
        history = np.asarray(history, dtype=np.int64)
        outside = history[(history < 0) | (history >= len(self.item_ids))]
        if len(outside):
            raise RequestError(
                f"expected item indices in 0..{len(self.item_ids) - 1}, got {int(outside[0])} in a history; "
                "leave out items the retriever was not fitted on"
            )
        return history

    def _legal(self, allowed: Bools | Collection[str] | None) -> Bools:
        total = len(self.item_ids)
        if allowed is None:
            return np.ones(total, dtype=bool)
        if isinstance(allowed, np.ndarray) and allowed.dtype == np.bool_:
            if allowed.shape != (total,):
                raise RequestError(f"expected an `allowed` mask of shape ({total},), got {allowed.shape}")
            return allowed.copy()
        mask = np.zeros(total, dtype=bool)
        for item_id in allowed:
            at = self._index.get(str(item_id))
            if at is None:
                raise RequestError(f"`allowed` names an unknown item {item_id!r}; expected ids of the catalogue")
            mask[at] = True
        return mask


def _aligned(histories: Sequence[Ints], times: Sequence[Times]) -> list[Times]:
    """The times of the histories that are not empty, if each has one time an event; else a RequestError."""
    if [len(t) for t in times] != [len(h) for h in histories]:
        raise RequestError(
            f"expected a time for each event of {len(histories)} histories, got {len(times)} rows of "
            f"{sum(map(len, times))} times for {sum(map(len, histories))} events"
        )
    return [np.asarray(t, dtype=np.float64) for t in times if len(t)]


def best_indices(row: Floats, legal: Bools, k: int) -> Ints:
    """Indices of the k highest legal scores, best first, ties by index: int64 [min(k, legal)]."""
    at = np.flatnonzero(legal)
    values = row[at]
    if k < len(at):
        cut = np.partition(values, len(at) - k)[len(at) - k]
        at = at[values >= cut]
        values = row[at]
    best: Ints = at[np.argsort(-values, kind="stable")][:k]
    return best


def names() -> list[str]:
    """Names of all retrievers found in this folder."""
    return list(registry.plugins(PACKAGE, Retriever))  # type: ignore[type-abstract]


def build(name: str, **options: Any) -> Retriever:
    """An unfitted retriever by name; a wrong name or option is a ConfigError that suggests the right one."""
    found = registry.plugins(PACKAGE, Retriever)  # type: ignore[type-abstract]
    if name not in found:
        raise ConfigError(f"no retriever is called {name!r}; {did_you_mean(name, found)}")
    cls = found[name]
    known = [] if cls.__init__ is object.__init__ else list(inspect.signature(cls).parameters)
    for key in options:
        if key not in known:
            raise ConfigError(f"retriever {name!r} has no option {key!r}; {did_you_mean(key, known)}")
    return cls(**options)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`ease:penalty=500:recency=10` -> ("ease", {"penalty": 500, "recency": 10}).

    An unknown name, an unknown option or a malformed one is a ConfigError that suggests the right one.
    """
    name, *parts = text.split(":")
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"retriever {text!r}: expected options as name:option=value, got {part!r}")
        options[key] = _value(value)
    build(name, **options)
    return name, options


def _value(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    word = {"true": True, "false": False, "none": None}
    if text.lower() in word:
        return word[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text


def positive(name: str, value: float | None, optional: bool = False) -> None:
    """Raise ConfigError unless the option's value is a number above zero (or None where optional)."""
    if value is None and optional:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConfigError(f"option {name!r}: expected a number above 0{' or None' * optional}, got {value!r}")
