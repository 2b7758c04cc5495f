"""Named, versioned evaluation protocols: which users, which history, which candidates.

Numbers of two runs may be compared when protocol, version, seed, data fingerprint and candidate hash agree.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from palate.data.coldusers import cold_users
from palate.data.rated import rated
from palate.data.splits import Split, cold_items, leave_one_out, temporal
from palate.errors import ConfigError, DataError, did_you_mean
from palate.schema import Bools, Event, Interactions, Ints, Request, Times

Part = Literal["valid", "test"]
SplitBy = Literal["user", "time", "item", "rating", "newcomer"]
SPLITS: Mapping[SplitBy, Callable[..., Split]] = {
    "user": leave_one_out, "time": temporal, "item": cold_items, "rating": rated,
    "newcomer": cold_users,
}  # fmt: skip
SEED = 1


@dataclass(frozen=True, slots=True)
class EvalCase:
    """One user's test: rank `positive` among `candidates`, given `history`.

    user: index into `Interactions.user_ids`; history: int64 [H] item indices, oldest first, the user's first
    H events (of items that are not held out); positive: item index; candidates: int64 [C] item indices, the
    positive among them, in an order that depends on the user and the items only; None: every item not in the
    history (and the positive).
    """

    user: int
    user_id: str
    history: Ints
    positive: int
    candidates: Ints | None = None
    times: Times | None = None
    """Seconds of each event of the history, float64 [H], NaN where unknown."""

    def allowed(self, items: int) -> Bools:
        """The columns of a whole-catalogue score row that take part in the ranking: bool [N]."""
        if self.candidates is not None:
            mask = np.zeros(items, dtype=bool)
            mask[self.candidates] = True
            return mask
        mask = np.ones(items, dtype=bool)
        mask[self.history] = False
        mask[self.positive] = True
        return mask

    def items(self, items: int) -> Ints:
        """Candidate item indices [C], of a catalogue of `items`: the list, or all unseen in its order."""
        return np.flatnonzero(self.allowed(items)) if self.candidates is None else self.candidates

    def request(
        self,
        interactions: Interactions,
        events: Sequence[Event] | None = None,
        profile: Mapping[str, str] | None = None,
        timed: bool = False,
    ) -> Request:
        """This case as a scoring request with item ids.

        events: all of the user's events, oldest first (`Histories.events`), which carry ratings and context;
        None builds them from `interactions`. timed: the context says when the request was made, which is when the
        positive was chosen; nothing else from the positive's own event enters the request. A case without a history
        names no user: who scores it must not look one up and find the positive.
        """
        ids = interactions.item_ids
        shown = self._shown(self._events(interactions) if events is None else events, [ids[i] for i in self.history])
        candidates = tuple(ids[i] for i in self.items(len(ids)))
        user_id = self.user_id if shown else None
        context = self._time(interactions) if timed else {}
        return Request(self.user_id, user_id, shown, candidates, context, dict(profile or {}))

    def _time(self, interactions: Interactions) -> dict[str, str]:
        """When the positive was chosen: the first time after the history."""
        start, items = int(interactions.indptr[self.user]), interactions.sequence(self.user).tolist()
        known = 0
        for n, item in enumerate(items):
            if known == len(self.history) and item == self.positive:
                return at_time(float(interactions.timestamps[start + n]))
            if known < len(self.history) and item == self.history[known]:
                known += 1
        return {}

    def _shown(self, events: Sequence[Event], expected: Sequence[str]) -> tuple[Event, ...]:
        """The events of the history's items, in order. Those of held-out items are passed over."""
        shown = in_order(events, expected)
        if len(shown) < len(expected):
            raise DataError(
                f"user {self.user_id!r}: expected events that hold the {len(expected)} history items "
                "of the case in order, got others; pass the events of the same data set"
            )
        return shown

    def _events(self, interactions: Interactions) -> tuple[Event, ...]:
        start = int(interactions.indptr[self.user])
        made = []
        for n, item in enumerate(interactions.sequence(self.user).tolist(), start):
            time, rating = float(interactions.timestamps[n]), float(interactions.ratings[n])
            made.append(
                Event(
                    interactions.item_ids[item],
                    None if np.isnan(time) else time,
                    None if np.isnan(rating) else rating,
                )
            )
        return tuple(made)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How to split, which candidates to rank, what to report.

    negatives: how many unseen items join the positive, drawn uniformly; None ranks all unseen items.
    metrics: names for `metrics.per_user`, the headline first. `version` goes up when any number could change.
    """

    name: str
    version: int
    split_by: SplitBy
    negatives: int | None
    metrics: tuple[str, ...]
    description: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name, version and options: what a report quotes."""
        return ":".join([f"{self.name}/{self.version}", *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def policy(self) -> str:
        """What a positive is ranked among."""
        if self.split_by == "item":
            return "all held-out items the user has not otherwise chosen"
        if self.split_by == "rating":
            return "each held-out rating by itself"
        if self.negatives is None:
            return "all unseen items"
        return f"the positive and {self.negatives} uniform unseen items"

    def split(self, interactions: Interactions) -> Split:
        """Train, validation and test. Fit everything on `Split.train` only, for both parts."""
        return SPLITS[self.split_by](interactions, **self.options)

    def cases(
        self, interactions: Interactions, seed: int = SEED, part: Part = "test", users: int | None = None
    ) -> list[EvalCase]:
        """One case for every user who has an item in `part` and a history before it, in user order.

        Test history is all that came before the test item or cut; validation history is train.
        What may not be drawn as a negative is the case's own history and positive, so validation lists never
        depend on a test item. A user's list depends on the seed, the user, the history and the positive
        alone: `users` (a seeded draw of that many) changes no list.
        A user with fewer unseen items than `negatives` gets them all, a shorter list. Where items are held out,
        a test list holds those only and a validation list the others only.
        """
        if self.split_by == "rating":
            raise ConfigError(
                f"protocol {self.label} asks how items are rated, not which one comes next; run it with "
                f"`palate evaluate --protocol {self.name}`, or take loo-full, loo-20 or temporal"
            )
        split = self.split(interactions)
        able = self.askable(split, part)
        if not len(able):
            raise DataError(
                f"protocol {self.label} finds no user with a {part} item and a history before it among "
                f"{len(interactions)} users; leave-one-out needs users with at least three events"
            )
        if users is not None and users < 1:
            raise ConfigError(f"expected at least 1 user to evaluate, got {users}")
        if users is not None and users < len(able):
            able = np.sort(np.random.default_rng(seed).choice(able, users, replace=False))
        cases = (self._case(interactions, split, int(u), seed, part) for u in able)
        return [replace(c, times=_times(interactions, c.user, c.history)) for c in cases]

    def askable(self, split: Split, part: Part = "test") -> Ints:
        """Numbers of the users who have an item in `part` and something known before it."""
        users, known = (
            (split.test_users(), split.test_history) if part == "test" else (split.valid_users(), split.valid_history)
        )
        return np.array([u for u in users.tolist() if len(known(u))], dtype=np.int64)

    def _case(self, interactions: Interactions, split: Split, user: int, seed: int, part: Part) -> EvalCase:
        test = part == "test"
        known = split.test_history(user) if test else split.valid_history(user)
        positive = int((split.test if test else split.valid)[user])
        user_id = interactions.user_ids[user]
        if split.held_out is not None:
            pool = split.held_out if test else np.setdiff1d(np.arange(len(interactions.item_ids)), split.held_out)
            chosen = interactions.sequence(user) if test else known
            return EvalCase(user, user_id, known, positive, np.setdiff1d(pool, chosen[chosen != positive]))
        if self.negatives is None:
            return EvalCase(user, user_id, known, positive)
        taken = np.unique(np.append(known, positive))
        rng = np.random.default_rng([seed, int.from_bytes(_digest(user_id)[:8], "big")])
        drawn = draw_unseen(rng, len(interactions.item_ids), taken, self.negatives)
        order = sorted([positive, *drawn.tolist()], key=lambda i: _digest(user_id, interactions.item_ids[i]))
        return EvalCase(user, user_id, known, positive, np.array(order, dtype=np.int64))


def _times(interactions: Interactions, user: int, history: Ints) -> Times:
    """When the events of a history happened. Each is the earliest that fits, as in `in_order`."""
    start, items = int(interactions.indptr[user]), interactions.sequence(user)
    if np.array_equal(items[: len(history)], history):
        return interactions.timestamps[start : start + len(history)]
    places: list[int] = []
    for n, item in enumerate(items.tolist()):
        if len(places) < len(history) and item == history[len(places)]:
            places.append(start + n)
    return interactions.timestamps[places]


def in_order(events: Iterable[Event], item_ids: Sequence[str]) -> tuple[Event, ...]:
    """The events of these items, in order. Each is the earliest that fits, which is its own where the events besides
    are of other items."""
    found: list[Event] = []
    for event in events:
        if len(found) < len(item_ids) and event.item_id == item_ids[len(found)]:
            found.append(event)
    return tuple(found)


def at_time(seconds: float) -> dict[str, str]:
    """A request's context: its time, in seconds since 1970; NaN is unknown."""
    return {} if np.isnan(seconds) else {"time": f"{seconds:.15g}"}


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


def draw_unseen(rng: np.random.Generator, items: int, taken: Ints, count: int) -> Ints:
    """`count` different item indices below `items`, uniform over those not in `taken` (sorted, unique).

    Where fewer are left, all of them. Large catalogues are drawn by rejection, without an array of all items.
    """
    left = items - len(taken)
    if left <= 4 * count or items <= 4096:
        unseen = np.setdiff1d(np.arange(items), taken, assume_unique=True)
        return np.asarray(rng.permutation(unseen)[:count], dtype=np.int64)
    drawn: list[int] = []
    blocked = set(taken.tolist())
    while len(drawn) < count:
        for item in rng.integers(0, items, size=2 * count).tolist():
            if item not in blocked and len(drawn) < count:
                blocked.add(item)
                drawn.append(item)
    return np.array(drawn, dtype=np.int64)


def candidate_hash(protocol: Protocol, cases: Sequence[EvalCase], item_ids: Sequence[str]) -> str:
    """sha256 over protocol and each case's user, history, positive and candidates, by id."""
    state = hashlib.sha256(protocol.label.encode())
    for case in cases:
        lists: list[Iterable[int] | None] = [case.history, [case.positive], case.candidates]
        parts = ["*" if ids is None else "\0".join(item_ids[int(i)] for i in ids) for ids in lists]
        state.update("\1".join([case.user_id, *parts, "\2"]).encode())
    return state.hexdigest()


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "loo-full", 1, "user", None, ("NDCG@10", "HR@10", "HR@1", "HR@20", "MRR", "AUC"),
            "per-user time order, last item out, ranked among all unseen items",
        ),
        Protocol(
            "loo-20", 1, "user", 19, ("HR@1", "HR@5", "NDCG@10", "MRR", "AUC"),
            "per-user time order, last item out, ranked among itself and 19 uniform unseen items",
        ),
        Protocol(
            "temporal", 1, "time", None, ("NDCG@10", "HR@10", "HR@1", "HR@20", "MRR", "AUC"),
            "one cut in time for all users, the first item after it, ranked among all unseen items",
        ),
        Protocol(
            "cold-items", 1, "item", None, ("NDCG@10", "HR@10", "HR@1", "HR@20", "MRR", "AUC"),
            "items held out of training with all their events; the one a user chose last, ranked among those "
            "the user has not otherwise chosen", {"share": 0.1, "seed": 1},
        ),
        Protocol(
            "cold-users", 1, "newcomer", None, ("NDCG@10", "HR@10", "HR@1", "HR@20", "MRR", "AUC"),
            "users held out of training with all their events; the last item of each, ranked among all unseen items",
            {"share": 0.1, "seed": 1},
        ),
        Protocol(
            "rating", 1, "rating", None, ("RMSE", "MAE"),
            "a random share of all ratings held out, each predicted from the user's other ratings",
            {"share": 0.2, "seed": 1},
        ),
    )
}  # fmt: skip


def protocol(text: str) -> Protocol:
    """The protocol a text names (a key of PROTOCOLS), with the options of its split.

    `cold-items:share=0.2:seed=3` holds out another fifth of the items, `temporal:test_share=0.2` asks about the
    newest fifth of the events. A ConfigError lists the choices.
    """
    name, *parts = text.split(":")
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol is called {name!r}; {did_you_mean(name, PROTOCOLS)}")
    found = PROTOCOLS[name]
    known = [p.name for p in inspect.signature(SPLITS[found.split_by]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    options: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise ConfigError(f"protocol {name!r} has no option {key!r}; {did_you_mean(key, known)}")
        options[key] = _number(text, key, value)
    return replace(found, options={**found.options, **options}) if options else found


def _number(text: str, key: str, value: str) -> int | float:
    try:
        return int(value) if key == "seed" else float(value)
    except ValueError:
        kind = "a whole number" if key == "seed" else "a number"
        raise ConfigError(f"protocol {text!r}: option {key!r} expected {kind}, got {value!r}") from None
