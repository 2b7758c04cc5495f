"""Named, versioned evaluation protocols: which users, which history, which candidates.

Numbers of two runs may be compared when protocol, version, seed, data fingerprint and candidate hash agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from palate.data.splits import Split, leave_one_out, temporal
from palate.errors import ConfigError, DataError, did_you_mean
from palate.schema import Bools, Event, Interactions, Ints, Request

Part = Literal["valid", "test"]
SEED = 1


@dataclass(frozen=True, slots=True)
class EvalCase:
    """One user's test: rank `positive` among `candidates`, given `history`.

    user: index into `Interactions.user_ids`; history: int64 [H] item indices, oldest first, the user's first
    H events; positive: item index; candidates: int64 [C] item indices, the positive among them, in an order
    that depends on the user and the items only; None: every item not in the history (and the positive).
    """

    user: int
    user_id: str
    history: Ints
    positive: int
    candidates: Ints | None = None

    def allowed(self, items: int) -> Bools:
        """The columns of a whole-catalogue score row that take part in a full ranking: bool [N]."""
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
    ) -> Request:
        """This case as a scoring request with item ids.

        events: all of the user's events, oldest first (`Histories.events`), which carry ratings and context;
        None builds them from `interactions`. Nothing from the positive's own event enters the request. A case
        without a history names no user: who scores it must not look one up and find the positive.
        """
        shown = self._events(interactions) if events is None else tuple(events[: len(self.history)])
        ids = interactions.item_ids
        expected = tuple(ids[i] for i in self.history)
        if tuple(e.item_id for e in shown) != expected:
            raise DataError(
                f"user {self.user_id!r}: expected events that start with the {len(expected)} history items "
                "of the case, got others; pass the events of the same data set"
            )
        candidates = tuple(ids[i] for i in self.items(len(ids)))
        user_id = self.user_id if shown else None
        return Request(self.user_id, user_id, shown, candidates, profile=dict(profile or {}))

    def _events(self, interactions: Interactions) -> tuple[Event, ...]:
        start = int(interactions.indptr[self.user])
        made = []
        for n, item in enumerate(self.history.tolist(), start):
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
    split_by: Literal["user", "time"]
    negatives: int | None
    metrics: tuple[str, ...]
    description: str
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and version: what a report quotes."""
        return f"{self.name}/{self.version}"

    def split(self, interactions: Interactions) -> Split:
        """Train, validation and test. Fit everything on `Split.train` only, for both parts."""
        if self.split_by == "user":
            return leave_one_out(interactions)
        return temporal(interactions, **self.options)

    def cases(
        self, interactions: Interactions, seed: int = SEED, part: Part = "test", users: int | None = None
    ) -> list[EvalCase]:
        """One case for every user who has an item in `part` and a history before it, in user order.

        Test history is all that came before the test item or cut; validation history is train.
        What may not be drawn as a negative is the case's own history and positive, so validation lists never
        depend on a test item. A user's list depends on the seed, the user, the history and the positive
        alone: `users` (a seeded draw of that many) changes no list.
        A user with fewer unseen items than `negatives` gets them all, a shorter list.
        """
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
        return [self._case(interactions, split, int(u), seed, part) for u in able]

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
        if self.negatives is None:
            return EvalCase(user, user_id, known, positive)
        taken = np.unique(np.append(known, positive))
        rng = np.random.default_rng([seed, int.from_bytes(_digest(user_id)[:8], "big")])
        drawn = draw_unseen(rng, len(interactions.item_ids), taken, self.negatives)
        listed = sorted([positive, *drawn.tolist()], key=lambda i: _digest(user_id, interactions.item_ids[i]))
        return EvalCase(user, user_id, known, positive, np.array(listed, dtype=np.int64))


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
    )
}  # fmt: skip


def protocol(name: str) -> Protocol:
    """The protocol called `name` (`loo-full`, `loo-20`, `temporal`); a ConfigError lists the choices."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol is called {name!r}; {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]
