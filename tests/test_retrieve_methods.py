"""What each retriever computes, against its definition written out in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from palate import itemitem
from palate.errors import ConfigError
from palate.retrieve import build
from palate.schema import Features
from test_retrieve_contract import ITEMS, features, fitted, interactions, ints, train


def binary() -> np.ndarray:
    matrix = np.zeros((len(train()), ITEMS))
    for user, sequence in enumerate(train().sequences()):
        matrix[user, sequence] = 1
    return matrix


def ease_by_regression(matrix: np.ndarray, penalty: float) -> np.ndarray:
    """EASE column by column: ridge regression of an item on all others, which its closed form must equal."""
    items = matrix.shape[1]
    weights = np.zeros((items, items))
    for j in range(items):
        others = [i for i in range(items) if i != j]
        x = matrix[:, others]
        weights[others, j] = np.linalg.solve(x.T @ x + penalty * np.eye(items - 1), x.T @ matrix[:, j])
    return weights


@pytest.mark.parametrize("penalty", [0.5, 5.0, 300.0])
def test_ease_equals_ridge_regression(penalty: float) -> None:
    weights = ease_by_regression(binary(), penalty)
    made = fitted("ease", penalty=penalty).scores([ints(1, 4, 6), ints(0)])
    np.testing.assert_allclose(made[0], weights[[1, 4, 6]].sum(axis=0), atol=1e-5)
    np.testing.assert_allclose(made[1], weights[0], atol=1e-5)


def test_ease_in_single_precision_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fitted("ease").scores([ints(1, 4)])
    monkeypatch.setattr(itemitem, "DOUBLE_LIMIT", 3)
    np.testing.assert_allclose(fitted("ease").scores([ints(1, 4)]), wanted, atol=1e-5)


def test_recency_weighs_the_newest_most() -> None:
    weights = ease_by_regression(binary(), 20.0)
    made = fitted("ease", penalty=20.0, recency=2.0).scores([ints(1, 4, 6)])[0]
    wanted = weights[6] + np.exp(-0.5) * weights[4] + np.exp(-1.0) * weights[1]
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    again = fitted("ease", penalty=20.0, recency=2.0).scores([ints(6, 1, 4, 6)])[0]
    np.testing.assert_allclose(again, wanted, atol=1e-5)  # a repeated item counts where it was last


def test_ease_refuses_a_catalogue_it_cannot_hold() -> None:
    with pytest.raises(ConfigError, match="at most 20000 items, the catalogue has 20001; use 'itemknn'"):
        build("ease").fit(interactions([[0, 1], [2, 20_000]], items=20_001))


def test_itemknn_is_shrunk_cosine_with_k_neighbours() -> None:
    x = binary()
    counts = x.T @ x
    norms = np.sqrt(np.diag(counts))
    similarity = counts / (np.outer(norms, norms) + 2.0)
    np.fill_diagonal(similarity, 0)
    np.testing.assert_allclose(
        fitted("itemknn", neighbours=50, shrink=2.0).scores([ints(1, 4)])[0],
        similarity[1] + similarity[4],
        atol=1e-5,
    )
    near = np.zeros(ITEMS)
    best = np.argsort(-similarity[1], kind="stable")[:3]
    near[best] = similarity[1][best]
    made = fitted("itemknn", neighbours=3, shrink=2.0).scores([ints(1)])[0]
    np.testing.assert_allclose(made, near, atol=1e-5)


def test_itemknn_in_blocks_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.retrieve import itemknn

    wanted = fitted("itemknn", neighbours=4).scores([ints(1, 4)])
    monkeypatch.setattr(itemknn, "PAIRS", 5)
    np.testing.assert_allclose(fitted("itemknn", neighbours=4).scores([ints(1, 4)]), wanted, atol=1e-6)


def test_itemknn_holds_a_large_catalogue() -> None:
    rng = np.random.default_rng(0)
    large = interactions([rng.integers(0, 50_000, 8).tolist() for _ in range(500)], items=50_000)
    found = build("itemknn").fit(large).top(large.sequence(0), 5, exclude_seen=False)
    assert set(found.item_ids) <= {f"i{i}" for i in large.items}


def test_popularity_can_forget() -> None:
    events = interactions([[0, 0, 0, 1, 2]], items=4)  # an hour apart
    assert build("popularity").fit(events).top(ints(), 1).item_ids == ("i0",)
    recent = build("popularity", half_life=1 / 24).fit(events)
    np.testing.assert_allclose(recent.scores([ints(3)])[0], [0.4375, 0.5, 1.0, 0.0])
    events.timestamps[1] = np.nan
    with pytest.raises(ConfigError, match="1 of 5 have none"):
        build("popularity", half_life=2).fit(events)


def test_dense_is_the_cosine_to_the_mean() -> None:
    table = features()["text"]
    v = table.vectors.astype(np.float64)
    v[table.present] -= v[table.present].mean(axis=0)
    v[table.present] /= np.linalg.norm(v[table.present], axis=1, keepdims=True)
    query = v[2] + v[5]
    wanted = v @ query / np.linalg.norm(query)
    wanted[~table.present] = -1
    np.testing.assert_allclose(fitted("dense", modality="text").scores([ints(2, 5)])[0], wanted, atol=1e-5)


def test_dense_gives_no_item_anothers_row() -> None:
    made = fitted("dense", modality="image")
    scores = made.scores([ints(1, 2), ints(0, 3)])
    np.testing.assert_array_equal(scores[0, [0, 3, 16]], -1)
    np.testing.assert_allclose(scores[1], made.prior())  # a history without any picture
    assert not {"i0", "i3", "i16"} & set(made.top(ints(1), 14).item_ids)


def test_dense_follows_ids_not_rows() -> None:
    table = features()["text"]
    order = np.random.default_rng(2).permutation(ITEMS)[: ITEMS - 4]  # shuffled, and four items are not in it
    partial = Features("text", tuple(f"i{n}" for n in order), table.vectors[order], table.present[order], "f")
    absent = [n for n in range(ITEMS) if n not in order]
    made = build("dense", centre=False).fit(train(), {"text": partial}).scores([ints(int(order[0]))])[0]
    whole = build("dense", centre=False).fit(train(), {"text": table}).scores([ints(int(order[0]))])[0]
    np.testing.assert_array_equal(made[absent], -1)
    np.testing.assert_allclose(made[order], whole[order], atol=1e-6)


def test_dense_finds_cold_items() -> None:
    """Item 17 is in no history; with item 2's own picture it is the first proposed after item 2."""
    tables = features()
    tables["image"].vectors[17] = tables["image"].vectors[2]
    assert build("dense", modality="image").fit(train(), tables).top(ints(2), 1).item_ids == ("i17",)
