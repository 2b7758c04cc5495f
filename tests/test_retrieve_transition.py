"""The transition retriever: its normal equations, its views of a history, and what clock time changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import ConfigError
from palate.evaluate.baselines import RetrieverSystem
from palate.evaluate.protocol import EvalCase
from palate.retrieve import build
from palate.retrieve.transition import LONGEST, MOST_ITEMS, PACE, VIEWS, Transition
from palate.schema import Interactions

DAY = 86_400.0


def interactions(sequences: list[list[int]], items: int, step: float = 60.0) -> Interactions:
    flat = np.array([i for s in sequences for i in s], dtype=np.int64)
    times = np.concatenate([np.arange(len(s)) * step for s in sequences]) if sequences else np.empty(0)
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(len(sequences))),
        item_ids=tuple(f"i{n}" for n in range(items)),
        indptr=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        items=flat,
        timestamps=times,
        ratings=np.full(len(flat), np.nan, dtype=np.float32),
    )


def by_hand(train: Interactions, history: np.ndarray, times: np.ndarray, options: Transition) -> np.ndarray:
    """The same regression written out row by row."""
    items = len(train.item_ids)

    def seen(past: np.ndarray, moments: np.ndarray) -> np.ndarray:
        row = np.zeros((VIEWS, items))
        age = moments[-1] - moments
        for constant, view in ((options.pause, 1), (options.session, 2)):
            decayed = np.exp(-age / constant)
            np.add.at(row[view], past, 2 * decayed / np.sqrt(1 + decayed.sum()))
        np.add.at(row[0], past, np.exp(-np.arange(len(past))[::-1] / options.recent))
        np.add.at(row[3], past, np.full(len(past), 1 / np.sqrt(len(past))))
        return row.ravel()

    rows, targets = [], []
    for user in range(len(train)):
        sequence = train.sequence(user)
        moments = train.timestamps[train.indptr[user] : train.indptr[user + 1]]
        for stop in range(1, len(sequence)):
            rows.append(seen(sequence[:stop], moments[:stop]))
            target = np.zeros(items)
            np.add.at(target, sequence[stop:], np.exp(-np.arange(len(sequence) - stop) / options.future))
            targets.append(target)
    x, y = np.array(rows), np.array(targets)
    weights = np.linalg.solve(x.T @ x + options.penalty * np.eye(x.shape[1]), x.T @ y)
    return np.asarray(seen(history, times) @ weights)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=5), st.floats(1, 5_000))
def test_it_solves_the_regression(sequences: list[list[int]], step: float) -> None:
    train = interactions(sequences, 6, step)
    options = Transition(penalty=2.0, recent=2.0, pause=100.0, session=1_000.0, future=2.0)
    history, times = np.array([0, 3, 3, 1]), np.array([0.0, 40.0, 45.0, 900.0])
    got = options.fit(train).scores([history], [times])[0]
    if not len([s for s in sequences if len(s) > 1]):
        np.testing.assert_array_equal(got, 0)
        return
    np.testing.assert_allclose(got, by_hand(train, history, times, options), atol=1e-4)


def test_it_learns_what_follows_what_in_that_direction() -> None:
    train = interactions([[0, 1], [2, 0, 1], [0, 1, 3], [3, 2]] * 5, 4)
    scores = build("transition", penalty=1.0).fit(train).scores([np.array([0]), np.array([1])])
    assert scores[0].argmax() == 1
    assert scores[1].argmax() != 0


def test_a_pause_makes_old_events_count_less() -> None:
    rng = np.random.default_rng(3)
    # what follows is decided by the sitting: 0 -> 1 at once, 2 -> 3 at once, with a day between the two pairs
    train = interactions([[0, 1, 2, 3] if rng.random() < 0.5 else [2, 3, 0, 1] for _ in range(60)], 4)
    stamps = np.tile([0.0, 10.0, DAY, DAY + 10.0], 60)
    fitted = build("transition", penalty=1.0).fit(replace(train, timestamps=stamps))
    history = np.array([0, 2])
    near, far = fitted.scores([history, history], [np.array([0.0, 10.0]), np.array([0.0, DAY])])
    assert far[3] - far[1] > near[3] - near[1]


def test_unknown_times_are_an_even_pace() -> None:
    fitted = build("transition", penalty=1.0).fit(interactions([[0, 1, 2], [1, 2, 3], [0, 3]], 4))
    history = np.array([0, 1, 2])
    even = PACE * np.arange(3)
    plain = fitted.scores([history])
    np.testing.assert_allclose(fitted.scores([history], [even]), plain, rtol=1e-6)
    np.testing.assert_allclose(fitted.scores([history], [np.array([0.0, np.nan, 1e6])]), plain, rtol=1e-6)


def test_only_the_newest_events_of_a_long_history_count() -> None:
    fitted = build("transition", penalty=1.0).fit(interactions([[0, 1, 2], [1, 2, 3]], 4))
    long = np.concatenate([np.zeros(50, dtype=np.int64), np.tile([1, 2], LONGEST // 2)])
    np.testing.assert_allclose(fitted.scores([long]), fitted.scores([long[-LONGEST:]]), rtol=1e-6)


def test_it_refuses_what_it_cannot_hold_or_weigh() -> None:
    with pytest.raises(ConfigError, match="expected at most 5,000 items, the catalogue has 5,001; use 'sasrec'"):
        build("transition").fit(interactions([[0, 1]], MOST_ITEMS + 1))
    with pytest.raises(ConfigError, match="option 'pause': expected a number above 0, got -1"):
        build("transition", pause=-1)


def test_a_case_of_unknown_times_costs_the_others_nothing() -> None:
    fitted = build("transition", penalty=1.0).fit(interactions([[0, 1, 2], [1, 2, 3], [0, 3]], 4))
    system = RetrieverSystem("transition", fitted, 4)
    timed = EvalCase(0, "u0", np.array([0, 1]), 2, None, np.array([0.0, DAY]))
    plain = EvalCase(1, "u1", np.array([1, 2]), 3)
    together = system.score([timed, plain])
    np.testing.assert_allclose(together[0], system.score([timed])[0], rtol=1e-6)
    np.testing.assert_allclose(together[1], system.score([plain])[0], rtol=1e-6)
    assert not np.allclose(together[0], system.score([replace(timed, times=None)])[0])
