"""A replayed stream: the data set cut by global time, later events asked about one after the other.

Every question is one event of a slice. What may be shown for it is what happened strictly before it: an event of the
same second is not known yet, however the file orders the two (MovieLens has hundreds a second). All answers rank the
event's item among the items its user had not chosen before that moment.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from palate.data.splits import earlier
from palate.errors import ConfigError, DataError
from palate.evaluate.metrics import Interval, Paired, Reals, intervals, paired, per_user, rank_of
from palate.evaluate.protocol import EvalCase
from palate.evaluate.run import System
from palate.schema import Bools, Interactions, Ints

METRICS = ("NDCG@10", "HR@10")
GROUPS = ("all", "returning", "new")


@dataclass(frozen=True, slots=True)
class Question:
    """One event of a slice. case: with all that its user chose strictly before it; frozen: the same question with what
    was known when the stream began; time: of the event; new: its user has no event before the slice.
    """

    case: EvalCase
    frozen: EvalCase
    time: float
    new: bool


def bounds(interactions: Interactions, base: float, slices: int) -> list[float]:
    """Where slices begin and the last one ends: `slices` + 1 moments, seconds since 1970; the last is infinity.

    The oldest `base` share of the events with a time comes before the first; the others fall into slices of about equal
    numbers, of whole seconds. Raises DataError where the times do not allow it.
    """
    if not 0 < base < 1:
        raise ConfigError(f"base: expected a share of the events between 0 and 1, got {base}")
    if slices < 1:
        raise ConfigError(f"expected at least 1 slice, got {slices}")
    times = np.sort(interactions.timestamps[~np.isnan(interactions.timestamps)])
    shares = base + (1 - base) * np.arange(slices) / slices
    found = [float(times[int(share * len(times))]) for share in shares] if len(times) else []
    if not found or found[0] <= times[0] or any(b <= a for a, b in itertools.pairwise(found)):
        raise DataError(
            f"a stream of {slices} slices after {base:.0%} of the events needs events at more different times; "
            "ask for fewer slices, or give the events times"
        )
    return [*found, np.inf]


def questions(
    interactions: Interactions,
    moments: Sequence[float],
    number: int,
    *,
    events: int = 5,
    users: int | None = None,
    seed: int = 1,
) -> list[Question]:
    """What slice `number` (from 0) of the stream asks, in user order, each user's oldest first.

    events: at most so many of a user's events in the slice, a seeded draw; users: at most so many users, a seeded draw.
    Neither draw depends on later slices. Nothing at or after `moments[number + 1]` is read.
    """
    known = interactions.timestamps
    start, stop = moments[number], moments[number + 1]
    inside = (known >= start) & (known < stop)
    active = np.unique(interactions.users[inside])
    if users is not None and users < len(active):
        active = np.sort(np.random.default_rng([seed, number]).choice(active, users, replace=False))
    out = []
    for user in active.tolist():
        places = np.flatnonzero(inside[interactions.indptr[user] : interactions.indptr[user + 1]])
        if len(places) > events:
            rng = np.random.default_rng([seed, number, _number(interactions.user_ids[user])])
            places = np.sort(rng.choice(places, events, replace=False))
        out += [_question(interactions, user, int(p), moments[0], start) for p in places]
    return [q for q in out if q is not None]


def _question(interactions: Interactions, user: int, place: int, began: float, start: float) -> Question | None:
    """The event at `place` of a user's; None where the user had chosen its item before, which is no discovery."""
    first = int(interactions.indptr[user])
    items, known = interactions.sequence(user), interactions.timestamps[first : first + place + 1]
    time, positive = float(known[-1]), int(items[place])
    times = np.where(np.isnan(known), -np.inf, known)
    history = items[: int((times < time).sum())]
    if positive in history:
        return None
    unseen = np.setdiff1d(np.arange(len(interactions.item_ids)), history)
    name = interactions.user_ids[user]
    case = EvalCase(user, name, history, positive, unseen, known[: len(history)])
    old = items[: int((times < began).sum())]
    frozen = EvalCase(user, name, old, positive, unseen, known[: len(old)])
    return Question(case, frozen, time, not (times < start).any())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


# --- answers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One way to answer. frozen: it is shown histories as they were when the stream began."""

    name: str
    system: System
    frozen: bool = False


