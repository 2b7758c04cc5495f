"""Protocols: histories, candidates, no leak from later parts, and repeatable lists."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import ConfigError, DataError
from palate.evaluate.protocol import PROTOCOLS, EvalCase, candidate_hash, draw_unseen, protocol
from palate.schema import Event, Interactions

FULL, TWENTY, TEMPORAL = PROTOCOLS["loo-full"], PROTOCOLS["loo-20"], PROTOCOLS["temporal"]


def interactions(sequences, items=60):
    """Interactions of these item sequences, with times 0, 1, 2 ... per user and ratings 1 to 5."""
    lengths = [len(s) for s in sequences]
    flat = np.array([i for s in sequences for i in s], dtype=np.int64)
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(len(sequences))),
        item_ids=tuple(f"i{n}" for n in range(items)),
        indptr=np.cumsum([0, *lengths]).astype(np.int64),
        items=flat,
        timestamps=np.array([float(t) for s in sequences for t in range(len(s))]),
        ratings=(flat % 5 + 1).astype(np.float32),
    )


def random_interactions(users=40, items=60, seed=0):
    rng = np.random.default_rng(seed)
    return interactions([rng.permutation(items)[: rng.integers(3, 15)] for _ in range(users)], items)


def test_leave_one_out_history_and_positive():
    data = interactions([[5, 6, 7, 8], [1, 2, 3]])
    test, valid = FULL.cases(data), FULL.cases(data, part="valid")
    assert [(c.user_id, c.history.tolist(), c.positive) for c in test] == [
        ("u0", [5, 6, 7], 8),
        ("u1", [1, 2], 3),
    ]
    assert [(c.history.tolist(), c.positive) for c in valid] == [([5, 6], 7), ([1], 2)]
    assert all(c.candidates is None for c in test)
    assert FULL.split(data).train.items.tolist() == [5, 6, 1]


def test_full_ranking_is_over_unseen_items_and_the_positive():
    data = interactions([[0, 1, 2, 3], [4, 5, 4]], items=6)
    first, repeat = FULL.cases(data)
    assert first.items(6).tolist() == [3, 4, 5]
    assert repeat.history.tolist() == [4, 5]
    assert repeat.items(6).tolist() == [0, 1, 2, 3, 4]  # a repeated positive is still ranked


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from(["test", "valid"]))
def test_twenty_candidates_unseen_unique_and_seeded(seed, part):
    data = random_interactions()
    cases = TWENTY.cases(data, seed, part)
    for case in cases:
        assert len(case.candidates) == 20
        assert len(set(case.candidates.tolist())) == 20
        assert case.positive in case.candidates
        assert not set(case.candidates.tolist()) & (set(case.history.tolist()) - {case.positive})
    again = TWENTY.cases(data, seed, part)
    assert all((a.candidates == b.candidates).all() for a, b in zip(cases, again, strict=True))
    other = TWENTY.cases(data, seed + 1, part)
    assert any(set(a.candidates) != set(b.candidates) for a, b in zip(cases, other, strict=True))


def test_negatives_are_uniform():
    data = interactions([[0, 1, 2]] * 3000, items=43)  # 40 unseen to draw 19 from
    counts = np.zeros(43)
    for case in TWENTY.cases(data):
        counts[case.candidates] += 1
    assert counts[[0, 1]].tolist() == [0, 0]
    assert counts[2] == 3000
    expected = 3000 * 19 / 40
    assert np.abs(counts[3:] - expected).max() < 5 * np.sqrt(expected)


def test_draw_by_rejection_is_uniform_too():
    taken = np.arange(0, 5000, 2)
    drawn = np.concatenate([draw_unseen(np.random.default_rng(s), 5000, taken, 20) for s in range(500)])
    assert (drawn % 2 == 1).all()
    assert 2450 < drawn.mean() < 2550
    one = draw_unseen(np.random.default_rng(1), 5000, taken, 20)
    assert len(set(one.tolist())) == 20


def test_the_position_does_not_reveal_the_positive():
    data = random_interactions(users=2000, seed=4)
    places = [int(np.flatnonzero(c.candidates == c.positive)[0]) for c in TWENTY.cases(data)]
    counts = np.bincount(places, minlength=20)
    assert counts.min() > 60  # 100 expected each, sd 10
    assert counts.max() < 140


def test_a_changed_positive_leaves_the_others_in_order():
    """The order is a function of user and items only, so swapping the label moves nothing."""
    case = TWENTY.cases(random_interactions())[0]
    relabelled = dataclasses.replace(case, positive=int(case.candidates[3]))
    assert relabelled.items(60).tolist() == case.items(60).tolist()


def test_a_subset_of_users_keeps_their_lists():
    data = random_interactions()
    everyone = {c.user_id: c for c in TWENTY.cases(data)}
    some = TWENTY.cases(data, users=7)
    assert len(some) == 7
    assert [c.user for c in some] == sorted(c.user for c in some)
    assert all((c.candidates == everyone[c.user_id].candidates).all() for c in some)
    assert len(TWENTY.cases(data, users=1000)) == 40
    assert {c.user for c in TWENTY.cases(data, seed=2, users=7)} != {c.user for c in some}
    with pytest.raises(ConfigError, match="at least 1 user"):
        TWENTY.cases(data, users=0)


def test_planted_leak_the_test_item_changes_nothing_before_it():
    """Change every user's last item: train split and validation cases must stay the same, to the last bit."""
    data = random_interactions()
    last = data.indptr[1:] - 1
    items = data.items.copy()
    items[last] = (items[last] + 17) % 60
    changed = dataclasses.replace(data, items=items)
    for p in (FULL, TWENTY):
        assert (p.split(data).train.items == p.split(changed).train.items).all()
        before = candidate_hash(p, p.cases(data, part="valid"), data.item_ids)
        assert before == candidate_hash(p, p.cases(changed, part="valid"), data.item_ids)
        assert candidate_hash(p, p.cases(data), data.item_ids) != candidate_hash(p, p.cases(changed), data.item_ids)


