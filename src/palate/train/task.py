"""What every task is made of: the material it draws from, the examples it makes, and what the text tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from palate.config import PromptConfig
from palate.evaluate.protocol import at_time, draw_unseen, in_order
from palate.prompting.context import situated
from palate.schema import Branch, Event, Interactions, Ints, Prompt, Request

IGNORE = -100
"""The label of a position nothing is learned from (what torch's cross entropy skips by default)."""
SHORTEST = 4
"""Text histories are log-uniform between this and `prompt.max_history`: most are short, and cheap."""


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised prompt.

    prompt: the answer's tokens included. labels: int64 [T]; at p the token that position p must predict,
    else IGNORE. targets: int64 [1 + H], for the read positions `(prompt.start, *prompt.item_ends)` the
    catalogue index of the item that comes next, or -1. events: int64 [1 + H], the number of the train event
    that each target is, or -1. choices: the tokens its labels are told from, where those are not the whole vocabulary:
    the levels of a scale, in order.
    """

    task: str
    prompt: Prompt
    labels: Ints
    targets: Ints
    events: Ints
    choices: tuple[int, ...] = ()

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
    all events with their texts, where templates write them; numbers alone are read from `train`. rows: user id, item
    id -> the row of the feature tables that the user is shown for it, where that is not the item's own (see
    `rated.Crossfit`). skip: chance that the embedding task leaves an event out of a history. shuffle_ties: it shows
    events of the same moment in an order drawn for each example.
    """

    train: Interactions
    serializer: Any
    templates: Mapping[str, Any]
    prompt: PromptConfig
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    withheld: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    interests: Callable[[Sequence[Event]], Mapping[str, str]] | None = None
    told: Callable[[str], Sequence[Event]] | None = None
    rows: Callable[[str, str], str] | None = None
    skip: float = 0.0
    shuffle_ties: bool = False

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

    def order(self, user: int, rng: np.random.Generator) -> Ints:
        """A user's train events in the order an example tells them, int64 [H] of 0 .. H - 1: as they came, or with
        those of the same moment in an order drawn from `rng`, since nothing says which of them was first.
        """
        start, end = self.train.indptr[user], self.train.indptr[user + 1]
        times = self.train.timestamps[start:end]
        if not self.shuffle_ties or np.isnan(times).any():
            return np.arange(end - start)
        return np.lexsort((rng.random(len(times)), times)).astype(np.int64)

    def request(
        self,
        user: int,
        first: int,
        stop: int,
        rng: np.random.Generator,
        candidates: Sequence[int] = (),
        order: Ints | None = None,
    ) -> Request:
        """A request with that part of a user's train history, made at the time of event `stop`. Half of them show no
        profile, as new users have none; what is summed up of the history before it they all show. order: of the user's
        events, as `order` draws it; None takes them as they came.
        """
        name = self.train.user_ids[user]
        profile = dict(self.profiles.get(name, {})) if rng.random() < 0.5 else {}
        order = np.arange(self.lengths[user]) if order is None else order
        if self.interests is not None and first:
            profile = {**self.interests(self._told(user, order[:first])), **profile}
        ids = tuple(self.train.item_ids[c] for c in candidates)
        return Request(name, name, self._told(user, order[first:stop]), ids, self.time(user, stop), profile)

    def _told(self, user: int, numbers: Ints) -> tuple[Event, ...]:
        """These train events of a user, in this order."""
        if not len(numbers):
            return ()
        low = int(numbers.min())
        events = self.events(user, low, int(numbers.max()) + 1)
        return tuple(events[n - low] for n in numbers.tolist())

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

    def numbers(self, user: int) -> range:
        """The pool numbers of a user's examples."""
        place = int(np.searchsorted(self.users, user))
        return range(place, place + int(place < len(self.users) and self.users[place] == user))

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
