"""The baselines' numbers on MovieLens-100K, against reference values from independent code."""

from __future__ import annotations

import numpy as np
import pytest

from palate.data import import_dataset
from palate.evaluate import PROTOCOLS, evaluate
from palate.evaluate.baselines import baseline

pytestmark = pytest.mark.weights
RECENT = "ease:penalty=300:recency=10"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return import_dataset("ml-100k", tmp_path_factory.mktemp("data") / "ml-100k")


@pytest.fixture(scope="module")
def systems(data):
    train = PROTOCOLS["loo-full"].split(data.histories.interactions).train
    return [baseline(name, train) for name in ("popularity", "ease:penalty=300", RECENT)]


def test_full_ranking(data, systems):
    """Reference: popularity 0.045 / 0.086 (ties counted best), EASE 0.073, EASE with recency 0.103."""
    result = evaluate(data, systems, PROTOCOLS["loo-full"])
    assert result.n == 943
    assert result.left_out == 0
    ndcg = [s.metrics["NDCG@10"] for s in result.systems]
    assert [i.value for i in ndcg] == pytest.approx([0.0436, 0.073, 0.102], abs=0.001)
    assert result.systems[0].metrics["HR@10"].value == pytest.approx(0.084, abs=0.001)
    for found, reference in zip(ndcg, (0.045, 0.073, 0.103), strict=True):
        assert found.low < reference < found.high
    assert result.compare(RECENT, "popularity", "NDCG@10").p < 0.001


def test_lists_of_twenty(data, systems):
    """Reference HR@1 over one draw of negatives: 0.257, 0.420, 0.466; here the mean of five draws."""
    runs = [evaluate(data, systems, PROTOCOLS["loo-20"], seed=seed) for seed in range(1, 6)]
    assert len({r.candidates for r in runs}) == 5
    means = np.mean([[s.metrics["HR@1"].value for s in r.systems] for r in runs], axis=0)
    assert means == pytest.approx([0.24, 0.42, 0.47], abs=0.015)
    assert all(set(r.sizes.tolist()) == {20} for r in runs)


def test_temporal_cut_has_cases(data):
    interactions = data.histories.interactions
    protocol = PROTOCOLS["temporal"]
    train = protocol.split(interactions).train
    result = evaluate(data, [baseline("popularity", train), baseline("ease", train)], protocol)
    assert result.n + result.left_out == 943
    assert result.n > 50
    assert result.compare("ease", "popularity", "AUC").diff > 0
