"""Decision-level fusion: normalisation, exclusion, and weights that are learned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from palate.errors import ConfigError, FeatureError
from palate.retrieve import build
from palate.retrieve.fuse import (
    NORMALISE,
    Fused,
    fit_likelihood,
    fit_weights,
    ndcg,
    normalised_zscore,
    reciprocal,
    reciprocal_rank,
    target_ranks,
    zscore,
)
from test_retrieve_contract import features, ints, train

tables = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-100, 100, width=32))


@settings(deadline=None)
@given(tables, st.floats(0.5, 50), st.floats(-20, 20))
def test_zscore_ignores_scale_and_offset(scores: np.ndarray, scale: float, offset: float) -> None:
    plain = normalised_zscore(np.round(scores))
    moved = normalised_zscore(np.round(scores) * np.float32(scale) + np.float32(offset))
    np.testing.assert_allclose(plain, moved, atol=5e-3)
    np.testing.assert_allclose(plain.mean(axis=1), 0, atol=1e-4)


@settings(deadline=None)
@given(tables)
def test_reciprocal_keeps_the_order(scores: np.ndarray) -> None:
    made = reciprocal(scores)
    for before, after in zip(scores, made, strict=True):
        np.testing.assert_array_equal(np.argsort(-before, kind="stable"), np.argsort(-after, kind="stable"))


def test_values_by_hand() -> None:
    scores = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    np.testing.assert_allclose(normalised_zscore(scores), [[-1.2247, 0, 1.2247]], atol=1e-4)
    np.testing.assert_allclose(reciprocal(scores), [[1 / 63, 1 / 62, 1 / 61]], rtol=1e-6)
    other = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(zscore([scores, other]), [[0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(
        reciprocal_rank([scores, other], [3, 1]),
        [[0.75 / 63 + 0.25 / 61, 1 / 62, 0.75 / 61 + 0.25 / 63]],
        rtol=1e-5,
    )
    np.testing.assert_array_equal(normalised_zscore(np.full((1, 3), 0.1, dtype=np.float32)), [[0, 0, 0]])


def test_excluded_entries_stay_excluded() -> None:
    a = np.array([[-np.inf, 2.0, 4.0]], dtype=np.float32)
    b = np.array([[9.0, 1.0, 0.0]], dtype=np.float32)
    for fused in (zscore([a, b]), reciprocal_rank([a, b]), zscore([a, b], [0, 1])):
        assert np.isneginf(fused[0, 0])
        assert np.isfinite(fused[0, 1:]).all()
    np.testing.assert_allclose(normalised_zscore(a)[0, 1:], [-1, 1], atol=1e-6)


def test_ranks_and_ndcg() -> None:
    scores = np.array([[0.3, 0.9, 0.3], [0.3, 0.9, 0.3], [1, 2, 3]], dtype=np.float32)
    assert target_ranks(scores, ints(0, 2, 2)).tolist() == [2.5, 2.5, 1]
    assert ndcg(scores, ints(0, 2, 2)) == pytest.approx((2 / np.log2(3.5) + 1) / 3)
    assert ndcg(scores, ints(0, -1, 2), k=1) == pytest.approx(0.5)
    assert ndcg(scores, ints(-1, -1, -1)) == 0


def test_learned_weights_find_the_useful_table() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((300, 40)).astype(np.float32)
    targets = rng.integers(0, 40, 300)
    useful = rng.standard_normal((300, 40)).astype(np.float32)
    useful[np.arange(300), targets] += 1.5
    second = rng.standard_normal((300, 40)).astype(np.float32)
    second[np.arange(300), targets] += 1.0
    weights = fit_weights([noise, useful * 100, second + 7], targets)
    assert weights.sum() == pytest.approx(1)
    assert weights[1] > weights[2] > weights[0]
    learned = ndcg(zscore([noise, useful, second], weights), targets)
    alone = [ndcg(t, targets) for t in (noise, useful, second)]
    assert learned > max(alone)
    assert learned >= ndcg(zscore([noise, useful, second]), targets)
    np.testing.assert_array_equal(fit_weights([noise, useful * 100, second + 7], targets), weights)


def test_likelihood_weights_are_those_of_a_conditional_logit() -> None:
    rng = np.random.default_rng(4)
    tables = [rng.standard_normal((4_000, 20)).astype(np.float32) for _ in range(3)]
    utility = 1.2 * NORMALISE["zscore"](tables[0]) + 0.4 * NORMALISE["zscore"](tables[1])
    targets = (utility + rng.gumbel(size=utility.shape)).argmax(axis=1)  # a soft-max choice by those weights
    weights = fit_likelihood(tables, targets)
    np.testing.assert_allclose(weights, [0.75, 0.25, 0.0], atol=0.03)
    again = fit_likelihood([tables[0] * 50 - 3, *tables[1:]], targets)
    np.testing.assert_allclose(again, weights, atol=1e-4)


def test_likelihood_takes_lists_of_any_length_and_what_is_not_proposed() -> None:
    rng = np.random.default_rng(5)
    good, noise = (rng.standard_normal((400, 8)).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, 4, 400)
    good[np.arange(400), targets] += 1.5
    good[:200, 5:] = noise[:200, 5:] = -np.inf  # shorter lists
    noise[7, targets[7]] = -np.inf  # one that a part does not propose says nothing of weights
    weights = fit_likelihood([good, noise], targets)
    assert weights[0] > 0.9
    assert weights.sum() == pytest.approx(1)
    flat = np.zeros((400, 8), dtype=np.float32)
    np.testing.assert_allclose(fit_likelihood([flat, flat], targets), [0.5, 0.5])
    with pytest.raises(ConfigError, match="needs a validation target that every table has a score for"):
        fit_likelihood([flat, flat], np.full(400, -1))


def test_weights_never_lose_to_the_best_table_alone() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 12, 30)
    scores = [rng.standard_normal((30, 12)).astype(np.float32) for _ in range(4)]
    for method, fuse in (("zscore", zscore), ("reciprocal_rank", reciprocal_rank)):
        weights = fit_weights(scores, targets, method=method)  # type: ignore[arg-type]
        assert ndcg(fuse(scores, weights), targets) >= max(ndcg(s, targets) for s in scores) - 1e-6


def test_fused_learns_on_validation() -> None:
    fused = build("fused", retrievers={"ease": {"penalty": 5.0}, "dense": {"modality": "text"}}, weights={"ease": 3})
    assert isinstance(fused, Fused)
    np.testing.assert_allclose(fused.weights, [0.75, 0.25])
    fused.fit(train(), features())
    histories = [s[:-1] for s in train().sequences()]
    targets = np.array([s[-1] for s in train().sequences()])
    targets[3] = -1
    named = fused.learn(histories, targets)
    assert list(named) == ["ease", "dense"]
    assert sum(named.values()) == pytest.approx(1)
    parts = [p.scores(histories) for p in fused.parts.values()]
    np.testing.assert_allclose(fused.scores(histories), zscore(parts, list(named.values())), atol=1e-6)


def test_mistakes_are_named() -> None:
    a, b = np.zeros((2, 3), dtype=np.float32), np.zeros((2, 4), dtype=np.float32)
    with pytest.raises(FeatureError, match="score tables of one shape"):
        zscore([a, b])
    with pytest.raises(ConfigError, match="expected 2 weights, none negative"):
        zscore([a, a], [1, -1])
    with pytest.raises(ConfigError, match="expected 2 weights"):
        zscore([a, a], [1])
    with pytest.raises(ConfigError, match="all targets are -1"):
        fit_weights([a], ints(-1, -1))
    with pytest.raises(ConfigError, match=r"no fusion method is called 'zscor'; did you mean 'zscore'\?"):
        build("fused", method="zscor")
    with pytest.raises(ConfigError, match="weight for 'eas', which is not fused; did you mean 'ease'"):
        build("fused", retrievers={"ease": {}}, weights={"eas": 1})
    with pytest.raises(ConfigError, match="at least one retriever to fuse"):
        build("fused", retrievers={})
