"""The task mixture: what one adapter learns from the train split, one small class a task.

Every example is a pure function of (seed, epoch, task, number), drawn by a generator of its own, so a data
position is two integers and nothing has to be replayed on resume. Tasks see the train split only: no code
here can reach a validation or test item, not even to leave it out of the negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from palate.config import TASKS
from palate.train.rated import Rated, check_levels, level
from palate.train.task import IGNORE, Example, Material, Task

TEMPLATES = {"embedding": "sequence", "next_title": "next_item"}
"""Task -> template, where the names differ."""
LETTERS = (10, 20)
"""Fewest and most candidates of a letter choice."""


class Embedding(Task):
    """The item that comes next, at every history position, against the whole catalogue.

    A history longer than `prompt.max_sequence` is cut into overlapping windows, the last one at its end,
    the others shifted a little every epoch. All windows are in the pool: an epoch of weight 1 supervises
    every train event.
    """

    name = "embedding"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self.users = np.flatnonzero(material.lengths >= 1)
        self.size = material.prompt.max_sequence
        self.overlap = self.size // 4
        self.stride = self.size - self.overlap
        shown = material.lengths[self.users] - 1
        windows = 1 + np.maximum(0, -(-(shown - self.size) // self.stride))
        self.ends = np.cumsum(windows)

    @property
    def pool(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def numbers(self, user: int) -> range:
        places = super().numbers(user)
        return range(int(self.ends[places[0] - 1]) if places[0] else 0, int(self.ends[places[0]])) if places else places

    def window(self, number: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """Pool number -> (user, first, stop): events `first .. stop` are shown, `stop` is the last target."""
        place = int(np.searchsorted(self.ends, number, side="right"))
        user = int(self.users[place])
        back = int(self.ends[place]) - 1 - number
        jitter = int(rng.integers(0, self.overlap + 1)) if back else 0
        stop = int(self.material.lengths[user]) - 1 - back * self.stride - jitter
        return user, max(0, stop - self.size), stop

    def example(self, number: int, rng: np.random.Generator) -> Example:
        user, first, stop = self.window(number, rng)
        order = self.material.order(user, rng)
        request = self.material.request(user, first, stop, rng, order=order)
        shown = np.arange(first, stop)
        if self.material.skip:
            shown = shown[rng.random(len(shown)) >= self.material.skip]
            request = replace(request, history=tuple(request.history[n - first] for n in shown))
        prompt = self.material.serializer.prompt(self.template, request)
        shown = shown[len(shown) - len(prompt.item_ends) :]  # the token budget may have cost the oldest
        next_ones = np.concatenate([[shown[0] if len(shown) else first], shown + 1])
        targets = self.material.train.sequence(user)[order[next_ones]]
        if next_ones[0]:
            targets[0] = -1  # `start` means an empty history, which this is not
        if self.material.prompt.context:
            moments = self.material.moments(user, first, stop + 1)
            targets[[moments[n - first] != moments[-1] for n in next_ones]] = -1  # asked at another time than it says
        events = self.material.train.indptr[user] + order[next_ones]
        return Example(self.name, prompt, np.full(len(prompt), IGNORE, dtype=np.int64), targets, events)


class NextTitle(Task):
    """The title of the item that comes next, token by token."""

    name = "next_title"

    def example(self, number: int, rng: np.random.Generator) -> Example:
        user = int(self.users[number])
        first, target = self.cut(user, rng)
        request = self.material.request(user, first, target, rng)
        item = self.material.train.item_ids[int(self.material.train.sequence(user)[target])]
        prompt = self.material.serializer.prompt(self.template, request, candidates=[item])
        return self.answered(prompt, self.material.serializer.completion(self.template, request, item))


class Labelled(Task):
    """A task whose answer is one label token about one item."""

    @property
    def labels(self) -> tuple[int, ...]:
        labels: tuple[int, ...] = self.material.serializer.labels(self.template)
        return labels

    def about(self, user: int, first: int, target: int, item: int, label: int, rng: np.random.Generator) -> Example:
        request = self.material.request(user, first, target, rng)
        about = [self.material.train.item_ids[item]]
        prompt = self.material.serializer.prompt(self.template, request, candidates=about)
        [branch] = self.material.serializer.branches(self.template, request, about)
        return self.answered(prompt, [self.labels[label]], branch)


class YesNo(Labelled):
    """Is this the next item: half of the time it is, half of the time it is one the user never chose."""

    name = "yes_no"

    def example(self, number: int, rng: np.random.Generator) -> Example:
        user = int(self.users[number])
        first, target = self.cut(user, rng)
        item, label = int(self.material.train.sequence(user)[target]), 0
        if rng.random() < 0.5 and (unseen := self.unseen(user, 1, rng)):
            item, label = unseen[0], 1
        return self.about(user, first, target, item, label, rng)


class Letters(Labelled):
    """Which of 10 to 20 shuffled candidates comes next, answered by its letter."""

    name = "letters"

    def example(self, number: int, rng: np.random.Generator) -> Example | None:
        user = int(self.users[number])
        first, target = self.cut(user, rng)
        count = min(int(rng.integers(LETTERS[0], LETTERS[1] + 1)), len(self.labels))
        positive = int(self.material.train.sequence(user)[target])
        choices = [positive, *self.unseen(user, count - 1, rng)]
        if len(choices) < 2:
            return None
        choices = [choices[i] for i in rng.permutation(len(choices))]
        request = self.material.request(user, first, target, rng, choices)
        prompt = self.material.serializer.prompt(self.template, request, candidates=request.candidates)
        return self.answered(prompt, [self.labels[choices.index(positive)]])


class Rating(Labelled):
    """How the user rated the next item, from the history before it. Only events that carry a rating."""

    name = "rating"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        rated = [u for u in self.users if np.isfinite(self.ratings(int(u))[1:]).any()]
        self.users = np.array(rated, dtype=np.int64)
        if len(rated):
            check_levels(material.train.ratings, len(self.labels), self.name)

    def ratings(self, user: int) -> np.ndarray:
        """Train ratings of a user, NaN where unknown: float32 [H]."""
        indptr = self.material.train.indptr
        return self.material.train.ratings[indptr[user] : indptr[user + 1]]

    def example(self, number: int, rng: np.random.Generator) -> Example:
        user = int(self.users[number])
        ratings = self.ratings(user)
        target = int(rng.choice(1 + np.flatnonzero(np.isfinite(ratings[1:]))))
        label = level(float(ratings[target]), len(self.labels))
        item = int(self.material.train.sequence(user)[target])
        return self.about(user, self.first(target, rng), target, item, label, rng)


MAKE: dict[str, Callable[[Material], Task]] = {t.name: t for t in (Embedding, NextTitle, YesNo, Letters, Rating, Rated)}
assert tuple(MAKE) == TASKS
