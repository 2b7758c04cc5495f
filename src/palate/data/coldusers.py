"""The split of cold users: whole users held out of training, who bring their history with the request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palate.data.splits import Split, drawn, leave_one_out
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
    train = loo.train.of(~cold[loo.train.users])
    if not len(train.items):
        raise DataError(f"holding out {len(held_out)} of {len(cold)} users leaves no event to train on")
    before = np.diff(interactions.indptr) - 1
    return Split(train, np.where(cold, -1, loo.valid), np.where(cold, loo.test, -1), interactions, before)


def held_out_users(user_ids: Sequence[str], share: float, seed: int) -> Ints:
    """The numbers of a seeded draw of `share` of the users; see `splits.drawn`."""
    return drawn(user_ids, share, f"user\0{seed}", "users")
