"""Splits on small hand-made histories, and their promises on any histories."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.data.splits import Split, leave_one_out, temporal
from palate.errors import DataError
from palate.schema import Interactions

HISTORIES = [[3, 1, 2, 0], [1, 2], [], [4, 4, 4]]


# a busy machine draws slowly; that says nothing about the code
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def interactions(histories: list[list[int]], times: list[list[float]] | None = None) -> Interactions:
    """Histories of item numbers as Interactions; times count up per user where none are given."""
    lengths = [len(h) for h in histories]
    clock = times if times is not None else [[float(t) for t in range(n)] for n in lengths]
    return Interactions(
        tuple(f"u{n}" for n in range(len(histories))),
        tuple(f"i{n}" for n in range(5)),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([i for h in histories for i in h], dtype=np.int64),
        np.array([t for c in clock for t in c], dtype=np.float64),
        np.array([1.0 for h in histories for _ in h], dtype=np.float32),
    )


def test_leave_one_out_takes_the_last_for_test_and_the_one_before_for_validation() -> None:
    split = leave_one_out(interactions(HISTORIES))
    assert split.test.tolist() == [0, -1, -1, 4]
    assert split.valid.tolist() == [2, -1, -1, 4]
    assert [s.tolist() for s in split.train.sequences()] == [[3, 1], [1, 2], [], [4]]
    assert split.train.timestamps.tolist() == [0, 1, 0, 1, 0]
    assert split.test_history(0).tolist() == [3, 1, 2]
    assert split.valid_history(0).tolist() == [3, 1]
    assert split.test_history(1).tolist() == [1, 2]
    assert split.test_users().tolist() == split.valid_users().tolist() == [0, 3]


@unhurried
@given(st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=8))
def test_leave_one_out_loses_and_doubles_nothing(histories: list[list[int]]) -> None:
    split = leave_one_out(interactions(histories))
    for user, history in enumerate(histories):
        if len(history) < 3:
            assert split.train.sequence(user).tolist() == history
            assert split.test[user] == split.valid[user] == -1
        else:
            assert [*split.test_history(user).tolist(), int(split.test[user])] == history
            assert split.valid_history(user).tolist() == history[:-2]


def test_temporal_cuts_all_users_at_one_time() -> None:
    times = [[0.0, 10.0, 20.0, 30.0], [5.0, 25.0], [], [28.0, 29.0, 40.0]]
    split = temporal(interactions(HISTORIES, times), cut=26.0, valid_share=0.4)
    # before 26: 0 5 10 20 25; the newest 40% of them, 20 and 25, are validation
    assert [s.tolist() for s in split.train.sequences()] == [[3, 1], [1], [], []]
    assert split.valid.tolist() == [2, 2, -1, -1]
    assert split.test.tolist() == [0, -1, -1, 4]
    assert split.test_history(0).tolist() == [3, 1, 2]
    assert split.test_history(1).tolist() == [1, 2]
    assert split.test_history(3).tolist() == []


@unhurried
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), max_size=9), min_size=1, max_size=8).filter(
        lambda hs: len({t for h in hs for _, t in h}) >= 4
    )
)
def test_temporal_never_shows_the_future(events: list[list[tuple[int, int]]]) -> None:
    ordered = [sorted(h, key=lambda e: e[1]) for h in events]
    data = interactions([[i for i, _ in h] for h in ordered], [[float(t) for _, t in h] for h in ordered])
    cut = sorted({t for h in ordered for _, t in h})[-1]
    split = temporal(data, cut=float(cut))
    assert len(split.train.timestamps) < len(data.items)
    assert (split.train.timestamps < cut).all()
    for user, history in enumerate(ordered):
        known = [i for i, t in history if t < cut]
        later = [i for i, t in history if t >= cut]
        assert split.test_history(user).tolist() == known
        assert split.test[user] == (later[0] if later else -1)


def test_temporal_needs_times_and_something_to_train_on() -> None:
    with pytest.raises(DataError, match="expected events with times"):
        temporal(interactions([[0, 1]], [[float("nan")] * 2]))
    with pytest.raises(DataError, match="leaves nothing to train on"):
        temporal(interactions([[0, 1]]), cut=-5)
    with pytest.raises(DataError, match=r"test_share: expected a share between 0 and 1, got 1.5"):
        temporal(interactions([[0, 1]]), test_share=1.5)


def test_a_split_made_by_hand_shows_train_and_the_validation_item() -> None:
    data = interactions([[0, 1]])
    split = Split(data, np.array([2]), np.array([3]))
    assert split.test_history(0).tolist() == [0, 1, 2]


@unhurried
@given(st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=6), st.data())
def test_the_events_of_a_mask_keep_users_and_items(rows: list[list[int]], data: st.DataObject) -> None:
    whole = interactions(rows)
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(whole.items), max_size=len(whole.items))), dtype=bool
    )
    kept = whole.of(mask)
    assert (kept.user_ids, kept.item_ids) == (whole.user_ids, whole.item_ids)
    assert whole.users.tolist() == [u for u, row in enumerate(rows) for _ in row]
    expected = [[i for i, k in zip(row, mask[whole.indptr[u] :], strict=False) if k] for u, row in enumerate(rows)]
    assert [s.tolist() for s in kept.sequences()] == expected
    np.testing.assert_array_equal(kept.timestamps, whole.timestamps[mask])
    np.testing.assert_array_equal(kept.ratings, whole.ratings[mask])
