"""The behaviour encoder: EASE's singular vectors, from the interactions it is given and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from palate import itemitem
from palate.config import EncoderConfig
from palate.errors import FeatureError
from palate.features.encoders.behaviour import Behaviour
from palate.schema import Interactions, Item


def interactions(sequences: Sequence[Sequence[int]], items: int) -> Interactions:
    flat = np.array([i for s in sequences for i in s], dtype=np.int64)
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(len(sequences))),
        item_ids=tuple(f"i{n}" for n in range(items)),
        indptr=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        items=flat,
        timestamps=np.arange(len(flat), dtype=np.float64),
        ratings=np.full(len(flat), np.nan, dtype=np.float32),
    )


def random_interactions(users: int = 60, items: int = 25, seed: int = 0, cold: int = 2) -> Interactions:
    rng = np.random.default_rng(seed)
    return interactions([rng.choice(items - cold, 6, replace=False).tolist() for _ in range(users)], items)


def catalogue(train: Interactions) -> list[Item]:
    return [Item(i, i) for i in train.item_ids]


def fitted(train: Interactions, **options: object) -> Behaviour:
    return Behaviour(EncoderConfig(options=options)).fit(train)


def closed_form(train: Interactions, penalty: float) -> np.ndarray:
    """EASE by plain numpy, written apart from the package's."""
    x = np.zeros((len(train), len(train.item_ids)))
    for user, sequence in enumerate(train.sequences()):
        x[user, sequence] = 1
    inverse = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1]))
    weights = inverse / -np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0)
    return weights


def test_left_times_right_is_ease() -> None:
    train = random_interactions()
    made = fitted(train, dims=25, penalty=3.0).encode(catalogue(train))
    left, right = made.vectors[:, :25], made.vectors[:, 25:]
    wanted = closed_form(train, 3.0)
    seen = made.present
    np.testing.assert_allclose((left @ right.T)[np.ix_(seen, seen)], wanted[np.ix_(seen, seen)], atol=1e-5)


def test_fewer_dims_are_the_best_low_rank_ease() -> None:
    train = random_interactions()
    made = fitted(train, dims=4, penalty=3.0)
    assert made.width == 8
    vectors = made.encode(catalogue(train)).vectors
    wanted = closed_form(train, 3.0)
    values = np.linalg.svd(wanted, compute_uv=False)
    lost = np.linalg.norm(wanted - vectors[:, :4] @ vectors[:, 4:].T)
    np.testing.assert_allclose(lost, np.sqrt((values[4:] ** 2).sum()), rtol=1e-4)


def test_items_nobody_chose_are_not_present() -> None:
    train = random_interactions(cold=2)
    encoder = fitted(train, dims=4)
    made = encoder.encode([*catalogue(train), Item("new", "new")])
    assert made.present.tolist() == [True] * 23 + [False] * 3
    assert not made.vectors[~made.present].any()
    assert encoder.identity(Item("new", "new")) is None
    assert encoder.identity(Item("i24", "cold")) is None
    assert encoder.identity(Item("i0", "seen")) == b"i0"
    assert made.problems == []


def test_rows_follow_the_items_asked_for() -> None:
    train = random_interactions()
    items = catalogue(train)
    encoder = fitted(train, dims=4)
    order = np.random.default_rng(1).permutation(len(items))
    shuffled = encoder.encode([items[n] for n in order])
    np.testing.assert_array_equal(shuffled.vectors, encoder.encode(items).vectors[order])


def test_two_fits_agree_bit_by_bit() -> None:
    train = random_interactions()
    one, two = fitted(train, dims=6), fitted(train, dims=6)
    np.testing.assert_array_equal(one.encode(catalogue(train)).vectors, two.encode(catalogue(train)).vectors)
    assert one.fingerprint == two.fingerprint


def test_fingerprint_covers_the_interactions_and_only_what_counts() -> None:
    train = random_interactions()
    encoder = fitted(train)
    changed = train.items.copy()
    changed[0] = (changed[0] + 1) % 20
    assert fitted(replace(train, items=changed)).fingerprint != encoder.fingerprint
    assert fitted(replace(train, timestamps=train.timestamps + 5)).fingerprint == encoder.fingerprint
    assert fitted(train, penalty=10.0).fingerprint != encoder.fingerprint
    before = encoder.fingerprint
    assert encoder.fit(replace(train, items=changed)).fingerprint != before  # a second fit forgets the first


def test_it_must_be_fitted() -> None:
    with pytest.raises(FeatureError, match="learns from interactions: pass the train split"):
        _ = Behaviour().fingerprint
    with pytest.raises(FeatureError, match="learns from interactions"):
        Behaviour().encode([Item("i0", "x")])


def test_recency_gives_old_choices_less_weight() -> None:
    train = interactions([[0, 1, 2], [2, 0]], 3)
    matrix = itemitem.user_item_matrix(train, recency=2.0).toarray()
    e = np.exp
    np.testing.assert_allclose(matrix, [[e(-1.0), e(-0.5), 1], [1, 0, e(-0.5)]], rtol=1e-6)
    assert fitted(train, dims=1, recency=2.0).fingerprint != fitted(train, dims=1).fingerprint


def test_an_item_chosen_twice_counts_once_with_its_newest_weight() -> None:
    train = interactions([[0, 1, 0]], 2)
    np.testing.assert_allclose(itemitem.user_item_matrix(train).toarray(), [[1, 1]])
    np.testing.assert_allclose(itemitem.user_item_matrix(train, 1.0).toarray(), [[1, np.exp(-1)]], rtol=1e-6)


def test_iterative_solver_agrees_with_the_dense_one() -> None:
    weights = closed_form(random_interactions(items=40, users=200), 3.0).astype(np.float32)
    dense = itemitem.singular_pairs(weights, 5)
    iterative = itemitem.singular_pairs(weights, 5, dense_below=0)
    for a, b in zip(dense, iterative, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_few_items_leave_the_last_columns_zero() -> None:
    train = interactions([[0, 1], [1, 2], [0, 2]], 3)
    made = fitted(train, dims=8).encode(catalogue(train))
    assert made.vectors.shape == (3, 16)
    assert not made.vectors[:, 3:8].any()
    assert not made.vectors[:, 11:].any()


def test_a_catalogue_too_large_for_ease_uses_cooccurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itemitem, "DENSE_LIMIT", 10)
    train = random_interactions(items=30, users=150)
    made = fitted(train, dims=5).encode(catalogue(train))
    x = itemitem.user_item_matrix(train).toarray().astype(np.float64)
    norms = np.sqrt(x.sum(axis=0))
    cosine = x.T @ x / np.maximum(np.outer(norms, norms), 1e-12)
    np.fill_diagonal(cosine, 0)
    values = np.linalg.svd(cosine, compute_uv=False)
    lost = np.linalg.norm(cosine - made.vectors[:, :5] @ made.vectors[:, 5:].T)
    np.testing.assert_allclose(lost, np.sqrt((values[5:] ** 2).sum()), rtol=1e-3)
    again = fitted(train, dims=5).encode(catalogue(train))
    np.testing.assert_array_equal(made.vectors, again.vectors)
