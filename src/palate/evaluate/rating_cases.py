"""What the rating protocol asks: one case a user, with the ratings that may be shown and those to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from palate.data.rated import RatedSplit
from palate.errors import ConfigError, DataError
from palate.evaluate.protocol import Part, Protocol
from palate.ratingfit import Events
from palate.schema import Event, Interactions, Ints, Request


@dataclass(frozen=True, slots=True)
class RatedCase:
    """One user's part. history, asked: int64, event numbers in the whole interactions, oldest first."""

    user: int
    user_id: str
    history: Ints
    asked: Ints

    def request(self, interactions: Interactions, profile: Mapping[str, str] | None = None) -> Request:
        """The case as a scoring request; its candidates are the distinct items asked about, in order.

        Nothing of the events asked about but their items enters it. A case without a history names no user: who
        scores it must not look one up and find the answers.
        """
        shown = tuple(_event(interactions, int(n)) for n in self.history)
        items = dict.fromkeys(interactions.item_ids[int(i)] for i in interactions.items[self.asked])
        user_id = self.user_id if shown else None
        return Request(self.user_id, user_id, shown, tuple(items), {}, dict(profile or {}))


def _event(interactions: Interactions, n: int) -> Event:
    time, rating = float(interactions.timestamps[n]), float(interactions.ratings[n])
    return Event(
        interactions.item_ids[int(interactions.items[n])],
        None if np.isnan(time) else time,
        None if np.isnan(rating) else rating,
    )


def split_of(protocol: Protocol, interactions: Interactions) -> RatedSplit:
    """The protocol's split. Raises ConfigError for a protocol that asks about ranks."""
    found = protocol.split(interactions)
    if not isinstance(found, RatedSplit):
        raise ConfigError(f"expected the protocol 'rating' for a rating task, got {protocol.label!r}")
    return found


def cases(split: RatedSplit, part: Part = "test", users: int | None = None, seed: int = 1) -> list[RatedCase]:
    """One case for each user with a rating in `part`, in user order; a test case shows train and validation events, a
    validation case those of train.

    users: a seeded draw of that many. A user of whom nothing is known otherwise has a case with an empty history.
    """
    whole = split.whole
    assert whole is not None
    asked_events = split.test_events if part == "test" else split.valid_events
    shown = split.shown()
    if part == "valid":
        shown[split.valid_events] = False
    owners = whole.users
    able = np.unique(owners[asked_events])
    if users is not None and users < 1:
        raise ConfigError(f"expected at least 1 user to evaluate, got {users}")
    if users is not None and users < len(able):
        able = np.sort(np.random.default_rng(seed).choice(able, users, replace=False))
    asked = np.zeros(len(whole.items), dtype=bool)
    asked[asked_events] = True
    found = []
    for user in able.tolist():
        mine = np.arange(whole.indptr[user], whole.indptr[user + 1])
        found.append(RatedCase(user, whole.user_ids[user], mine[shown[mine]], mine[asked[mine]]))
    return found


def learnable(split: RatedSplit, part: Part = "test") -> Events:
    """The rated events that a model of the ratings in `part` may be fitted on."""
    whole = split.whole
    assert whole is not None
    mask = split.shown()
    if part == "valid":
        mask[split.valid_events] = False
    mask &= np.isfinite(whole.ratings)
    if not mask.any():
        raise DataError("the rating protocol leaves no rating to learn from; expected a smaller share")
    ratings = whole.ratings[mask].astype(np.float64)
    return Events(whole.users[mask], whole.items[mask], ratings, len(whole), len(whole.item_ids))
