"""The task mixture: what one adapter learns from the train split, one small class a task.

Every example is a pure function of (seed, epoch, task, number), drawn by a generator of its own, so a data
position is two integers and nothing has to be replayed on resume. Tasks see the train split only: no code
here can reach a validation or test item, not even to leave it out of the negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from palate.config import TASKS, PromptConfig
from palate.errors import ConfigError
from palate.evaluate.protocol import at_time, draw_unseen, in_order
from palate.prompting.context import situated
from palate.schema import Branch, Event, Interactions, Ints, Prompt, Request

IGNORE = -100
"""The label of a position nothing is learned from (what torch's cross entropy skips by default)."""
TEMPLATES = {"embedding": "sequence", "next_title": "next_item"}
"""Task -> template, where the names differ."""
LETTERS = (10, 20)
"""Fewest and most candidates of a letter choice."""
SHORTEST = 4
"""Text histories are log-uniform between this and `prompt.max_history`: most are short, and cheap."""


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised prompt.

    prompt: the answer's tokens included. labels: int64 [T]; at p the token that position p must predict,
    else IGNORE. targets: int64 [1 + H], for the read positions `(prompt.start, *prompt.item_ends)` the
    catalogue index of the item that comes next, or -1. events: int64 [1 + H], the number of the train event
    that each target is, or -1.
    """

    task: str
    prompt: Prompt
    labels: Ints
    targets: Ints
    events: Ints

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def reads(self) -> Ints:
        """Read positions in the prompt: int64 [1 + H]."""
        return np.array([self.prompt.start, *self.prompt.item_ends], dtype=np.int64)


@dataclass(frozen=True)
class Material:
    """What tasks draw from: the train split, the serializer and its templates, user profiles.

    serializer: a `palate.prompting.Serializer`; templates: task -> Template. withheld: int64, items that no task may
    show, not even as a negative. interests: sums up events, oldest first, as entries of a profile. told: user id ->
    all events with their texts, where templates write them; numbers alone are read from `train`.
    """

    train: Interactions
    serializer: Any
    templates: Mapping[str, Any]
    prompt: PromptConfig
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    withheld: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    interests: Callable[[Sequence[Event]], Mapping[str, str]] | None = None
    told: Callable[[str], Sequence[Event]] | None = None

    @cached_property
    def lengths(self) -> Ints:
        """Train events of each user: int64 [U]."""
        return np.diff(self.train.indptr)

    def events(self, user: int, first: int, stop: int) -> tuple[Event, ...]:
        """Train events `first .. stop` of a user, oldest first."""
        if self.told is not None:
            return self._with_texts(user)[first:stop]
        base = int(self.train.indptr[user])
        return tuple(self._event(n) for n in range(base + first, base + stop))

    def _with_texts(self, user: int) -> tuple[Event, ...]:
        """A user's train events as the data set tells them; those it holds besides are passed over."""
        assert self.told is not None
        ids = [self.train.item_ids[i] for i in self.train.sequence(user).tolist()]
        return in_order(self.told(self.train.user_ids[user]), ids)

    def _event(self, n: int) -> Event:
        time, rating = float(self.train.timestamps[n]), float(self.train.ratings[n])
        item = self.train.item_ids[int(self.train.items[n])]
        return Event(item, None if np.isnan(time) else time, None if np.isnan(rating) else rating)

    def request(
        self, user: int, first: int, stop: int, rng: np.random.Generator, candidates: Sequence[int] = ()
    ) -> Request:
        """A request with that part of a user's train history, made at the time of event `stop`. Half of them show no
        profile, as new users have none; what is summed up of the history before it they all show.
        """
        name = self.train.user_ids[user]
        profile = dict(self.profiles.get(name, {})) if rng.random() < 0.5 else {}
        if self.interests is not None and first:
            profile = {**self.interests(self.events(user, 0, first)), **profile}
        ids = tuple(self.train.item_ids[c] for c in candidates)
        return Request(name, name, self.events(user, first, stop), ids, self.time(user, stop), profile)

    def time(self, user: int, n: int) -> dict[str, str]:
        """The time of a user's train event number n as context, where prompts say anything of it: all that a request
        may know of the event it asks about.
        """
        if not self.prompt.context or not n < self.lengths[user]:
            return {}
        return at_time(float(self.train.timestamps[int(self.train.indptr[user]) + n]))

    def moments(self, user: int, first: int, stop: int) -> list[dict[str, str]]:
        """What prompts say of the times of train events `first .. stop`."""
        config = self.prompt
        return [
            situated(self.time(user, n), config.context, config.timezone, config.hemisphere, config.language)
            for n in range(first, stop)
        ]


class Task(ABC):
    """One task. `pool` is how many different examples an epoch of weight 1 holds."""

    name: str

    def __init__(self, material: Material) -> None:
        self.material = material
        self.template = material.templates[self.name]
        self.users = np.flatnonzero(material.lengths >= 2)

    @property
    def pool(self) -> int:
        return len(self.users)

    @abstractmethod
    def example(self, number: int, rng: np.random.Generator) -> Example | None:
        """Example `number` of the pool; None where this user has nothing to learn from."""

    # --- what the text tasks share ------------------------------------------------------------------

    def cut(self, user: int, rng: np.random.Generator) -> tuple[int, int]:
        """A random cut: (first shown event, the target event), at least one event shown."""
        target = int(rng.integers(1, self.material.lengths[user]))
        return self.first(target, rng), target

    def first(self, target: int, rng: np.random.Generator) -> int:
        most = min(target, self.material.prompt.max_history)
        least = min(SHORTEST, most)
        shown = round(float(np.exp(rng.uniform(np.log(max(least, 1)), np.log(max(most, 1))))))
        return target - min(max(shown, least), most)

    def unseen(self, user: int, count: int, rng: np.random.Generator) -> list[int]:
        """Items the user has no train event with, uniform."""
        seen = np.union1d(self.material.train.sequence(user), self.material.withheld)
        drawn = draw_unseen(rng, len(self.material.train.item_ids), seen, count)
        return [int(i) for i in drawn]

    def answered(self, prompt: Prompt, answer: Sequence[int] | Ints, branch: Branch | None = None) -> Example:
        """Prompt, then `branch`, then `answer`; only the answer is supervised."""
        tail = np.empty(0, dtype=np.int64) if branch is None else branch.token_ids
        slots = () if branch is None else tuple(s.shifted(len(prompt)) for s in branch.slots)
        given = len(prompt) + len(tail)
        ids = np.concatenate([prompt.token_ids, tail, np.asarray(answer, dtype=np.int64)])
        labels = np.full(len(ids), IGNORE, dtype=np.int64)
        labels[given - 1 : -1] = ids[given:]
        whole = Prompt(ids, prompt.slots + slots, prompt.history, prompt.item_ends, prompt.start, prompt.dropped)
        none = np.full(1 + len(prompt.item_ends), -1, dtype=np.int64)
        return Example(self.name, whole, labels, none, none)


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
        prompt = self.material.serializer.prompt(self.template, self.material.request(user, first, stop, rng))
        first = stop - len(prompt.item_ends)  # the token budget may have cost the oldest
        targets = self.material.train.sequence(user)[first : stop + 1].copy()
        if first:
            targets[0] = -1  # `start` means an empty history, which this is not
        if self.material.prompt.context:
            moments = self.material.moments(user, first, stop + 1)
            targets[[m != moments[-1] for m in moments]] = -1  # asked at another time than the prompt says
        events = self.material.train.indptr[user] + np.arange(first, stop + 1)
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
            low, high = float(np.nanmin(material.train.ratings)), float(np.nanmax(material.train.ratings))
            if low < 0 or round(high) > len(self.labels):
                raise ConfigError(
                    f"the rating task's template has labels 1 to {len(self.labels)}, but ratings run "
                    f"from {low:g} to {high:g}; rescale them in the data, or set train.tasks.rating to 0"
                )

    def ratings(self, user: int) -> np.ndarray:
        """Train ratings of a user, NaN where unknown: float32 [H]."""
        indptr = self.material.train.indptr
        return self.material.train.ratings[indptr[user] : indptr[user + 1]]

    def example(self, number: int, rng: np.random.Generator) -> Example:
        user = int(self.users[number])
        ratings = self.ratings(user)
        target = int(rng.choice(1 + np.flatnonzero(np.isfinite(ratings[1:]))))
        label = min(max(int(np.floor(ratings[target] + 0.5)), 1), len(self.labels)) - 1
        item = int(self.material.train.sequence(user)[target])
        return self.about(user, self.first(target, rng), target, item, label, rng)


MAKE: dict[str, Callable[[Material], Task]] = {t.name: t for t in (Embedding, NextTitle, YesNo, Letters, Rating)}
assert tuple(MAKE) == TASKS
