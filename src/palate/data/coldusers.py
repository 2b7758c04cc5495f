"""The split of cold users: whole users held out of training, who bring their history with the request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from palate.data.splits import Split, leave_one_out
from palate.errors import DataError
from palate.schema import Interactions, Ints


def cold_users(interactions: Interactions, *, share: float = 0.1, seed: int = 1) -> Split:
    """Users nobody has seen: a seeded draw of `share` of the users is held out with all their events.

    train and valid are those of `leave_one_out` for the other users. test asks the held-out users alone: their last
    item, as leave-one-out does, from all that they chose before. The draw depends on the user ids and the seed alone.
    Raises DataError where the share is not between 0 and 1, or leaves nothing to train on or nobody held out.
    """
    held_out = held_out_users(interactions.user_ids, share, seed)
    cold = np.zeros(len(interactions), dtype=bool)
    cold[held_out] = True
    loo = leave_one_out(interactions)
    lengths = np.diff(loo.train.indptr)
    kept = ~np.repeat(cold, lengths)
    if not kept.any():
        raise DataError(f"holding out {len(held_out)} of {len(cold)} users leaves no event to train on")
    train = replace(
        loo.train,
        indptr=np.concatenate([[0], np.cumsum(np.where(cold, 0, lengths))]).astype(np.int64),
        items=loo.train.items[kept],
        timestamps=loo.train.timestamps[kept],
        ratings=loo.train.ratings[kept],
    )
    before = np.diff(interactions.indptr) - 1
    return Split(train, np.where(cold, -1, loo.valid), np.where(cold, loo.test, -1), interactions, before)


def held_out_users(user_ids: Sequence[str], share: float, seed: int) -> Ints:
    """The numbers of a seeded draw of `share` of the users, int64 [n] in order: those with the smallest digests, so
    that the draw is the same in any order and a larger share holds out these and more.
    """
    if not 0 < share < 1:
        raise DataError(f"share: expected a share of the users between 0 and 1, got {share!r}")
    count = round(share * len(user_ids))
    if not count:
        raise DataError(f"a share of {share} of {len(user_ids)} users holds out nobody; expected a larger share")
    digests = [hashlib.blake2b(f"user\0{seed}\0{u}".encode("utf-8", "surrogatepass")).digest() for u in user_ids]
    return np.sort(np.array(sorted(range(len(digests)), key=digests.__getitem__)[:count], dtype=np.int64))


def held_out_record(user_ids: Sequence[str], share: float, seed: int) -> dict[str, Any]:
    """What a bundle says of the users it never saw: share, seed, how many, and the sha256 of their sorted ids."""
    held_out = held_out_users(user_ids, share, seed)
    state = hashlib.sha256()
    for user_id in sorted(user_ids[int(u)] for u in held_out):
        state.update(user_id.encode("utf-8", "surrogatepass") + b"\0")
    return {"share": share, "seed": seed, "users": len(held_out), "sha256": state.hexdigest()}
