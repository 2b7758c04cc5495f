"""Metrics against scikit-learn, SciPy and an independent brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from palate.errors import ConfigError, DataError
from palate.evaluate import metrics as m

few_values = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])  # few, so that ties are common


@st.composite
def lists(draw, elements=few_values):
    """A score list and the column of its relevant candidate."""
    scores = draw(arrays(np.float64, st.integers(1, 12), elements=elements))
    return scores, draw(st.integers(0, len(scores) - 1))


@settings(deadline=None)
@given(lists())
def test_rank_equals_the_mean_over_all_orders_of_ties(case):
    """Brute force: the average place over every way to order the tied candidates."""
    scores, positive = case
    better = [s for i, s in enumerate(scores) if i != positive and s > scores[positive]]
    tied = [s for i, s in enumerate(scores) if i != positive and s == scores[positive]]
    places = [len(better) + 1 + before for before in range(len(tied) + 1)]
    assert m.rank_of(scores, positive) == sum(places) / len(places)


@settings(deadline=None)
@given(lists(), st.randoms(use_true_random=False))
def test_rank_ignores_the_order_of_candidates(case, rng):
    scores, positive = case
    order = list(range(len(scores)))
    rng.shuffle(order)
    assert m.rank_of(scores[order], order.index(positive)) == m.rank_of(scores, positive)


@settings(deadline=None)
@given(st.data())
def test_masked_columns_do_not_count(data):
    scores, positive = data.draw(lists())
    allowed = data.draw(arrays(np.bool_, len(scores)))
    kept = [i for i in range(len(scores)) if allowed[i] or i == positive]
    expected = m.rank_of(scores[kept], kept.index(positive))
    before = allowed.copy()
    assert m.ranks_of(scores[None], [positive], allowed[None])[0] == expected
    assert (allowed == before).all()


@settings(deadline=None)
@given(lists(st.floats(-5, 5).map(lambda x: round(x, 2))))
def test_auc_agrees_with_scikit_learn_ties_included(case):
    scores, positive = case
    if len(scores) < 2:
        return
    truth = np.arange(len(scores)) == positive
    mine = m.per_user("AUC", [m.rank_of(scores, positive)], [len(scores)])[0]
    assert mine == pytest.approx(sk.roc_auc_score(truth, scores))


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 45), st.integers(0, 2**32 - 1))
def test_ndcg_and_hit_agree_with_scikit_learn(size, k, seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.permutation(size).astype(float), int(rng.integers(size))
    rank = [m.rank_of(scores, positive)]
    truth = (np.arange(size) == positive).astype(float)
    assert m.per_user(f"NDCG@{k}", rank, [size])[0] == pytest.approx(sk.ndcg_score([truth], [scores], k=k))
    if size > 2 and k < size:
        expected = sk.top_k_accuracy_score([positive], [scores], k=k, labels=np.arange(size))
        assert m.per_user(f"HR@{k}", rank, [size])[0] == expected
    assert m.per_user(f"Recall@{k}", rank, [size]) == m.per_user(f"HR@{k}", rank, [size])


def test_mrr_agrees_with_scikit_learn():
    rng = np.random.default_rng(3)
    scores = rng.random((50, 20))
    positives = rng.integers(0, 20, 50)
    truth = np.eye(20)[positives]
    mine = m.per_user("MRR", m.ranks_of(scores, positives), np.full(50, 20)).mean()
    assert mine == pytest.approx(sk.label_ranking_average_precision_score(truth, scores))


TREC = {
    "P_{k}": "Precision@{k}",
    "recall_{k}": "Recall@{k}",
    "success_{k}": "HR@{k}",
    "ndcg_cut_{k}": "NDCG@{k}",
    "map_cut_{k}": "MAP@{k}",
    "map": "MAP",
    "recip_rank": "MRR",
}


@pytest.mark.parametrize("k", [1, 5, 10])
def test_every_ranking_metric_agrees_with_trec_eval(k):
    rng = np.random.default_rng(k)
    scores = np.array([rng.permutation(30) for _ in range(40)], dtype=float)  # no ties: trec_eval breaks them by name
    positives, sizes = rng.integers(0, 30, 40), np.full(40, 30)
    truth = {f"u{u}": {f"i{p}": 1} for u, p in enumerate(positives.tolist())}
    run = {f"u{u}": {f"i{i}": float(x) for i, x in enumerate(row)} for u, row in enumerate(scores)}
    names = {theirs.format(k=k): ours.format(k=k) for theirs, ours in TREC.items()}
    asked = {name.replace(f"_{k}", f".{k}") if name.endswith(f"_{k}") else name for name in names}
    found = pytrec_eval.RelevanceEvaluator(truth, asked).evaluate(run)
    ranks = m.ranks_of(scores, positives)
    for theirs, ours in names.items():
        expected = [found[f"u{u}"][theirs] for u in range(40)]
        assert m.per_user(ours, ranks, sizes) == pytest.approx(expected, abs=1e-6), ours
    assert 0 < m.per_user(f"MAP@{k}", ranks, sizes).mean() < 1


def test_with_one_relevant_item_map_is_mrr_and_precision_is_hits_over_k():
    ranks, sizes = np.array([1.0, 2.0, 3.5, 20.0]), np.full(4, 20)
    for ours, other in (("MAP", "MRR"), ("MAP@3", "MRR@3")):
        assert m.per_user(ours, ranks, sizes).tolist() == m.per_user(other, ranks, sizes).tolist()
    assert m.per_user("Precision@4", ranks, sizes).tolist() == [0.25, 0.25, 0.25, 0]
    with pytest.raises(ConfigError, match="'Precision'; did you mean 'Precision@10'"):
        m.per_user("Precision", ranks, sizes)


def test_values_worked_by_hand():
    ranks, sizes = np.array([1.0, 2.0, 3.5, 20.0]), np.array([20, 20, 20, 20])
    assert m.per_user("HR@1", ranks, sizes).tolist() == [1, 0, 0, 0]
    assert m.per_user("HR@3", ranks, sizes).tolist() == [1, 1, 0, 0]
    assert m.per_user("MRR", ranks, sizes).tolist() == [1, 0.5, 1 / 3.5, 0.05]
    assert m.per_user("MRR@2", ranks, sizes).tolist() == [1, 0.5, 0, 0]
    assert m.per_user("NDCG@10", ranks, sizes) == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(4.5), 0])
    assert m.per_user("AUC", ranks, sizes) == pytest.approx([1, 18 / 19, 16.5 / 19, 0])
    assert m.per_user("AUC", [1.0], [1]).tolist() == [0.5]


def test_a_constant_scorer_gains_nothing():
    ranks = m.ranks_of(np.zeros((7, 20)), np.arange(7))
    assert ranks.tolist() == [10.5] * 7
    assert m.per_user("HR@1", ranks, np.full(7, 20)).sum() == 0
    assert m.per_user("AUC", ranks, np.full(7, 20)).tolist() == [0.5] * 7


def test_not_proposed_items_rank_last_and_share_the_place():
    scores = np.array([[0.3, -np.inf, -np.inf, -np.inf]])
    assert m.ranks_of(scores, [1]).tolist() == [3.0]


def test_wrong_input_is_named():
    with pytest.raises(DataError, match="NaN in list 1, candidate 2"):
        m.ranks_of([[1, 2, 3], [1, 2, np.nan]], [0, 0])
    assert m.ranks_of([[1.0, np.nan]], [0], np.array([[True, False]])).tolist() == [1.0]
    with pytest.raises(DataError, match=r"got shapes \(2, 2\) and \(1,\)"):
        m.ranks_of([[1, 2], [3, 4]], [0])
    with pytest.raises(DataError, match="outside the list of 2"):
        m.ranks_of([[1, 2]], [2])
    with pytest.raises(DataError, match="ranks from 1"):
        m.per_user("MRR", [0.5], [3])
    with pytest.raises(ConfigError, match="'NDCG@01'; did you mean 'NDCG@10'"):
        m.per_user("NDCG@01", [1.0], [3])
    with pytest.raises(ConfigError, match="'AUC@3'; did you mean 'AUC'"):
        m.per_user("AUC@3", [1.0], [3])


def test_interval_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).random(400)
    mine = m.intervals({"x": values}, seed=4, resamples=5000)["x"]
    theirs = bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert mine.value == values.mean()
    assert mine.n == 400
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(11)
    samples = (rng.random((300, 200)) < 0.3).astype(float)
    found = m.intervals({str(i): s for i, s in enumerate(samples)}, resamples=1000)
    covered = np.mean([i.low <= 0.3 <= i.high for i in found.values()])
    assert 0.90 <= covered <= 0.98


def test_bootstrap_is_seeded_and_independent_of_chunks(monkeypatch):
    values = {"a": np.random.default_rng(0).random(50)}
    whole = m.intervals(values, seed=2)
    assert m.intervals(values, seed=2) == whole
    assert m.intervals(values, seed=3) != whole
    monkeypatch.setattr(m, "_DRAWS", 333)
    assert m.intervals(values, seed=2)["a"].value == whole["a"].value
    assert m.intervals(values, seed=2)["a"].low == pytest.approx(whole["a"].low, abs=0.02)
    assert str(m.Interval(0.5, 0.25, 0.75, 4)) == "0.500 [0.250, 0.750]"


def test_paired_sees_what_unpaired_intervals_hide():
    base = np.random.default_rng(5).random(300)
    better = base + 0.02 + 0.01 * np.random.default_rng(6).standard_normal(300)
    found = m.paired(better, base)
    separate = m.intervals({"a": better, "b": base})
    assert separate["a"].low < separate["b"].high  # they overlap
    assert found.low > 0
    assert found.p < 0.001
    assert found.diff == pytest.approx(0.02, abs=0.002)
    mirrored = m.paired(base, better)
    assert (mirrored.diff, mirrored.low, mirrored.high) == pytest.approx((-found.diff, -found.high, -found.low))


def test_paired_p_matches_a_t_test_where_that_is_right():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(8)
    a, b = rng.standard_normal(500), rng.standard_normal(500) + 0.1
    assert m.paired(a, b, resamples=20000).p == pytest.approx(ttest_rel(a, b).pvalue, abs=0.02)


def test_paired_finds_nothing_in_nothing():
    same = m.paired([0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
    assert (same.diff, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(DataError, match="same users twice"):
        m.paired([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="are there any cases"):
        m.paired([], [])
    with pytest.raises(DataError, match="NaN or infinity"):
        m.intervals({"x": [1.0, np.nan]})


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_ratings_agree_with_scikit_learn(data):
    n = data.draw(st.integers(1, 30))
    truth = data.draw(arrays(np.float64, n, elements=st.integers(1, 5).map(float)))
    guess = data.draw(arrays(np.float64, n, elements=st.floats(1, 5, allow_nan=False)))
    found = m.ratings(truth, guess, resamples=20)
    liked, said = truth >= 4, guess >= 4
    assert found["MAE"].value == pytest.approx(sk.mean_absolute_error(truth, guess))
    assert found["RMSE"].value == pytest.approx(sk.root_mean_squared_error(truth, guess))
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(liked, said))
    assert found["precision"].value == pytest.approx(sk.precision_score(liked, said, zero_division=0))
    assert found["recall"].value == pytest.approx(sk.recall_score(liked, said, zero_division=0))
    assert found["F1"].value == pytest.approx(sk.f1_score(liked, said, zero_division=0))
    expected = sk.roc_auc_score(liked, guess) if 0 < liked.sum() < n else 0.5
    assert found["AUC"].value == pytest.approx(expected)


def test_resampled_auc_equals_scikit_learn_on_the_rows_drawn():
    """The interval's ends are percentiles of the AUC of the very rows each resample draws."""
    rng = np.random.default_rng(9)
    truth, guess = rng.integers(1, 6, 60).astype(float), rng.integers(1, 6, 60).astype(float)
    drawn = np.random.default_rng(3).integers(0, 60, size=(50, 60))
    expected = np.quantile([sk.roc_auc_score(truth[rows] >= 4, guess[rows]) for rows in drawn], [0.025, 0.975])
    found = m.ratings(truth, guess, seed=3, resamples=50)["AUC"]
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_rating_intervals_hold_the_value_and_errors_are_named():
    rng = np.random.default_rng(2)
    truth = rng.integers(1, 6, 500).astype(float)
    found = m.ratings(truth, np.clip(truth + rng.standard_normal(500), 1, 5))
    assert all(i.low < i.value < i.high and i.n == 500 for i in found.values())
    with pytest.raises(DataError, match="a prediction for every rating"):
        m.ratings([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="NaN or infinity"):
        m.ratings([1.0], [np.nan])