def test_hash_names_the_test_set():
    data = random_interactions()
    cases = TWENTY.cases(data)
    first = candidate_hash(TWENTY, cases, data.item_ids)
    assert len(first) == 64
    assert first == candidate_hash(TWENTY, TWENTY.cases(data), data.item_ids)
    assert first != candidate_hash(TWENTY, TWENTY.cases(data, seed=2), data.item_ids)
    assert first != candidate_hash(TWENTY, cases[1:], data.item_ids)
    assert first != candidate_hash(dataclasses.replace(TWENTY, version=2), cases, data.item_ids)
    assert candidate_hash(FULL, FULL.cases(data), data.item_ids) != first


def test_short_users_have_no_case():
    data = interactions([[1, 2], [3], [4, 5, 6]])
    assert [c.user_id for c in FULL.cases(data)] == ["u2"]
    with pytest.raises(DataError, match="finds no user with a test item and a history before it among 2 users"):
        FULL.cases(interactions([[1, 2], [3]]))


def test_temporal_asks_for_the_first_item_after_one_cut():
    data = interactions([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [21], [22, 23]])
    data.timestamps[20] = 9.5  # u2 comes after the cut: nothing known about her
    data.timestamps[21:] = [0, 9]
    split = TEMPORAL.split(data)
    cases = {c.user_id: c for c in TEMPORAL.cases(data)}
    cut = min(float(data.timestamps[data.indptr[c.user] + len(c.history)]) for c in cases.values())
    for case in cases.values():
        start = data.indptr[case.user]
        times = data.timestamps[start : data.indptr[case.user + 1]]
        assert (times[: len(case.history)] < cut).all()
        assert times[len(case.history)] >= cut
        assert data.sequence(case.user)[len(case.history)] == case.positive
    assert split.train.timestamps.max() < cut
    assert "u2" not in cases
    assert cases["u3"].history.tolist() == [22]


def test_short_lists_take_what_there_is():
    (case,) = TWENTY.cases(interactions([[0, 1, 2, 3]], items=10))
    assert sorted(case.candidates.tolist()) == [3, 4, 5, 6, 7, 8, 9]


def test_request_from_interactions():
    data = interactions([[5, 6, 7, 8], [1, 2, 3]])
    data.timestamps[1], data.ratings[0] = np.nan, np.nan
    case = TWENTY.cases(data)[0]
    request = case.request(data, profile={"age": "31"})
    assert request.user_id == "u0"
    assert request.history == (Event("i5", 0.0, None), Event("i6", None, 2.0), Event("i7", 2.0, 3.0))
    assert request.candidates == tuple(f"i{n}" for n in case.candidates)
    assert request.profile == {"age": "31"}
    second = TWENTY.cases(data)[1].request(data)
    assert [e.timestamp for e in second.history] == [0.0, 1.0]
    full = FULL.cases(data)[0].request(data)
    assert len(full.candidates) == 57
    assert "i8" in full.candidates


def test_request_from_events_cuts_off_the_positive():
    data = interactions([[5, 6, 7]])
    case = FULL.cases(data)[0]
    events = [Event("i5", context={"place": "home"}), Event("i6"), Event("i7", rating=5.0)]
    assert case.request(data, events).history == tuple(events[:2])
    with pytest.raises(DataError, match="expected events that hold the 2 history items"):
        case.request(data, events[1:])


def test_request_without_history_names_no_user():
    """A recommender completes an empty history from its data set, where the positive is."""
    data = interactions([[5, 6, 7]])
    request = EvalCase(0, "u0", np.array([], dtype=np.int64), 7, np.array([7, 8])).request(data)
    assert request.user_id is None
    assert request.request_id == "u0"
    assert request.history == ()


def test_unknown_protocol():
    assert protocol("loo-20") is TWENTY
    assert TWENTY.label == "loo-20/1"
    with pytest.raises(ConfigError, match="'loo20'; did you mean 'loo-20'"):
        protocol("loo20")


def test_cases_are_frozen():
    case = EvalCase(0, "u0", np.array([1]), 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.positive = 3


def test_cases_tell_when_their_history_happened():
    data = random_interactions(users=30)
    for text in ("loo-full", "temporal", "cold-items:share=0.3"):
        for part in ("valid", "test"):
            for case in protocol(text).cases(data, part=part):
                start = data.indptr[case.user]
                own = data.items[start : data.indptr[case.user + 1]].tolist()
                assert len(case.times) == len(case.history)
                assert (np.diff(case.times) >= 0).all()
                for item, time in zip(case.history, case.times, strict=True):
                    at = np.flatnonzero(data.timestamps[start : data.indptr[case.user + 1]] == time)
                    assert item in [own[n] for n in at]
