"""Splits: which events a model may learn from, and which it is asked about."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palate.errors import DataError
from palate.schema import Bools, Interactions, Ints

LEAST = 3
"""Users with fewer events keep all of them in train."""


@dataclass(frozen=True)
class Split:
    """train: what may be learned from, all users of the whole. valid, test: int64 [U], the item index each
    user is asked about, -1 where there is none.

    whole, known: the events it was cut from and, per user, how many of them a test request may show (int64
    [U]); None where train plus the validation item is all there is.
    held_out: item indices, int64 [n] in order, that no event of train, valid or a test history names; None where
    no item is held out.
    """

    train: Interactions
    valid: Ints
    test: Ints
    whole: Interactions | None = None
    known: Ints | None = None
    held_out: Ints | None = None

    def valid_history(self, user: int) -> Ints:
        """Items a validation request of user number `user` may show, oldest first: int64 [H]."""
        return self.train.sequence(user)

    def test_history(self, user: int) -> Ints:
        """Items a test request may show, oldest first: train, then what came before the test item. int64
        [H]."""
        if self.whole is not None and self.known is not None:
            return self.whole.sequence(user)[: self.known[user]]
        if self.valid[user] < 0:
            return self.train.sequence(user)
        return np.append(self.train.sequence(user), self.valid[user])

    def test_users(self) -> Ints:
        """Numbers of the users that have a test item."""
        return np.flatnonzero(self.test >= 0).astype(np.int64)

    def valid_users(self) -> Ints:
        """Numbers of the users that have a validation item."""
        return np.flatnonzero(self.valid >= 0).astype(np.int64)


def leave_one_out(interactions: Interactions) -> Split:
    """Per user in time order, ties in file order: the last item is test, the one before it validation, the
    rest train.

    A user with fewer than 3 events keeps all of them in train and has -1 in both.
    (The protocol of SASRec, Kang and McAuley, 2018.)
    """
    counts = np.diff(interactions.indptr)
    asked = counts >= LEAST
    ends = interactions.indptr[1:]
    valid = np.full(len(interactions), -1, dtype=np.int64)
    test = valid.copy()
    valid[asked] = interactions.items[ends[asked] - 2]
    test[asked] = interactions.items[ends[asked] - 1]
    return Split(_heads(interactions, counts - np.where(asked, 2, 0)), valid, test)


def temporal(
    interactions: Interactions, *, test_share: float = 0.1, valid_share: float = 0.1, cut: float | None = None
) -> Split:
    """One global cut in time: train is everything before the validation period.

    The newest `test_share` of the events form the test period (or everything from `cut` on, seconds since
    1970), the newest `valid_share` of the rest the validation period. A user's first event in a period is
    what is asked; users without one have -1. A test request may show all of a user's events before the test
    period. Events without a time count as the oldest. Raises DataError where no event has a time or a share
    is not between 0 and 1.
    """
    times = np.where(np.isnan(interactions.timestamps), -np.inf, interactions.timestamps)
    known_times = np.sort(times[np.isfinite(times)])
    if not len(known_times):
        raise DataError("expected events with times for a temporal split, found none; use leave_one_out instead")
    for name, share in (("test_share", test_share), ("valid_share", valid_share)):
        if not 0 < share < 1:
            raise DataError(f"{name}: expected a share between 0 and 1, got {share!r}")
    test_from = _quantile(known_times, test_share) if cut is None else cut
    earlier = known_times[known_times < test_from]
    if not len(earlier):
        raise DataError(
            f"the temporal cut {test_from:.0f} leaves nothing to train on; expected one after {known_times[0]:.0f}"
        )
    valid_from = _quantile(earlier, valid_share)
    in_train = _counts(interactions, times < valid_from)
    before_test = _counts(interactions, times < test_from)
    counts = np.diff(interactions.indptr)
    return Split(
        _heads(interactions, in_train),
        _first(interactions, in_train, before_test),
        _first(interactions, before_test, counts),
        interactions,
        before_test,
    )


def cold_items(interactions: Interactions, *, share: float = 0.1, seed: int = 1) -> Split:
    """Items nobody has seen: a seeded draw of `share` of the catalogue is held out with all its events.

    train and valid are those of `leave_one_out` without the held-out items (a user whose validation item is held
    out has none), so what was trained here may be asked the test items of leave-one-out too. test is the held-out
    item each user chose last, -1 where there is none; its history is what the user had chosen before, without
    held-out items. The draw depends on the item ids and the seed alone. Raises DataError where the share is not
    between 0 and 1, or leaves nothing to train on or nothing held out.
    """
    held_out = held_out_items(interactions.item_ids, share, seed)
    cold = np.zeros(len(interactions.item_ids), dtype=bool)
    cold[held_out] = True
    loo = leave_one_out(interactions)
    train = _without(loo.train, cold)
    if not len(train.items):
        raise DataError(f"holding out {len(held_out)} of {len(cold)} items leaves no event to train on")
    valid = np.where((loo.valid >= 0) & ~cold[loo.valid], loo.valid, -1)
    events = cold[interactions.items]
    places = np.flatnonzero(events)
    last = np.full(len(interactions), -1, dtype=np.int64)
    np.maximum.at(last, interactions.users[places], places)
    test = np.where(last >= 0, interactions.items[last], -1)
    before = np.arange(len(interactions.items)) < np.repeat(last, np.diff(interactions.indptr))
    known = _counts(interactions, before & ~events)
    return Split(train, valid, test, _without(interactions, cold), known, held_out)


def held_out_record(ids: Sequence[str], held_out: Ints, share: float, seed: int, what: str = "items") -> dict[str, Any]:
    """What a bundle says of the items (or users) it never saw: share, seed, how many, and the sha256 of their sorted
    ids.
    """
    state = hashlib.sha256()
    for name in sorted(ids[int(i)] for i in held_out):
        state.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return {"share": share, "seed": seed, what: len(held_out), "sha256": state.hexdigest()}


def held_out_items(item_ids: Sequence[str], share: float, seed: int) -> Ints:
    """The indices of a seeded draw of `share` of the items; see `drawn`."""
    return drawn(item_ids, share, str(seed), "items")


def drawn(ids: Sequence[str], share: float, salt: str, what: str) -> Ints:
    """The indices of a draw of `share` of the ids, int64 [n] in order: those with the smallest digests, so that the
    draw is the same in any order and a larger share holds out these and more. what: their name in errors.
    """
    if not 0 < share < 1:
        raise DataError(f"share: expected a share of the {what} between 0 and 1, got {share!r}")
    count = round(share * len(ids))
    if not count:
        raise DataError(f"a share of {share} of {len(ids)} {what} holds out none; expected a larger share")
    digests = [hashlib.blake2b(f"{salt}\0{i}".encode("utf-8", "surrogatepass")).digest() for i in ids]
    return np.sort(np.array(sorted(range(len(digests)), key=digests.__getitem__)[:count], dtype=np.int64))


def before(interactions: Interactions, time: float) -> Interactions:
    """The events before a moment (seconds since 1970), users and items as they were. Events without a time count as the
    oldest.
    """
    return interactions.of(earlier(interactions, time))


def earlier(interactions: Interactions, time: float) -> Bools:
    """Which events were before a moment: bool [nnz]; those without a time count as the oldest."""
    mask: Bools = np.isnan(interactions.timestamps) | (interactions.timestamps < time)
    return mask


def _quantile(times: np.ndarray, share: float) -> float:
    return float(times[min(len(times) - 1, int(np.floor(len(times) * (1 - share))))])


def _counts(interactions: Interactions, mask: Bools) -> Ints:
    """int64 [U]: how many of each user's events are in the mask."""
    running = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
    counts: Ints = running[interactions.indptr[1:]] - running[interactions.indptr[:-1]]
    return counts


def _first(interactions: Interactions, start: Ints, stop: Ints) -> Ints:
    """The item at place `start` of each user's events, -1 where `start` reaches `stop`."""
    found = np.full(len(interactions), -1, dtype=np.int64)
    has = start < stop
    found[has] = interactions.items[interactions.indptr[:-1][has] + start[has]]
    return found


def _heads(interactions: Interactions, lengths: Ints) -> Interactions:
    """The first `lengths` events of each user."""
    places = np.arange(len(interactions.items)) - np.repeat(interactions.indptr[:-1], np.diff(interactions.indptr))
    return interactions.of(places < lengths[interactions.users])


def _without(interactions: Interactions, items: Bools) -> Interactions:
    """The events of all items but these: bool [N]."""
    return interactions.of(~items[interactions.items])
