"""The split of ratings: a random share of all rated events is asked about, the rest may be learned from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palate.data.splits import Split
from palate.errors import DataError
from palate.schema import Bools, Interactions, Ints


def _none() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class RatedSplit(Split):
    """A split of events, not of users: nobody has a next item here (`valid` and `test` are -1 throughout).

    valid_events, test_events: int64, numbers of rated events of `whole`, in its order. train holds all others,
    unrated events too.
    """

    valid_events: Ints = field(default_factory=_none)
    test_events: Ints = field(default_factory=_none)

    def shown(self) -> Bools:
        """Events of `whole` that a test request may show, train and validation: bool [nnz]."""
        assert self.whole is not None
        mask = np.ones(len(self.whole.items), dtype=bool)
        mask[self.test_events] = False
        return mask


def rated(interactions: Interactions, *, share: float = 0.2, seed: int = 1, valid_share: float = 0.05) -> RatedSplit:
    """A seeded random `share` of the rated events is test, `valid_share` of the other rated ones validation.

    Who is drawn depends on the user's id, the item's id and the seed alone: pairs are ordered by a digest, and the
    first ones that make up the share are taken. So the order of rows and the events of others never move a rating
    across by more than the rounding of the share, a larger share holds out these ratings and more, and a user's
    several ratings of one item stay on one side. Raises DataError where a share is not between 0 and 1, or a part
    would be empty.
    """
    for name, part in (("share", share), ("valid_share", valid_share)):
        if not 0 < part < 1:
            raise DataError(f"{name}: expected a share of the ratings between 0 and 1, got {part!r}")
    rated_events = np.flatnonzero(np.isfinite(interactions.ratings))
    if not len(rated_events):
        raise DataError("the rating protocol needs ratings: expected events with one, found none in this data set")
    keys = _keys(interactions, rated_events, seed)
    test = _first(keys, share)
    valid = np.zeros(len(keys), dtype=bool)
    # digests of the rest are still in random order, so the next ones up are as good a draw as any
    valid[~test] = _first(keys[~test], valid_share)
    for name, mask in (("test", test), ("validation", valid), ("train", ~(test | valid))):
        if not mask.any():
            raise DataError(
                f"{len(keys)} ratings with share {share} and valid_share {valid_share} leave no {name} rating; "
                "expected more ratings or other shares"
            )
    kept = np.ones(len(interactions.items), dtype=bool)
    kept[rated_events[test | valid]] = False
    none = np.full(len(interactions), -1, dtype=np.int64)
    return RatedSplit(
        interactions.of(kept), none, none, interactions,
        valid_events=rated_events[valid], test_events=rated_events[test],
    )  # fmt: skip


def held_out_ratings(split: RatedSplit, share: float, seed: int) -> dict[str, Any]:
    """What a bundle says of the ratings it never saw: share, seed, how many, and the sha256 of their sorted pairs."""
    whole = split.whole
    assert whole is not None
    owners = whole.users[split.test_events].tolist()
    items = whole.items[split.test_events].tolist()
    pairs = sorted(f"{whole.user_ids[u]}\0{whole.item_ids[i]}\1" for u, i in zip(owners, items, strict=True))
    digest = hashlib.sha256("".join(pairs).encode("utf-8", "surrogatepass")).hexdigest()
    return {"share": share, "seed": seed, "ratings": len(pairs), "sha256": digest}


def _keys(interactions: Interactions, events: Ints, seed: int) -> Ints:
    """A random-looking number for each event, the same for the same user and item: int64 [n]."""
    users = interactions.users[events]
    found = np.empty(len(events), dtype=np.int64)
    for n, (user, item) in enumerate(zip(users.tolist(), interactions.items[events].tolist(), strict=True)):
        text = f"{seed}\0{interactions.user_ids[user]}\0{interactions.item_ids[item]}"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        found[n] = int.from_bytes(digest, "big") >> 1
    return found


def _first(keys: Ints, share: float) -> Bools:
    """The `share` of the keys that are smallest, with all that equal the last of them: bool [n]."""
    count = round(share * len(keys))
    if not count:
        return np.zeros(len(keys), dtype=bool)
    last = np.partition(keys, count - 1)[count - 1]
    return np.asarray(keys <= last)
