"""Content-kNN against its definition, and where it differs from the mean of a history."""

from __future__ import annotations

import numpy as np
import pytest

from palate.errors import ConfigError
from palate.retrieve import build
from palate.retrieve.dense import MISSING
from palate.schema import Features
from test_retrieve_contract import ITEMS, features, fitted, ints, train


def cosines(modality: str) -> np.ndarray:
    """[N, N] of the centred vectors; NaN where either item has none."""
    table = features()[modality]
    rows = np.where(table.present[:, None], table.vectors - table.vectors[table.present].mean(axis=0), np.nan)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = rows @ rows.T
    return found


@pytest.mark.parametrize("neighbours", [1, 2, 3, 50])
def test_an_item_scores_its_nearest_of_the_history(neighbours: int) -> None:
    history = ints(2, 5, 3, 9, 5, 11)  # 3 has no picture and 5 comes twice: four items count
    made = fitted("contentknn", modality="image", neighbours=neighbours).scores([history])[0]
    alike = cosines("image")[[2, 5, 9, 11]]
    for item in range(ITEMS):
        nearest = np.sort(alike[:, item])[::-1][:neighbours]
        wanted = MISSING if np.isnan(nearest).any() else nearest.mean()
        assert made[item] == pytest.approx(wanted, abs=1e-5)


def test_a_history_without_vectors_scores_by_popularity() -> None:
    model = fitted("contentknn", modality="image")
    np.testing.assert_array_equal(model.scores([ints(0, 3)])[0], model.prior())


def test_two_tastes_do_not_blur_into_one() -> None:
    """Item 2 lies between the two tastes of the history and nearest to their mean; 3 is almost one of them."""
    vectors = np.zeros((ITEMS, 4), dtype=np.float32)
    vectors[:4] = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 0.1, 0, 0]]
    vectors[4:, 2] = 1
    ids = tuple(f"i{n}" for n in range(ITEMS))
    table = {"text": Features("text", ids, vectors, np.ones(ITEMS, dtype=bool), "f")}
    asked, legal = [ints(0, 1)], {"i2", "i3"}
    near = build("contentknn", neighbours=1, centre=False).fit(train(), table)
    mean = build("dense", centre=False).fit(train(), table)
    assert near.top(asked[0], 1, allowed=legal).item_ids == ("i3",)
    assert mean.top(asked[0], 1, allowed=legal).item_ids == ("i2",)


def test_it_needs_a_neighbour() -> None:
    with pytest.raises(ConfigError, match="option 'neighbours': expected a number above 0, got 0"):
        build("contentknn", neighbours=0)