def answer(arm: Arm, asked: Sequence[Question], items: int) -> Reals:
    """Tie-fair ranks of the questions' items, float64 [n]. Raises DataError for scores that do not fit."""
    cases = [q.frozen if arm.frozen else q.case for q in asked]
    ranks: list[float] = []
    for start in range(0, len(cases), arm.system.batch):
        chunk = cases[start : start + arm.system.batch]
        for case, scores in zip(chunk, arm.system.score(chunk), strict=True):
            listed = case.items(items)
            if np.shape(scores) != listed.shape:
                raise DataError(f"{arm.name}: expected {len(listed)} scores, got shape {np.shape(scores)}")
            ranks.append(rank_of(scores, int(np.flatnonzero(listed == case.positive)[0])))
    return np.array(ranks, dtype=np.float64)


@dataclass(frozen=True)
class SliceResult:
    """Answers to one slice's questions. start, stop: seconds since 1970; users: int64 [n], the user of each question;
    new: bool [n]; cold: bool [n], items without an event before the slice; ranks: arm -> float64 [n].
    """

    start: float
    stop: float
    events: int
    users: Ints
    new: Bools
    cold: Bools
    ranks: Mapping[str, Reals]

    def mask(self, group: str) -> Bools:
        """Which questions a group of `GROUPS` holds."""
        return {"all": np.ones(len(self.new), dtype=bool), "returning": ~self.new, "new": self.new}[group]


@dataclass(frozen=True)
class StreamResult:
    """All slices, oldest first, and what repeats the run. A user's questions in a group are averaged first, so that
    intervals over users hold and no busy user outweighs the others.
    """

    dataset: str
    fingerprint: str
    base_events: int
    base: float
    seed: int
    slices: tuple[SliceResult, ...]
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        return list(self.slices[0].ranks)

    def means(self, arm: str, metric: str, group: str = "all", number: int | None = None) -> Reals:
        """A metric of each user, averaged over the user's questions in one slice or (None) in all: float64 [users]."""
        chosen = self.slices if number is None else self.slices[number : number + 1]
        users = np.concatenate([s.users[s.mask(group)] for s in chosen])
        ranks = np.concatenate([s.ranks[arm][s.mask(group)] for s in chosen])
        values = per_user(metric, ranks, np.zeros(len(ranks)))
        _, rows = np.unique(users, return_inverse=True)
        found: NDArray[np.float64] = np.bincount(rows, values) / np.bincount(rows)
        return found

    def value(self, arm: str, metric: str, group: str = "all", number: int | None = None) -> Interval | None:
        """The mean over users with its 95% interval; None where the group is empty."""
        values = self.means(arm, metric, group, number)
        return intervals({metric: values}, self.seed)[metric] if len(values) else None

    def compare(self, a: str, b: str, metric: str, group: str = "all", number: int | None = None) -> Paired | None:
        """Arm `a` minus arm `b` over the same users; None where the group is empty."""
        left, right = (self.means(arm, metric, group, number) for arm in (a, b))
        return paired(left, right, self.seed) if len(left) else None


def ask(
    interactions: Interactions,
    moments: Sequence[float],
    number: int,
    arms: Sequence[Arm],
    *,
    events: int = 5,
    users: int | None = None,
    seed: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> SliceResult:
    """Put one slice's questions to all arms. Raises DataError where the slice asks nothing."""
    asked = questions(interactions, moments, number, events=events, users=users, seed=seed)
    if not asked:
        raise DataError(f"slice {number + 1} of the stream asks nothing: its users had chosen all its items before")
    start, stop = moments[number], moments[number + 1]
    seen = np.bincount(interactions.items[earlier(interactions, start)], minlength=len(interactions.item_ids))
    ranks = {}
    for arm in arms:
        progress(arm.name)
        ranks[arm.name] = answer(arm, asked, len(interactions.item_ids))
    known = interactions.timestamps
    return SliceResult(
        start,
        float(known[known < stop].max()) if np.isinf(stop) else stop,
        int(((known >= start) & (known < stop)).sum()),
        np.array([q.case.user for q in asked], dtype=np.int64),
        np.array([q.new for q in asked], dtype=bool),
        np.array([seen[q.case.positive] == 0 for q in asked], dtype=bool),
        ranks,
    )
